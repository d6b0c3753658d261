"""The errors of augmented latents: that they are measured, and are errors."""

import math
from typing import Any

import pytest
import torch

import walloc_transforms as wt
from recipes.bench import augmentation as bench
from recipes.bench.augmentation import AugmentationSettings, Case, augmentation_part, augmentation_report, compare


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIDE", 256)
    monkeypatch.setattr(bench, "SECONDS", 2)
    monkeypatch.setattr(bench, "FRAMES", 64)


@pytest.mark.slow
def test_every_case_is_measured_and_reported() -> None:
    results = augmentation_part(["rgb_16x"], ["stereo_5x"], AugmentationSettings(most=2))
    missed = {(r["codec"], r["case"]): r["missed float"] for r in results["cases"]}
    assert missed["rgb_16x", "brightness 0.7"] < 0.1 and missed["rgb_16x", "horizontal flip"] < 1
    assert missed["stereo_5x", "polarity"] < 1e-3 and missed["stereo_5x", "window of 64 frames"] < 20
    assert all(r["unchanged"] > r["missed float"] for r in results["cases"] if "saturation" in r["case"])
    (rings,) = results["rings"]
    assert rings["rings"][0] > 10 * rings["rings"][1] > 10 * rings["rings"][3]
    assert all(0.7 < ratio < 1.3 for r in results["noise"] for ratio in r["ratio"])
    assert augmentation_report(results).count("\n| `") == len(results["cases"]) + 1


def test_what_is_missed() -> None:
    """Latents of another image miss twice the variance, about; equal ones nothing."""
    codec, noise = wt.load_codec("rgb_16x"), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    same: Any = compare(Case("", lambda x: x, lambda x: x), noise, codec)
    assert (same["missed float"], same["unchanged"]) == (0, same["missed int8"])
    assert 0 < same["missed int8"] < 100 and same["psnr int8"] == same["fresh psnr int8"] < same["psnr float"]
    other = compare(Case("", lambda x: x, lambda x: x.flip(0)), noise, codec)
    assert math.isclose(other["missed float"], 200, rel_tol=0.2)

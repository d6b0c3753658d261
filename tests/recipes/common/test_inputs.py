"""What a network is shown in place of an image."""

import re
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from recipes.common.inputs import Cosines, StoredInput, make_input
from recipes.common.photographs import demo_photographs
from recipes.common.quality import psnr

ARMS = ["pixels", "resized_4x", "dct_4x", "rgb_4x", "resized_16x", "dct_16x", "rgb_16x", "rgb_16x_viewing+refiner"]


def test_latents_keep_most(tmp_path: Path) -> None:
    image = v2.functional.pil_to_tensor(demo_photographs()[0])[:, :253, :181]
    errors = {}
    for name in ARMS:
        arm = make_input(name)
        shown = arm(image.expand(2, 1, 3, 253, 181))
        assert (shown.shape, shown.dtype) == ((2, 1, 3, 253, 181), torch.uint8)
        assert torch.equal(shown[0], shown[1])
        errors[name] = psnr(image, shown[0, 0])
        if isinstance(arm, StoredInput):
            arm.save(image, file := tmp_path / f"kept{arm.suffix}")
            assert torch.equal(arm.load(file, 253, 181), shown[0, 0])
    assert errors["pixels"] == float("inf")
    for ratio in ("4x", "16x"):
        assert errors[f"rgb_{ratio}"] > max(errors[f"resized_{ratio}"], errors[f"dct_{ratio}"]) + 1
    assert errors["rgb_16x_viewing+refiner"] > errors["rgb_16x"] + 0.5


@pytest.mark.parametrize("name", ["resized", "dct", "rgb"])
def test_values(name: str) -> None:
    for ratio in (4, 16):
        arm = make_input(f"{name}_{ratio}x")
        assert arm.values(256, 192) == 3 * 256 * 192 // ratio
        assert arm.values(249, 185) == arm.values(256, 192) or name == "resized"
    assert make_input("rgb_4x:24+refiner").values(64, 64) == 24 * 8 * 8


def test_all_frequencies_are_the_image() -> None:
    image = torch.randint(0, 256, (3, 20, 31), dtype=torch.uint8)
    assert torch.equal(Cosines("all", 192)(image), image)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rgb_5x", "unknown arm 'rgb_5x': expected one of pixels, resized_4x"),
        ("stereo_5x", "codec 'stereo_5x' is not for color images"),
        ("rgb_4x:99", "channels must be from 1 to 48, got 99"),
        ("rgb_4x:few", "expected CODEC, CODEC:CHANNELS, CODEC+refiner"),
        ("rgb_4x+decoder", "expected CODEC, CODEC:CHANNELS, CODEC+refiner"),
    ],
)
def test_unknown_arms(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_input(name)

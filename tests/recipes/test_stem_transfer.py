"""The recipe that moves trained networks to latents, made small."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.transforms import v2

from recipes import stem_transfer
from recipes.common import photographs

SMALL: dict[str, Any] = {"demo_crops": (40, 20), "epochs": 1, "seeds": 1, "fit_images": 6, "codecs": ("rgb_16x",)}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet", "convnext"])
def test_demo(backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stem_transfer.Config(**SMALL, backbone=backbone, output_dir=tmp_path)
    rows = stem_transfer.main(config)
    arms = [(r["input"], r["stem"], r["epochs"]) for r in rows]
    latents = [("rgb_16x", stem, epochs) for stem in ("random", "fitted") for epochs in (0, 1)]
    if backbone == "resnet":
        latents.insert(2, ("rgb_16x", "fitted, batch norms updated", 0))
    assert arms == [("pixels", "own", 0), ("pixels", "own", 1), *latents]
    assert all(0 <= r["accuracy"] <= 100 and r["macs"] > 0 and r["seeds"] == 1 for r in rows)
    assert [r["residual"] is not None for r in rows] == [False] * 4 + [True] * (len(rows) - 4)
    assert 0 < rows[-1]["residual"] < (0.4 if backbone == "resnet" else 0.1)
    written = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert len(written["runs"]) == len(written["rows"]) == len(rows)
    assert (tmp_path / "table.md").read_text("utf-8").count("\n") == len(rows) + 2
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8"))["backbone"] == backbone

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(stem_transfer, "train_classifier", fail)
    config.resume = True
    assert str(stem_transfer.main(config)) == str(rows)  # as text: the spread of one seed is NaN
    config.fit_images += 1
    with pytest.raises(ValueError, match="holds a run with fit_images"):
        stem_transfer.main(config)


@pytest.mark.slow
def test_interrupted_seed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stem_transfer.Config(**SMALL, output_dir=tmp_path / "whole")
    whole = stem_transfer.main(config)
    config.output_dir = tmp_path / "parts"
    with monkeypatch.context() as patch:

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(stem_transfer, "fit_stem", stop)
        with pytest.raises(KeyboardInterrupt):
            stem_transfer.main(config)
    assert (config.output_dir / "seed0" / "pixels" / "checkpoint.pt").is_file()
    config.resume = True
    assert str(stem_transfer.main(config)) == str(whole)


@pytest.mark.slow
def test_folder_of_photographs(tmp_path: Path) -> None:
    for name in ("rose", "tulip"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for i, image in enumerate((photographs.demo_photographs() * 2)[:8]):
            image.resize((150, 140)).save(tmp_path / "flowers" / name / f"{i:02}.jpg")
    (tmp_path / "flowers" / "rose" / "01.jpg").write_bytes(b"no image")
    config = stem_transfer.Config(**SMALL, data=str(tmp_path / "flowers"), output_dir=tmp_path / "runs")
    rows = stem_transfer.main(config)
    assert len(rows) == 7
    task = stem_transfer.load_task(config.data, Path(), demo_crops=(1, 1), seed=0)
    seen, held_out = stem_transfer.open_crops(config, task, show=False)
    assert (len(seen), len(held_out)) == (11, 4)
    assert seen[0][0].shape == held_out[0][0].shape == (3, 128, 128)
    assert not torch.equal(seen[0][0], seen[0][0])  # drawn anew


def test_network_on_pixels_reads_the_reduced_crop() -> None:
    seen: list[torch.Tensor] = []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.25), "input_size": (3, 32, 32)}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    stem_transfer.OnPixels(Model(), 32)(crops)
    small = v2.functional.resize(crops, [32, 32], v2.InterpolationMode.BICUBIC, antialias=True) / 255
    assert torch.allclose(seen[0][:, 2], (small[:, 2] - 0.3) / 0.25, atol=1e-5)


def test_errors(tmp_path: Path) -> None:
    for options, message in [
        ({"image_size": 100}, "multiple of 64"),
        ({"image_size": 192}, "demo's crops are 128"),
        ({"seeds": 0}, "at least one seed"),
        ({"codecs": ()}, "at least one seed"),
    ]:
        with pytest.raises(ValueError, match=message):
            stem_transfer.main(stem_transfer.Config(**{**SMALL, **options}, output_dir=tmp_path))

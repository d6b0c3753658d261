"""The recipe that shows how much of a trained network survives, made small."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models
from PIL import Image

from recipes import pretrained
from recipes.answers import adapters
from recipes.common.photographs import demo_photographs

SMALL: dict[str, Any] = {"images": 6, "fit_images": 30}
DISTILLED = ("distilled_rgb_16x",)
NOTHING: dict[str, Any] = {"distill_minutes": None, "keep_adapter": None}


def save_network(folder: Path, name: str, **options: Any) -> str:
    """Write a network of random weights for 64 pixels, as timm saves one, and name it."""
    model: Any = timm.create_model(name, **options)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64), "test_input_size": None}
    timm.models.save_for_hf(model, str(folder), model_args=options)
    return f"local-dir:{folder}"


def folder_of_images(folder: Path, *classes: str) -> str:
    for i, photograph in enumerate(demo_photographs()):
        (folder / classes[i % len(classes)]).mkdir(parents=True, exist_ok=True)
        photograph.resize((80, 64)).save(folder / classes[i % len(classes)] / f"{i}.jpg")
    return str(folder)


def test_network_and_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = ("resized_4x", "dct_16x", "rgb_4x:24", "fitted_rgb_16x", "rgb_16x_viewing+refiner")
    config = pretrained.Config(
        network=save_network(tmp_path / "net", "test_efficientnet"),
        data=folder_of_images(tmp_path / "data", "tench", "n03417042"),
        arms=arms,
        output_dir=tmp_path / "out",
        **SMALL,
    )
    rows = {row["arm"]: row for row in pretrained.main(config)}
    assert list(rows) == ["pixels", *arms]
    assert rows["pixels"]["agreement"] == 100
    assert {row["arm"]: row["values"] for row in rows.values()} == {
        "pixels": 3 * 64 * 64,
        "resized_4x": 3 * 32 * 32,
        "dct_16x": 12 * 8 * 8,
        "rgb_4x:24": 24 * 8 * 8,
        "fitted_rgb_16x": 12 * 8 * 8,
        "rgb_16x_viewing+refiner": 12 * 8 * 8,
    }
    files = list((tmp_path / "data").rglob("*.jpg"))
    assert 0 < rows["pixels"]["bytes"] < max(file.stat().st_size for file in files)
    assert all({"top1", "top5", "divergence se"} <= row.keys() for row in rows.values())
    assert ["bytes" in row and "rate" in row for row in rows.values()] == [True, True, False, True, True, True]
    assert rows["resized_4x"]["macs"] == rows["pixels"]["macs"] < rows["fitted_rgb_16x"]["macs"]

    table = (config.output_dir / "table.md").read_text("utf-8")
    assert table.count("\n| ") == len(rows) + 1
    assert "fitted_rgb_16x: fitted to 30 images, misses" in table
    with (config.output_dir / "table.csv").open() as file:
        assert [row["arm"] for row in csv.DictReader(file)] == list(rows)
    for name in ("figure.png", "sheet.png", "rgb_4x-24/shown_4.png"):
        with Image.open(config.output_dir / name) as image:
            image.load()

    def fail(*_: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(pretrained, "build", fail)
    config.resume = True
    assert {row["arm"]: row for row in pretrained.main(config)} == rows


def test_training_images_are_looked_at_before_the_folder_is_taken(tmp_path: Path) -> None:
    network = save_network(tmp_path / "net", "test_efficientnet")
    config = pretrained.Config(
        network=network, training_data=str(tmp_path / "a"), arms=("fitted_rgb_16x",), output_dir=tmp_path / "o", **SMALL
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"none of 1 images in .* can be read"):
        pretrained.main(config)
    Image.new("RGB", (20, 20)).save(tmp_path / "a" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png has 20x20 pixels: expected a shorter side of at least 32"):
        pretrained.main(config)
    assert not (tmp_path / "o").exists()


def test_transformer_with_larger_patch(tmp_path: Path) -> None:
    network = save_network(tmp_path / "net", "test_vit", img_size=64)
    config = pretrained.Config(network=network, arms=("larger_patch",), output_dir=tmp_path / "out", **SMALL)
    pixels, larger = pretrained.main(config)
    assert larger["values"] == pixels["values"]
    assert larger["macs"] < 0.5 * pixels["macs"]  # 4 tokens and the one of the class, instead of 16
    assert "top1" not in pixels


def test_arms_that_a_network_cannot_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "ARMS", arms := ("pixels", "larger_patch", "fitted_rgb_16x"))
    network = save_network(tmp_path / "net", "test_mambaout", num_classes=5)
    config = pretrained.Config(network=network, arms=arms, output_dir=tmp_path / "out", **SMALL)
    assert [row["arm"] for row in pretrained.main(config)] == ["pixels"]
    table = (config.output_dir / "table.md").read_text("utf-8")
    assert "larger_patch was skipped: MambaOut reads no patches" in table
    assert "fitted_rgb_16x was skipped: " in table
    config.arms, config.output_dir = ("larger_patch",), tmp_path / "other"
    with pytest.raises(ValueError, match="cannot have arm 'larger_patch': MambaOut reads no patches"):
        pretrained.main(config)
    assert not config.output_dir.exists()


@pytest.mark.slow
def test_distilled_here_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pretrained.Config(
        network=save_network(tmp_path / "net", "test_efficientnet"),
        arms=DISTILLED,
        distill_minutes=0.01,
        keep_adapter=tmp_path / "adapters" / "kept.safetensors",
        batch_size=3,
        output_dir=tmp_path / "out",
        **SMALL,
    )
    assert config.keep_adapter is not None
    config.keep_adapter.parent.mkdir()
    _, here = pretrained.main(config)
    assert (
        here["macs"]
        < pretrained.main(replace(config, arms=("pixels",), **NOTHING, output_dir=tmp_path / "p"))[0]["macs"]
    )
    assert re.fullmatch(r"distilled here, \d+ steps", here["note"])

    folder = tmp_path / "out" / DISTILLED[0] / "model"
    _, saved = pretrained.main(replace(config, arms=(), distilled=(folder,), **NOTHING, output_dir=tmp_path / "saved"))
    assert saved["arm"] == "model"
    monkeypatch.setattr(adapters, "FOLDER", config.keep_adapter.parent)
    _, shipped = pretrained.main(replace(config, **NOTHING, output_dir=tmp_path / "shipped"))
    assert "comes with the recipe, trained by `python -m recipes.pretrained" in shipped["note"]
    for row in (saved, shipped):
        assert row["macs"] == here["macs"]
        assert row["divergence"] == pytest.approx(here["divergence"], rel=0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "lite7"}, "there is no network 'lite7': did you mean lite"),
        ({"arms": ("rgb_5x",)}, "unknown arm 'rgb_5x': expected one of pixels"),
        ({"arms": ("fitted_rgb_5x",)}, "unknown codec 'rgb_5x'"),
        ({"arms": ("distilled_rgb_16x+refiner",)}, "a stem reads latents, which no refiner has decoded"),
        ({"distill_minutes": 0}, "distill_minutes must be above 0"),
        ({"distill_minutes": 1, "arms": ("pixels",)}, "distill_minutes is for arms distilled_CODEC"),
        ({"keep_adapter": Path("a"), "arms": DISTILLED, "seeds": 2}, "needs one distilled arm, one seed"),
        ({"keep_adapter": Path("a"), "arms": DISTILLED}, "expected distill_minutes too"),
        ({"images": 0}, "images must be at least 1"),
        ({"data": "/missing"}, "there is no folder '/missing'"),
        ({"distilled": (Path("/missing"),)}, "/missing is no folder of a model"),
        ({"distilled": (Path("a/model"), Path("b/model"))}, "expected folders of different names"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        pretrained.main(pretrained.Config(**{**SMALL, **options}, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()

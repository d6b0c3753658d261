"""The commands of latent data sets."""

from pathlib import Path

import fsspec
import pytest
from PIL import Image

import walloc_transforms as wt
from walloc_transforms.cli.app import main
from walloc_transforms.data import shard_name
from walloc_transforms.data.plan import Plan, write_plan


def test_data_set_in_two_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    for i in range(5):
        file = images / ("cats", "dogs")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 24 if i == 3 else 48), (50 * i, 0, 0)).save(file)
    command = ["encode-dataset", str(images), "-o", str(out), "--crop", "32", "40", "--shard-size", "2"]
    assert main([*command, "--shard", "1/2"]) == 0
    assert main(["info", str(out)]) == 0
    said = capsys.readouterr().out
    assert "shard 1/2 is done" in said and "1 of 3: not complete" in said
    assert main(["merge-dataset", str(out)]) == 1
    assert "lacks 2 of 3 shards" in capsys.readouterr().err
    assert main([*command, "--shard", "0/2"]) == 0
    capsys.readouterr()
    assert main(["merge-dataset", str(out)]) == 0
    assert main(["info", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"LatentDataset('{out}': 4 records")
    assert "4 records" in said and "2: cats, dogs" in said and "1: dogs/3.png (24x40 pixels are too few" in said
    assert wt.LatentDataset(out)[0][0].signal_size == (32, 40)
    assert main([*command, "--resize", "64"]) == 1
    assert "resize: null, not 64" in capsys.readouterr().err
    assert main([*command, "--shard", "half"]) == 1
    assert main([*command, "--resize", "64", "--force"]) == 0


def test_limit_of_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    for side in (16, 64):
        Image.new("RGB", (side, side)).save(tmp_path / "images" / f"{side}.png")
    command = ["encode-dataset", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--max-pixels", "256"]
    assert main(command) == 0
    assert "64.png has more pixels" in capsys.readouterr().err
    assert len(wt.LatentDataset(tmp_path / "out")) == 1


def test_names_of_settings_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, Plan(wt.load_codec("rgb_16x").config, "a" * 64, 1, 1, settings={"\x1b[2Jx": 1}))
    assert main(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\\x1b[2Jx:" in said


def test_data_set_at_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert main(["encode-dataset", str(tmp_path), "-o", "memory://bucket/latents"]) == 0
    assert main(["merge-dataset", "memory://bucket/latents"]) == 0
    said = capsys.readouterr().out
    assert "memory://bucket/latents: shard 0/1 is done\n" in said and "is complete" in said
    system = fsspec.filesystem("memory")
    assert {name.rsplit("/", 1)[-1] for name in system.ls("/bucket/latents", detail=False)} == {
        "plan.json",
        "dataset.json",
        shard_name(0),
    }

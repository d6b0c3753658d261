"""The recipe that trains on augmented latents and pixels, made small."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import walloc_transforms as wt
from recipes import augmentation
from recipes.augmentation import ARMS, Config, parts_of
from recipes.common.datasets import load_task
from recipes.common.photographs import demo_photographs


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    for name in ("rose", "tulip"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, image in enumerate((demo_photographs() * 2)[:6]):
            image.resize((90 + i, 80)).save(tmp_path / "photos" / name / f"{i:02}.png")
    return {
        "data": str(tmp_path / "photos"),
        "record_size": 64,
        "crop_size": 48,
        "epochs": 1,
        "batch_size": 4,
        "seeds": 1,
        "output_dir": tmp_path / "out",
    }


@pytest.mark.slow
def test_all_arms(settings: dict[str, Any]) -> None:
    rows = augmentation.main(Config(**settings))
    assert [row["arm"] for row in rows] == list(ARMS)
    assert all(0 <= row["accuracy"] <= 100 and row["loading_seconds"] > 0 for row in rows)
    out = settings["output_dir"]
    assert (out / "table.md").read_text("utf-8").count("\n") == len(ARMS) + 2
    with (out / "table.csv").open() as text:
        assert [row["arm"] for row in csv.DictReader(text)] == list(ARMS)
    again = augmentation.main(Config(**settings, resume=True))
    assert again == rows

    config = Config(**settings)
    task = load_task(config.data, Path(config.data), demo_crops=(1, 1), seed=0)
    for arm in ARMS:
        for part in parts_of(config, arm, task):
            (x, _), *_ = part.__getitems__([0, 1]) if hasattr(part, "__getitems__") else [part[0]]
            assert (tuple(x.shape), x.dtype) == ((12, 6, 6), torch.int8)
    middles = [parts_of(config, arm, task)[1] for arm in ("pixels", "stored")]
    inner = [torch.Tensor(middle[0][0].float())[:, 2:4, 2:4] for middle in middles]
    torch.testing.assert_close(inner[0], inner[1], atol=4, rtol=0)  # the same pixels: further out, neighbors differ
    assert len(wt.LatentDataset(out / "latents_train")) == 8


@pytest.mark.slow
def test_two_processes(settings: dict[str, Any]) -> None:
    """One of them stores the latents and writes the tables."""
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "recipes.augmentation", "--arms", "stored_crop", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    out = settings["output_dir"]
    assert len((out / "table.csv").read_text().splitlines()) == 2
    assert len(wt.LatentDataset(out / "latents_train")) == 8
    assert not list(out.rglob("*.partial"))


def test_errors(settings: dict[str, Any], tmp_path: Path) -> None:
    for options, message in (
        ({"arms": ("stored_twice",)}, "unknown arm 'stored_twice'"),
        ({"crop_size": 72}, "multiples of 8, the first not above the second, got 72 and 64"),
        ({"data": "demo"}, "expected a folder of images, got 'demo'"),
        ({"data": str(tmp_path / "photos" / "rose")}, "one subfolder of images per class, found 0"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            augmentation.main(Config(**{**settings, **options}))
    assert not settings["output_dir"].exists()

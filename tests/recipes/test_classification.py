"""Classification: arms, data, training that resumes, and the whole recipe made small."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
import torchvision
import yaml
from torch import nn
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes import classification
from recipes.classify import training
from recipes.common import arms, datasets, digits, photographs
from recipes.common.macs import count_macs
from recipes.common.ranks import Ranks

ROOT = Path(__file__).parents[2]


def save_images(folder: Path, count: int, size: tuple[int, int] = (150, 140)) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(photographs.demo_photographs() * 3):
        if i < count:
            image.resize(size).save(folder / f"{i:02}.jpg")


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Two classes of ten images, of which one in each part cannot be read."""
    for name in ("rose", "tulip"):
        save_images(tmp_path / "flowers" / name, 10)
    (tmp_path / "flowers" / "rose" / "00.jpg").write_bytes(b"no image")  # every 5th is validation
    whole = (tmp_path / "flowers" / "tulip" / "01.jpg").read_bytes()
    (tmp_path / "flowers" / "tulip" / "01.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "flowers"


# arms


@pytest.mark.parametrize("name", arms.ARMS)
def test_arms_give_as_many_values_as_they_say(name: str) -> None:
    features = arms.make_arm(name)(torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8))
    assert features.shape == (2, arms.values_per_token(name), 8, 16)


def test_unknown_arm() -> None:
    with pytest.raises(ValueError, match="unknown arm 'walloc': expected one of resize_16x"):
        arms.make_arm("walloc")


def test_patches_lose_nothing() -> None:
    image = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8)
    assert torch.equal(nn.functional.pixel_shuffle(arms.make_arm("patch")(image), 8), image)


def test_resize_is_torchvisions() -> None:
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    small = v2.functional.resize(image, [16, 24], v2.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(nn.functional.pixel_shuffle(arms.make_arm("resize_16x")(image), 2), small)


@pytest.mark.parametrize("values", [12, 48, 192])
def test_dct_is_scipys(values: int) -> None:
    image = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8)
    features = arms.BlockDCT(values)(image).view(3, values // 3, 2, 3)
    zigzag = [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0)]  # ITU-T T.81, figure 5
    for c in range(3):
        block: Any = scipy.fft.dctn(image[c, 8:16, 16:24].numpy() / 255 - 0.5, norm="ortho")
        for i, (row, column) in enumerate(zigzag[: values // 3]):
            assert float(features[c, i, 1, 2]) == pytest.approx(block[row, column], abs=1e-5)


# demo task


@pytest.mark.slow
def test_digits_are_repeatable_and_apart() -> None:
    crops = digits.DigitsOnPhotographs(20, training=True, seed=3)
    again = digits.DigitsOnPhotographs(20, training=True, seed=3)
    assert all(crops[i][1] == again[i][1] and crops[i][0].tobytes() == again[i][0].tobytes() for i in range(20))
    assert {crops[i][0].size for i in range(20)} == {(128, 128)}
    assert crops[0][0].tobytes() != digits.DigitsOnPhotographs(1, training=True, seed=4)[0][0].tobytes()
    for left, right in zip(crops.photographs, digits.DigitsOnPhotographs(1, training=False).photographs, strict=True):
        assert left.height == right.height
        assert min(*left.size, *right.size) >= 128
    assert sum(p.width for p in crops.photographs) < sum(p.width for p in photographs.demo_photographs())


def test_digits_are_legible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the digit the crop is the same but for a patch of its size near the center."""
    with_digit = digits.DigitsOnPhotographs(20, training=True)
    crops = [np.asarray(with_digit[i][0], dtype=int) for i in range(20)]
    monkeypatch.setattr(digits.ImageDraw.ImageDraw, "text", lambda *_, **__: None)
    for crop, (plain, _) in zip(crops, (with_digit[i] for i in range(20)), strict=True):
        difference = np.abs(crop - np.asarray(plain)).max(2)
        rows, columns = np.flatnonzero(difference.max(1) > 40), np.flatnonzero(difference.max(0) > 40)
        assert 12 <= rows[-1] - rows[0] + 1 <= 24
        assert abs((rows[0] + rows[-1]) / 2 - 64) < 12
        assert abs((columns[0] + columns[-1]) / 2 - 64) < 12


# data


def test_folder_split_and_unreadable_images(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = datasets.load_task(str(flowers), Path(), demo_crops=(1, 1), seed=0)
    assert task.classes == ["rose", "tulip"]
    assert (len(task.train), len(task.validation)) == (16, 4)  # type: ignore[arg-type]  # a Dataset need have no length
    assert task.validation[0] == (None, 0)
    assert "skipped" in (said := capsys.readouterr().out)
    assert "rose/00.jpg" in said
    features = datasets.Features(task.validation, *[datasets.cuts(64, fixed=False)[1], arms.make_arm("resize_16x")])
    assert [features[i][1] for i in range(4)] == [datasets.IGNORE, 0, 1, 1]
    assert {features[i][0].shape for i in range(4)} == {(12, 8, 8)}


@pytest.mark.slow
def test_train_and_val_folders(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            save_images(tmp_path / part / name, count)
    task = datasets.load_task(str(tmp_path), Path(), demo_crops=(1, 1), seed=0)
    assert (len(task.train), len(task.validation)) == (6, 4)  # type: ignore[arg-type]  # a Dataset need have no length
    assert not task.remark
    for name in ("c", "d"):
        save_images(tmp_path / "val" / name, 3)
    task = datasets.load_task(str(tmp_path), Path(), demo_crops=(1, 1), seed=0)
    assert (task.classes, len(task.validation)) == (["a", "b"], 4)  # type: ignore[arg-type]  # a Dataset need have no length
    assert "left out: 6 images of 2 classes that only" in task.remark
    assert task.remark.endswith("val' has: 'c', 'd'")


def test_classes_of_one_image(tmp_path: Path) -> None:
    """They are trained on; a part that is left empty is refused."""
    for name, count in (("a", 1), ("b", 1), ("c", 5)):
        save_images(tmp_path / name, count)
    task = datasets.load_task(str(tmp_path), Path(), demo_crops=(1, 1), seed=0)
    assert (len(task.train), len(task.validation)) == (6, 1)  # type: ignore[arg-type]  # a Dataset need have no length
    assert task.remark.startswith("2 classes have a single image")
    shutil.rmtree(tmp_path / "c")
    with pytest.raises(ValueError, match="has 2 images to train on and 0 to validate on: expected at least 1 and 1"):
        datasets.load_task(str(tmp_path), Path(), demo_crops=(1, 1), seed=0)


def test_data_of_no_readable_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of 2 images in .* can be read"):
        datasets.load_task(str(tmp_path), Path(), demo_crops=(1, 1), seed=0)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("{}/nowhere", FileNotFoundError, "there is no folder"),
        ("{}/empty", FileNotFoundError, "there is no image in"),
        ("{}/one", FileNotFoundError, "one subfolder of images per class, found 1"),
        ("NoSuchDataset", ValueError, "neither 'demo', nor a folder, nor a dataset of torchvision"),
        ("FakeData", ValueError, "torchvision's FakeData has no training and validation part"),
    ],
)
def test_bad_data(tmp_path: Path, data: str, error: type[Exception], message: str) -> None:
    (tmp_path / "empty").mkdir()
    save_images(tmp_path / "one" / "only", 1)
    with pytest.raises(error, match=message):
        datasets.load_task(data.format(tmp_path), Path(), demo_crops=(1, 1), seed=0)


@pytest.mark.parametrize("parameter", ["train", "split"])
def test_torchvision_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parameter: str) -> None:
    class ByTrain(torchvision.datasets.VisionDataset):
        classes = ("cat", "dog")

        def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
            assert download
            self.part = train

        def __len__(self) -> int:
            return 1

    class BySplit(ByTrain):
        def __init__(self, root: Path, split: str = "train", download: bool = False) -> None:
            super().__init__(root, split == "train", download)
            assert split in ("train", "test")

    kind = ByTrain if parameter == "train" else BySplit
    monkeypatch.setattr(torchvision.datasets, "Animals", kind, raising=False)
    task = datasets.load_task("Animals", tmp_path, demo_crops=(1, 1), seed=0)
    assert (task.train.part, task.validation.part, task.classes) == (True, False, ["cat", "dog"])  # type: ignore[attr-defined]  # of Part


# training


def test_macs() -> None:
    convolution = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1))
    assert count_macs(convolution, lambda: convolution(torch.rand(1, 12, 8, 8))) == 12 * 16 * 9 * 64
    assert convolution.training


def test_evaluate_leaves_out_unreadable_images() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [5, 0, 0], [0, 2, 0]])
    labels = torch.tensor([0, 1, 1, datasets.IGNORE, 2])
    ranks = Ranks(0, 1, torch.device("cpu"))
    figures = training.evaluate_classifier(
        nn.Identity(), torch.utils.data.TensorDataset(logits, labels), 2, workers=0, ranks=ranks
    )
    right, wrong = math.log(2 + math.e**2) - 2, math.log(2 + math.e**2)
    assert figures == {"accuracy": 50, "unreadable": 1, "validation_loss": pytest.approx((2 * right + 2 * wrong) / 4)}
    blank = torch.utils.data.TensorDataset(logits, torch.full((5,), datasets.IGNORE))
    with pytest.raises(ValueError, match="no validation image could be read"):
        training.evaluate_classifier(nn.Identity(), blank, 2, workers=0, ranks=ranks)


def tiny(folder: Path, **options: object) -> classification.Config:
    settings = {"demo_crops": (128, 40), "epochs": 2, "workers": 0, "stages": 2, "output_dir": folder, **options}
    return classification.Config(**settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_classification_is_repeatable_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classification.main(tiny(tmp_path / "a", epochs=3))
    assert {"config.yaml", "metrics.jsonl", "checkpoint.pt", "result.json", "curve.png"} == {
        f.name for f in (tmp_path / "a").iterdir()
    }
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["epochs"] == 3
    assert whole["values"] == 12 * 256
    assert whole["unreadable"] == 0

    ends: list[int] = []
    evaluate = training.evaluate_classifier

    def interrupted(*args: object, **options: object) -> dict:
        ends.append(1)
        if len(ends) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "evaluate_classifier", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classification.main(tiny(tmp_path / "b", epochs=3))
    resumed = classification.main(tiny(tmp_path / "b", epochs=3, resume=True))
    assert len(ends) == 4  # the first epoch was not run again
    assert resumed["accuracy"] == whole["accuracy"]
    logs = [[json.loads(line) for line in (tmp_path / f / "metrics.jsonl").read_text().splitlines()] for f in "ab"]
    for one, other in zip(*logs, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)
    assert classification.main(tiny(tmp_path / "b", epochs=3, resume=True)) == resumed
    with pytest.raises(ValueError, match="holds a run with epochs 3, and is to be resumed with 4"):
        classification.main(tiny(tmp_path / "b", epochs=4, resume=True))
    assert yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())["epochs"] == 3


@pytest.mark.slow
def test_every_arm_sees_the_same_crops(flowers: Path) -> None:
    task = datasets.load_task(str(flowers), Path(), demo_crops=(1, 1), seed=0)
    cut = datasets.cuts(64, fixed=False)[0]
    crops = []
    for arm in (nn.Identity(), nn.Sequential(nn.Identity())):
        loader = datasets.batches(datasets.Features(task.train, cut, arm), range(16), 8, workers=1, seed=5)
        crops.append(torch.cat([x for x, _ in loader]))
    assert torch.equal(*crops)


@pytest.mark.slow
def test_folder_with_unreadable_images_trains(flowers: Path, tmp_path: Path) -> None:
    result = classification.main(tiny(tmp_path / "run", data=str(flowers), image_size=64, batch_size=8))
    assert result["unreadable"] == 2
    assert math.isfinite(json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["train_loss"])


def test_protocols_differ_in_the_view_of_the_resize_arms(flowers: Path) -> None:
    task = datasets.load_task(str(flowers), Path(), demo_crops=(1, 1), seed=0)
    for arm, same in (("resize_16x", False), ("walloc_16x", True)):
        views = []
        for protocol in ("same-view", "paper"):
            config = classification.Config(arm=arm, image_size=64, protocol=protocol, data=str(flowers))
            views.append(classification.features(config, task)[1])
        assert views[0][1][0].shape == views[1][1][0].shape
        paper_cut = views[1].cut(torch.zeros(3, 140, 150, dtype=torch.uint8))
        assert (paper_cut.shape == (3, 64, 64)) is same
    with pytest.raises(ValueError, match="--protocol paper needs photographs"):
        classification.main(classification.Config(protocol="paper", output_dir=flowers / "run"))


def test_image_size_must_fit_the_grid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of 8, got 100"):
        classification.main(tiny(tmp_path, image_size=100))


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_two_processes(tmp_path: Path, stored: bool) -> None:
    """torchrun, gloo, one result, written once, and the same weights on both ranks throughout."""
    data = ["--demo-crops", "128", "40"]
    if stored:
        wt.encode_dataset([(torch.rand(3, 64, 64), i % 2) for i in range(40)], tmp_path / "data", "rgb_16x")
        data = ["--data", str(tmp_path / "data"), "--image-size", "64"]
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port),
        "-m",
        "recipes.classification",
        *data,
        "--epochs",
        "1",
        "--workers",
        "0",
        "--output-dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert 0 <= json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"] <= 100


def test_importing_recipes_lets_threads_sleep() -> None:
    assert os.environ["GOMP_SPINCOUNT"]

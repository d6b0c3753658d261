"""Latent data sets as what recipes train on: which records, which arms may read them, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import walloc_transforms as wt
from recipes import classification, pretrained
from recipes.common import datasets, stored
from recipes.common.photographs import demo_photographs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten images of 80x72 pixels."""
    folder = tmp_path_factory.mktemp("photographs")
    for label, name in enumerate(("rose", "tulip")):
        (folder / name).mkdir()
        for i in range(10):
            box = (20 * i, 30 * label, 20 * i + 160, 30 * label + 144)
            demo_photographs()[label].resize((80, 72), box=box).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def dataset(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "stored"
    wt.encode_dataset(photographs, out, "rgb_4x", progress=False)
    return out


def task_of(data: Path) -> datasets.Task:
    return datasets.load_task(str(data), Path(), demo_crops=(1, 1), seed=0)


def config(data: Path, folder: Path, **options: Any) -> classification.Config:
    settings = {"image_size": 64, "epochs": 1, "batch_size": 4, "workers": 0, "stages": 2, "arm": "rgb_4x:24"}
    return classification.Config(data=str(data), output_dir=folder, **{**settings, **options})


def test_every_fifth_image_of_a_class_validates(dataset: Path) -> None:
    task = task_of(dataset)
    data = wt.LatentDataset(dataset)
    assert task.classes == ["rose", "tulip"]
    assert isinstance(task.validation, stored.Records) and isinstance(task.train, stored.Records)
    assert [data.key(i) for i in task.validation.numbers] == [f"{c}/{i}.png" for c in task.classes for i in (0, 5)]
    assert sorted(task.train.numbers + task.validation.numbers) == [*range(20)]


def test_views_of_an_image_are_not_parted(photographs: Path, tmp_path: Path) -> None:
    wt.encode_dataset(photographs, tmp_path / "views", "rgb_16x", crop=64, views=3, progress=False)
    task, data = task_of(tmp_path / "views"), wt.LatentDataset(tmp_path / "views", as_dict=True)
    assert isinstance(task.validation, stored.Records) and isinstance(task.train, stored.Records)
    assert (len(task.train), [data[i]["part"] for i in task.validation.numbers]) == (48, [0] * 4)
    train, validation = ({data.key(i) for i in part.numbers} for part in (task.train, task.validation))
    assert not train & validation


def test_two_data_sets(photographs: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        wt.encode_dataset(photographs, tmp_path / part, "rgb_16x", progress=False)
    task = task_of(tmp_path)
    assert (len(task.train), len(task.validation)) == (20, 20)  # type: ignore[arg-type]  # a Dataset need have no length


class Named(list[tuple[Any, int]]):
    """Images and labels."""

    classes: Sequence[str]


def images_of(labels: Sequence[int], classes: Sequence[str]) -> Named:
    found = Named((torch.rand(3, 16, 16), label) for label in labels)
    found.classes = list(classes)
    return found


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("abcdefgh", "other classes: only 'train' has 'i'; only 'val' has 'h'"),
        ("bacdefgi", "other classes: their order is another one"),
    ],
)
def test_other_classes_are_named(classes: str, message: str, tmp_path: Path) -> None:
    for part, names in (("train", "abcdefgi"), ("val", classes)):
        wt.encode_dataset(images_of(range(8), names), tmp_path / part, "rgb_16x", progress=False)
    with pytest.raises(ValueError, match=message):
        task_of(tmp_path)


def test_what_is_left_out_is_said(dataset: Path, tmp_path: Path) -> None:
    assert not task_of(dataset).remark
    wt.encode_dataset(images_of([0, 0, 1, -1, -1], "ab"), tmp_path / "one", "rgb_16x", progress=False)
    task = task_of(tmp_path / "one")
    assert task.remark.startswith("left out: 2 records without a label; 1 classes have a single image")
    for part in ("train", "val"):
        wt.encode_dataset(images_of([0, 1, -1], "ab"), tmp_path / "two" / part, "rgb_16x", progress=False)
    assert task_of(tmp_path / "two").remark == "left out: 2 records without a label"


def test_crops_are_those_of_the_records(dataset: Path) -> None:
    data = wt.LatentDataset(dataset)
    task = task_of(dataset)
    assert isinstance(task.validation, stored.Records)
    read = task.validation.read("rgb_4x:24", 64, training=False)
    ((latents, labels),) = datasets.batches(read, range(4), 4, workers=0)
    assert labels.tolist() == [0, 0, 1, 1]
    assert latents.dtype == torch.int8
    first = data[task.validation.numbers[0]][0][:24, :, 1:9]  # of 9 x 10 cells
    assert np.array_equal(latents[0], first[:, :8]) or np.array_equal(latents[0], first[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("alike", [True, False])
def test_classification_reads_them(dataset: Path, photographs: Path, tmp_path: Path, alike: bool) -> None:
    """Records of one size, or of several; a worker reads them."""
    if not alike:
        name = photographs / "rose" / "10.png"
        demo_photographs()[2].resize((100, 64)).save(name)
        dataset = tmp_path / "more"
        wt.encode_dataset(photographs, dataset, "rgb_4x", progress=False)
        name.unlink()
    result = classification.main(config(dataset, tmp_path / "run", workers=1))
    assert (result["values"], result["tokens"], result["unreadable"]) == (24 * 64, 64, 0)
    assert 0 <= result["accuracy"] <= 100
    again = classification.main(config(dataset, tmp_path / "again", workers=1))
    assert again["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"arm": "resize_16x"},
            "cannot read .* 48 channels of 'rgb_4x', and no pixels: expected arm rgb_4x or rgb_4x:C",
        ),
        ({"arm": "walloc_16x"}, "cannot read .*'rgb_4x', and no pixels"),
        ({"arm": "rgb_4x_viewing"}, "cannot read .*'rgb_4x', and no pixels"),
        ({"arm": "rgb_4x+refiner"}, "cannot read"),
        ({"image_size": 80}, "holds images from 72 pixels on"),
        ({"protocol": "paper"}, "no pixels: --protocol paper needs photographs"),
    ],
)
def test_what_needs_pixels_is_refused(dataset: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification.main(config(dataset, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_recipes_that_need_pixels_say_so(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no image in .*: a latent data set has no images"):
        pretrained.main(pretrained.Config(data=str(dataset), output_dir=tmp_path / "run"))


def test_without_labels(tmp_path: Path) -> None:
    wt.encode_dataset([torch.rand(3, 64, 64)] * 3, tmp_path / "plain", "rgb_16x", progress=False)
    with pytest.raises(ValueError, match="must hold images of at least two classes"):
        task_of(tmp_path / "plain")

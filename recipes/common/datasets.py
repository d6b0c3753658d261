"""Labeled images: the demo, folders of classes, torchvision's datasets and latent ones, as features of an arm.

A file that cannot be read is named and becomes a blank image of class ``IGNORE``. So batches keep their size on every
rank; loss and accuracy leave these images out, and the training loop counts them.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2
from tqdm import tqdm

from recipes.common.digits import SIDE, DigitsOnPhotographs
from recipes.common.photographs import image_files, read_image
from recipes.common.stored import Cells, is_stored, open_stored, remark_on, some_of
from walloc_transforms.files import IMAGE_SUFFIXES, find_files

IGNORE = -100  # torch's default ignore_index of the cross-entropy


@dataclass
class Task:
    """Training and validation images, pairs of a PIL image (or None) and a class index, and what they are cut to.

    Of a latent data set both are :class:`~recipes.common.stored.Records`.
    """

    train: Dataset[Any]
    validation: Dataset[Any]
    classes: list[str]
    fixed: bool
    """Every epoch shows the same crops, so they can be made once and kept."""
    remark: str = ""
    """What is left out of the data, for the user to know."""


class Files(Dataset[tuple[Image.Image | None, int]]):
    """Image files with their class indices."""

    def __init__(self, samples: Sequence[tuple[Path, int]]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image | None, int]:
        file, label = self.samples[index]
        return read_image(file), label


def load_task(data: str, root: Path, *, demo_crops: tuple[int, int], seed: int, processes: int = 1) -> Task:
    """Open a dataset that can be trained on.

    Args:
        data: ``demo``; a folder with one subfolder of images per class (every 5th file of a sorted class is validation,
            or ``train`` and ``val`` subfolders with such folders in them); a latent data set, or ``train`` and ``val``
            with one each; or the name of a torchvision dataset.
        root: Where torchvision's datasets are, or are downloaded to.
        demo_crops: Training and validation crops of the demo.
        seed: Of the demo's crops.
        processes: That share the training images.

    Raises:
        FileNotFoundError: The folder does not exist or holds no images.
        ValueError: No such torchvision dataset, or it has no training and validation part, or too few images are in
            one of these, or none of them can be read.
    """
    task = _open(data, root, demo_crops, seed)
    train, validation = (len(cast(Sized, part)) for part in (task.train, task.validation))
    if train < processes or not validation:
        raise ValueError(
            f"{data!r} has {train} images to train on and {validation} to validate on: expected at least {processes} "
            "and 1"
        )
    for images in (task.train, task.validation):
        if isinstance(images, Files) and all(image is None for image, _ in images):
            raise ValueError(f"none of {len(images)} images in {data!r} can be read")
    return task


def _open(data: str, root: Path, demo_crops: tuple[int, int], seed: int) -> Task:
    if data == "demo":
        train, validation = (
            DigitsOnPhotographs(n, training=t, seed=seed) for n, t in zip(demo_crops, (True, False), strict=True)
        )
        return Task(train, validation, [str(d) for d in range(10)], fixed=True)
    if not Path(data).exists() and data.isidentifier():
        return _torchvision(data, root)
    folder = Path(data)
    if is_stored(folder):
        train, validation, classes, remark = open_stored(folder)
        return Task(train, validation, classes, fixed=False, remark=remark)
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        parts = [folder / "train", folder / "val"]
        classes = _class_names(parts[0])
        samples = [_samples(part, classes) for part in parts]
        remark = _only_in(parts[1], classes)
    else:
        classes = _class_names(folder)
        samples, single = [[], []], 0
        for label, name in enumerate(classes):
            own = [(file, label) for file in image_files(folder / name)]
            if len(own) == 1:
                samples[0] += own
                single += 1
            else:
                samples[0] += [sample for i, sample in enumerate(own) if i % 5]
                samples[1] += own[::5]
        remark = remark_on(0, single)
    return Task(Files(samples[0]), Files(samples[1]), classes, fixed=False, remark=remark)


def _class_names(folder: Path) -> list[str]:
    image_files(folder)  # names what is missing
    classes = sorted(d.name for d in folder.iterdir() if d.is_dir())
    if len(classes) < 2:
        raise FileNotFoundError(f"{str(folder)!r} must hold one subfolder of images per class, found {len(classes)}")
    return classes


def _only_in(folder: Path, classes: Sequence[str]) -> str:
    """Say which classes of the validation part the training part lacks, and how many images are left out so."""
    unknown = sorted(d for d in folder.iterdir() if d.is_dir() and d.name not in classes)
    found = {d.name: len(list(find_files([d], IMAGE_SUFFIXES))) for d in unknown}
    names = [name for name, count in found.items() if count]
    if not names:
        return ""
    left = f"left out: {sum(found.values())} images of {len(names)} classes"
    return f"{left} that only {str(folder)!r} has: {some_of(names)}"


def _samples(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    return [(file, label) for label, name in enumerate(classes) for file in image_files(folder / name)]


def _torchvision(name: str, root: Path) -> Task:
    found = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(found) and issubclass(found, torchvision.datasets.VisionDataset)):
        raise ValueError(f"{name!r} is neither 'demo', nor a folder, nor a dataset of torchvision")
    kind = cast(Any, found)
    parameters = inspect.signature(found).parameters
    options: dict[str, Any] = {"download": True} if "download" in parameters else {}
    if "train" in parameters:
        parts = [kind(root, train=train, **options) for train in (True, False)]
    elif "split" in parameters:
        held_out = "val" if name in ("Flowers102", "ImageNet", "Imagenette", "Places365") else "test"
        parts = [kind(root, split=split, **options) for split in ("train", held_out)]
    else:
        raise ValueError(f"torchvision's {name} has no training and validation part")
    classes = [str(c) for c in getattr(parts[0], "classes", range(1000))]
    return Task(parts[0], parts[1], classes, fixed=False)


class Features(Dataset[tuple[Tensor, int]]):
    """Images as an arm's features: cut, then encoded."""

    def __init__(self, images: Any, cut: Callable[[Tensor], Tensor], arm: Callable[[Tensor], Tensor]) -> None:
        self.images, self.cut, self.arm = images, cut, arm

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        if image is None:
            image, label = Image.new("RGB", (SIDE, SIDE), (128, 128, 128)), IGNORE
        return self.arm(self.cut(v2.functional.pil_to_tensor(image.convert("RGB")))), label


def cuts(size: int, *, fixed: bool) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Make the training and the validation cut to ``size`` pixels; images of a fixed task are cut already.

    Validation shows the center of the whole image, the same to every arm.
    """
    if fixed:
        return v2.Identity(), v2.Identity()
    train = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    return train, v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])


def batches(dataset: Any, indices: Sequence[int], batch_size: int, *, workers: int, seed: int = 0) -> DataLoader[Any]:
    """Load ``indices`` in order; the seed fixes the random cuts."""
    generator = torch.Generator().manual_seed(seed)
    in_memory = isinstance(dataset, TensorDataset)
    if in_memory or (isinstance(dataset, Cells) and dataset.alike):  # a batch is one indexing
        size, sampler = None, [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
    else:
        size, sampler = batch_size, indices
    return DataLoader(
        dataset,
        size,
        sampler=sampler,
        num_workers=0 if in_memory else workers,
        generator=generator,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def in_memory(dataset: Features | Cells, *, workers: int, description: str, show: bool) -> TensorDataset:
    """Make every sample once and keep it."""
    loader = batches(dataset, range(len(dataset)), 64, workers=workers)
    parts = list(tqdm(loader, desc=description, unit="batch", disable=not show, leave=False))
    return TensorDataset(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))


def iterate(loader: DataLoader[Any], description: str, *, show: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate with a progress bar."""
    yield from tqdm(loader, desc=description, unit="batch", disable=not show, leave=False)

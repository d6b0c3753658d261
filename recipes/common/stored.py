"""Latent data sets, which ``walloc encode-dataset`` makes, as what a network is trained on.

From stored latents there are crops of whole cells and flips. What needs pixels is not to be had: other codecs, images
resized or cut to a DCT, crops of another scale.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes.common.arms import codec_of
from walloc_transforms.data import NO_LABEL

INDEX = "dataset.json"


class Records(Dataset[Any]):
    """Some records of a latent data set, and their labels.

    Args:
        path: The data set.
        numbers: Of the records.
    """

    def __init__(self, path: Path, numbers: Sequence[int]) -> None:
        self.path, self.numbers = path, list(numbers)
        self.data = wt.LatentDataset(path)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.data[self.numbers[index]]

    def read(self, arm: str, side: int, *, training: bool) -> "Cells":
        """Read them as an arm: crops of ``side`` pixels, drawn at random and flipped for training, else the middle.

        Raises:
            ValueError: The arm is not what is stored, or a prefix of it; or the images are smaller than the crops.
        """
        codec = self._codec(arm)
        least, cells = int(self.data.sizes[self.numbers].min()), side // codec.config.stride
        if least < side:
            raise ValueError(f"{self.path} holds images from {least} pixels on: expected image_size at most that")
        crop = wt.transforms.LatentRandomCrop(cells) if training else wt.transforms.LatentCenterCrop(cells)
        flips = [wt.transforms.LatentRandomHorizontalFlip()] * training
        data = wt.LatentDataset(self.path, channels=codec.config.channels, transform=v2.Compose([crop, *flips]))
        return Cells(data, self.numbers)

    def _codec(self, arm: str) -> wt.Codec:
        stored = self.data.codec.config
        try:
            codec = codec_of(arm)
            wt.LatentDataset(self.path, channels=codec.config.channels).check_codec(codec)
        except ValueError as error:
            raise ValueError(
                f"arm {arm!r} cannot read {self.path}, which holds latents of {stored.channels} channels of "
                f"{stored.name!r}, and no pixels: expected arm {stored.name} or {stored.name}:CHANNELS ({error})"
            ) from error
        return codec


class Cells(Subset[Any]):
    """Transformed latents and labels; a list of indices gives a batch, which is quicker to read.

    Attributes:
        data: The data set.
        alike: Whether all records have one size, so that any of them make a batch.
    """

    def __init__(self, data: wt.LatentDataset, numbers: Sequence[int]) -> None:
        super().__init__(data, numbers)
        self.data = data
        self.alike = len(np.unique(data.grids[list(numbers)], axis=0)) == 1


def is_stored(folder: Path) -> bool:
    """Whether a folder is a latent data set, or has two in its folders ``train`` and ``val``."""
    return (folder / INDEX).is_file() or all((folder / part / INDEX).is_file() for part in ("train", "val"))


def open_stored(folder: Path) -> tuple[Records, Records, list[str], str]:
    """Open latent data sets of images with labels.

    Args:
        folder: With ``train`` and ``val``; or one data set, of which every 5th image of a class validates, in its first
            view.

    Returns:
        Records to train on, others to validate on, the names of the classes, and what is left out, for the user to
        know.

    Raises:
        ValueError: A data set has no labels, or those of the two are of other classes; or a file is damaged.
    """
    if not (folder / INDEX).is_file():
        parts = [Records(path, labeled(wt.LatentDataset(path)).tolist()) for path in (folder / "train", folder / "val")]
        (train, validation), (classes, others) = parts, (classes_of(part.data) for part in parts)
        if classes != others:
            only = {"train": set(classes) - set(others), "val": set(others) - set(classes)}
            differ = [f"only {part!r} has {some_of(sorted(names))}" for part, names in only.items() if names]
            raise ValueError(
                f"the data sets in {folder} have other classes: {'; '.join(differ) or 'their order is another one'}"
            )
        return train, validation, classes, remark_on(sum(len(part.data) - len(part) for part in parts), 0)
    data = wt.LatentDataset(folder)
    keys = np.array([data.key(i) for i in range(len(data))])
    numbers, (train, held_out), single = labeled(data), ([], []), 0
    classes = classes_of(data)
    for label in range(len(classes)):
        own = numbers[data.labels[numbers] == label]
        names = list(dict.fromkeys(keys[own].tolist()))
        chosen = np.isin(keys[own], names[::5]) if len(names) > 1 else np.zeros(len(own), bool)
        train += own[~chosen].tolist()
        held_out += own[chosen][np.unique(keys[own][chosen], return_index=True)[1]].tolist()
        single += len(names) == 1
    remark = remark_on(len(data) - len(numbers), single)
    return Records(folder, train), Records(folder, held_out), classes, remark


def remark_on(unlabeled: int, single: int) -> str:
    """Say how many records have no label, and how many classes a single image; nothing where there are none."""
    remarks = [f"left out: {unlabeled} records without a label"] * (unlabeled > 0)
    remarks += [f"{single} classes have a single image, which is trained on: no image validates them"] * (single > 0)
    return "; ".join(remarks)


def some_of(names: Sequence[str]) -> str:
    """Name the first few."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def classes_of(data: wt.LatentDataset) -> list[str]:
    """Name the classes, by their numbers if they have no names."""
    return list(data.classes) or [str(label) for label in range(int(data.labels.max()) + 1)]


def labeled(data: wt.LatentDataset) -> np.ndarray:
    """List the records that have a label.

    Raises:
        ValueError: There are none, or they are no images.
    """
    found = np.flatnonzero(data.labels != NO_LABEL)
    if data.index.plan.codec.modality != "image" or len(classes_of(data)) < 2:
        raise ValueError(f"{data.path} must hold images of at least two classes, to learn them: {data}")
    return found

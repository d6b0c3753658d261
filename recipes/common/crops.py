"""Color photographs to train on, crop by crop, and to be scored on: the demo, folders, torchvision's datasets.

train, test = load_photographs("PATH/TO/PHOTOS", Path("data"))
crop = Crops(train, 128, seed=0)[17]        # (3, 128, 128) uint8, the same whenever it is asked for
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

from recipes.common.datasets import load_task
from recipes.common.photographs import demo_photographs, image_files, read_image

DEMO_PART = 0.6
"""Of the width of a demo photograph, from the left, that is trained on; the rest is scored."""
_TESTS = ("test", "val", "validation")


@dataclass
class Photograph:
    """A color image: its pixels ``(3, H, W)`` uint8 where they are kept in memory, or how to read them."""

    name: str
    open: Callable[[], Image.Image | None]
    kept: Tensor | None = None

    def pixels(self) -> Tensor | None:
        """Return the pixels, or None where they cannot be read, which is printed."""
        if self.kept is not None:
            return self.kept
        image = self.open()
        return None if image is None else pil_to_tensor(image.convert("RGB"))


def load_photographs(
    data: str,
    root: Path,
    *,
    test: str | None = None,
    test_images: int | None = None,
    memory: float = 2e9,
    show: bool = True,
) -> tuple[list[Photograph], list[Photograph]]:
    """Open training and test photographs.

    Args:
        data: ``demo``; a folder, with all that is below it, of which every fifth image of the sorted list is for
            testing (or its subfolder ``test``, ``val`` or ``validation``, if it has one and ``train``); or the name of
            a torchvision dataset.
        root: Where torchvision's datasets are, or are downloaded to.
        test: A folder of test photographs: all of the folder ``data`` is for training then.
        test_images: How many to take for testing, evenly spread; default: all.
        memory: Bytes of training pixels to keep; images beyond are read crop by crop.
        show: Show progress.

    Returns:
        Training and test photographs. Those that cannot be read, or are shorter than 8 pixels, are left out of the
        test, as are those without color, at which there is nothing to score.

    Raises:
        FileNotFoundError: The folder is missing or holds no image.
        ValueError: No such torchvision dataset, or no image is left.
    """
    if test is not None and (data == "demo" or not Path(data).is_dir()):
        raise ValueError(f"test photographs in {test!r}: expected a folder of training photographs, got {data!r}")
    if data == "demo":
        train, tested = _demo()
    elif not Path(data).exists() and data.isidentifier():
        task = load_task(data, root, demo_crops=(1, 1), seed=0)
        train, tested = (_of_dataset(part) for part in (task.train, task.validation))
    else:
        train, tested = _of_folder(Path(data), None if test is None else Path(test))
    left = memory
    for photograph in tqdm(train, desc="photographs", unit="image", disable=not show, leave=False):
        if left <= 0:
            break
        photograph.kept = photograph.pixels()
        left -= 0 if photograph.kept is None else photograph.kept.numel()
    count = min(len(tested), test_images or len(tested))
    tested = [tested[i * len(tested) // count] for i in range(count)]
    bar = tqdm(tested, desc="test photographs", unit="image", disable=not show, leave=False)
    tested = [p for p in bar if _scored(p)]
    if not train or not tested:
        raise ValueError(
            f"{data!r} has {len(train)} training images and {len(tested)} test images with color: "
            "at least one of each is needed"
        )
    return train, tested


def _scored(photograph: Photograph) -> bool:
    pixels = photograph.pixels()
    return pixels is not None and min(pixels.shape[-2:]) >= 8 and bool((pixels != pixels[:1]).any())


def _demo() -> tuple[list[Photograph], list[Photograph]]:
    parts: tuple[list[Photograph], list[Photograph]] = ([], [])
    for i, image in enumerate(demo_photographs()):
        border = round(image.width * DEMO_PART)
        for part, (left, right) in zip(parts, ((0, border), (border, image.width)), strict=True):
            cut = image.crop((left, 0, right, image.height))
            part.append(Photograph(f"demo {i}", lambda cut=cut: cut))
    return parts


def _of_folder(folder: Path, test: Path | None) -> tuple[list[Photograph], list[Photograph]]:
    tests = [folder / name for name in _TESTS if (folder / name).is_dir()]
    if test is not None:
        return of_files(folder), of_files(test)
    if (folder / "train").is_dir() and tests:
        halves = [image_files(folder / "train"), image_files(tests[0])]
    else:
        files = image_files(folder)
        halves = [[f for i, f in enumerate(files) if i % 5], files[::5]]
    train, tested = ([_of_file(f, folder) for f in half] for half in halves)
    return train, tested


def of_files(folder: Path) -> list[Photograph]:
    """List the image files below a folder as photographs.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    return [_of_file(file, folder) for file in image_files(folder)]


def _of_file(file: Path, folder: Path) -> Photograph:
    return Photograph(str(file.relative_to(folder)), lambda: read_image(file))


def _of_dataset(dataset: Any) -> list[Photograph]:
    return [Photograph(str(i), lambda i=i: dataset[i][0]) for i in range(len(dataset))]


class Crops(Dataset[Tensor]):
    """Random crops, mirrored or not; the same index gives the same crop, on every process and after every resume.

    Args:
        photographs: To cut from. Those that cannot be read or are smaller than the crop are passed over.
        side: Of the crops in pixels.
        seed: Another seed, other crops.
    """

    def __init__(self, photographs: Sequence[Photograph], side: int, seed: int) -> None:
        self.photographs, self.side, self.seed = photographs, side, seed

    def __getitem__(self, index: int) -> Tensor:
        """Cut ``(3, side, side)``, uint8.

        Raises:
            ValueError: No photograph is large enough.
        """
        random = np.random.default_rng((self.seed, index))
        first = int(random.integers(len(self.photographs)))
        for i in range(len(self.photographs)):
            pixels = self.photographs[(first + i) % len(self.photographs)].pixels()
            if pixels is not None and min(pixels.shape[-2:]) >= self.side:
                y, x = (int(random.integers(n - self.side + 1)) for n in pixels.shape[-2:])
                crop = pixels[:, y : y + self.side, x : x + self.side]
                return crop.flip(-1) if random.integers(2) else crop.clone()
        raise ValueError(
            f"none of {len(self.photographs)} training images is at least {self.side}x{self.side} "
            "pixels: set a smaller --crop"
        )

    def batch(self, start: int, count: int) -> Tensor:
        """Cut ``count`` crops from number ``start`` on, float in [0, 1]."""
        return torch.stack([self[i] for i in range(start, start + count)]) / 255

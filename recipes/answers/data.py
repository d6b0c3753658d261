"""Photographs at the size that a network reads, with their labels where these are known."""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

from recipes.common.photographs import check_apart, demo_photographs, image_files, read_image

_SCORED = (1, 2, 3, 6, 7)  # of the demo's photographs: cat, coffee, rocket, palace, flower; stems may learn from others
_ENLARGED = 2  # times, at most: more than that, and there is no detail that an arm could lose


T = TypeVar("T")


@dataclass
class Pictures:
    """Images of one size.

    Attributes:
        images: ``(N, 3, S, S)``, uint8.
        labels: The class of each, an index of the network's; None if they are not known.
        remark: What there is to know about them.
        files: The file of each; None for crops.
    """

    images: Tensor
    labels: Tensor | None
    remark: str
    files: list[Path] | None = None

    def __len__(self) -> int:
        return len(self.images)


def scored_pictures(data: str, count: int, size: int, classes: ImageNetInfo | None, *, show: bool) -> Pictures:
    """Take pictures to compare arms on.

    Args:
        data: ``demo``, or a folder of images, with a subfolder for each class if labels are known.
        count: Crops of the demo's photographs, or images of the folder at most, evenly spaced in their sorted order.
        size: Side of a picture. Of a folder's image the center is taken, as high or as wide as the image.
        classes: The network's classes.
        show: Show a progress bar.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: No image can be read, or one is too small, or some subfolders are named as classes and others not.
    """
    if data == "demo":
        images = _crops([demo_photographs()[i] for i in _SCORED], count, size)
        said = f"{len(images)} crops of {len(_SCORED)} photographs (the error is that of other crops of the same ones)"
        return Pictures(images, None, said)
    files = evenly(image_files(data), count)
    labels, remark = _labels(Path(data), files, classes)
    kept, enlarged = [], 0
    for i, image in _read(files, show):
        if image is not None:
            kept.append((i, cut(image, size, str(files[i]))))
            enlarged += min(image.size) < size
    if not kept:
        raise ValueError(f"none of {len(files)} images in {data!r} can be read")
    remark += f", {enlarged} of them enlarged" if enlarged else ""
    known = None if labels is None else torch.tensor([labels[i] for i, _ in kept])
    own = [files[i] for i, _ in kept]
    said = f"{len(kept)} images of {Path(data).name}{remark}"
    return Pictures(torch.stack([picture for _, picture in kept]), known, said, own)


def training_photographs(data: str, scored: str) -> list[Image.Image] | Path:
    """Take what stems may learn from, none of which is scored: the demo's other photographs, or a folder.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: An image is in both folders.
    """
    if data == "demo":
        photographs = demo_photographs()
        return [photo for i, photo in enumerate(photographs) if scored != "demo" or i not in _SCORED]
    image_files(data)  # names what is missing
    if scored != "demo":
        check_apart(data, scored)
    return Path(data)


def training_pictures(photographs: list[Image.Image] | Path, count: int, size: int, *, show: bool) -> list[Tensor]:
    """Cut photographs to the network's size: crops of a few, or images of a folder, evenly spaced.

    Raises:
        ValueError: No image can be read, or one is too small.
    """
    if isinstance(photographs, list):
        return list(_crops(photographs, count, size))
    files = evenly(image_files(photographs), count)
    pictures = [cut(image, size, str(files[i])) for i, image in _read(files, show) if image is not None]
    if not pictures:
        raise ValueError(f"none of {len(files)} images in {str(photographs)!r} can be read")
    return pictures


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Take at most so many items, evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def cut(image: Image.Image, size: int, name: str) -> Tensor:
    """Take the center of an image, as high or as wide as the image, and bring it to ``size``: uint8 ``(3, S, S)``.

    Raises:
        ValueError: The image is too small.
    """
    if min(image.size) * _ENLARGED < size:
        raise ValueError(
            f"{name} has {image.width}x{image.height} pixels: expected a shorter side of at least "
            f"{-(-size // _ENLARGED)} for a network that reads {size}x{size}"
        )
    return pil_to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def _crops(photographs: Sequence[Image.Image], count: int, size: int) -> Tensor:
    """Cut squares of many sizes out of photographs in turn, the same every time, and reduce them to ``size``.

    The first square of every photograph is as large as it can be, and in the middle.
    """
    crops = [cut(photograph, size, "a photograph of the demo") for photograph in photographs[:count]]
    for i in range(len(crops), count):
        random, photograph = np.random.default_rng(i), photographs[i % len(photographs)]
        largest = min(photograph.size)
        side = round(math.exp(random.uniform(math.log(min(size, largest)), math.log(largest))))
        x, y = (int(random.integers(n - side + 1)) for n in photograph.size)
        crop = photograph.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
        crops.append(pil_to_tensor(crop))
    return torch.stack(crops)


def _read(files: Sequence[Path], show: bool) -> "tqdm[tuple[int, Image.Image | None]]":
    return tqdm(
        ((i, read_image(file)) for i, file in enumerate(files)),
        desc="images",
        total=len(files),
        unit="image",
        disable=not show,
        leave=False,
    )


def _labels(folder: Path, files: Sequence[Path], classes: ImageNetInfo | None) -> tuple[list[int] | None, str]:
    """Find the classes that subfolders are named by, and say so where there are none."""
    names = [file.relative_to(folder).parts[0] if file.parent != folder else "" for file in files]
    if classes is None or not any(names):
        reason = "the network's classes are not ImageNet's" if classes is None else "it has no folders of classes"
        return None, f", whose labels are not known: {reason}"
    known = class_names(classes)
    found = {name: known.get(_plain(name)) for name in dict.fromkeys(names)}
    unknown = [name for name, label in found.items() if label is None]
    if len(unknown) == len(found):
        return None, f", whose labels are not known: {unknown[0]!r} is neither a WordNet id nor a class of ImageNet"
    if unknown:
        close = difflib.get_close_matches(_plain(unknown[0]), known, n=2)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise ValueError(
            f"{len(unknown)} of {len(found)} folders in {str(folder)!r} are named neither by a WordNet id nor by a "
            f"class of ImageNet, such as {unknown[0]!r}{hint}"
        )
    return [label for name in names if (label := found[name]) is not None], ""


def class_names(classes: ImageNetInfo) -> dict[str, int]:
    """Map WordNet ids and the names of classes, in lower case, to their index, but for names that two classes share."""
    known: dict[str, set[int]] = {}
    for index, wordnet_id in enumerate(classes.label_names()):
        description = classes.index_to_description(index)
        for name in (wordnet_id, description, *description.split(",")):
            known.setdefault(_plain(name), set()).add(index)
    return {name: min(indices) for name, indices in known.items() if len(indices) == 1}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()

"""Images in memory, cut a batch at a time on the device that trains.

A crop and its resizing are two matrix products, one over the rows and one over the columns, so that crops of all sizes
make one batch. They give what torchvision's ``resized_crop`` gives, bicubic and antialiased.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms import v2
from tqdm import tqdm

AREA = (0.35, 1.0)
"""Part of an image that a training crop covers."""
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def read_pictures(images: Any, side: int | None, description: str, *, show: bool) -> tuple[list[Tensor], list[int]]:
    """Decode images to uint8 ``(3, H, W)``, with their class indices; unreadable ones are left out.

    Args:
        images: Pairs of a PIL image, or None, and a class index.
        side: What a longer short side is reduced to. None: images stay as they are.
        description: Of the progress bar.
        show: Whether there is one.
    """
    pictures, labels = [], []
    for i in tqdm(range(len(images)), desc=description, unit="image", disable=not show, leave=False):
        image, label = images[i]
        if image is None:
            continue
        picture = v2.functional.pil_to_tensor(image.convert("RGB"))
        if side is not None and min(picture.shape[1:]) > side:
            picture = v2.functional.resize(picture, [side], antialias=True)
        pictures.append(picture)
        labels.append(label)
    return pictures, labels


class Crops(TensorDataset):
    """Random crops and flips of pictures, cut when a list of indices asks for them.

    They depend on the first index and on ``torch.initial_seed()``, so on nothing that a network draws: every network
    that is trained with the same seed sees the same crops.

    Args:
        pictures: uint8 ``(3, H, W)``, of any sizes, on the device to cut on.
        labels: Their class indices.
        side: Of the crops, in pixels. None: the pictures are crops already, of one size.
    """

    def __init__(self, pictures: Sequence[Tensor], labels: Sequence[int], side: int | None) -> None:
        super().__init__(torch.tensor(labels))
        self.pictures, self.side = pictures, side

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, ...]:
        pictures = [self.pictures[i] for i in indices]
        labels = self.tensors[0][indices]
        if self.side is None:
            return torch.stack(pictures), labels
        random = torch.Generator().manual_seed(torch.initial_seed() * 1_000_003 + indices[0])
        boxes = random_boxes(torch.tensor([p.shape[1:] for p in pictures]), random)
        flips = torch.rand(len(indices), generator=random) < 0.5
        return cut(pictures, boxes, self.side, flips), labels


def random_boxes(sizes: Tensor, random: torch.Generator) -> Tensor:
    """Draw a box for each image as torchvision's ``RandomResizedCrop`` does.

    Args:
        sizes: Heights and widths, ``(N, 2)``.
        random: Where the numbers come from.

    Returns:
        Top, left, height and width, ``(N, 4)``.
    """
    count = (len(sizes), _TRIES)
    low, high = (math.log(ratio) for ratio in _RATIO)
    area = sizes.prod(1, keepdim=True) * torch.empty(count).uniform_(*AREA, generator=random)
    ratio = torch.empty(count).uniform_(low, high, generator=random).exp()
    tried = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], 2).round().long()
    fits = ((tried > 0) & (tried <= sizes[:, None])).all(2)
    first = fits.int().argmax(1)
    whole = sizes.amin(1, keepdim=True).expand(-1, 2)  # where none fits: the largest square
    shape = torch.where(fits.any(1)[:, None], tried[torch.arange(len(sizes)), first], whole)
    place = (torch.rand(len(sizes), 2, generator=random) * (sizes - shape + 1)).long()
    return torch.cat([place, shape], 1)


def central_boxes(sizes: Tensor) -> Tensor:
    """Return the largest central square of each image, in the form of :func:`random_boxes`."""
    shape = sizes.amin(1, keepdim=True).expand(-1, 2)
    return torch.cat([(sizes - shape) // 2, shape], 1)


def central_crops(pictures: Sequence[Tensor], side: int | None) -> Tensor:
    """Cut what validation shows: the center of each whole image, ``(N, 3, side, side)`` uint8; None: they are cut."""
    if side is None:
        return torch.stack([*pictures])
    sizes = torch.tensor([p.shape[1:] for p in pictures])
    boxes = central_boxes(sizes)
    return torch.cat([cut(pictures[i : i + 64], boxes[i : i + 64], side) for i in range(0, len(pictures), 64)])


def cut(pictures: Sequence[Tensor], boxes: Tensor, side: int, flips: Tensor | None = None) -> Tensor:
    """Cut boxes out of pictures and resize them to squares, bicubic and antialiased.

    Args:
        pictures: uint8 ``(3, H, W)``, of any sizes, on one device.
        boxes: Top, left, height and width, ``(N, 4)``.
        side: Of the squares.
        flips: Which of them to flip, ``(N,)``.

    Returns:
        uint8 ``(N, 3, side, side)``, on the device of the pictures.
    """
    device = pictures[0].device
    height, width = (max(p.shape[axis] for p in pictures) for axis in (1, 2))
    batch = torch.zeros(len(pictures), 3, height, width, dtype=torch.uint8, device=device)
    for own, picture in zip(batch, pictures, strict=True):
        own[:, : picture.shape[1], : picture.shape[2]] = picture
    top, left, rows, columns = boxes.to(device, torch.float32, non_blocking=True).T
    down, across = _weights(top, rows, height, side), _weights(left, columns, width, side)
    if flips is not None:
        across = torch.where(flips.to(device)[:, None, None], across.flip(1), across)
    resized = down[:, None] @ batch.float() @ across.mT[:, None]
    return resized.round().clamp(0, 255).to(torch.uint8)


def _weights(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Make matrices ``(N, side, size)`` that resize ``length`` pixels from ``start`` on to ``side``."""
    scale = (length / side)[:, None, None]
    start, length = start[:, None, None], length[:, None, None]
    pixels = torch.arange(size, device=start.device)
    centers = start + (torch.arange(side, device=start.device)[:, None] + 0.5) * scale - 0.5
    x = ((pixels - centers) / scale.clamp(min=1)).abs()
    kernel = torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, (((5 - x) * x - 8) * x + 4) * 0.5)  # Keys, a = -0.5
    inside = (x < 2) & (pixels >= start) & (pixels < start + length)
    kernel = torch.where(inside, kernel, 0)
    return kernel / kernel.sum(2, keepdim=True)

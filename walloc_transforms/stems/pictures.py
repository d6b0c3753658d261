"""The pictures that ``distill_stem`` trains on: whatever a user has, as random crops and as held-back ones.

A crop depends on the seed and its number alone, so that any number of workers draws the same ones, and a run that is
resumed goes on with those that it has not seen.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from torchvision.transforms import v2

from ..files import IMAGE_SUFFIXES, find_files, read_signal
from ..signals import as_tensor, check_several, to_float
from .preparation import check_values, prepare_image

__all__ = ["Crops", "Pictures"]

Images = str | os.PathLike[str] | Iterable[Tensor | Image.Image]


class Pictures:
    """A number of pictures, read when they are asked for.

    Args:
        images: A folder, whose image files are found at any depth; or images: PIL or ``(C, H, W)`` tensors. Of what has
            a length and takes an index, images are fetched again and again; anything else is gone through once and
            kept.
        channels: Of a picture.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are fewer than two images.
        TypeError: ``images`` is neither a folder nor several images.
    """

    def __init__(self, images: Images, channels: int) -> None:
        self.channels = channels
        if isinstance(images, (str, os.PathLike)):
            folder = Path(images)
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {str(folder)!r} of images")
            self._images: Any = [file for file, _ in find_files([folder], IMAGE_SUFFIXES)]
            where = f"in {str(folder)!r}"
        else:
            check_several(images)
            indexed: Any = images
            self._images = indexed if isinstance(images, Sequence) or _takes_indices(images) else list(images)
            where = "given"
        if len(self) < 2:
            raise ValueError(
                f"expected at least two images, one to train on and one to hold back; {where}: {len(self)}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        """Return picture ``index``: ``(C, H, W)``, uint8, uint16 or float.

        Raises:
            ValueError: It cannot be read, or has another number of channels.
            TypeError: It is no image.
        """
        image = self._images[index]
        try:
            if isinstance(image, Path):
                return read_signal(image, "image", self.channels)[0]
            picture = as_tensor(image, self.channels)
        except (TypeError, ValueError) as error:
            what = str(image) if isinstance(image, Path) else f"image {index}"
            raise type(error)(f"{what}: {error}") from None
        if picture.ndim != 3 or picture.shape[0] != self.channels:
            raise ValueError(
                f"image {index}: expected shape ({self.channels}, H, W), as the codec reads, got {tuple(picture.shape)}"
            )
        return picture

    def hold_back(self, most: int = 100) -> tuple[list[int], list[int]]:
        """Split the indices: the second part is held back, every tenth picture, at least one and at most ``most``."""
        held = range(0, len(self), max(10, -(-len(self) // most))) if len(self) >= 10 else range(1)
        return [i for i in range(len(self)) if i not in held], list(held)

    def centers(self, indices: Iterable[int], size: tuple[int, ...]) -> Tensor:
        """Cut pictures around their centers to ``size``: ``(N, C, *size)``, float in [0, 1]."""
        return torch.cat([prepare_image(self[i], self.channels, size, i) for i in indices])


class Crops(Dataset[Tensor]):
    """Random resized crops, half of them flipped, of pictures drawn at random; as many as training asks for.

    Args:
        pictures: The pictures.
        indices: Those to draw from.
        size: ``(H, W)`` of a crop.
        count: The number of crops.
        seed: Of pictures, crops and flips.
    """

    def __init__(
        self, pictures: Pictures, indices: Sequence[int], size: tuple[int, ...], count: int, seed: int
    ) -> None:
        self.pictures, self.indices, self.size, self.count, self.seed = pictures, indices, size, count, seed
        self._cut = v2.Compose(
            [
                v2.RandomResizedCrop(size, (0.25, 1), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """Return crop ``index``, ``(C, *size)``, float in [0, 1].

        Raises:
            ValueError: Its picture is too small, or its values are not in range.
        """
        with torch.random.fork_rng(devices=[]):
            # Those of other devices are left alone.
            torch.default_generator.manual_seed((self.seed * 0x9E3779B1 + index) % 2**64)
            drawn = self.indices[int(torch.randint(len(self.indices), ()))]
            picture = self.pictures[drawn]
            least = min(self.size) // 2
            if min(picture.shape[1:]) < least:
                raise ValueError(
                    f"image {drawn} has {picture.shape[1]}x{picture.shape[2]} pixels, too few for crops of "
                    f"{self.size[0]}x{self.size[1]}: expected sides of at least {least}"
                )
            if picture.dtype != torch.uint8:  # which resizes quicker
                picture = to_float(picture, "image")
                check_values(picture, "image", drawn)
            return to_float(self._cut(picture), "image").clamp(0, 1)  # which resizing overshoots


def _takes_indices(images: Any) -> bool:
    # Every data set of torch has a __getitem__, which those that are iterated do not implement.
    return hasattr(images, "__getitem__") and hasattr(images, "__len__") and not isinstance(images, IterableDataset)

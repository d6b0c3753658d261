"""What an image can be had as otherwise: resized to fewer pixels, or a JPEG, WebP or AVIF file of as many bytes."""

import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from walloc_transforms.signals import pil_to_tensor

HIGHEST = 100
"""The best quality of Pillow's formats; the worst is 0."""


def to_pil(image: Tensor) -> Image.Image:
    """Convert a uint8 image ``(3, H, W)``; it carries no color profile or Exif data that a file would hold too."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def resize(image: Tensor, reduction: float) -> tuple[Tensor, float, float]:
    """Reduce to ``1 / reduction`` as many pixels and enlarge again, both bicubic, in Pillow.

    Args:
        image: ``(3, H, W)``, uint8.
        reduction: How many pixels become one.

    Returns:
        The image, of the same size; the seconds that reducing took, and those that enlarging took.
    """
    picture = to_pil(image)
    small = [max(1, round(n / math.sqrt(reduction))) for n in picture.size]
    bicubic = Image.Resampling.BICUBIC
    start = time.perf_counter()
    thumbnail = picture.resize((small[0], small[1]), bicubic)
    reduced = time.perf_counter()
    enlarged = thumbnail.resize(picture.size, bicubic)
    return pil_to_tensor(enlarged), reduced - start, time.perf_counter() - reduced


@dataclass(frozen=True)
class Format:
    """A lossy file format of Pillow.

    Attributes:
        name: Pillow's name of it.
        options: Of ``Image.save``.
        threaded: Whether its codec can use several threads.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    threaded: bool = False

    def missing(self) -> str:
        """Say why the installed Pillow cannot write it; empty if it can."""
        Image.init()
        return "" if self.name in Image.SAVE else f"not in Pillow {Image.__version__}"


FORMATS = {
    "JPEG": Format("JPEG", {"subsampling": "4:2:0"}),
    "WebP": Format("WEBP"),  # knows no other subsampling
    "AVIF": Format("AVIF", {"subsampling": "4:2:0"}, threaded=True),
}
"""As Pillow writes them if only a quality is given."""


@dataclass(frozen=True)
class Coded:
    """An image as a file.

    Attributes:
        content: The file.
        quality: From 0 to ``HIGHEST``.
        seconds: What encoding took.
    """

    content: bytes
    quality: int
    seconds: float


class LossyImage:
    """An image in a format of Pillow at the rates asked for; what was encoded once is kept.

    Args:
        image: ``(3, H, W)``, uint8.
        format: The format.
    """

    def __init__(self, image: Tensor, format: Format) -> None:
        self.picture, self.format = to_pil(image), format
        self._coded: dict[int, Coded] = {}

    def encode(self, quality: int) -> Coded:
        """Encode at a quality from 0 to ``HIGHEST``.

        Raises:
            OSError: The encoder refuses.
            ValueError: So does it, for some formats and reasons.
        """
        if quality not in self._coded:
            options = dict(self.format.options)
            if self.format.threaded:
                options["max_threads"] = torch.get_num_threads()
            content = io.BytesIO()
            start = time.perf_counter()
            self.picture.save(content, self.format.name, quality=quality, **options)
            self._coded[quality] = Coded(content.getvalue(), quality, time.perf_counter() - start)
        return self._coded[quality]

    def nearest(self, size: int) -> Coded:
        """Find the quality whose file has nearest to ``size`` bytes; out of reach, the end of the range.

        Args:
            size: Bytes.

        Raises:
            OSError: The encoder refuses.
            ValueError: So does it, for some formats and reasons.
        """
        small, large = self.encode(0), self.encode(HIGHEST)
        tried = [small, large]
        while large.quality - small.quality > 1 and len(small.content) < size < len(large.content):
            # The logarithm of the size is nearly linear in the quality within a short interval; the limits keep the
            # interval shrinking where it is not.
            logs = [math.log(len(c.content) / size) for c in (small, large)]
            share = min(0.8, max(0.2, logs[0] / (logs[0] - logs[1])))
            between = small.quality + round(share * (large.quality - small.quality))
            coded = self.encode(min(large.quality - 1, max(small.quality + 1, between)))
            tried.append(coded)
            if len(coded.content) > size:
                large = coded
            else:
                small = coded
        return min(tried, key=lambda c: abs(len(c.content) - size))

    def decode(self, coded: Coded) -> tuple[Tensor, float]:
        """Decode all pixels, which opening a file does not.

        Returns:
            ``(3, H, W)``, uint8; the seconds that decoding took.

        Raises:
            OSError: The file is damaged.
        """
        if self.format.threaded:
            from PIL import AvifImagePlugin

            AvifImagePlugin.DEFAULT_MAX_THREADS = torch.get_num_threads()
        start = time.perf_counter()
        with Image.open(io.BytesIO(coded.content)) as picture:
            picture.load()
            seconds = time.perf_counter() - start
            return pil_to_tensor(picture), seconds

"""Other ways to fewer pixels or bytes of an image: resizing, JPEG, WebP and AVIF."""

import io
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from recipes.evaluation.nearest import Coded, nearest_file
from walloc_transforms.signals import pil_to_tensor

HIGHEST = 100
"""The best quality of Pillow's formats; the worst is 0."""


def to_pil(image: Tensor) -> Image.Image:
    """Convert a uint8 image ``(3, H, W)``; it carries no color profile or Exif data that a file would hold too."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def resize(image: Tensor, reduction: float) -> tuple[Tensor, float, float]:
    """Divide the number of pixels by ``reduction`` and enlarge again, both bicubic, in Pillow.

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


class LossyImage:
    """An image in a format of Pillow at the rates asked for; what was encoded once is kept in ``coded``.

    Args:
        image: ``(3, H, W)``, uint8.
        format: The format.
    """

    def __init__(self, image: Tensor, format: Format) -> None:
        self.picture, self.format = to_pil(image), format
        self.coded: dict[int, Coded] = {}

    def encode(self, quality: int) -> Coded:
        """Encode at a quality from 0 to ``HIGHEST``.

        Raises:
            OSError: The encoder refuses.
            ValueError: So does it, for some formats and reasons.
        """
        if quality not in self.coded:
            options = dict(self.format.options)
            if self.format.threaded:
                options["max_threads"] = torch.get_num_threads()
            content = io.BytesIO()
            start = time.perf_counter()
            self.picture.save(content, self.format.name, quality=quality, **options)
            self.coded[quality] = Coded(content.getvalue(), quality, time.perf_counter() - start)
        return self.coded[quality]

    def nearest(self, size: int) -> Coded:
        """Find the quality whose file has nearest to ``size`` bytes; out of reach, the end of the range.

        Raises:
            OSError: The encoder refuses.
            ValueError: So does it, for some formats and reasons.
        """
        return nearest_file(
            lambda quality: self.encode(int(quality)), 0, HIGHEST, size, integers=True, tries=50, tolerance=0
        )

    def decode(self, coded: Coded) -> tuple[Tensor, float]:
        """Decode all pixels, which opening a file does not.

        Returns:
            ``(3, H, W)``, uint8; the seconds that decoding took.

        Raises:
            OSError: The file is damaged.
        """
        with _avif_threads() if self.format.threaded else nullcontext():
            start = time.perf_counter()
            with Image.open(io.BytesIO(coded.content)) as picture:
                picture.load()
                seconds = time.perf_counter() - start
                return pil_to_tensor(picture), seconds


@contextmanager
def _avif_threads() -> Iterator[None]:
    """Let Pillow decode AVIF with the number of threads that torch has; only a global variable of Pillow says it."""
    from PIL import AvifImagePlugin

    before = AvifImagePlugin.DEFAULT_MAX_THREADS
    AvifImagePlugin.DEFAULT_MAX_THREADS = torch.get_num_threads()
    try:
        yield
    finally:
        AvifImagePlugin.DEFAULT_MAX_THREADS = before

"""Pictures and clips as a model reads them: of its size, as floats in [0, 1]."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from ..codec import as_plain
from ..signals import as_tensor, to_float

__all__ = ["check_values", "prepare_clip", "prepare_image", "resize"]

_LONGEST = 4  # how many times as long as a model reads them pictures are resized, before they are cut


def prepare_image(image: Tensor | Image.Image, channels: int, size: tuple[int, ...], index: int) -> Tensor:
    """Bring an image to ``(1, C, *size)`` as float in [0, 1]."""
    try:
        x = to_float(as_tensor(image, channels), "image")
    except (TypeError, ValueError) as error:
        raise type(error)(f"image {index}: {error}") from None
    if x.ndim != 3 or x.shape[0] != channels or min(x.shape) == 0:
        raise ValueError(
            f"expected images of shape ({channels}, H, W) to fit a stem to, got {tuple(x.shape)} at image {index}"
        )
    check_values(x, "image", index)
    return _cover(x[None], size)


def prepare_clip(clip: Any, channels: int, size: tuple[int, ...], index: int) -> Tensor:
    """Bring a clip to ``(1, C, *size)`` as float in [0, 1]; its frames in the middle are taken."""
    if not isinstance(clip, Tensor):
        raise TypeError(f"clip {index}: expected a tensor of shape ({channels}, T, H, W), got {type(clip).__name__}")
    clip = as_plain(clip).transpose(-4, -3) if isinstance(clip, tv_tensors.Video) and clip.ndim == 4 else clip
    if clip.ndim != 4 or clip.shape[0] != channels or min(clip.shape) == 0:
        raise ValueError(
            f"expected clips of shape ({channels}, T, H, W) to fit a stem to, got {tuple(clip.shape)} at clip {index}"
        )
    if (frames := clip.shape[1]) < size[0]:
        raise ValueError(f"clip {index} has {frames} frames, the model reads {size[0]}: expected at least as many")
    first = (frames - size[0]) // 2
    try:
        x = to_float(clip[:, first : first + size[0]], "volume")
    except TypeError as error:
        raise TypeError(f"clip {index}: {error}") from None
    check_values(x, "clip", index)
    return _cover(x[None], size)


def check_values(x: Tensor, what: str, index: int) -> None:
    """Raise a ValueError if float images or clips are not in [0, 1], or not finite."""
    if not torch.isfinite(x).all():
        raise ValueError(f"{what} {index} holds NaN or infinite values")
    if x.min() < -0.5 or x.max() > 1.5:  # resizing overshoots, by less than that
        raise ValueError(
            f"float {what}s must be in [0, 1], got values from {x.min():.3g} to {x.max():.3g} at {what} {index}"
        )


def _cover(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize to cover the last two sides of ``size``, and cut around the center."""
    height, width = size[-2:]
    if x.shape[-2:] == (height, width):
        return x
    scale = max(height / x.shape[-2], width / x.shape[-1])
    # The ends of a strip are not seen, but resizing them would take memory.
    x = _center(x, (math.ceil(_LONGEST * height / scale), math.ceil(_LONGEST * width / scale)))
    cover = (max(height, round(x.shape[-2] * scale)), max(width, round(x.shape[-1] * scale)))
    if cover != x.shape[-2:]:
        x = resize(x, cover).clamp(0, 1)
    return _center(x, (height, width))


def _center(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut images or clips to at most ``(H, W)`` around their center."""
    height, width = (min(side, most) for side, most in zip(x.shape[-2:], size, strict=True))
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images ``(N, C, H, W)``, or the frames of clips ``(N, C, T, H, W)``."""
    if x.ndim == 4:
        return F.interpolate(x, tuple(size), mode="bicubic", antialias=True)
    return F.interpolate(x.flatten(1, 2), tuple(size), mode="bicubic", antialias=True).unflatten(1, x.shape[1:3])

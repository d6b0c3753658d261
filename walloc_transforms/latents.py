"""Latents as ordinary image files: integer latent channels tiled into the planes of a Pillow image.

The layout is the reference's. With P planes and ``D = P * n**2`` channels, channel ``p * n**2 + i * n + j`` is the tile
in row i and column j of plane p; codes are stored as ``code + 128``.

The pairs that stay lossless are L + PNG, RGB + PNG, RGB + WebP (lossless) and CMYK + TIFF.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["latents_to_pil", "pil_to_latents"]

_PLANES = {"L": 1, "RGB": 3, "CMYK": 4}
_OFFSET = 128


def _grid(channels: int, mode: str) -> tuple[int, int]:
    if mode not in _PLANES:
        raise ValueError(f"mode must be one of {', '.join(_PLANES)}, got {mode!r}")
    planes = _PLANES[mode]
    side = math.isqrt(channels // planes)
    if channels < 1 or planes * side**2 != channels:
        raise ValueError(f"{channels} channels do not fill mode {mode!r}: expected {planes} times a square number")
    return planes, side


def latents_to_pil(latents: Tensor, mode: str = "RGB") -> list[Image.Image]:
    """Tile rounded latents into images.

    Args:
        latents: ``(N, D, h, w)`` or ``(D, h, w)``, integers in [-128, 127] of any dtype.
        mode: ``"L"``, ``"RGB"`` or ``"CMYK"``; D must be 1, 3 or 4 times a square number.

    Returns:
        One image of ``(n * h, n * w)`` pixels for each of the N.

    Raises:
        ValueError: Wrong shape, values that are no such integers, or D does not fit ``mode``.
    """
    if latents.ndim not in (3, 4):
        raise ValueError(f"expected latents of shape (N, D, h, w) or (D, h, w), got {tuple(latents.shape)}")
    latents = latents.detach().cpu().reshape(-1, *latents.shape[-3:])
    planes, side = _grid(latents.shape[1], mode)
    codes = latents.to(torch.int16)
    if not torch.equal(codes.to(latents.dtype), latents) or ((codes < -_OFFSET) | (codes >= _OFFSET)).any():
        raise ValueError("expected rounded latents: integers from -128 to 127 (encode with quantize)")
    n, _, h, w = codes.shape
    tiles = (codes + _OFFSET).to(torch.uint8).view(n, planes, side, side, h, w)
    mosaics = tiles.permute(0, 2, 4, 3, 5, 1).reshape(n, side * h, side * w, planes).numpy()
    return [Image.fromarray(m if planes > 1 else m[..., 0], mode=None if mode != "CMYK" else mode) for m in mosaics]


def pil_to_latents(images: Sequence[Image.Image], channels: int) -> Tensor:
    """Undo :func:`latents_to_pil`.

    Args:
        images: Images of one size and mode.
        channels: Latent channels D.

    Returns:
        Int8 latents ``(N, D, h, w)``.

    Raises:
        ValueError: No images, or a mode or size that does not belong to ``channels``.
    """
    if not images:
        raise ValueError("there are no images to read latents from")
    planes, side = _grid(channels, images[0].mode)
    width, height = images[0].size
    if width % side or height % side:
        raise ValueError(f"an image of {width}x{height} pixels does not hold {side}x{side} tiles of equal size")
    if any((image.mode, image.size) != (images[0].mode, images[0].size) for image in images):
        raise ValueError("expected images of one mode and size")
    mosaics = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    tiles = mosaics.view(len(images), side, height // side, side, width // side, planes)
    codes = tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(images), channels, height // side, width // side)
    return (codes.to(torch.int16) - _OFFSET).to(torch.int8)

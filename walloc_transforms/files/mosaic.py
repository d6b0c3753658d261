"""Latents as ordinary image files: integer latent channels tiled into the planes of a Pillow image.

The layout is the reference's. With P planes and ``P * n**2`` channels, channel ``p * n**2 + i * n + j`` is the tile in
row i and column j of plane p. A code of b bits is stored as ``code + 2**(b - 1)``. Fewer channels are filled up with
code 0.

The pixels do not tell how many channels are real. :func:`save_mosaic` notes the number in the file, as Exif data that
other readers ignore. They do not tell the codec either: keep its name elsewhere, or use ``.wlc`` files, which hold it.

What an image may cost is up to Pillow, which refuses more than twice ``Image.MAX_IMAGE_PIXELS`` pixels.
"""

import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from ..latents import Latents
from ..safe import shown, write_atomically

__all__ = ["latents_to_pil", "pil_to_latents", "save_mosaic"]

_PLANES = {"L": 1, "RGB": 3, "CMYK": 4}
# The pairs of a mode and a format that are lossless. Others, Pillow converts to RGB without a word.
_LOSSLESS: dict[tuple[str, str], dict[str, Any]] = {
    ("L", ".png"): {},
    ("RGB", ".png"): {},
    ("RGB", ".webp"): {"lossless": True},
    ("CMYK", ".tif"): {"compression": "tiff_adobe_deflate"},
    ("CMYK", ".tiff"): {"compression": "tiff_adobe_deflate"},
}
_NOTE = "walloc latents: {} channels of {} bits in {}"
_NOTE_PATTERN = re.compile(r"walloc latents: (\d{1,9}) channels of ([2-8]) bits in (L|RGB|CMYK)")


def latents_to_pil(latents: Tensor, mode: str = "RGB", *, bits: int = 8) -> list[Image.Image]:
    """Tile rounded latents into images, losslessly.

    Args:
        latents: ``(N, D, h, w)`` or ``(D, h, w)``, of any dtype, integers from ``-2**(bits - 1)`` to
            ``2**(bits - 1) - 1``.
        mode: ``"L"``, ``"RGB"`` or ``"CMYK"``: 1, 3 or 4 planes.
        bits: Bits of a code, from 2 to 8: ``codec.config.latent_bits``.

    Returns:
        One image of ``(n * h, n * w)`` pixels for each of the N. Save it with :func:`save_mosaic`.

    Raises:
        ValueError: Wrong shape, no such mode or bits, normalized latents, or values that are no such integers.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 64, 96), "rgb_16x", quantize=True)
        >>> [image] = wt.functional.latents_to_pil(latents)  # 12 channels: 2 x 2 tiles in each of 3 planes
        >>> image.mode, image.size
        ('RGB', (24, 16))
    """
    if latents.ndim not in (3, 4) or 0 in latents.shape[-3:]:
        raise ValueError(f"expected latents of shape (N, D, h, w) or (D, h, w), got {tuple(latents.shape)}")
    if isinstance(latents, Latents) and latents.normalized:
        raise ValueError("expected rounded latents, got normalized ones: encode with quantize=True, normalize=False")
    offset = _offset(bits)
    latents = latents.detach().cpu().reshape(-1, *latents.shape[-3:])
    n, channels, h, w = latents.shape
    planes, side = _grid(channels, mode)
    codes = latents.to(torch.int16)
    if not torch.equal(codes.to(latents.dtype), latents) or ((codes < -offset) | (codes >= offset)).any():
        raise ValueError(f"expected rounded latents: integers from {-offset} to {offset - 1} (encode with quantize)")
    tiles = torch.full((n, planes * side**2, h, w), offset, dtype=torch.uint8, device="cpu")
    tiles[:, :channels] = codes + offset
    tiles = tiles.view(n, planes, side, side, h, w).permute(0, 2, 4, 3, 5, 1)
    mosaics = tiles.reshape(n, side * h, side * w, planes).numpy()
    images = [Image.fromarray(m if planes > 1 else m[..., 0], mode=None if mode != "CMYK" else mode) for m in mosaics]
    for image in images:
        image.getexif()[ExifTags.Base.ImageDescription] = _NOTE.format(channels, bits, mode)
    return images


def save_mosaic(image: Image.Image, file: str | os.PathLike[str]) -> None:
    """Write an image of :func:`latents_to_pil` losslessly and atomically, and note in the file what it holds.

    Args:
        image: The image.
        file: ``.png`` for modes L and RGB, ``.webp`` for RGB, ``.tif`` or ``.tiff`` for CMYK.

    Raises:
        ValueError: Another pair of mode and suffix, which would lose values, or an image that holds no latents.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> from PIL import Image
        >>> latents = wt.functional.encode_image(torch.rand(3, 64, 96), "rgb_16x", quantize=True)
        >>> wt.functional.save_mosaic(wt.functional.latents_to_pil(latents)[0], "latents.png")
        >>> torch.equal(wt.functional.pil_to_latents([Image.open("latents.png")])[0], latents.to(torch.int8))
        True
    """
    file = Path(file)
    pair = (image.mode, file.suffix.lower())
    if pair not in _LOSSLESS:
        pairs = ", ".join(f"{mode} with {suffix}" for mode, suffix in _LOSSLESS)
        raise ValueError(f"mode {pair[0]!r} does not stay lossless in {file.name!r}: expected {pairs}")
    if _read_note(image) is None:
        raise ValueError("this image does not come from latents_to_pil: it does not know its channels")
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[pair[1]], exif=image.getexif(), **_LOSSLESS[pair])
    write_atomically(file, content.getvalue())


def pil_to_latents(images: Sequence[Image.Image], channels: int | None = None, *, bits: int | None = None) -> Tensor:
    """Undo :func:`latents_to_pil`.

    Args:
        images: Images of one size and mode.
        channels: Latent channels D. Default: what the images say. Files of other writers do not say it.
        bits: Bits of a code. Default: what the images say, or 8.

    Returns:
        Int8 latents ``(N, D, h, w)``.

    Raises:
        ValueError: No images, nothing that tells ``channels``, an image that says otherwise, or a mode or size that
            does not belong to ``channels``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> images = wt.functional.latents_to_pil(torch.ones(5, 12, 8, 12))
        >>> tuple(wt.functional.pil_to_latents(images).shape)
        (5, 12, 8, 12)
    """
    if not images:
        raise ValueError("there are no images to read latents from")
    first = images[0]
    if any((image.mode, image.size) != (first.mode, first.size) for image in images):
        raise ValueError("expected images of one mode and size")
    for image in images:
        note = _read_note(image)
        for name, asked, noted in zip(("channels", "bits"), (channels, bits), note or (channels, bits), strict=True):
            if asked not in (None, noted):
                raise ValueError(f"{name} was given as {asked}, the image says that it is {noted}")
        if note is not None:
            channels, bits = note
    if channels is None:
        raise ValueError("the images do not say how many latent channels they hold: give channels")
    bits = 8 if bits is None else bits
    offset, (planes, side) = _offset(bits), _grid(channels, first.mode)
    width, height = first.size
    if width % side or height % side:
        raise ValueError(f"an image of {width}x{height} pixels does not hold {side}x{side} tiles of equal size")
    codes = torch.empty(len(images), channels, height // side, width // side, dtype=torch.uint8, device="cpu")
    for own, image in zip(codes, images, strict=True):
        pixels = torch.from_numpy(np.array(image)).view(side, height // side, side, width // side, planes)
        own[:] = pixels.permute(4, 0, 2, 1, 3).reshape(-1, *own.shape[1:])[:channels]
    if int(codes.max()) >= 2 * offset:
        raise ValueError(f"the images hold the value {int(codes.max())}: no code of {bits} bits")
    codes -= offset  # which wraps around
    return codes.view(torch.int8)


def _read_note(image: Image.Image) -> tuple[int, int] | None:
    """Read channels and bits from what :func:`latents_to_pil` noted; no pixels are decoded."""
    if image.format == "PNG" and "exif" not in image.info:
        return None  # Pillow would look behind the pixels
    try:
        note = image.getexif().get(ExifTags.Base.ImageDescription, "")
    except Exception as error:  # Pillow raises many kinds for damaged Exif data, SyntaxError among them
        raise ValueError(f"the Exif data of the image cannot be read: {shown(str(error))}") from error
    match = _NOTE_PATTERN.fullmatch(str(note))
    if match is None:
        return None
    if match[3] != image.mode:
        raise ValueError(
            f"these latents were in mode {match[3]!r}, the image is in mode {image.mode!r}: it has been "
            "converted, and they are lost"
        )
    return int(match[1]), int(match[2])


def _grid(channels: int, mode: str) -> tuple[int, int]:
    """Return the number of planes, and of tiles along each side of a plane, that hold the channels."""
    if mode not in _PLANES:
        raise ValueError(f"mode must be one of {', '.join(_PLANES)}, got {mode!r}")
    if channels < 1:
        raise ValueError(f"channels must be positive, got {channels}")
    planes = _PLANES[mode]
    return planes, math.isqrt(-(-channels // planes) - 1) + 1


def _offset(bits: int) -> int:
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits}: more do not fit the pixels of an image")
    return 2 ** (bits - 1)

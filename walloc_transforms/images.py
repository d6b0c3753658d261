"""Pillow images of every mode as tensors: converted without loss, or refused with a reason."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["pil_to_tensor"]

_COLOUR = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")  # Pillow converts these to RGB and to L
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's own conversion to 8 bits clips instead of scaling


def pil_to_tensor(image: Image.Image, channels: int = 3) -> Tensor:
    """Convert an image of any mode that has one meaning.

    Palette, grey, bilevel, CMYK, YCbCr and HSV images become RGB (or grey) as Pillow converts them. An alpha channel is
    dropped where it is opaque everywhere. 16-bit grey keeps its 16 bits.

    Args:
        image: The image.
        channels: 3 for RGB, 1 for grey; another number takes only images with as many 8-bit bands, as they are.

    Returns:
        ``(channels, H, W)``, uint8 in [0, 255], or uint16 in [0, 65535] for 16-bit grey. It is laid out in memory as
        the image is, channels last.

    Raises:
        ValueError: The image has transparent pixels, or its mode has no defined range (``I``, ``F``) or no conversion.
    """
    mode = image.mode
    if channels not in (1, 3):
        if len(image.getbands()) != channels or mode not in _COLOUR + _ALPHA:
            raise ValueError(f"expected an image of {channels} 8-bit bands, got mode {mode!r}: pass a tensor instead")
        return _to_tensor(image)
    if mode in _DEEP:
        grey = torch.from_numpy(np.asarray(image).astype(np.uint16))
        return grey.expand(channels, *grey.shape)
    if mode == "La":
        image = image.convert("LA")
    if mode in _ALPHA or "transparency" in image.info:
        if image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise ValueError(f"the image (mode {mode!r}) has transparent pixels, whose colour is undefined: "
                             "composite it on a background first (PIL.Image.alpha_composite)")  # fmt: skip
        image = image.convert("RGBA")
    elif mode not in _COLOUR:
        raise ValueError(f"an image of mode {mode!r} has no defined range, or no conversion to colour: expected mode "
                         f"{', '.join(_COLOUR + _ALPHA + _DEEP)}, or a tensor")  # fmt: skip
    wanted = "RGB" if channels == 3 else "L"
    return _to_tensor(image if image.mode == wanted else image.convert(wanted))  # converting copies in any case


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels.view(*pixels.shape[:2], -1).permute(2, 0, 1)

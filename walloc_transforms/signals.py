"""What the values of images and waveforms mean: their ranges, by dtype as in torchvision and torchaudio, and rates."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["FLOATS", "image_range", "pil_to_tensor", "waveform_range"]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# PCM as soundfile and torchaudio give it; 8 bits are unsigned, with silence at 128.
_PCM = {torch.uint8: (0.0, 2.0**8), torch.int16: (-(2.0**15), 2.0**15), torch.int32: (-(2.0**31), 2.0**31)}
_COLOR = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")  # Pillow converts these to RGB and to L
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's own conversion to 8 bits clips instead of scaling


def image_range(image: Tensor) -> tuple[float, float]:
    """Say which values are black and white: [0, 1] in floats, and the full range of unsigned integers.

    Raises:
        TypeError: Not a tensor, or of another dtype.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"expected a tensor, got {type(image).__name__} (WallocEncode takes PIL images)")
    if image.dtype in FLOATS:
        return 0.0, 1.0
    if image.dtype in (torch.uint8, torch.uint16):
        return 0.0, float(torch.iinfo(image.dtype).max)
    raise TypeError(
        f"expected an image of dtype uint8, uint16 or float, got {image.dtype} of shape {tuple(image.shape)}"
    )


def waveform_range(waveform: Tensor) -> tuple[float, float]:
    """Say which values are full scale: [-1, 1] in floats, and the range of integer PCM (uint8, int16, int32).

    Raises:
        TypeError: Not a tensor, or of another dtype.
    """
    if not isinstance(waveform, Tensor):
        raise TypeError(f"expected a tensor, got {type(waveform).__name__}")
    if waveform.dtype in FLOATS:
        return -1.0, 1.0
    if waveform.dtype in _PCM:
        return _PCM[waveform.dtype]
    raise TypeError(
        f"expected a waveform of dtype float, uint8, int16 or int32, got {waveform.dtype} "
        f"of shape {tuple(waveform.shape)}"
    )


def pil_to_tensor(image: Image.Image, channels: int = 3) -> Tensor:
    """Convert an image of any mode that has one meaning.

    Palette, gray, bilevel, CMYK, YCbCr and HSV images become RGB (or gray) as Pillow converts them. An alpha channel is
    dropped where it is opaque everywhere. 16-bit gray keeps its 16 bits.

    Args:
        image: The image.
        channels: 3 for RGB, 1 for gray; another number takes only images with as many 8-bit bands, as they are.

    Returns:
        ``(channels, H, W)``, uint8 in [0, 255], or uint16 in [0, 65535] for 16-bit gray. It is laid out in memory as
        the image is, channels last.

    Raises:
        ValueError: The image has transparent pixels, or its mode has no defined range (``I``, ``F``) or no conversion.
    """
    mode = image.mode
    if channels not in (1, 3):
        if len(image.getbands()) != channels or mode not in _COLOR + _ALPHA:
            raise ValueError(f"expected an image of {channels} 8-bit bands, got mode {mode!r}: pass a tensor instead")
        return _to_tensor(image)
    if mode in _DEEP:
        gray = torch.from_numpy(np.asarray(image).astype(np.uint16))
        return gray.expand(channels, *gray.shape)
    if mode == "La":
        image = image.convert("LA")
    if mode in _ALPHA or "transparency" in image.info:
        if image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise ValueError(
                f"the image (mode {mode!r}) has transparent pixels, whose color is undefined: "
                "composite it on a background first (PIL.Image.alpha_composite)"
            )
        image = image.convert("RGBA")
    elif mode not in _COLOR:
        raise ValueError(
            f"an image of mode {mode!r} has no defined range, or no conversion to color: expected mode "
            f"{', '.join(_COLOR + _ALPHA + _DEEP)}, or a tensor"
        )
    wanted = "RGB" if channels == 3 else "L"
    return _to_tensor(image if image.mode == wanted else image.convert(wanted))  # converting copies in any case


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels.view(*pixels.shape[:2], -1).permute(2, 0, 1)

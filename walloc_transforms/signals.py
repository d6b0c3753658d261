"""What the values of images and waveforms mean: ranges by dtype, as in torchvision and torchaudio, and PIL modes."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["FLOATS", "Modality", "as_tensor", "check_several", "pil_to_tensor", "to_float", "value_range"]

Modality = Literal["image", "audio", "volume"]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_IMAGE = {torch.uint8: (0.0, 255.0), torch.uint16: (0.0, 65535.0)}
# PCM as soundfile and torchaudio give it; 8 bits are unsigned, with silence at 128.
_PCM = {torch.uint8: (0.0, 2.0**8), torch.int16: (-(2.0**15), 2.0**15), torch.int32: (-(2.0**31), 2.0**31)}
_ARTICLES = {"image": "an image", "volume": "a volume"}
_WAVEFORM = "a waveform of dtype uint8, int16, int32"
_COLOR = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")  # Pillow converts these to RGB and to L
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's own conversion to 8 bits clips instead of scaling


def value_range(signal: Tensor, modality: Modality) -> tuple[float, float]:
    """Return the values that mean black and white, or full negative and full positive amplitude.

    Args:
        signal: An image or a waveform. Its dtype decides.
        modality: ``"image"`` and ``"volume"``: float in [0, 1], uint8 in [0, 255], uint16 in [0, 65535]. ``"audio"``:
            float in [-1, 1], or integer PCM: uint8 (silence is 128), int16, int32.

    Raises:
        TypeError: Not a tensor, or of another dtype.
    """
    if not isinstance(signal, Tensor):
        raise TypeError(f"expected a tensor, got {type(signal).__name__}")
    audio = modality == "audio"
    ranges, what = (_PCM, _WAVEFORM) if audio else (_IMAGE, f"{_ARTICLES[modality]} of dtype uint8, uint16")
    if signal.dtype in FLOATS:
        return (-1.0, 1.0) if audio else (0.0, 1.0)
    if signal.dtype not in ranges:
        raise TypeError(f"expected {what} or float, got {signal.dtype} of shape {tuple(signal.shape)}")
    return ranges[signal.dtype]


def as_tensor(signal: Any, channels: int = 3) -> Tensor:
    """Return a tensor as it is, and a PIL image as the tensor of its pixels.

    Args:
        signal: A tensor or a PIL image.
        channels: Of the tensor for a PIL image: 3 for RGB, 1 for gray.

    Raises:
        TypeError: Neither a tensor nor a PIL image.
        ValueError: A PIL image of a mode without one meaning; see :func:`pil_to_tensor`.
    """
    if isinstance(signal, Image.Image):
        return pil_to_tensor(signal, channels)
    if not isinstance(signal, Tensor):
        hint = ""
        if isinstance(signal, np.ndarray):
            hint = ": torch.from_numpy makes tensors of arrays, which must be (C, H, W) or (C, T)"
        elif isinstance(signal, (tuple, list, dict)):
            hint = ": pass signals one at a time, without their labels"
        raise TypeError(f"expected a tensor or a PIL image, got {type(signal).__name__}{hint}")
    return signal


def check_several(signals: Any) -> None:
    """Refuse one signal, or the name of a folder, where several signals are expected.

    Raises:
        TypeError: ``signals`` cannot be gone through, or is text or a mapping.
        ValueError: It is one image.
    """
    expected = "expected several signals, such as a list of tensors or PIL images"
    several = isinstance(signals, Iterable) or hasattr(signals, "__getitem__")  # which data sets of torch have alone
    if not several or isinstance(signals, (str, bytes, Mapping)):
        raise TypeError(f"{expected}, got {type(signals).__name__}")
    if isinstance(signals, Tensor) and signals.ndim == 3 and len(signals) in (1, 3) and signals.shape[1] > 16:
        raise ValueError(f"{expected}, got a tensor of shape {tuple(signals.shape)}: one image? Put it in a list")


def to_float(signal: Tensor, modality: Modality) -> Tensor:
    """Bring a signal of any dtype that :func:`value_range` knows to float32: images to [0, 1], waveforms to [-1, 1]."""
    low, high = value_range(signal, modality)
    if signal.dtype in FLOATS:
        return signal.to(torch.float32)
    if modality != "audio":
        return signal.to(torch.float32) / high
    return signal.to(torch.float32) * (2 / (high - low)) + (-1 - low * 2 / (high - low))


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

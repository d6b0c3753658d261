"""What the values of images and waveforms mean: their ranges, by dtype as in torchvision and torchaudio, and rates."""

import torch
from torch import Tensor

from .config import CodecConfig

__all__ = ["FLOATS", "check_sample_rate", "image_range", "waveform_range"]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# PCM as soundfile and torchaudio give it; 8 bits are unsigned, with silence at 128.
_PCM = {torch.uint8: (0.0, 2.0**8), torch.int16: (-(2.0**15), 2.0**15), torch.int32: (-(2.0**31), 2.0**31)}


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
    raise TypeError(f"expected an image of dtype uint8, uint16 or float, got {image.dtype} "
                    f"of shape {tuple(image.shape)}")  # fmt: skip


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
    raise TypeError(f"expected a waveform of dtype float, uint8, int16 or int32, got {waveform.dtype} "
                    f"of shape {tuple(waveform.shape)}")  # fmt: skip


def check_sample_rate(config: CodecConfig, sample_rate: int | None) -> None:
    """Compare the sample rate of a waveform, if it is given, with the codec's, if that is known.

    Raises:
        ValueError: They differ, or the codec is for images.
    """
    if sample_rate is None:
        return
    if config.modality != "audio":
        raise ValueError(f"sample_rate is for audio codecs, got {sample_rate} for {config.name!r}, an image codec")
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    if config.sample_rate and sample_rate != config.sample_rate:
        raise ValueError(f"codec {config.name!r} is for {config.sample_rate} Hz, got a waveform of {sample_rate} Hz: "
                         f"resample it first, as torchaudio.transforms.Resample({sample_rate}, {config.sample_rate}) "
                         "does")  # fmt: skip

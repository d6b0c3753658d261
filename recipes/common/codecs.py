"""What recipes ask of a codec: its decoders, the dtype of its rounded latents, the responses of a linear decoder."""

from collections.abc import Callable

import torch
from torch import Tensor

import walloc_transforms as wt


def decoders_of(codec: wt.Codec) -> list[str]:
    """Name a codec's decoders: its own, then ``"refiner"`` if it has one."""
    return [codec.config.decoder, *["refiner"] * (codec.config.refiner_width > 0)]


def stored_dtype(codec: wt.Codec) -> torch.dtype:
    """Return the smallest integer dtype that holds a codec's rounded latents."""
    return torch.int8 if codec.config.latent_bits <= 8 else torch.int16


def impulse_responses(decode: Callable[[Tensor], Tensor], channels: int, reach: int, axes: int) -> Tensor:
    """Decode a 1 in each channel, all other values being zero, and take away what zeros give.

    Args:
        decode: An affine map from values ``(batch, channels, ...)`` to signals.
        channels: Of the values.
        reach: Cells or frames to either side of the 1.
        axes: 2 for images, 1 for waveforms.

    Returns:
        A signal for each channel, with its 1 in the middle cell or frame.
    """
    impulses = torch.zeros(channels, channels, *[2 * reach + 1] * axes)
    impulses[(slice(None), slice(None), *[reach] * axes)] = torch.eye(channels)
    return decode(impulses) - decode(torch.zeros_like(impulses[:1]))

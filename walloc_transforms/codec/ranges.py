"""Signals out of range: noticed by what no signal in range can be projected to, and refused with the probable cause.

The projection of a signal in range is bounded, channel by channel, by the absolute sum of the channel's folded filter.
Floats in 0..255, normalized pixels and PCM as floats go far beyond. To look at the projection costs less than to look
at the signal, which has 4 to 20 times as many values, and the first twelve channels tell: NaN reaches all channels, a
wrong scale or offset the coarse ones. Where there is no folded filter, the signal is looked at. Images in [-0.5, 0.5]
have projections that images in range may have, so one pixel of 256 is looked at as well.

Resampling overshoots, and peaks are clipped later, so a margin is left. Waveforms may reach twice full scale. Images
may leave [0, 1] by an eighth in all the pixels around a cell together, by a quarter in a single one.
"""

import math
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ..signals import Modality
from .config import CodecConfig

__all__ = [
    "OutOfRange",
    "RangeCheck",
    "all_finite",
    "can_look_at",
    "check_of",
    "check_pixels",
    "check_values",
    "range_error",
]

_MARGIN = {"image": 1.25, "audio": 2.0, "volume": 1.25}  # of projections: times half the range, around its middle
_PIXEL_MARGIN = 1.5  # of single pixels
_CHANNELS = 12  # channels that are looked at: NaN reaches all of them, and a wrong scale or offset the coarse ones


class OutOfRange(ValueError):
    """A projection that is not finite, or that no signal in range gives."""


class RangeCheck:
    """Compare projections with their bounds, part by part.

    Args:
        folded: The folded analysis.
        config: The geometry.
    """

    def __init__(self, folded: Any, config: CodecConfig) -> None:
        low, high = folded.projection_bounds(_CHANNELS)
        middle, half = (low + high) / 2, (high - low) / 2
        self.low, self.high = middle - half * _MARGIN[config.modality], middle + half * _MARGIN[config.modality]
        self.bounds = [np.array([float(value) for value in side], np.float32) for side in (self.low, self.high)]
        self.channels = len(low)
        self.lowest, self.highest = float(self.low.max()), float(self.high.min())

    def __call__(self, z: Tensor, first_channel: int = 0) -> None:
        """Look at ``(N, D', ...)``, channels from ``first_channel`` on.

        Raises:
            OutOfRange: A value is beyond its channel's bounds, NaN or infinite.
        """
        z = z.detach()[:, : max(0, _CHANNELS - first_channel)]
        if z.numel() == 0:
            return
        least, greatest = torch.aminmax(z)
        if float(least) >= self.lowest and float(greatest) <= self.highest:
            return  # all channels are within the narrowest bounds: one pass over memory told it
        axes = [0, *range(2, z.ndim)]
        own = slice(first_channel, first_channel + z.shape[1])
        inside = (z.amin(axes) >= self.low[own]) & (z.amax(axes) <= self.high[own])  # NaN compares as False
        if not bool(inside.all()):
            raise OutOfRange

    def compare(self, least: np.ndarray, greatest: np.ndarray) -> None:
        """Look at the least and the greatest value of each channel in a part, or NaN.

        Raises:
            OutOfRange: As above.
        """
        if not ((least >= self.bounds[0]) & (greatest <= self.bounds[1])).all():
            raise OutOfRange


_CHECKS: "weakref.WeakKeyDictionary[Any, RangeCheck]" = weakref.WeakKeyDictionary()


def check_of(folded: Any, config: CodecConfig) -> RangeCheck:
    """Return the check of a folded analysis, which is made once."""
    check = _CHECKS.get(folded)
    if check is None:
        check = _CHECKS[folded] = RangeCheck(folded, config)
    return check


def check_pixels(x: Tensor) -> None:
    """Look at one pixel of 256 of float images ``(..., H, W)``: images in [-0.5, 0.5] have many far below 0.

    Raises:
        OutOfRange: More pixels than noise explains are below 0 by more than a quarter.
    """
    some, lowest = x.detach()[..., ::16, ::16], 0.5 - 0.5 * _PIXEL_MARGIN
    if some.numel() and float(some.amin()) < lowest and int((some < lowest).sum()) > 4 + some.numel() // 20:
        raise OutOfRange


def can_look_at(x: Tensor) -> bool:
    """Whether values are floats that cost nothing to look at: on the CPU, and not while something traces the call."""
    return (
        x.is_floating_point()
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not is_in_torch_dispatch_mode()  # fake tensors have no values
    )


def all_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite.

    Pieces are small enough that torch sums them on one thread: its others, once awake, get in the way of lifting's.
    """
    pieces = x.detach().reshape(-1).split(1 << 14)
    # A sum is quick to look at; finite values may add up to infinity.
    return all(math.isfinite(float(piece.sum())) or bool(piece.isfinite().all()) for piece in pieces)


def check_values(x: Tensor, modality: Modality, who: str) -> None:
    """Refuse a float signal on the CPU that is not finite or leaves its range by more than the margin.

    Args:
        x: The signal.
        modality: Of the signal.
        who: What expects the signal, for the message.

    Raises:
        ValueError: The message names the values and the probable cause.
    """
    if not can_look_at(x) or not x.numel():
        return
    middle, half = (0.0, _MARGIN["audio"]) if modality == "audio" else (0.5, 0.5 * _PIXEL_MARGIN)
    low, high = torch.aminmax(x.detach())
    if not bool((low >= middle - half) & (high <= middle + half)):
        raise range_error(x, modality, who)


def range_error(x: Tensor, modality: Modality, who: str) -> ValueError:
    """Say what is wrong with a signal that is out of range."""
    if not bool(torch.isfinite(x).all()):
        return ValueError("the signal holds NaN or infinite values: expected finite ones")
    low, high = float(x.min()), float(x.max())
    what, expected = f"float {modality}s", "[0, 1]"
    if modality == "audio":
        cause = "PCM as floats? Pass it in its integer dtype, or divide by 32768"
        what, expected = "float waveforms", "[-1, 1]"
    elif low < 0:
        cause = "normalized pixels? Encode before Normalize"
    else:
        cause = "0..255 as floats? Pass uint8, or divide by 255"
    return ValueError(f"{who} expects {what} in {expected}, got values from {low:.4g} to {high:.4g}: {cause}")

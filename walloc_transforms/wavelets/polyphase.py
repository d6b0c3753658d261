"""Filter banks as dense convolutions, which processors are quick at: over blocks of samples, or phase by phase."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import FilterBank, band_positions

__all__ = ["Finish", "Look", "Prepare", "by_bands", "constant", "merge", "split", "to_blocks", "to_phases"]

Prepare = Callable[[Tensor], Tensor]
"""What is done to parts of the latents before they are decoded."""


class Look(Protocol):
    """What looks at latents once they are computed, and raises an error if it does not like them.

    Attributes:
        channels: How many channels it looks at, from the first on.
    """

    channels: int

    def __call__(self, z: Tensor, first_channel: int) -> None:
        """Look at a part of them, whose first channel is given."""

    def compare(self, least: np.ndarray, greatest: np.ndarray) -> None:
        """Look at the least and the greatest value of each channel in a part, or NaN."""


class Finish(NamedTuple):
    """What is done to parts of the latents while they are in the cache: ``limit * erf(slope * z)``.

    Attributes:
        slope: Factor.
        limit: Factor; if it is 0, latents stay as they are.
        look: Looks at them before.
    """

    slope: float = 0.0
    limit: float = 0.0
    look: Look | None = None

    def __call__(self, z: Tensor, first_channel: int = 0) -> Tensor:
        """Finish a part, whose first channel is given."""
        if self.look is not None:
            self.look(z, first_channel)
        return torch.erf(z * self.slope) * self.limit if self.limit else z


def constant(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Give a module a float32 tensor that follows it to other devices and is not saved."""
    value = None if value is None else value.to(torch.float32).contiguous()
    module.register_buffer(name, value, persistent=False)


def by_bands(packets: Tensor, levels: Sequence[int]) -> Tensor:
    """Lay packets ``(..., 2**sum(levels))`` out by their bands along each axis, ``(..., 2**levels[0], ...)``."""
    bands = packets.new_empty(*packets.shape[:-1], *[2**level for level in levels])
    bands[(..., *torch.from_numpy(band_positions(levels)))] = packets
    return bands


def to_blocks(filters: Tensor, start: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Turn strided filters into a dense convolution over blocks of ``stride`` samples, which are its channels.

    A strided convolution of few channels leaves a processor's vector units idle; this takes a third of its time.

    Args:
        filters: ``(bands, signals, taps)``.
        start: Position of the first tap relative to a block.
        stride: Samples per block.

    Returns:
        Kernel ``(bands, signals * stride, 1, blocks)``, and how many blocks it reads before and after its own.
    """
    bands, signals, taps = filters.shape
    left, right = -(start // stride), max(0, (start + taps - 1) // stride)
    whole = filters.new_zeros(bands, signals, (left + 1 + right) * stride)
    whole[..., left * stride + start :][..., :taps] = filters
    return whole.unflatten(2, (-1, stride)).transpose(2, 3).flatten(1, 2).unsqueeze(2), (left, right)


def split(blocks: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Filter ``(n, blocks, channels)`` to ``(n, blocks - reach, bands)``; as an image, for that takes channels last."""
    return F.conv2d(blocks.transpose(1, 2).unsqueeze(2), kernel, bias).squeeze(2).transpose(1, 2)


def merge(bands: Tensor, phases: Tensor, stride: int) -> Tensor:
    """Synthesize signals ``(N, n, stride * t)`` from ``stride`` bands each, ``(N, n * stride, t + reach)``."""
    y = F.conv1d(bands, phases, groups=bands.shape[1] // stride)
    return y.unflatten(1, (-1, stride)).transpose(2, 3).flatten(2)


def to_phases(bank: FilterBank) -> tuple[Tensor, tuple[int, int]]:
    """Split synthesis filters into one filter over cells for every output position within a cell.

    ``y[k * stride + start + t] += filters[b, t] c[b, k]``, as :func:`~.filters.synthesis_bank` says, becomes
    ``y[m * stride + r] = sum_i phases[r, b, i] c[b, m - left + i]``.

    Returns:
        Phases ``(stride, bands, cells)``, and how many cells they read before and after their own, ``(left, right)``.
    """
    filters, start, stride = torch.from_numpy(bank.filters), bank.start, bank.stride
    taps = filters.shape[1]
    left, right = (taps - 1 + start) // stride, (stride - 1 - start) // stride
    whole = filters.new_zeros(len(filters), (left + 1 + right) * stride)
    whole[:, right * stride + start :][:, :taps] = filters
    return whole.unflatten(1, (-1, stride)).flip(1).permute(2, 0, 1).contiguous(), (left, right)

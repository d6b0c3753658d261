"""Wavelet filter arithmetic: taps, and banks that compose J levels into one strided filter per packet.

A wavelet packet transform splits *every* packet at every level. Along one axis, J levels of "filter, keep every second
sample" equal one correlation per packet with a composed filter and a stride of ``2**J``:

    level 1:  c[k] = sum_t h1[t] x[2k + t]
    level 2:  d[k] = sum_s h2[s] c[2k + s] = sum_s sum_t h2[s] h1[t] x[4k + 2s + t]

so the composed filter is ``h1 * upsample(h2, 2) * upsample(h3, 4) ...``. Packets come in natural (Paley) order: the
first level is the most significant bit of a packet's index, and a bit is 1 where the high-pass filter was taken. Here a
*band* is a packet along one axis; a packet of an image is a pair of bands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pywt

from ..safe import shown

__all__ = [
    "FilterBank",
    "Taps",
    "analysis_bank",
    "analysis_taps",
    "band_frequencies",
    "band_positions",
    "check_filters",
    "library_taps",
    "split_order",
    "synthesis_bank",
    "synthesis_taps",
]


MAX_TAPS = 1 << 23
"""Most taps of the composed filters of one axis, and of one latent channel in all axes, 64 MB. Color images have 456
and 10 thousand at 3 levels; stereo sound has half a million at 8 levels."""


@dataclass(frozen=True)
class Taps:
    """The low-pass and the high-pass filter of one level, on a common support.

    Attributes:
        values: Float64 array ``(2, taps)``: row 0 low-pass, row 1 high-pass.
        start: Position of the first tap relative to sample ``2k``.
        length: Taps with the zeros that PyWavelets pads with, which are trimmed here.
    """

    values: np.ndarray
    start: int
    length: int


@dataclass(frozen=True)
class FilterBank:
    """Composed filters of all ``2**levels`` bands along one axis.

    Attributes:
        filters: Float64 array ``(2**levels, taps)``.
        start: Position of the first tap relative to sample ``k * stride``.
        stride: ``2**levels``.
    """

    filters: np.ndarray
    start: int
    stride: int

    @property
    def reach(self) -> tuple[int, int]:
        """How many samples before and after one block of ``stride`` samples the filters read: ``(left, right)``."""
        return -self.start, max(0, self.start + self.filters.shape[1] - self.stride)


def _wavelet(name: str) -> Any:
    library: Any = pywt  # compiled, without type information
    if name not in library.wavelist(kind="discrete"):
        raise ValueError(f"unknown wavelet {shown(name)}: expected a discrete wavelet of PyWavelets, such as 'bior4.4'")
    return library.Wavelet(name)


def library_taps(wavelet: str) -> np.ndarray:
    """List the taps as PyWavelets does, float64 ``(4, taps)``: ``dec_lo``, ``dec_hi``, ``rec_lo``, ``rec_hi``."""
    return np.array(_wavelet(wavelet).filter_bank, dtype=np.float64)


def _trim(values: np.ndarray, start: int) -> tuple[np.ndarray, int]:
    """Drop leading and trailing taps that are zero in every row."""
    used = np.flatnonzero(np.any(values != 0, axis=0))
    return values[:, used[0] : used[-1] + 1], start + int(used[0])


@lru_cache
def analysis_taps(wavelet: str) -> Taps:
    """Decomposition filters as correlation kernels: ``c[k] = sum_t values[t] x[2k + start + t]``.

    PyWavelets' periodized transform is ``c[k] = sum_m dec[m] x[2k + L/2 - m]``, so the taps are reversed here.

    Raises:
        ValueError: ``wavelet`` is not a discrete wavelet of PyWavelets.
    """
    bank = _wavelet(wavelet)
    values = np.array([bank.dec_lo[::-1], bank.dec_hi[::-1]], dtype=np.float64)
    return Taps(*_trim(values, 1 - values.shape[1] // 2), length=values.shape[1])


@lru_cache
def synthesis_taps(wavelet: str) -> Taps:
    """Reconstruction filters: ``y[2k + start + m] += values[0, m] low[k] + values[1, m] high[k]``.

    Raises:
        ValueError: ``wavelet`` is not a discrete wavelet of PyWavelets.
    """
    bank = _wavelet(wavelet)
    values = np.array([bank.rec_lo, bank.rec_hi], dtype=np.float64)
    return Taps(*_trim(values, 1 - values.shape[1] // 2), length=values.shape[1])


def check_filters(wavelet: str, levels: Sequence[int], signals: int = 1) -> None:
    """Refuse levels whose filters would be too large, before any is made.

    Args:
        wavelet: Name of the wavelet.
        levels: Number of levels along each axis.
        signals: Channels of the signal.

    Raises:
        ValueError: The wavelet is unknown, or the filters would have more than ``MAX_TAPS`` taps. All ``2**levels``
            filters of one axis count, and those with which one latent channel reads the signal.
    """
    bands = [2**level for level in levels]
    lengths = [(count - 1) * (_wavelet(wavelet).dec_len - 1) + 1 for count in bands]
    taps = max(*(count * length for count, length in zip(bands, lengths, strict=True)), signals * math.prod(lengths))
    if taps > MAX_TAPS:
        shape = "x".join(f"{length:,}" for length in lengths)
        raise ValueError(
            f"{'x'.join(map(str, dict.fromkeys(levels)))} levels of {wavelet!r} in {len(levels)}-D compose filters of "
            f"{shape} taps, {taps:,} in all: "
            f"expected at most {MAX_TAPS:,} (walloc_transforms.wavelets.filters.MAX_TAPS)"
        )


def _compose(taps: Taps, levels: int, wavelet: str) -> FilterBank:
    if levels < 0:
        raise ValueError(f"levels must be at least 0, got {levels}")
    if levels == 0:  # an axis that stays as it is
        return FilterBank(np.ones((1, 1)), start=0, stride=1)
    check_filters(wavelet, [levels])
    filters, start = taps.values, taps.start
    for level in range(1, levels):
        stride, length = 2**level, filters.shape[1]
        finer = np.zeros((len(filters), 2, length + (taps.values.shape[1] - 1) * stride))
        for i, pair in enumerate(taps.values.T):  # a tap at a time: most of an upsampled filter is zeros
            finer[..., i * stride :][..., :length] += pair[:, None] * filters[:, None]
        filters = finer.reshape(2 * len(filters), -1)
        start += stride * taps.start
    return FilterBank(*_trim(filters, start), stride=2**levels)


@lru_cache(maxsize=8)
def analysis_bank(wavelet: str, levels: int) -> FilterBank:
    """Compose ``levels`` analysis levels: ``c[b, k] = sum_t filters[b, t] x[k * stride + start + t]``.

    For ``bior4.4`` the bank has 57 taps from -28 at 3 levels, and 121 taps from -60 at 4.

    Raises:
        ValueError: ``wavelet`` is unknown, or ``levels`` is negative or too large: see :func:`check_filters`.
    """
    return _compose(analysis_taps(wavelet), levels, wavelet)


@lru_cache(maxsize=8)
def synthesis_bank(wavelet: str, levels: int) -> FilterBank:
    """Compose ``levels`` synthesis levels: ``y[k * stride + start + t] += filters[b, t] c[b, k]``.

    Raises:
        ValueError: ``wavelet`` is unknown, or ``levels`` is negative or too large: see :func:`check_filters`.
    """
    return _compose(synthesis_taps(wavelet), levels, wavelet)


def split_order(levels: Sequence[int]) -> list[int]:
    """List the axes in the order in which they are split, each as often as it has levels.

    Every round splits each axis that has levels left, the last axis first.

    Example:
        >>> split_order((3, 3))
        [1, 0, 1, 0, 1, 0]
        >>> split_order((1, 2, 2))  # of a video: time once, height and width twice
        [2, 1, 0, 2, 1]
    """
    axes = range(len(levels) - 1, -1, -1)
    return [axis for done in range(max(levels)) for axis in axes if done < levels[axis]]


def band_positions(levels: Sequence[int]) -> np.ndarray:
    """Give the band of every packet along each axis.

    The bits of a packet's channel, the most significant first, say for each split of :func:`split_order` whether the
    high-pass filter was taken. So the channel of a packet of an image is ``sum_j f_j 4**(J-j)`` with ``f = v + 2h``,
    where ``v`` and ``h`` are 1 for high-pass along height and width. In 1-D it is the band's own index.

    Args:
        levels: Number of levels along each axis.

    Returns:
        Integer array ``(axes, 2**sum(levels))``; for 2-D, row 0 holds the band along height, row 1 along width.
    """
    order = split_order(levels)
    channels = np.arange(2 ** len(order))
    bands = np.zeros((len(levels), channels.size), dtype=np.int64)
    for split, axis in enumerate(order):
        bands[axis] = 2 * bands[axis] + (channels >> (len(order) - 1 - split) & 1)
    return bands


def band_frequencies(levels: Sequence[int]) -> np.ndarray:
    """Rank the bands of :func:`band_positions` by frequency: 0 for the lowest to ``2**levels - 1``.

    Keeping every second sample of a high-pass band reverses its spectrum, so natural order is the Gray code of
    frequency order.
    """
    frequencies = band_positions(levels)
    for shift in (1, 2, 4, 8):  # all prefixes of up to 16 bits, combined with exclusive or
        frequencies ^= frequencies >> shift
    return frequencies

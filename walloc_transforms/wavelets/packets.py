"""Wavelet packet analysis and synthesis, level by level: the plain path, which can be trained and defines the fast one.

    image  (N, C, H, W)     --analysis-->  packets (N, C * 4**J, H / 2**J, W / 2**J)            --synthesis-->  image
    signal (N, C, T)        --analysis-->  packets (N, C * 2**J, T / 2**J)                      --synthesis-->  signal
    volume (N, C, T, H, W)  --analysis-->  packets (N, C * 8**J, T / 2**J, H / 2**J, W / 2**J)  --synthesis-->  volume

Each axis may have levels J of its own. Signals are taken as periodic, and indices wrap as often as they must, so every
side of at least ``2**J`` reconstructs perfectly. A side that is no multiple of ``2**J`` is extended by reflection on
the right (bottom, end).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..safe import shown
from .filters import analysis_taps, split_order, synthesis_taps

__all__ = [
    "Levels",
    "WaveletPacketAnalysis",
    "WaveletPacketSynthesis",
    "check_size",
    "conv1x1",
    "crop",
    "levels_of_axes",
    "pad_to_multiple",
    "periodic",
    "periodic_pad",
    "shown_levels",
]


Levels = int | Sequence[int]
"""Levels of all axes alike, or of each: ``(2, 3, 3)`` halves time twice, height and width three times."""

_FORMS = {1: "(N, C, T)", 2: "(N, C, H, W)", 3: "(N, C, T, H, W)"}
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def levels_of_axes(levels: Levels, dims: int) -> tuple[int, ...]:
    """Return the number of levels along each axis.

    Args:
        levels: Of all axes alike, or one for each.
        dims: 1 for waveforms, 2 for images, 3 for volumes and video.

    Raises:
        ValueError: ``dims`` or ``levels`` are out of range.
    """
    if dims not in (1, 2, 3):
        raise ValueError(f"dims must be 1, 2 or 3, got {dims}")
    axes = (levels,) * dims if isinstance(levels, int) else tuple(levels)
    if len(axes) != dims:
        raise ValueError(f"levels must be a number, or one for each of {dims} axes, got {len(axes)}")
    if not (min(axes) >= 0 and 1 <= max(axes) <= 16):
        given = shown(levels) if isinstance(levels, int) else ", ".join(map(shown, axes))
        raise ValueError(f"levels must be from 1 to 16, got {given}; 0 leaves an axis as it is, but not all")
    return axes


def check_size(size: Sequence[int], strides: Sequence[int]) -> None:
    """Raise a ``ValueError`` if a side is shorter than its stride."""
    if any(side < stride for side, stride in zip(size, strides, strict=True)):
        shape, least = ("x".join(map(str, sides)) for sides in (size, strides))
        least = least if len(set(strides)) > 1 else f"{strides[0]} along every side"
        raise ValueError(f"too small: got {shape} samples, expected at least {least}")


def pad_to_multiple(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Extend the last sides by reflection on the right to multiples of their strides.

    Args:
        x: ``(N, C, *size)`` with every side at least its stride.
        strides: What the sides become multiples of, one for each.

    Raises:
        ValueError: A side is shorter than its stride.
    """
    check_size(x.shape[-len(strides) :], strides)
    for dim, stride in enumerate(strides, -len(strides)):
        extra = -x.shape[dim] % stride
        if extra:  # reflection without repeating the last sample, as torch's own 'reflect'
            x = torch.cat([x, x.narrow(dim, x.shape[dim] - 1 - extra, extra).flip(dim)], dim)
    return x


def periodic(x: Tensor, start: int, stop: int, dim: int) -> Tensor:
    """Take samples ``start`` to ``stop`` of a periodic signal along ``dim``; a view where ``x`` holds them all."""
    n = x.shape[dim]
    if start >= 0 and stop <= n:
        return x.narrow(dim, start, stop - start)
    if start >= -n and stop <= 2 * n and start < n and stop > 0:
        before, after = max(0, -start), max(0, stop - n)
        own = x.narrow(dim, max(0, start), min(stop, n) - max(0, start))
        return torch.cat([x.narrow(dim, n - before, before), own, x.narrow(dim, 0, after)], dim)
    return x.index_select(dim, torch.arange(start, stop, device=x.device) % n)


def periodic_pad(x: Tensor, left: int, right: int, dim: int) -> Tensor:
    """Continue ``x`` periodically along ``dim``, wrapping as often as needed (``F.pad`` wraps at most once)."""
    return periodic(x, -left, x.shape[dim] + right, dim)


def _check_input(x: Tensor, dims: int, what: str) -> None:
    if x.ndim != dims + 2:
        raise ValueError(f"expected {what} of shape {_FORMS[dims]}, got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"expected {what} of dtype float32 or float64, got {x.dtype}")


class WaveletPacketAnalysis(nn.Module):
    """Split a signal into wavelet packets: low and high frequencies, and both again at every level.

    The channel of a packet is ``c * B + sum_j f_j B_1**(J-j)`` with ``B = B_1**J``. For images ``B_1 = 4`` and
    ``f = v + 2h``, where ``v`` and ``h`` are 1 for high-pass along height and width; for volumes ``B_1 = 8`` and
    ``f = t + 2v + 4h``; for 1-D signals ``B_1 = 2``. Axes with fewer levels drop out of the last sums.

    Args:
        wavelet: Name of a discrete wavelet of PyWavelets.
        levels: Number of levels J, or one for each axis: ``(2, 3, 3)``. An axis of 0 levels stays as it is.
        dims: 1 for waveforms, 2 for images, 3 for volumes and video.

    Raises:
        ValueError: An argument is out of range, or the wavelet unknown.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> analysis = wt.wavelets.WaveletPacketAnalysis("bior4.4", levels=3, dims=2)
        >>> packets = analysis(torch.rand(1, 3, 256, 256))
        >>> packets.shape  # 64 packets per color
        torch.Size([1, 192, 32, 32])
        >>> wt.wavelets.WaveletPacketSynthesis("bior4.4", levels=3, dims=2)(packets).shape
        torch.Size([1, 3, 256, 256])
    """

    low_high: Tensor

    def __init__(self, wavelet: str = "bior4.4", levels: Levels = 3, dims: int = 2) -> None:
        super().__init__()
        self.wavelet, self.levels, self.dims = wavelet, levels_of_axes(levels, dims), dims
        taps = analysis_taps(wavelet)
        self.start = taps.start
        self._float64 = torch.from_numpy(taps.values)  # no buffer: not every device has float64
        self.register_buffer("low_high", torch.tensor(taps.values, dtype=torch.float32), persistent=False)

    @property
    def bands(self) -> int:
        """Number of packets per input channel: ``2**levels`` of every axis, multiplied."""
        return 2 ** sum(self.levels)

    def forward(self, x: Tensor) -> Tensor:
        """Split a signal into packets.

        Args:
            x: ``(N, C, H, W)``, ``(N, C, T)`` or ``(N, C, T, H, W)``, float32 or float64, every side at least
                ``2**levels``.

        Returns:
            ``(N, C * bands, ...)``; every side is divided by its ``2**levels`` and rounded up.

        Raises:
            ValueError: Wrong number of dimensions, or a side too short.
            TypeError: Not float32 or float64.
        """
        _check_input(x, self.dims, "a signal")
        x = pad_to_multiple(x, [2**level for level in self.levels])
        for axis in split_order(self.levels):
            x = self._split(x, 2 + axis)
        return x

    def _split(self, x: Tensor, dim: int) -> Tensor:
        """Filter and halve ``dim``: the low and high part of channel c become channels 2c and 2c + 1."""
        taps = self.low_high.shape[1]
        x = periodic_pad(x, -self.start, max(0, self.start + taps - 2), dim)
        shape, stride = [1] * self.dims, [1] * self.dims
        shape[dim - 2], stride[dim - 2] = taps, 2
        kernel = self.low_high if x.dtype == torch.float32 else self._float64.to(x.device)
        split = _CONVOLVE[self.dims](x.flatten(0, 1).unsqueeze(1), kernel.view(2, 1, *shape), stride=stride)
        return split.unflatten(0, x.shape[:2]).flatten(1, 2)

    def extra_repr(self) -> str:
        """Show the geometry in ``repr``."""
        return f"{self.wavelet!r}, levels={shown_levels(self.levels)}, dims={self.dims}"


class WaveletPacketSynthesis(nn.Module):
    """Rebuild a signal from wavelet packets: the exact inverse of :class:`WaveletPacketAnalysis`.

    Args:
        wavelet: Name of a discrete wavelet of PyWavelets.
        levels: Number of levels J, or one for each axis.
        dims: 1 for waveforms, 2 for images, 3 for volumes and video.

    Raises:
        ValueError: An argument is out of range, or the wavelet unknown.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> wave = torch.rand(1, 2, 1000)
        >>> packets = wt.wavelets.WaveletPacketAnalysis(levels=4, dims=1)(wave)
        >>> packets.shape  # 16 packets per channel, of 63 frames
        torch.Size([1, 32, 63])
        >>> back = wt.wavelets.WaveletPacketSynthesis(levels=4, dims=1)(packets, size=(1000,))
        >>> torch.allclose(back, wave, atol=1e-4)
        True
    """

    low_high: Tensor

    def __init__(self, wavelet: str = "bior4.4", levels: Levels = 3, dims: int = 2) -> None:
        super().__init__()
        self.wavelet, self.levels, self.dims = wavelet, levels_of_axes(levels, dims), dims
        taps = synthesis_taps(wavelet)
        self.start = taps.start
        self._float64 = torch.from_numpy(taps.values)  # no buffer: not every device has float64
        self.register_buffer("low_high", torch.tensor(taps.values, dtype=torch.float32), persistent=False)

    def forward(self, packets: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Rebuild the signal.

        Args:
            packets: ``(N, C * bands, h, w)``, ``(N, C * bands, t)`` or ``(N, C * bands, t, h, w)``, float32 or float64.
            size: Sides of the signal, such as ``(H, W)``, to cut off what the analysis padded. Default: all of it.

        Returns:
            ``(N, C, H, W)``, ``(N, C, T)`` or ``(N, C, T, H, W)``.

        Raises:
            ValueError: The channels are no multiple of ``bands``, a side is empty, or ``size`` does not belong to these
                packets.
            TypeError: Not float32 or float64.
        """
        _check_input(packets, self.dims, "packets")
        bands = 2 ** sum(self.levels)
        if packets.shape[1] % bands:
            raise ValueError(f"expected a multiple of {bands} channels, got {packets.shape[1]}")
        if 0 in packets.shape[2:]:
            raise ValueError(f"got packets without samples: shape {tuple(packets.shape)}")
        x = packets
        for axis in reversed(split_order(self.levels)):
            x = self._merge(x, 2 + axis)
        return crop(x, size, [2**level for level in self.levels])

    def _merge(self, x: Tensor, dim: int) -> Tensor:
        """Undo one ``_split``: channels 2c and 2c + 1 become one of twice the length."""
        taps, half = self.low_high.shape[1], x.shape[dim]
        pad = taps // 2 + 1  # blocks of two samples that reach into the period, rounded up
        shape, stride = [1] * self.dims, [1] * self.dims
        shape[dim - 2], stride[dim - 2] = taps, 2
        batch, channels = x.shape[0], x.shape[1] // 2
        pairs = periodic_pad(x, pad, pad, dim).unflatten(1, (channels, 2)).flatten(0, 1)
        kernel = self.low_high if x.dtype == torch.float32 else self._float64.to(x.device)
        merged = _TRANSPOSED[self.dims](pairs, kernel.view(2, 1, *shape), stride=stride)
        merged = merged.narrow(dim, 2 * pad - self.start, 2 * half)
        return merged.squeeze(1).unflatten(0, (batch, channels))

    def extra_repr(self) -> str:
        """Show the geometry in ``repr``."""
        return f"{self.wavelet!r}, levels={shown_levels(self.levels)}, dims={self.dims}"


def crop(x: Tensor, size: Sequence[int] | None, strides: Sequence[int]) -> Tensor:
    """Cut the last sides down to ``size``, which may be shorter by less than the stride along each.

    Raises:
        ValueError: ``size`` does not belong to a signal of this padded length.
    """
    if size is None:
        return x
    if len(size) != len(strides):
        raise ValueError(f"expected size to name {len(strides)} side{'s' * (len(strides) > 1)}, got {tuple(size)}")
    full = x.shape[-len(size) :]
    if not all(most - stride < want <= most for most, want, stride in zip(full, size, strides, strict=True)):
        got, held, padding = ("x".join(map(str, sides)) for sides in (size, full, [stride - 1 for stride in strides]))
        raise ValueError(
            f"size {got} does not belong to these latents: they hold {held} samples, at most {padding} of them padding"
        )
    for dim, want in enumerate(size, x.ndim - len(size)):
        x = x.narrow(dim, 0, want)
    return x


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply every cell of ``(N, in, *size)`` by one matrix ``(out, in)`` and add a bias."""
    shape = (*weight.shape, *[1] * (x.ndim - 2))
    return _CONVOLVE[x.ndim - 2](x, weight.view(shape), bias)


def shown_levels(levels: Sequence[int]) -> str:
    """Write the levels as short as they may be given: a number where all axes have the same."""
    return str(levels[0] if len(set(levels)) == 1 else tuple(levels))

"""Wavelet packet analysis and synthesis, level by level: the plain path, which can be trained and defines the fast one.

    image  (N, C, H, W)  --analysis-->  packets (N, C * 4**J, H / 2**J, W / 2**J)  --synthesis-->  image
    signal (N, C, T)     --analysis-->  packets (N, C * 2**J, T / 2**J)            --synthesis-->  signal

Signals are taken as periodic, and indices wrap as often as they must, so every side of at least ``2**J`` reconstructs
perfectly. A side that is no multiple of ``2**J`` is extended by reflection on the right (bottom).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import analysis_taps, synthesis_taps

__all__ = [
    "WaveletPacketAnalysis",
    "WaveletPacketSynthesis",
    "check_size",
    "conv1x1",
    "crop",
    "pad_to_multiple",
    "periodic",
    "periodic_pad",
]


def check_size(size: Sequence[int], stride: int) -> None:
    """Raise a ``ValueError`` if a side is shorter than ``stride``."""
    if min(size) < stride:
        shape = "x".join(map(str, size))
        raise ValueError(f"too small: got {shape} samples, expected at least {stride} along every side")


def pad_to_multiple(x: Tensor, stride: int, dims: int) -> Tensor:
    """Extend the last ``dims`` sides by reflection on the right to multiples of ``stride``.

    Args:
        x: ``(N, C, *size)`` with every side at least ``stride``.
        stride: What the sides become multiples of.
        dims: 1 or 2.

    Raises:
        ValueError: A side is shorter than ``stride``.
    """
    check_size(x.shape[-dims:], stride)
    for dim in range(-dims, 0):
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
        form = "(N, C, H, W)" if dims == 2 else "(N, C, T)"
        raise ValueError(f"expected {what} of shape {form}, got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"expected {what} of dtype float32 or float64, got {x.dtype}")


class WaveletPacketAnalysis(nn.Module):
    """Split a signal into wavelet packets: low and high frequencies, and both again at every level.

    The channel of a packet is ``c * B + sum_j f_j B_1**(J-j)``. For images ``B_1 = 4`` and ``f = v + 2h``, where ``v``
    and ``h`` are 1 for high-pass along height and width; for 1-D signals ``B_1 = 2``. ``B = B_1**J``.

    Args:
        wavelet: Name of a discrete wavelet of PyWavelets.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.

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

    def __init__(self, wavelet: str = "bior4.4", levels: int = 3, dims: int = 2) -> None:
        super().__init__()
        self.wavelet, self.levels, self.dims = wavelet, *_check_geometry(levels, dims)
        taps = analysis_taps(wavelet)
        self.start = taps.start
        self._float64 = torch.from_numpy(taps.values)  # no buffer: not every device has float64
        self.register_buffer("low_high", self._float64.float(), persistent=False)

    @property
    def bands(self) -> int:
        """Number of packets per input channel: ``2**(dims * levels)``."""
        return 2 ** (self.dims * self.levels)

    def forward(self, x: Tensor) -> Tensor:
        """Split a signal into packets.

        Args:
            x: ``(N, C, H, W)`` or ``(N, C, T)``, float32 or float64, every side at least ``2**levels``.

        Returns:
            ``(N, C * bands, ceil(H / 2**levels), ceil(W / 2**levels))`` or ``(N, C * bands, ceil(T / 2**levels))``.

        Raises:
            ValueError: Wrong number of dimensions, or a side too short.
            TypeError: Not float32 or float64.
        """
        _check_input(x, self.dims, "a signal")
        x = pad_to_multiple(x, 2**self.levels, self.dims)
        for _ in range(self.levels):
            for axis in range(self.dims):  # last axis first: the width's bit is the higher one
                x = self._split(x, x.ndim - 1 - axis)
        return x

    def _split(self, x: Tensor, dim: int) -> Tensor:
        """Filter and halve ``dim``: the low and high part of channel c become channels 2c and 2c + 1."""
        taps = self.low_high.shape[1]
        x = periodic_pad(x, -self.start, max(0, self.start + taps - 2), dim)
        shape, stride = [1] * self.dims, [1] * self.dims
        shape[dim - 2], stride[dim - 2] = taps, 2
        convolve = F.conv2d if self.dims == 2 else F.conv1d
        kernel = self.low_high if x.dtype == torch.float32 else self._float64.to(x.device)
        split = convolve(x.flatten(0, 1).unsqueeze(1), kernel.view(2, 1, *shape), stride=stride)
        return split.unflatten(0, x.shape[:2]).flatten(1, 2)

    def extra_repr(self) -> str:
        """Show the geometry in ``repr``."""
        return f"{self.wavelet!r}, levels={self.levels}, dims={self.dims}"


class WaveletPacketSynthesis(nn.Module):
    """Rebuild a signal from wavelet packets: the exact inverse of :class:`WaveletPacketAnalysis`.

    Args:
        wavelet: Name of a discrete wavelet of PyWavelets.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.

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

    def __init__(self, wavelet: str = "bior4.4", levels: int = 3, dims: int = 2) -> None:
        super().__init__()
        self.wavelet, self.levels, self.dims = wavelet, *_check_geometry(levels, dims)
        taps = synthesis_taps(wavelet)
        self.start = taps.start
        self._float64 = torch.from_numpy(taps.values)  # no buffer: not every device has float64
        self.register_buffer("low_high", self._float64.float(), persistent=False)

    def forward(self, packets: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Rebuild the signal.

        Args:
            packets: ``(N, C * bands, h, w)`` or ``(N, C * bands, t)``, float32 or float64.
            size: ``(H, W)`` or ``(T,)`` of the signal, to cut off what the analysis padded. Default: all of it.

        Returns:
            ``(N, C, H, W)`` or ``(N, C, T)``.

        Raises:
            ValueError: The channels are no multiple of ``bands``, or ``size`` does not belong to these packets.
            TypeError: Not float32 or float64.
        """
        _check_input(packets, self.dims, "packets")
        bands = 2 ** (self.dims * self.levels)
        if packets.shape[1] % bands:
            raise ValueError(f"expected a multiple of {bands} channels, got {packets.shape[1]}")
        x = packets
        for _ in range(self.levels):
            for axis in range(self.dims):
                x = self._merge(x, 2 + axis)
        return crop(x, size, 2**self.levels, self.dims)

    def _merge(self, x: Tensor, dim: int) -> Tensor:
        """Undo one ``_split``: channels 2c and 2c + 1 become one of twice the length."""
        taps, half = self.low_high.shape[1], x.shape[dim]
        pad = taps // 2 + 1  # blocks of two samples that reach into the period, rounded up
        shape, stride = [1] * self.dims, [1] * self.dims
        shape[dim - 2], stride[dim - 2] = taps, 2
        batch, channels = x.shape[0], x.shape[1] // 2
        pairs = periodic_pad(x, pad, pad, dim).unflatten(1, (channels, 2)).flatten(0, 1)
        convolve = F.conv_transpose2d if self.dims == 2 else F.conv_transpose1d
        kernel = self.low_high if x.dtype == torch.float32 else self._float64.to(x.device)
        merged = convolve(pairs, kernel.view(2, 1, *shape), stride=stride)
        merged = merged.narrow(dim, 2 * pad - self.start, 2 * half)
        return merged.squeeze(1).unflatten(0, (batch, channels))

    def extra_repr(self) -> str:
        """Show the geometry in ``repr``."""
        return f"{self.wavelet!r}, levels={self.levels}, dims={self.dims}"


def crop(x: Tensor, size: Sequence[int] | None, stride: int, dims: int) -> Tensor:
    """Cut the last ``dims`` sides down to ``size``, which may be shorter by less than ``stride`` along each.

    Raises:
        ValueError: ``size`` does not belong to a signal of this padded length.
    """
    if size is None:
        return x
    if len(size) != dims:
        raise ValueError(f"expected size to name {dims} side{'s' * (dims > 1)}, got {tuple(size)}")
    for dim, (full, want) in enumerate(zip(x.shape[-len(size) :], size, strict=True), start=x.ndim - len(size)):
        if not full - stride < want <= full:
            got, most = "x".join(map(str, size)), "x".join(map(str, x.shape[-len(size) :]))
            raise ValueError(
                f"size {got} does not belong to these latents: they hold {most} samples, at most "
                f"{stride - 1} of them padding along each side"
            )
        x = x.narrow(dim, 0, want)
    return x


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply every cell of ``(N, in, *size)`` by one matrix ``(out, in)`` and add a bias."""
    shape = (*weight.shape, *[1] * (x.ndim - 2))
    return (F.conv2d if x.ndim == 4 else F.conv1d)(x, weight.view(shape), bias)


def _check_geometry(levels: int, dims: int) -> tuple[int, int]:
    if dims not in (1, 2):
        raise ValueError(f"dims must be 1 or 2, got {dims}")
    if not 1 <= levels <= 16:
        raise ValueError(f"levels must be from 1 to 16, got {levels}")
    return levels, dims

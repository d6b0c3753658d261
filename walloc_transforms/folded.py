"""The fast encoder and decoder: the whole linear part of a frozen codec folded into two convolutions.

Everything before companding is linear and commutes with shifts by ``2**J``, and the wavelet is separable, so for images

    image (N, C, H, W)
      | wrap rows, one filter per band down every column, stride (2**J, 1)           C -> C * 2**J channels
      | wrap columns, one convolution along the rows, stride (1, 2**J), whose kernel already holds the projection
    latents before companding (N, D, H / 2**J, W / 2**J)

is exact. When D is large, the rows are filtered band by band too and a 1x1 convolution projects: fewer multiply-adds.
In 1-D there is one axis; its J levels are folded into one strided convolution with the projection.
The decoder is the same run backwards: one convolution to the rows, one down the columns.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import analysis_bank, band_positions, synthesis_bank
from .packets import periodic_pad

__all__ = ["FoldedAnalysis", "FoldedSynthesis"]

# A chunk of the batch is as many images as keep the first intermediate below this many values (4 MB): fresh
# allocations larger than the cache cost more in page faults than the arithmetic does.
_CHUNK = 1 << 20
# One multiply-add of a grouped convolution takes about as long as this many of a dense one: along the rows 21 against
# 38 thousand million per second were measured on one core (AVX-512). It decides for the fused order up to 20 channels.
_GROUPED_COST = 2.0


class FoldedAnalysis(nn.Module):
    """Analysis and projection of a frozen codec, ``z = weight @ WPT(scale * x + shift) + bias``, in two convolutions.

    Args:
        weight: Projection ``(D, C * bands)``.
        bias: ``(D,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
    """

    columns: Tensor
    rows: Tensor
    project: Tensor | None
    bias: Tensor
    bias_per_shift: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: int, dims: int) -> None:
        super().__init__()
        bank = analysis_bank(wavelet, levels)
        filters = torch.from_numpy(bank.filters)
        self.dims, self.stride, self.reach = dims, bank.stride, bank.reach
        latents, per_axis, taps = weight.shape[0], *filters.shape
        self.signals = weight.shape[1] // per_axis**dims
        weight = weight.detach().double().cpu()
        # Periodised filters see a constant as a constant, so a shift of the signal only moves the bias.
        constant = _band_sums(filters, levels, dims).repeat(self.signals)
        self._constant("bias_per_shift", weight @ constant)
        self._constant("bias", bias.detach())
        dense = latents * self.signals * per_axis ** (dims - 1) * taps  # multiply-adds of the last convolution per cell
        grouped = _GROUPED_COST * self.signals * per_axis**dims * taps + weight.numel()
        self.fused = dims == 1 or dense <= grouped
        if dims == 1:
            self._constant("rows", torch.einsum("dcb,bt->dct", weight.view(latents, self.signals, per_axis), filters))
            return
        self._constant("columns", filters.repeat(self.signals, 1)[:, None, :, None])
        vertical, horizontal = (torch.from_numpy(row) for row in band_positions(levels, 2))
        if self.fused:
            per_column = weight.new_zeros(latents, self.signals, per_axis, taps)
            for band, (v, h) in enumerate(zip(vertical, horizontal, strict=True)):
                per_column[:, :, v] += weight.view(latents, self.signals, -1)[:, :, band, None] * filters[h]
            self._constant("rows", per_column.flatten(1, 2)[:, :, None])
            self.project = None
        else:
            self._constant("rows", filters.repeat(self.signals * per_axis, 1)[:, None, None, :])
            order = torch.empty_like(vertical)  # the convolution's channel is c, v, h; the packet's is c, interleaved
            order[vertical * per_axis + horizontal] = torch.arange(order.numel())
            self._constant("project", weight.view(latents, self.signals, -1)[:, :, order].flatten(1)[..., None, None])

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.to(torch.float32).contiguous(), persistent=False)

    def forward(self, x: Tensor, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        """Transform ``scale * x + shift``.

        Args:
            x: ``(N, C, H, W)`` or ``(N, C, T)`` of any real dtype, sides multiples of ``2**levels``.
            scale: Factor from the units of ``x`` to those of the codec.
            shift: Added after scaling.

        Returns:
            Latents before companding, float32.
        """
        bias = torch.add(self.bias, self.bias_per_shift, alpha=shift)
        if self.dims == 1:
            padded = periodic_pad(x.to(torch.float32), *self.reach, 2)
            return F.conv1d(padded, self.rows * scale, bias, stride=self.stride)
        columns = self.columns * scale
        chunk = max(1, _CHUNK // max(1, math.prod(x.shape[1:])))
        if x.shape[0] <= chunk:
            return self._convolve(x, columns, bias)
        return torch.cat([self._convolve(part, columns, bias) for part in x.split(chunk)])

    def _convolve(self, x: Tensor, columns: Tensor, bias: Tensor) -> Tensor:
        x = x.to(torch.float32, memory_format=torch.channels_last)
        x = F.conv2d(periodic_pad(x, *self.reach, 2), columns, stride=(self.stride, 1), groups=self.signals)
        x = periodic_pad(x, *self.reach, 3)
        if self.project is None:
            return F.conv2d(x, self.rows, bias, stride=(1, self.stride))
        x = F.conv2d(x, self.rows, stride=(1, self.stride), groups=x.shape[1])
        return F.conv2d(x, self.project, bias)


class FoldedSynthesis(nn.Module):
    """Linear decoding and synthesis of a frozen codec, ``IWPT(weight @ z + bias)``, in two convolutions.

    A transposed convolution of stride ``2**J`` is one plain convolution per phase, output position modulo the stride.
    All phases are computed at once, as channels; in channels_last memory those of a row already lie side by side.

    Args:
        weight: ``(C * bands, D)``.
        bias: ``(C * bands,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
    """

    columns: Tensor
    rows: Tensor
    offset: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: int, dims: int) -> None:
        super().__init__()
        bank = synthesis_bank(wavelet, levels)
        filters = torch.from_numpy(bank.filters)
        self.dims, self.stride = dims, bank.stride
        latents, per_axis = weight.shape[1], len(filters)
        self.signals = weight.shape[0] // per_axis**dims
        phases, self.reach = _phases(filters, bank.start, bank.stride)
        weight = weight.detach().double().cpu().view(self.signals, -1, latents)
        bands = band_positions(levels, dims)
        rows = weight.new_zeros(self.stride, self.signals, *[per_axis] * (dims - 1), latents, phases.shape[-1])
        for band, position in enumerate(bands.T):
            horizontal = phases[:, position[-1], None, None, :]
            rows[(slice(None), slice(None), *position[:-1])] += weight[:, band, :, None] * horizontal
        # The bias is the same in every cell, so what it adds to the signal repeats with the stride.
        cell = bias.detach().double().cpu().view(self.signals, -1)
        offset = cell.new_zeros(self.signals, *[self.stride] * dims)
        for band, position in enumerate(bands.T):
            tile = [phases[:, p].sum(-1) for p in position]  # what a constant band synthesises to
            product = tile[0] if dims == 1 else torch.outer(tile[0], tile[1])
            offset += cell[:, band].view(-1, *[1] * dims) * product
        self._constant("offset", offset)
        if dims == 1:
            self._constant("rows", rows.flatten(0, 1))
        else:
            self._constant("rows", rows.flatten(0, 2)[:, :, None])
            self._constant("columns", phases.repeat(self.signals, 1, 1)[..., None])

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.to(torch.float32).contiguous(), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map expanded latents ``(N, D, h, w)`` or ``(N, D, t)`` to the signal, in the codec's range."""
        if self.dims == 1:
            y = F.conv1d(periodic_pad(z, *self.reach, 2), self.rows).unflatten(1, (self.stride, self.signals))
            return (y.permute(0, 2, 3, 1) + self.offset[:, None]).flatten(2)
        chunk = max(1, _CHUNK // max(1, self.signals * math.prod(z.shape[2:]) * self.stride**2))
        return torch.cat([self._convolve(part) for part in z.split(chunk)]) if z.shape[0] > chunk else self._convolve(z)

    def _convolve(self, z: Tensor) -> Tensor:
        z = periodic_pad(z.contiguous(memory_format=torch.channels_last), *self.reach, 3)
        y = F.conv2d(z, self.rows)  # (N, phase along the row * C * band along the column, h, w)
        n, _, h, w = y.shape
        per_pixel = self.signals * self.stride
        y = y.permute(0, 2, 3, 1).reshape(n, h, w * self.stride, per_pixel).permute(0, 3, 1, 2)
        y = F.conv2d(periodic_pad(y, *self.reach, 2), self.columns, groups=self.signals)
        y = y.unflatten(1, (self.signals, self.stride)).permute(0, 1, 3, 2, 4).unflatten(4, (w, self.stride))
        return (y + self.offset[:, None, :, None, :]).flatten(4).flatten(2, 3)


def _band_sums(filters: Tensor, levels: int, dims: int) -> Tensor:
    """Answer of every packet band to a constant 1."""
    sums = filters.sum(1)
    product = torch.ones(2 ** (dims * levels), dtype=filters.dtype)
    for row in band_positions(levels, dims):
        product *= sums[torch.from_numpy(row)]
    return product


def _phases(filters: Tensor, start: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Split synthesis filters into one filter over cells for every output position within a cell.

    ``y[k * stride + start + t] += filters[b, t] c[b, k]`` becomes
    ``y[m * stride + r] = sum_i phases[r, b, i] c[b, m - left + i]``.

    Returns:
        Phases ``(stride, bands, cells)``, and how many cells they read before and after their own, ``(left, right)``.
    """
    taps = filters.shape[1]
    left, right = (taps - 1 + start) // stride, (stride - 1 - start) // stride
    phases = filters.new_zeros(stride, len(filters), left + 1 + right)
    for t in range(taps):
        cells, phase = divmod(start + t, stride)
        phases[phase, :, left - cells] = filters[:, t]
    return phases, (left, right)

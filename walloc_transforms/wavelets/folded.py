"""The fast encoder and decoder: the whole linear part of a frozen codec folded into two convolutions.

Everything before companding is linear and commutes with shifts by ``2**J``, and the wavelet is separable, so for images

    image (N, C, H, W)
      | wrap rows, one filter per band down every column, stride (2**J, 1)           C -> C * 2**J channels
      | wrap columns, one convolution along the rows, stride (1, 2**J), whose kernel already holds the projection
    latents before companding (N, D, H / 2**J, W / 2**J)

is exact. When D is large, the rows are filtered band by band too and a 1x1 convolution projects: fewer multiply-adds.
The decoder is the same run backwards: one convolution to the rows, one down the columns.

In 1-D there is one axis. Its J levels are folded into one strided convolution with the projection; or when D is large,
half of the levels into one, the other half into another, and a 1x1 convolution projects.

On the CPU and with numba installed, `lifting.py` does the same in less time; but only convolutions
can be differentiated, compiled, traced and run on a GPU.
"""

import functools
import importlib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .filters import analysis_bank, band_positions, synthesis_bank
from .packets import check_size, pad_to_multiple, periodic, periodic_pad
from .polyphase import band_sums, halves, merge, split, to_blocks, to_phases

__all__ = ["Backend", "FoldedAnalysis", "FoldedSynthesis"]

Backend = Literal["auto", "convolutions", "lifting"]
"""How to compute: by torch's convolutions, by lifting with numba, or by lifting where that is possible."""

LIFTED_WAVELET = "bior4.4"

# A chunk is as many signals, or as much of one, as keep the first intermediate below this many values (4 MB): fresh
# allocations larger than the cache cost more in page faults than the arithmetic does.
_CHUNK = 1 << 20
_DEVICE_CHUNK = 1 << 26  # 256 MB on other devices, for the sake of memory alone
# One multiply-add of a grouped convolution takes about as long as this many of a dense one: along the rows 21 against
# 38 thousand million per second were measured on one core (AVX-512). It decides for the fused order up to 20 channels.
_GROUPED_COST = 2.0
# Likewise of waveforms' two stages against one dense convolution, which was as fast or faster up to 64 channels.
_SPLIT_COST = 1.9


Prepare = Callable[[Tensor], Tensor]
Finish = Callable[[Tensor, int], Tensor]


def _unprepared(part: Tensor) -> Tensor:
    return part


def _unfinished(part: Tensor, first_channel: int) -> Tensor:
    return part


class _Folded(nn.Module):
    """What analysis and synthesis share: constants that follow to a device, and the choice of the path."""

    def __init__(self, wavelet: str, backend: Backend) -> None:
        super().__init__()
        _check_backend(backend, wavelet)
        self.backend = backend
        self._wavelet = wavelet
        self._lifted: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lifted": None}  # it is soon made, and not every process has numba

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.to(torch.float32).contiguous(), persistent=False)

    def _use_lifting(self, x: Tensor, constant: Tensor) -> bool:
        """Choose the path for a call with ``x``, ``constant`` being one of this module's own tensors.

        Raises:
            ValueError: The backend is ``"lifting"`` and cannot take this call.
        """
        if self.backend == "convolutions" or not x.numel():  # there is nothing to compute
            return False
        obstacle = _obstacle(x) or _obstacle(constant) or _missing(self._wavelet)
        if obstacle and self.backend == "lifting":
            raise ValueError(f"backend='lifting' cannot take this call: {obstacle}. backend='auto' convolves here")
        return not obstacle


def _check_backend(backend: str, wavelet: str) -> None:
    if backend not in ("auto", "convolutions", "lifting"):
        raise ValueError(f"backend must be 'auto', 'convolutions' or 'lifting', got {backend!r}")
    if backend == "lifting" and (obstacle := _missing(wavelet)):
        error = ValueError if wavelet != LIFTED_WAVELET else ImportError
        raise error(f"backend='lifting' cannot be used: {obstacle}")


def _missing(wavelet: str) -> str:
    """Name what this process or this wavelet lacks for lifting, or nothing."""
    if wavelet != LIFTED_WAVELET:
        return f"the wavelet is {wavelet!r}, and only {LIFTED_WAVELET!r} is lifted"
    return "" if _lifting() is not None else "numba is not installed, does not fit numpy, or is told not to compile"


def _obstacle(x: Tensor) -> str:
    """Name what keeps compiled loops from reading a tensor's memory, or nothing."""
    if x.device.type != "cpu":
        return f"a tensor is on {x.device}, and lifting runs on the CPU"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "it is being compiled or traced, which records only torch's own operations"
    if is_in_torch_dispatch_mode():
        return "a dispatch mode (fake tensors, make_fx, a FLOP counter) must see torch's own operations"
    if type(x) is not Tensor:
        return f"it got a {type(x).__name__}, and the subclass must see torch's own operations"
    if not _has_memory(x):
        return "a tensor's memory does not hold its values, as within torch.func or in a negated view"
    if x.requires_grad and torch.is_grad_enabled():
        return "its gradient is wanted"
    return "" if unpack_dual(x).tangent is None else "its forward derivative is wanted"


@functools.cache
def _lifting() -> Any:
    """The module of that name, or None where numba is missing, does not fit numpy, or is told not to compile."""
    try:
        if importlib.import_module("numba").config.DISABLE_JIT:
            return None
    except ImportError:
        return None
    return importlib.import_module(".lifting", __package__)


def _has_memory(x: Tensor) -> bool:
    try:
        return x.data_ptr() != 0 and not x.is_neg()  # a functional tensor's is 0; a negated view's holds other values
    except RuntimeError:  # within the transforms of torch.func
        return False


def _in_chunks(x: Tensor, stride: int, grain: int, work: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """Call ``work(signals, first cell, last cell)`` for chunks of a batch and join the results.

    Args:
        x: ``(N, channels, length, ...)``, cut along ``N``, and where one signal is too large, along its length.
        stride: Samples of ``x`` per cell along the length.
        grain: Values of the largest intermediate per value of ``x``.
        work: What to do.
    """
    most = max(1, (_CHUNK if x.device.type == "cpu" else _DEVICE_CHUNK) // grain)
    signal, cells = math.prod(x.shape[1:]), x.shape[2] // stride
    if x.shape[0] * signal <= most:
        return work(x, 0, cells)
    if signal <= most:
        return torch.cat([work(part, 0, cells) for part in x.split(most // signal)])
    pieces = min(cells, -(-signal // most))
    bounds = [cells * i // pieces for i in range(pieces + 1)]
    whole = [torch.cat([work(part, *piece) for piece in pairwise(bounds)], 2) for part in x.split(1)]
    return whole[0] if len(whole) == 1 else torch.cat(whole)


class FoldedAnalysis(_Folded):
    """Analysis and projection of a frozen codec, ``z = weight @ WPT(scale * x + shift) + bias``, in two convolutions.

    Args:
        weight: Projection ``(D, C * bands)``.
        bias: ``(D,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
        backend: ``"convolutions"``; ``"lifting"``, which needs numba and the wavelet ``bior4.4`` and refuses calls with
            anything but plain values on the CPU; or ``"auto"``, which lifts where it can.

    Raises:
        ImportError: The backend is ``"lifting"`` and numba cannot be used.
        ValueError: The backend is unknown, or ``"lifting"`` for another wavelet.
    """

    columns: Tensor
    rows: Tensor
    project: Tensor | None
    bias: Tensor
    bias_per_shift: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: int, dims: int, backend: Backend = "auto"
    ) -> None:
        super().__init__(wavelet, backend)
        bank = analysis_bank(wavelet, levels)
        filters = torch.from_numpy(bank.filters)
        self.levels, self.dims, self.stride, self.reach = levels, dims, bank.stride, bank.reach
        self._weight, self._bias = (t.detach().to("cpu", copy=True) for t in (weight, bias))
        self._bounds: tuple[Tensor, Tensor] | None = None
        latents, per_axis, taps = weight.shape[0], *filters.shape
        self.signals = weight.shape[1] // per_axis**dims
        weight = weight.detach().double().cpu()
        # Periodized filters see a constant as a constant, so a shift of the signal only moves the bias.
        constant = band_sums(filters, levels, dims).repeat(self.signals)
        self._constant("bias_per_shift", weight @ constant)
        self._constant("bias", bias.detach())
        dense = latents * self.signals * per_axis ** (dims - 1) * taps  # multiply-adds of the last convolution per cell
        grouped = _GROUPED_COST * self.signals * per_axis**dims * taps + weight.numel()
        self.fused = dense <= grouped
        if dims == 1:
            self._fold_waveforms(weight, wavelet, filters)
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

    def _fold_waveforms(self, weight: Tensor, wavelet: str, filters: Tensor) -> None:
        stages = halves(wavelet, self.levels, analysis_bank)
        dense = len(weight) * self.signals * filters.shape[1]  # multiply-adds per cell
        apart = _SPLIT_COST * self.signals * self.stride * sum(bank.filters.shape[1] for bank in stages)
        self.fused = len(stages) == 1 or dense <= apart + weight.numel()
        if self.fused:
            packets = weight.view(len(weight), self.signals, self.stride)
            rows, reach = to_blocks(torch.einsum("dcb,bt->dct", packets, filters), -self.reach[0], self.stride)
            self.reach = (self.stride * reach[0], self.stride * reach[1])
            self._constant("rows", rows)
            self.project = None
            return
        banks = [to_blocks(torch.from_numpy(bank.filters)[:, None], bank.start, bank.stride) for bank in stages]
        (first, near), (second, far) = banks
        self.steps = [bank.stride for bank in stages]
        left, right = (self.steps[0] * (self.steps[1] * f + n) for f, n in zip(far, near, strict=True))
        self.reach = (left, right)
        self._constant("columns", first)
        self._constant("rows", second)
        self._constant("project", weight)

    def forward(self, x: Tensor, scale: float = 1.0, shift: float = 0.0, finish: Finish = _unfinished) -> Tensor:
        """Transform ``scale * x + shift``.

        Args:
            x: ``(N, C, H, W)`` or ``(N, C, T)`` of any real dtype. Sides that are no multiple of ``2**levels`` are
                extended by reflection on the right.
            scale: Factor from the units of ``x`` to those of the codec.
            shift: Added after scaling.
            finish: Called with parts ``(n, d, ...)`` of the result while they are in the cache, and the first of their
                channels; gives what takes their place. Elementwise, such as companding.

        Returns:
            ``(N, D, h, w)`` or ``(N, D, t)``, float32.

        Raises:
            ValueError: A side is shorter than ``2**levels``.
        """
        check_size(x.shape[2:], self.stride)
        bias = torch.add(self.bias, self.bias_per_shift, alpha=shift)
        if self._use_lifting(x, bias):
            if self._lifted is None:
                self._lifted = _lifting().LiftedAnalysis(self._weight, self.levels, self.dims)
            return self._lifted(x if x.dtype == torch.uint8 else x.to(torch.float32), scale, bias, finish)
        x = pad_to_multiple(x, self.stride, self.dims)
        kernel = (self.rows if self.dims == 1 and self.fused else self.columns) * scale

        def work(part: Tensor, first: int, last: int) -> Tensor:
            return finish(self._convolve(part, first, last, kernel, bias), 0)

        return _in_chunks(x, self.stride, 1, work)

    @torch.inference_mode(False)
    @torch.no_grad()
    def projection_bounds(self) -> tuple[Tensor, Tensor]:
        """Bound the result for every signal in the codec's range, ``-0.5 <= scale * x + shift <= 0.5``.

        A latent is a sum of samples times the taps of a composed filter, so its distance from the bias is at most half
        the sum of their absolute values. Reflection and periodic continuation only choose which samples those are, so
        the bounds hold for any size. They are computed at the first call, exactly but for a margin for rounding: a
        thousandth of the distance.

        Returns:
            Lowest and highest value of each channel, each float32 ``(D,)`` on the CPU.
        """
        if self._bounds is None:
            filters = torch.from_numpy(analysis_bank(self._wavelet, self.levels).filters)
            positions = [torch.from_numpy(row) for row in band_positions(self.levels, self.dims)]
            some = max(1, (1 << 22) // (self.signals * filters.shape[1] ** self.dims))  # 32 MB of taps at a time
            rows = self._weight.double().split(some)
            sums = [_response(part, filters, positions).abs().flatten(1).sum(1) for part in rows]
            bias = self._bias.double()
            reach = 1.001 * 0.5 * torch.cat(sums) + 1e-6 * bias.abs()
            self._bounds = (bias - reach).float(), (bias + reach).float()
        return self._bounds

    def _convolve(self, x: Tensor, first: int, last: int, kernel: Tensor, bias: Tensor) -> Tensor:
        x = periodic(x, first * self.stride - self.reach[0], last * self.stride + self.reach[1], 2)
        if self.dims == 1:
            x = x.to(torch.float32)
            n = x.shape[0]
            if self.project is None:
                blocks = x.unflatten(2, (-1, self.stride)).transpose(1, 2).flatten(2)
                return split(blocks, kernel, bias).transpose(1, 2).contiguous()
            x = split(x.flatten(0, 1).unflatten(1, (-1, self.steps[0])), kernel)
            x = split(x.transpose(1, 2).flatten(0, 1).unflatten(1, (-1, self.steps[1])), self.rows)
            x = x.transpose(1, 2).reshape(n, self.signals * self.stride, last - first)
            return torch.baddbmm(bias[:, None], self.project.expand(n, -1, -1), x)
        x = x.to(torch.float32, memory_format=torch.channels_last)
        x = F.conv2d(x, kernel, stride=(self.stride, 1), groups=self.signals)
        x = periodic_pad(x, *self.reach, 3)
        if self.project is None:
            return F.conv2d(x, self.rows, bias, stride=(1, self.stride))
        x = F.conv2d(x, self.rows, stride=(1, self.stride), groups=x.shape[1])
        return F.conv2d(x, self.project, bias)


def _response(weight: Tensor, filters: Tensor, positions: list[Tensor]) -> Tensor:
    """Compose rows of the projection with the filters: the taps of each latent channel, ``(D, C, taps, ...)``."""
    signals = weight.shape[1] // len(positions[0])
    bands = weight.new_zeros(len(weight), signals, *[len(filters)] * len(positions))
    bands[(slice(None), slice(None), *positions)] = weight.view(len(weight), signals, -1)
    for _ in positions:  # each turn moves one axis behind the others and filters it
        bands = bands.movedim(2, -1) @ filters
    return bands


class FoldedSynthesis(_Folded):
    """Linear decoding and synthesis of a frozen codec, ``IWPT(weight @ z + bias)``, in two convolutions.

    A transposed convolution of stride ``2**J`` is one plain convolution per phase, output position modulo the stride.
    All phases are computed at once, as channels; in channels_last memory those of a row already lie side by side.

    Args:
        weight: ``(C * bands, D)``.
        bias: ``(C * bands,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
        backend: ``"convolutions"``; ``"lifting"``, which needs numba and the wavelet ``bior4.4`` and refuses calls with
            anything but plain values on the CPU; or ``"auto"``, which lifts where it can.

    Raises:
        ImportError: The backend is ``"lifting"`` and numba cannot be used.
        ValueError: The backend is unknown, or ``"lifting"`` for another wavelet.
    """

    project: Tensor
    columns: Tensor
    rows: Tensor
    offset: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: int, dims: int, backend: Backend = "auto"
    ) -> None:
        super().__init__(wavelet, backend)
        bank = synthesis_bank(wavelet, levels)
        filters = torch.from_numpy(bank.filters)
        self.levels, self.dims, self.stride = levels, dims, bank.stride
        self._weight, self._bias = (t.detach().to("cpu", copy=True) for t in (weight, bias))
        latents, per_axis = weight.shape[1], len(filters)
        self.signals = weight.shape[0] // per_axis**dims
        phases, self.reach = to_phases(filters, bank.start, bank.stride)
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
            tile = [phases[:, p].sum(-1) for p in position]  # what a constant band synthesizes to
            product = tile[0] if dims == 1 else torch.outer(tile[0], tile[1])
            offset += cell[:, band].view(-1, *[1] * dims) * product
        self._constant("offset", offset)
        if dims == 1:
            self._fold_waveforms(weight, rows, wavelet)
        else:
            self._constant("rows", rows.flatten(0, 2)[:, :, None])
            self._constant("columns", phases.repeat(self.signals, 1, 1)[..., None])

    def _fold_waveforms(self, weight: Tensor, rows: Tensor, wavelet: str) -> None:
        stages = halves(wavelet, self.levels, synthesis_bank)
        banks = [to_phases(torch.from_numpy(bank.filters), bank.start, bank.stride) for bank in stages]
        grouped = _GROUPED_COST * self.signals * self.stride * sum(phases[0].numel() for phases, _ in banks)
        self.fused = len(stages) == 1 or rows.numel() <= grouped + weight.numel()  # multiply-adds per cell
        if self.fused:
            self._constant("rows", rows.flatten(0, 1))
            return
        (first, near), (second, far) = banks
        self.steps, self.near = [bank.stride for bank in stages], near
        # The second stage runs first, and must leave samples around the cells for the first.
        self.margin = [-(-reach // self.steps[1]) for reach in near]
        self.reach = (far[0] + self.margin[0], far[1] + self.margin[1])
        self._constant("project", weight.flatten(0, 1)[..., None])
        self._constant("rows", second.repeat(self.signals * self.steps[0], 1, 1))
        self._constant("columns", first.repeat(self.signals, 1, 1))

    def forward(
        self,
        z: Tensor,
        scale: float = 1.0,
        shift: float = 0.0,
        prepare: Prepare = _unprepared,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> Tensor:
        """Map latents ``(N, D, h, w)`` or ``(N, D, t)`` to ``scale * signal + shift``.

        Args:
            z: Latents, of any type that ``prepare`` makes float32.
            scale: Factor from the codec's range to that of the result.
            shift: Added after scaling.
            prepare: Called with parts of the latents; elementwise, such as expansion.
            limits: What the result is clamped to.

        Returns:
            ``(N, C, H, W)`` or ``(N, C, T)``, float32.
        """
        if self._use_lifting(z, self.offset):
            if self._lifted is None:
                self._lifted = _lifting().LiftedSynthesis(self._weight, self._bias, self.levels, self.dims)
            return self._lifted(z.to(torch.float32), scale, shift, prepare, limits)
        rows, offset = self._first_kernel() * scale, self.offset * scale + shift
        grain = -(-self.signals * self.stride**self.dims // z.shape[1])

        def work(part: Tensor, first: int, last: int) -> Tensor:
            signal = self._convolve(part, first, last, rows, offset, prepare)
            return signal if limits == (-math.inf, math.inf) else signal.clamp(*limits)

        return _in_chunks(z, 1, grain, work)

    def _first_kernel(self) -> Tensor:
        return self.project if self.dims == 1 and not self.fused else self.rows

    def _convolve(self, z: Tensor, first: int, last: int, rows: Tensor, offset: Tensor, prepare: Prepare) -> Tensor:
        whole = last - first == z.shape[2]
        if self.dims == 1 or not whole:
            z = periodic(z, first - self.reach[0], last + self.reach[1], 2)
        z = prepare(z)
        if self.dims == 1 and self.fused:
            y = F.conv1d(z, rows).unflatten(1, (self.stride, self.signals))
            return (y.permute(0, 2, 3, 1) + offset[:, None]).flatten(2)
        if self.dims == 1:
            y = merge(F.conv1d(z, rows), self.rows, self.steps[1])
            left, right = (margin * self.steps[1] - reach for margin, reach in zip(self.margin, self.near, strict=True))
            y = merge(y[..., left : y.shape[-1] - right], self.columns, self.steps[0])
            return (y.unflatten(2, (-1, self.stride)) + offset[:, None]).flatten(2)
        z = periodic_pad(z.contiguous(memory_format=torch.channels_last), *self.reach, 3)
        y = F.conv2d(z, rows)  # (N, phase along the row * C * band along the column, h, w)
        n, _, h, w = y.shape
        per_pixel = self.signals * self.stride
        y = y.permute(0, 2, 3, 1).reshape(n, h, w * self.stride, per_pixel).permute(0, 3, 1, 2)
        y = F.conv2d(periodic_pad(y, *self.reach, 2) if whole else y, self.columns, groups=self.signals)
        y = y.unflatten(1, (self.signals, self.stride)).permute(0, 1, 3, 2, 4).unflatten(4, (w, self.stride))
        return (y + offset[:, None, :, None, :]).flatten(4).flatten(2, 3)

"""The fast encoder and decoder: the whole linear part of a frozen codec, folded into a few operations.

Everything before companding is linear and commutes with shifts by ``2**J``, and the wavelet is separable. So all levels
and the projection are one or two convolutions (``images.py``, ``waveforms.py``), exact but for rounding. On the CPU,
where numba is installed, ``lifting.py`` computes the same in less time (``backends.py``).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .backends import Backend, check_backend, lifting, missing, obstacle, stop_lifting
from .bounds import projection_bounds
from .filters import analysis_bank, band_positions, synthesis_bank
from .images import ImageAnalysis, ImageSynthesis
from .packets import check_size, pad_to_multiple
from .polyphase import Finish, Prepare, by_bands, constant, to_phases
from .waveforms import waveform_analysis, waveform_synthesis

if TYPE_CHECKING:
    from .lifting import LiftedAnalysis, LiftedSynthesis  # numba is slow to import and may be missing

__all__ = ["FoldedAnalysis", "FoldedSynthesis", "in_chunks"]

# Values of the largest intermediate of a chunk. On the CPU 4 MB: fresh memory that the cache cannot hold costs more in
# page faults than the arithmetic does. On other devices 256 MB, to save memory.
_CPU_CHUNK, _DEVICE_CHUNK = 1 << 20, 1 << 26


class FoldedAnalysis(nn.Module):
    """Analysis and projection of a frozen codec, ``z = weight @ WPT(scale * x + shift) + bias``.

    Args:
        weight: Projection ``(D, C * bands)``.
        bias: ``(D,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels J along each axis: two for images, one for waveforms.
        backend: ``"convolutions"``; ``"lifting"``, which needs numba and the wavelet ``bior4.4`` and refuses calls with
            anything but plain values on the CPU; or ``"auto"``, which lifts where it can.

    Attributes:
        backend: As given.
        convolutions: What computes where lifting does not.
        chunk: Largest number of values of an intermediate, by which convolutions cut large batches and signals; None
            for the number that suits the device.

    Raises:
        ImportError: The backend is ``"lifting"`` and numba cannot be used.
        ValueError: The backend is unknown, or ``"lifting"`` for another wavelet.
    """

    bias: Tensor
    bias_per_shift: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: Sequence[int], backend: Backend = "auto"
    ) -> None:
        super().__init__()
        check_backend(backend, wavelet)
        self.wavelet, self.levels, self.backend = wavelet, tuple(levels), backend
        self.chunk: int | None = None
        self._weight, self._bias = (t.detach().to("cpu", copy=True) for t in (weight, bias))
        self._lifted: LiftedAnalysis | None = None
        weight = self._weight.double()
        image = len(self.levels) == 2
        self.convolutions = (
            ImageAnalysis(weight, wavelet, levels) if image else waveform_analysis(weight, wavelet, *levels)
        )
        # Periodized filters see a constant as a constant, so a shift of the signal only moves the bias.
        answers = torch.ones(2 ** sum(levels), dtype=torch.float64)  # of every packet to a constant 1
        for level, band in zip(levels, band_positions(levels), strict=True):
            answers *= torch.from_numpy(analysis_bank(wavelet, level).filters.sum(1)[band])
        constant(self, "bias_per_shift", weight @ answers.repeat(weight.shape[1] // len(answers)))
        constant(self, "bias", self._bias)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lifted": None}  # it is soon made, and not every process has numba

    def forward(self, x: Tensor, scale: float = 1.0, shift: float = 0.0, finish: Finish | None = None) -> Tensor:
        """Transform ``scale * x + shift``.

        Args:
            x: ``(N, C, H, W)`` or ``(N, C, T)`` of any real dtype. Sides that are no multiple of ``2**levels`` are
                extended by reflection on the right.
            scale: Factor from the units of ``x`` to those of the codec.
            shift: Added after scaling.
            finish: What is done to the result, part by part.

        Returns:
            ``(N, D, h, w)`` or ``(N, D, t)``, float32.

        Raises:
            ValueError: A side is shorter than ``2**levels``, or the backend is ``"lifting"`` and cannot take the call.
        """
        strides = [2**level for level in self.levels]
        check_size(x.shape[2:], strides)
        bias = torch.add(self.bias, self.bias_per_shift, alpha=shift)
        if _lifts(self, x, bias):
            lifted = self._lifted
            if lifted is None:  # to set an attribute of a module takes a while
                lifted = self._lifted = lifting().LiftedAnalysis(self._weight, self.levels[0], len(self.levels))
            try:
                return lifted(x if x.dtype == torch.uint8 else x.to(torch.float32), scale, bias, finish)
            except lifting().KernelError as error:
                _convolve_instead(self, error)
        x = pad_to_multiple(x, strides)
        kernel = self.convolutions.first * scale

        def work(part: Tensor, start: int, stop: int) -> Tensor:
            z = self.convolutions(part, start, stop, kernel, bias)
            return finish(z) if finish is not None else z

        return in_chunks(x, strides[0], _chunk(self, x), work)

    def projection_bounds(self, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Bound the result for every signal in the codec's range, ``-0.5 <= scale * x + shift <= 0.5``.

        Args:
            channels: How many channels to bound, from the first on. Default: all.

        Returns:
            Lowest and highest value of each channel, each float32 ``(channels,)`` on the CPU.
        """
        return projection_bounds(self._weight[:channels], self._bias[:channels], self.wavelet, self.levels)


class FoldedSynthesis(nn.Module):
    """Linear decoding and synthesis of a frozen codec, ``IWPT(weight @ z + bias)``.

    Args:
        weight: ``(C * bands, D)``.
        bias: ``(C * bands,)``.
        wavelet: Name of the wavelet.
        levels: See :class:`FoldedAnalysis`.
        backend: See :class:`FoldedAnalysis`.

    Attributes:
        backend: As given.
        convolutions: What computes where lifting does not.
        chunk: See :class:`FoldedAnalysis`.

    Raises:
        ImportError: The backend is ``"lifting"`` and numba cannot be used.
        ValueError: The backend is unknown, or ``"lifting"`` for another wavelet.
    """

    offset: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: Sequence[int], backend: Backend = "auto"
    ) -> None:
        super().__init__()
        check_backend(backend, wavelet)
        self.wavelet, self.levels, self.backend = wavelet, tuple(levels), backend
        self.chunk: int | None = None
        self._weight, self._bias = (t.detach().to("cpu", copy=True) for t in (weight, bias))
        self._lifted: LiftedSynthesis | None = None
        weight, image = self._weight.double(), len(self.levels) == 2
        self.convolutions = (
            ImageSynthesis(weight, wavelet, levels) if image else waveform_synthesis(weight, wavelet, *levels)
        )
        constant(self, "offset", _constant_cell(self._bias.double(), wavelet, levels))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lifted": None}  # it is soon made, and not every process has numba

    def forward(
        self,
        z: Tensor,
        scale: float = 1.0,
        shift: float = 0.0,
        prepare: Prepare | None = None,
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

        Raises:
            ValueError: The backend is ``"lifting"`` and cannot take the call.
        """
        if _lifts(self, z, self.offset):
            make = lifting().LiftedSynthesis
            lifted = self._lifted = self._lifted or make(self._weight, self._bias, self.levels[0], len(self.levels))
            try:
                return lifted(z.to(torch.float32), scale, shift, prepare, limits)
            except lifting().KernelError as error:
                _convolve_instead(self, error)
        kernel, offset = self.convolutions.first * scale, self.offset * scale + shift

        def work(part: Tensor, start: int, stop: int) -> Tensor:
            signal = self.convolutions(part, start, stop, kernel, offset, _unchanged if prepare is None else prepare)
            return signal if limits == (-math.inf, math.inf) else signal.clamp(*limits)

        values = -(-self.offset.numel() // z.shape[1])  # of the signal per value of a latent, rounded up
        return in_chunks(z, 1, _chunk(self, z) // values, work)


def _constant_cell(bias: Tensor, wavelet: str, levels: Sequence[int]) -> Tensor:
    """Synthesize packets that are the same in every cell: the signal repeats with the stride, ``(C, 2**J, ...)``."""
    cell = by_bands(bias.view(-1, 2 ** sum(levels)), levels)
    for level in levels:
        sums = to_phases(synthesis_bank(wavelet, level))[0].sum(-1).T  # (bands, 2**J)
        cell = cell.movedim(1, -1) @ sums
    return cell


def _unchanged(part: Tensor) -> Tensor:
    return part


def _lifts(module: FoldedAnalysis | FoldedSynthesis, x: Tensor, constant: Tensor) -> bool:
    """Choose the path for a call with ``x``, given one of the module's own tensors.

    Raises:
        ValueError: The backend is ``"lifting"`` and cannot take this call.
    """
    if module.backend == "convolutions" or not x.numel():  # there is nothing to compute
        return False
    uneven = (
        "" if len(set(module.levels)) == 1 else f"the axes have {module.levels} levels, and lifting needs equal ones"
    )
    reason = uneven or obstacle(x) or obstacle(constant) or missing(module.wavelet)
    if reason and module.backend == "lifting":
        raise ValueError(f"backend='lifting' cannot take this call: {reason}. backend='auto' convolves here")
    return not reason


def _convolve_instead(module: FoldedAnalysis | FoldedSynthesis, error: Exception) -> None:
    stop_lifting(error)
    if module.backend == "lifting":
        raise ImportError(f"backend='lifting' cannot be used: {missing(module.wavelet)}") from error


def _chunk(module: FoldedAnalysis | FoldedSynthesis, x: Tensor) -> int:
    return module.chunk or (_CPU_CHUNK if x.device.type == "cpu" else _DEVICE_CHUNK)


def in_chunks(x: Tensor, stride: int, most: int, work: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """Call ``work(signals, first cell, cell behind the last)`` for chunks of a batch and join the results.

    Args:
        x: ``(N, channels, length, ...)``, cut along ``N``, and where one signal is too large, along its length.
        stride: Samples of ``x`` per cell along the length.
        most: Largest number of values of ``x`` in a chunk, but a chunk has one cell at least.
        work: What to do.
    """
    most = max(1, most)
    signal, cells = math.prod(x.shape[1:]), x.shape[2] // stride
    if x.shape[0] * signal <= most:
        return work(x, 0, cells)
    if signal <= most:
        return torch.cat([work(part, 0, cells) for part in x.split(most // signal)])
    pieces = min(cells, -(-signal // most))
    bounds = [cells * i // pieces for i in range(pieces + 1)]
    whole = [torch.cat([work(part, *piece) for piece in pairwise(bounds)], 2) for part in x.split(1)]
    return whole[0] if len(whole) == 1 else torch.cat(whole)

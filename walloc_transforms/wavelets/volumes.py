"""Volumes and video: filters along the first axis, then the images that remain, by the folded path of images.

    volume (N, C, T, H, W)
      | one filter per band along time, stride 2**J                                  C * 2**J images per cell of time
      | each cell of time is an image of C * 2**J channels (``folded.py``)
    latents before companding (N, D, T / 2**J, H / 2**J, W / 2**J)

Synthesis runs backwards. Both work through the cells of time a few at a time, so that besides signal and latents only
the images of these cells take memory.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backends import Backend, obstacle
from .bounds import projection_bounds
from .filters import analysis_bank, band_positions, synthesis_bank
from .folded import FoldedAnalysis, FoldedSynthesis
from .packets import check_size, pad_to_multiple, periodic
from .polyphase import Finish, Prepare, by_bands, constant, to_phases

__all__ = ["FoldedVolumeAnalysis", "FoldedVolumeSynthesis"]

_CHUNK = 1 << 23  # values of a signal: 32 MB of the images of the cells of time that are worked at together
_PIECE = 1 << 20  # values that are filtered along time at once: 4 MB, which stay in the cache


def _as_images(weight: Tensor, levels: Sequence[int]) -> Tensor:
    """Bring the packets of a volume, the last axis, to the order in which images of ``C * 2**J`` channels have them."""
    time, down, along = torch.from_numpy(band_positions(levels))
    image = by_bands(torch.arange(2 ** sum(levels[1:])), levels[1:])  # the place of a packet within an image
    order = (time * image.numel() + image[down, along]).argsort()
    return weight.unflatten(-1, (-1, len(order)))[..., order].flatten(-2)


class FoldedVolumeAnalysis(nn.Module):
    """Analysis and projection of a frozen codec for volumes, ``z = weight @ WPT(scale * x + shift) + bias``.

    Args:
        weight: Projection ``(D, C * bands)``.
        bias: ``(D,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels J along time, height and width.
        backend: Of the images: see :class:`~walloc_transforms.wavelets.FoldedAnalysis`.

    Attributes:
        images: What transforms the images of a cell of time.
        chunk: Largest number of values of the signal that are worked at together, at least a cell of time.

    Raises:
        ImportError: The backend is ``"lifting"`` and numba cannot be used.
        ValueError: The backend is unknown, or ``"lifting"`` for another wavelet.
    """

    bank: Tensor
    sums: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: Sequence[int], backend: Backend = "auto"
    ) -> None:
        super().__init__()
        self.wavelet, self.levels, self.chunk = wavelet, tuple(levels), _CHUNK
        self._weight, self._bias = (t.detach().to("cpu", copy=True) for t in (weight, bias))
        bank = analysis_bank(wavelet, levels[0])
        self.stride, self.reach = bank.stride, bank.reach
        self.images = FoldedAnalysis(
            _as_images(self._weight, levels), self._bias, wavelet=wavelet, levels=levels[1:], backend=backend
        )
        constant(self, "bank", torch.from_numpy(bank.filters))
        constant(self, "sums", torch.from_numpy(bank.filters.sum(1)))

    def forward(self, x: Tensor, scale: float = 1.0, shift: float = 0.0, finish: Finish | None = None) -> Tensor:
        """Transform ``scale * x + shift``.

        Args:
            x: ``(N, C, T, H, W)`` of any real dtype. Sides that are no multiple of their stride are extended by
                reflection on the right.
            scale: Factor from the units of ``x`` to those of the codec.
            shift: Added after scaling.
            finish: As for :class:`~walloc_transforms.wavelets.FoldedAnalysis`.

        Returns:
            ``(N, D, t, h, w)``, float32.

        Raises:
            ValueError: A side is shorter than its stride, or the backend is ``"lifting"`` and cannot take the call.
        """
        check_size(x.shape[2:], [2**level for level in self.levels])
        x = pad_to_multiple(x, [self.stride, 1, 1])
        latents, cells = [], x.shape[2] // self.stride
        for start, stop in pairwise(_steps(cells, x.numel() // cells, self.chunk)):
            part = periodic(x, start * self.stride - self.reach[0], stop * self.stride + self.reach[1], 2)
            images = self._filter(part, stop - start, scale, shift)
            found = self.images(images.flatten(0, 1), finish=finish)
            latents.append(found.unflatten(0, images.shape[:2]).transpose(1, 2))
        return torch.cat(latents, 2)

    def _filter(self, x: Tensor, cells: int, scale: float, shift: float) -> Tensor:
        """Filter along time: ``(N, C, T + reach, H, W)`` to images ``(N, cells, C * 2**J, H, W)``."""
        bank, moved = self.bank * scale, (self.sums * shift)[:, None]
        rows = x.flatten(3)
        if obstacle(x):
            kernel = bank[:, None, :, None]
            bands = F.conv2d(rows.flatten(0, 1)[:, None].to(torch.float32), kernel, stride=(self.stride, 1))
            bands = (bands + moved[..., None]).unflatten(0, x.shape[:2]).movedim(3, 1)
        else:  # as products of matrices: two to four times as fast as the convolution
            bands = rows.new_empty(len(x), cells, x.shape[1], len(bank), rows.shape[3], dtype=torch.float32)
            for signal, out in zip(rows, bands, strict=True):
                for channel in range(x.shape[1]):
                    for place in _pieces(rows.shape[3], x.shape[2]):
                        piece = signal[channel, :, place].to(torch.float32)
                        for cell in range(cells):
                            window = piece[cell * self.stride :][: bank.shape[1]]
                            out[cell, channel, :, place] = torch.addmm(moved, bank, window)
        return bands.flatten(2, 3).unflatten(3, x.shape[3:])

    def projection_bounds(self, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Bound the result, as :meth:`~walloc_transforms.wavelets.FoldedAnalysis.projection_bounds` does."""
        return projection_bounds(self._weight[:channels], self._bias[:channels], self.wavelet, self.levels)


class FoldedVolumeSynthesis(nn.Module):
    """Linear decoding and synthesis of a frozen codec for volumes, ``IWPT(weight @ z + bias)``.

    Args:
        weight: ``(C * bands, D)``.
        bias: ``(C * bands,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels J along time, height and width.
        backend: Of the images: see :class:`~walloc_transforms.wavelets.FoldedAnalysis`.

    Attributes:
        images: What transforms the images of a cell of time.
        chunk: Largest number of values of the signal that are worked at together, at least a cell of time.

    Raises:
        ImportError: The backend is ``"lifting"`` and numba cannot be used.
        ValueError: The backend is unknown, or ``"lifting"`` for another wavelet.
    """

    phases: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, *, wavelet: str, levels: Sequence[int], backend: Backend = "auto"
    ) -> None:
        super().__init__()
        phases, self.reach = to_phases(synthesis_bank(wavelet, levels[0]))
        self.stride, self.bands, self.chunk = len(phases), phases.shape[1], _CHUNK
        weight, bias = (t.detach().to("cpu") for t in (weight.T, bias))
        self.images = FoldedSynthesis(
            _as_images(weight, levels).T, _as_images(bias, levels), wavelet=wavelet, levels=levels[1:], backend=backend
        )
        constant(self, "phases", phases.transpose(1, 2).flatten(1))  # (2**J, cells * bands), of a whole window

    def forward(
        self,
        z: Tensor,
        scale: float = 1.0,
        shift: float = 0.0,
        prepare: Prepare | None = None,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> Tensor:
        """Map latents ``(N, D, t, h, w)`` to ``scale * signal + shift``.

        Args:
            z: Latents, of any type that ``prepare`` makes float32.
            scale: Factor from the codec's range to that of the result.
            shift: Added after scaling.
            prepare: Called with parts of the latents; elementwise, such as expansion.
            limits: What the result is clamped to.

        Returns:
            ``(N, C, T, H, W)``, float32.

        Raises:
            ValueError: The backend is ``"lifting"`` and cannot take the call.
        """
        left, right = self.reach
        cell = len(z) * self.images.offset.numel() * math.prod(z.shape[3:])  # values of all signals in a cell of time

        def images(start: int, stop: int) -> Tensor:
            part = periodic(z, start, stop, 2).transpose(1, 2)
            made = self.images(part.flatten(0, 1), scale, prepare=prepare)
            return made.unflatten(0, part.shape[:2]).unflatten(2, (-1, self.bands))

        seen = [images(-left, right)]  # parts that are not joined: copying a window again for each cell takes long
        channels, (down, along) = seen[0].shape[2], self.images.offset.shape[1:]
        size = len(z), channels, z.shape[2] * self.stride, z.shape[3] * down, z.shape[4] * along
        signal = torch.empty(size, dtype=torch.float32, device=z.device)  # joining parts would take it twice
        for start, stop in pairwise(_steps(z.shape[2], cell, self.chunk)):
            seen.append(images(start + right, stop + right))
            part = self._merge(seen, stop - start).add_(shift)
            part = part if limits == (-math.inf, math.inf) else part.clamp_(*limits)
            signal[:, :, start * self.stride : stop * self.stride] = part
            seen = _without(seen, stop - start)
        return signal

    def _merge(self, parts: Sequence[Tensor], cells: int) -> Tensor:
        """Synthesize along time: parts of ``(N, cells + reach, C, bands, H, W)`` to ``(N, C, cells * 2**J, H, W)``."""
        n, _, channels, bands, *size = parts[0].shape
        window, rows = 1 + sum(self.reach), [part.flatten(4) for part in parts]
        if obstacle(parts[0]):
            kernel = self.phases.view(self.stride, window, bands).transpose(1, 2)[..., None]
            signal = F.conv2d(torch.cat(rows, 1).permute(0, 2, 3, 1, 4).flatten(0, 1), kernel).transpose(1, 2)
        else:
            signal = rows[0].new_empty(n, channels, cells, self.stride, math.prod(size))
            for i, channel in product(range(n), range(channels)):
                for place in _pieces(math.prod(size), bands * (cells + window - 1)):
                    piece = torch.cat([part[i, :, channel, :, place] for part in rows]).flatten(0, 1)
                    for cell in range(cells):
                        seen = piece[cell * bands :][: window * bands]
                        signal[i, channel, cell, :, place] = self.phases @ seen
        return signal.reshape(n, channels, cells * self.stride, *size)


def _steps(cells: int, values: int, most: int) -> list[int]:
    """Cut cells of time, each of ``values`` values, into steps of at most ``most`` values, but of a cell at least."""
    return [*range(0, cells, max(1, most // max(1, values))), cells]


def _without(parts: Sequence[Tensor], cells: int) -> list[Tensor]:
    """Leave out the first cells of time of parts ``(N, cells, ...)``."""
    kept: list[Tensor] = []
    for part in parts:
        if cells < part.shape[1]:
            kept.append(part[:, cells:])
        cells = max(0, cells - part.shape[1])
    return kept


def _pieces(columns: int, rows: int) -> Iterator[slice]:
    """Cut the columns of a matrix into pieces that stay in the cache."""
    step = max(1, _PIECE // rows)
    return (slice(first, first + step) for first in range(0, columns, step))

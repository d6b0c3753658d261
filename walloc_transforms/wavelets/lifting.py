"""The linear part of a frozen codec by lifting, where numba is installed: what ``folded.py`` does, in less time.

`kernels.py` transforms a tile. Here signals are cut into tiles that overlap by the reach of the
filters, or several small ones put into one tile, and the tiles shared among as many threads as torch may use. Only the
tiles at work need memory, besides signal and latents.
"""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .filters import band_positions
from .kernels import ALIGN, GAINS, LANES, SUMS, TERMS, Grid, analyze, layout, load, store, synthesize

__all__ = ["LiftedAnalysis", "LiftedSynthesis"]

_HALO = 4  # cells that the filters reach beyond their own: 4 * (2**J - 1) samples
_TILE = 9 << 18  # values of a tile, 9 MB: larger ones leave the cache, of smaller ones of images more is overlap
_SERIAL = 1 << 15  # values at most that most operations of torch do not share among its threads, which are in our way
_NO_LIMITS = (-math.inf, math.inf)
_LEAST = 16  # cells a piece has at least if a signal is cut only for the sake of another thread


class _Tile(NamedTuple):
    """Some signals of a batch, whole, or one piece of one signal."""

    first: int  # signal
    signals: int
    start: int  # cell, along the axis that is cut
    cells: int
    halo: int  # cells before and after that are read as well


class _Lifting:
    """What analysis and synthesis share.

    Images are cut along their height. Waveforms ``(N, C, T)`` are taken for the rows of one image ``(1, C, N, T)`` that
    is not lifted downwards, and are cut along time.
    """

    def __init__(self, matrix: Tensor, levels: int, dims: int) -> None:
        """Take the matrix ``(C * bands, D)`` between packets and latents; of analysis, its transpose."""
        self.dims, self.width = dims, 2**levels
        self.height = self.width if dims == 2 else 1
        self.latents = matrix.shape[1]
        self.channels = matrix.shape[0] // (self.height * self.width)
        # In place, the first level decides between even and odd samples, while it is the first bit of a band's index.
        digits = np.arange(self.width)[:, None] >> np.arange(levels)[::-1] & 1
        place, gain = (digits << np.arange(levels)).sum(1), np.array(GAINS)[digits].prod(1)
        bands = band_positions(levels, dims)
        self.gains = gain[bands].prod(0)  # of packets
        self.order = np.argsort(place[bands[0]] * self.width + place[bands[1]] if dims == 2 else place[bands[0]])

    def _packets(self, values: np.ndarray) -> np.ndarray:
        """Bring ``(C, bands, D)`` to the order of the planes, ``(height, width * C, D)``."""
        values = values[:, self.order].transpose(1, 0, 2)
        return values.reshape(self.height, self.width * self.channels, -1)

    def _tiles(self, signals: int, cells: int, across: int) -> list[_Tile]:
        """Cut signals that have so many cells along the axis that is cut, and so many across it."""
        threads, row = torch.get_num_threads(), across + 2 if self.dims == 2 else 1
        most = _TILE // (self.height * self.width * self.channels) // row - 2 * _HALO
        pieces = -(-cells // max(most, 2 * _LEAST))
        if signals < threads:
            pieces = max(pieces, min(-(-threads // signals), cells // _LEAST))
        if pieces <= 1:
            group = max(1, min(LANES // ((cells + 2) * row), -(-signals // threads)))
            return [_Tile(i, min(group, signals - i), 0, cells, 0) for i in range(0, signals, group)]
        bounds = [cells * i // pieces for i in range(pieces + 1)]
        return [_Tile(n, 1, bounds[i], bounds[i + 1] - bounds[i], _HALO) for n in range(signals) for i in range(pieces)]

    def _run(self, work: Callable[[_Tile], None], tiles: list[_Tile]) -> None:
        inference = torch.is_inference_mode_enabled()  # known to each thread alone

        def several(some: list[_Tile]) -> None:
            with torch.inference_mode() if inference else contextlib.nullcontext():
                for tile in some:
                    work(tile)

        threads = min(torch.get_num_threads(), len(tiles))
        if threads > 1:
            list(_pool(threads, os.getpid()).map(several, [tiles[i::threads] for i in range(threads)]))
        else:
            several(tiles)

    def _grid(self, tile: _Tile, across: int) -> Grid:
        along = tile.cells + 2 * tile.halo
        return Grid(tile.signals, along, across, 1) if self.dims == 2 else Grid(1, tile.signals, along, 0)

    def _load(
        self, x: Tensor, memory: np.ndarray, tile: _Tile, height: int, width: int, grid: Grid, planes: np.ndarray
    ) -> None:
        """Load a tile, periodic, and extended by reflection at the end, in cells of ``height * width`` samples."""
        start, strides = tile.start - tile.halo, x.stride()
        signals = np.arange(tile.first, tile.first + tile.signals) * strides[0]
        if self.dims == 2:
            top, rows = _places(start, grid.rows, height, x.shape[2], strides[2])
            left, columns = _places(0, grid.columns, width, x.shape[3], strides[3])
            images = signals + top + left
        else:
            left, columns = _places(start, grid.columns, width, x.shape[2], strides[2])
            images, rows = np.array([left]), signals[None].astype(np.uint64)
        load(memory, images, rows, columns, x.shape[1], strides[1], grid, planes)

    def _store(
        self,
        planes: np.ndarray,
        shift: float,
        limits: tuple[float, float],
        tile: _Tile,
        height: int,
        width: int,
        grid: Grid,
        out: Tensor,
        memory: np.ndarray,
    ) -> None:
        """Store what belongs to a tile itself."""
        strides = out.stride()
        start = tile.first * strides[0]
        if self.dims == 2:
            start += tile.start * height * strides[2]
            skip = (tile.halo, 0)
        else:
            start += tile.start * width
            skip, strides = (0, tile.halo), (0, strides[1], strides[0])
        low, high = np.float32(limits[0]), np.float32(limits[1])
        store(
            planes,
            np.float32(shift),
            low,
            high,
            height,
            width,
            grid,
            *skip,
            memory,
            out.shape[1],
            start,
            np.array(strides[:3]),
        )


class LiftedAnalysis(_Lifting):
    """Analysis and projection, as `folded.FoldedAnalysis` for the wavelet ``bior4.4``.

    Args:
        weight: Projection ``(D, C * bands)``.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
    """

    def __init__(self, weight: Tensor, levels: int, dims: int) -> None:
        super().__init__(weight.T, levels, dims)
        values = weight.detach().double().T.numpy().reshape(self.channels, -1, self.latents) * self.gains[:, None]
        matrix = self._packets(values).transpose(0, 2, 1)
        self.weight = _round_up(matrix)

    def __call__(self, x: Tensor, scale: float, bias: Tensor, finish: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Transform ``scale * x`` and add the bias.

        Args:
            x: ``(N, C, H, W)`` or ``(N, C, T)``, uint8 or float32, of any strides and at least one cell.
            scale: Factor.
            bias: ``(D,)``.
            finish: Called with parts of the result and the first of their channels.

        Returns:
            Latents, float32.
        """
        sides = [-(-side // self.width) for side in x.shape[2:]]
        out = x.new_empty((x.shape[0], self.latents, *sides), dtype=torch.float32)
        memory, out_memory = _flat(x), _flat(out)
        weight = self.weight * np.float32(scale)
        offset = np.zeros(self.weight.shape[1], np.float32)
        offset[: self.latents] = bias.numpy()

        def work(tile: _Tile) -> None:
            grid = self._grid(tile, sides[-1])
            planes = _scratch("planes", grid, self.height * self.width * self.channels)
            z = _scratch("latents", grid, len(offset))
            self._load(x, memory, tile, self.height, self.width, grid, planes)
            analyze(planes, self.height, self.width, self.channels, grid, weight, offset, z)
            self._store(z, 0.0, _NO_LIMITS, tile, 1, 1, grid, out, out_memory)
            done = out[tile.first : tile.first + tile.signals].narrow(2, tile.start, tile.cells)
            first = 0
            for part in done.split(max(1, _SERIAL * self.latents // done.numel()), 1):
                part.copy_(finish(part, first))
                first += part.shape[1]

        self._run(work, self._tiles(x.shape[0], sides[0], sides[1] if self.dims == 2 else 1))
        return out


class LiftedSynthesis(_Lifting):
    """Decoding and synthesis, as `folded.FoldedSynthesis` for the wavelet ``bior4.4``.

    Args:
        weight: ``(C * bands, D)``.
        bias: ``(C * bands,)``.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
    """

    def __init__(self, weight: Tensor, bias: Tensor, levels: int, dims: int) -> None:
        super().__init__(weight, levels, dims)
        values = weight.detach().double().numpy().reshape(self.channels, -1, self.latents) / self.gains[:, None]
        self.weight = _round_up(self._packets(values))
        values = bias.detach().double().numpy().reshape(self.channels, -1, 1) / self.gains[:, None]
        self.bias = self._packets(values)[..., 0].astype(np.float32)

    def __call__(
        self, z: Tensor, scale: float, shift: float, prepare: Callable[[Tensor], Tensor], limits: tuple[float, float]
    ) -> Tensor:
        """Map latents ``(N, D, h, w)`` or ``(N, D, t)`` to ``scale * signal + shift``, clamped.

        Args:
            z: Latents, float32.
            scale: Factor.
            shift: Added after scaling.
            prepare: Called with parts of the latents.
            limits: What the signal is clamped to.
        """
        size = (z.shape[0], self.channels, *[side * self.width for side in z.shape[2:]])
        out = z.new_empty(size, dtype=torch.float32)
        memory, out_memory = _flat(z), _flat(out)
        weight, bias = self.weight * np.float32(scale), self.bias * np.float32(scale)

        def work(tile: _Tile) -> None:
            grid = self._grid(tile, z.shape[-1])
            planes = _scratch("planes", grid, weight.shape[1] * self.height + SUMS)
            latents = _scratch("latents", grid, self.latents)
            self._load(z, memory, tile, 1, 1, grid, latents)
            for part in torch.from_numpy(latents).split(_SERIAL):
                part.copy_(prepare(part))
            synthesize(latents, self.latents, self.height, self.width, self.channels, grid, weight, bias, planes)
            self._store(planes, shift, limits, tile, self.height, self.width, grid, out, out_memory)

        self._run(work, self._tiles(z.shape[0], z.shape[2], z.shape[3] if self.dims == 2 else 1))
        return out


def _places(start: int, cells: int, side: int, length: int, stride: int) -> tuple[int, np.ndarray]:
    """Where the samples of cells lie, of a signal of ``length`` samples that lie ``stride`` apart.

    Returns:
        Where they begin, and from there ``(side, cells)``.
    """
    if start >= 0 and (start + cells) * side <= length:
        return start * side * stride, _ramp(cells, side, stride)
    padded = -(-length // side) * side
    samples = (np.arange(start, start + cells) * side + np.arange(side)[:, None]) % padded
    if padded > length:
        samples = np.minimum(samples, 2 * (length - 1) - samples)
    return 0, (samples * stride).astype(np.uint64)


@functools.lru_cache(maxsize=8)
def _ramp(cells: int, side: int, stride: int) -> np.ndarray:
    return ((np.arange(cells) * side + np.arange(side)[:, None]) * stride).astype(np.uint64)


def _round_up(matrices: np.ndarray) -> np.ndarray:
    """Extend matrices ``(n, rows, columns)`` by zeros to multiples of ``SUMS`` and ``TERMS``."""
    rows, columns = matrices.shape[1:]
    return np.pad(matrices, ((0, 0), (0, -rows % SUMS), (0, -columns % TERMS))).astype(np.float32)


def _flat(x: Tensor) -> np.ndarray:
    """The memory that a tensor spans, as one array."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((span,), (1,)).numpy()


@functools.lru_cache(maxsize=2)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of a process: a forked one has none of its parent's, and makes its own.

    The calling thread only waits: after a fork, torch's own threads could not be used from it.
    """
    return ThreadPoolExecutor(threads, "walloc_transforms")


_kept = threading.local()


def _scratch(name: str, grid: Grid, planes: int) -> np.ndarray:
    """Memory for the planes of a tile, kept by the thread: page faults of fresh memory cost as much as arithmetic."""
    origin, pitch = layout(grid)
    size = 2 * origin + planes * pitch
    array: np.ndarray = getattr(_kept, name, np.empty(0, np.float32))
    if array.size < size:
        array = np.empty(size + ALIGN, np.float32)
        array = array[-array.ctypes.data % (4 * ALIGN) // 4 :][:size]
        if size <= 2 * _TILE:
            setattr(_kept, name, array)
    return array[:size]

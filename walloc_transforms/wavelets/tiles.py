"""How signals are cut into tiles for lifting, where the samples of a tile lie, and the threads that share the tiles."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from .guarded import layout
from .kernels import ALIGN, LANES, Grid

__all__ = ["HALO", "LEAST", "TILE", "Scratch", "Tile", "cut", "places", "run", "stop_threads"]

HALO = 4  # cells that the filters reach beyond their own: 4 * (2**J - 1) samples
TILE = 9 << 18  # values of a tile, 9 MB: larger tiles leave the cache, smaller ones repeat more of the overlap
LEAST = 16  # cells of the shortest piece that is worth another thread


class Tile(NamedTuple):
    """Some whole signals of a batch, or a piece of one signal.

    Attributes:
        first: First signal.
        signals: Number of signals.
        start: First cell along the axis that is cut.
        cells: Number of cells along it.
        halo: Cells that are read before and after those.
    """

    first: int
    signals: int
    start: int
    cells: int
    halo: int


def cut(signals: int, cells: int, row: int, values: int, most: int = TILE, least: int = LEAST) -> list[Tile]:
    """Cut large signals into pieces and group small ones, so that every thread of torch has work.

    Args:
        signals: Number of signals.
        cells: Cells of each along the axis that is cut.
        row: Cells of each across that axis, with borders.
        values: Values of a cell.
        most: Largest number of values of a tile, if it has more than ``2 * least`` cells along the axis.
        least: Smallest number of cells of a piece that is cut for another thread.
    """
    threads = torch.get_num_threads()
    pieces = -(-cells // max(most // values // row - 2 * HALO, 2 * least))
    if signals < threads:
        pieces = max(pieces, min(-(-threads // signals), cells // least))
    if pieces <= 1:
        group = max(1, min(LANES // ((cells + 2) * row), -(-signals // threads)))
        return [Tile(i, min(group, signals - i), 0, cells, 0) for i in range(0, signals, group)]
    bounds = [cells * i // pieces for i in range(pieces + 1)]
    return [Tile(n, 1, bounds[i], bounds[i + 1] - bounds[i], HALO) for n in range(signals) for i in range(pieces)]


def places(start: int, cells: int, side: int, length: int, stride: int) -> tuple[int, np.ndarray]:
    """Find the samples of cells along one axis of a signal, periodic, and extended by reflection to whole cells.

    Args:
        start: First cell; may be negative.
        cells: Number of cells; they may end behind the signal.
        side: Samples of a cell.
        length: Samples of the signal.
        stride: From one sample to the next in memory.

    Returns:
        Where the cells begin, and offsets from there, unsigned ``(side, cells)``.
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


def run(work: Callable[[Tile], None], tiles: Sequence[Tile]) -> None:
    """Call ``work`` for every tile, on as many threads as torch may use."""
    inference = torch.is_inference_mode_enabled()  # each thread has a mode of its own

    def several(some: Sequence[Tile]) -> None:
        with torch.inference_mode() if inference else contextlib.nullcontext():
            for tile in some:
                work(tile)

    threads = min(torch.get_num_threads(), len(tiles))
    if threads > 1:
        list(_pool(torch.get_num_threads(), os.getpid()).map(several, [tiles[i::threads] for i in range(threads)]))
    else:
        several(tiles)


@functools.lru_cache(maxsize=2)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Make threads for a process: a forked one has none of its parent's.

    The calling thread only waits. If it worked as well, it could not use torch's own threads after a fork.
    """
    return ThreadPoolExecutor(threads, "walloc_transforms")


def stop_threads() -> None:
    """End the threads that :func:`run` has made, with the memory that they keep; the next call makes new ones."""
    _pool(torch.get_num_threads(), os.getpid()).shutdown()
    _pool.cache_clear()


class Scratch(threading.local):
    """Memory for the planes of a tile, kept by each thread: page faults of fresh memory take as long as the arithmetic.

    Attributes:
        kept: The arrays by name, none larger than twice a tile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, np.ndarray] = {}

    def planes(self, name: str, grid: Grid, count: int) -> np.ndarray:
        """Return aligned float32 memory for ``count`` planes, not cleared.

        The next call with this name gives the same memory again.
        """
        origin, pitch = layout(grid)
        return self.memory(name, 2 * origin + count * pitch)

    def memory(self, name: str, size: int) -> np.ndarray:
        """Return aligned float32 memory of a size in values, likewise."""
        array = self.kept.get(name)
        if array is None or array.size < size:
            array = np.empty(size + ALIGN, np.float32)
            array = array[-array.ctypes.data % (4 * ALIGN) // 4 :][:size]
            if size <= 2 * TILE:
                self.kept[name] = array
        return array[:size]

"""How signals are cut into tiles, and the memory that threads keep for them."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from walloc_transforms.wavelets.kernels import LANES, Grid, layout
from walloc_transforms.wavelets.tiles import HALO, LEAST, TILE, Scratch, cut, places, run, stop_threads


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("levels", "channels", "dims"), [(1, 1, 2), (3, 3, 2), (4, 3, 2), (3, 1, 1), (8, 2, 1)])
def test_tiles_cover_every_cell_once(threads: int, levels: int, channels: int, dims: int) -> None:
    torch.set_num_threads(threads)
    values = channels * 2 ** (levels * dims)
    for signals, cells in itertools.product((1, 2, 3, 40), (1, 15, 16, 33, 100, 1000, 5000)):
        for row in (3, 30, 702) if dims == 2 else (1,):
            tiles = cut(signals, cells, row, values)
            count = np.zeros((signals, cells), int)
            for tile in tiles:
                count[tile.first : tile.first + tile.signals, tile.start : tile.start + tile.cells] += 1
                assert tile.cells == cells or (tile.signals, tile.halo) == (1, HALO)
                size = (tile.cells + 2 * tile.halo) * row * values
                assert size <= TILE or tile.cells <= 2 * LEAST
                assert tile.signals == 1 or tile.signals * size <= LANES * values
            assert (count == 1).all()
            assert len(tiles) >= min(threads, signals * max(1, cells // LEAST))


def test_small_images_share_a_tile() -> None:
    assert [tile.signals for tile in cut(5, 2, 5, 192)] == [5]
    assert len(cut(1000, 2, 5, 192)) > 1
    torch.set_num_threads(2)
    assert [tile.signals for tile in cut(5, 2, 5, 192)] == [3, 2]


def test_pieces_are_as_small_as_asked_for() -> None:
    assert max(tile.cells for tile in cut(1, 40, 5, 192, most=1, least=3)) <= 6
    torch.set_num_threads(3)
    assert len(cut(1, 6, 5, 192, least=2)) == 3


@pytest.mark.parametrize(("start", "cells"), [(0, 5), (-4, 9), (1, 4), (3, 4), (-12, 30)])
@pytest.mark.parametrize("length", [40, 35, 33])
@pytest.mark.parametrize("stride", [1, 3])
def test_places_equal_numpy(start: int, cells: int, length: int, stride: int) -> None:
    x = np.arange(length)
    padded = np.pad(x, (0, 40 - length), mode="reflect")  # five cells of eight samples
    expected = padded[np.arange(start * 8, (start + cells) * 8) % 40].reshape(cells, 8).T
    first, offsets = places(start, cells, 8, length, stride)
    assert offsets.dtype == np.uint64
    np.testing.assert_array_equal(first + offsets.astype(int), stride * expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_all_tiles(threads: int) -> None:
    torch.set_num_threads(threads)
    tiles, seen = cut(20, 100, 30, 192), []
    lock = threading.Lock()

    def work(tile) -> None:
        assert torch.is_inference_mode_enabled()
        with lock:
            seen.append(tile)

    with torch.inference_mode():
        run(work, tiles)
    assert sorted(seen) == tiles
    stop_threads()
    with torch.inference_mode():
        run(work, tiles)
    assert sorted(seen) == sorted([*tiles, *tiles])


def test_scratch_is_aligned_and_kept_only_if_small() -> None:
    scratch = Scratch()

    def in_a_new_thread() -> list[tuple[int, bool]]:
        seen = []
        for rows, planes in ((1, 1), (5, 12), (3, 12), (5, 12), (99, 192), (700, 192), (5, 12)):
            grid = Grid(2, rows, 90, 1)
            array, again = scratch.planes("samples", grid, planes), scratch.planes("samples", grid, planes)
            assert array.ctypes.data % 64 == 0
            origin, pitch = layout(grid)
            assert origin % 16 == pitch % 16 == 0
            assert array.size == 2 * origin + planes * pitch
            assert scratch.kept["samples"].size <= 2 * TILE
            seen.append((array.size, array.ctypes.data == again.ctypes.data))
        return seen

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(in_a_new_thread).result()
    assert [kept for _, kept in seen] == [size <= 2 * TILE for size, _ in seen]
    assert {kept for _, kept in seen} == {True, False}
    assert not scratch.kept  # of this thread

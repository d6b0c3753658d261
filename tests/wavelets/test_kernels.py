"""The lifting kernels one by one, against numpy and PyWavelets; what may not be read is NaN."""

import itertools

import numpy as np
import pytest
import pywt

from tests.helpers import assert_close_float32
from walloc_transforms.wavelets.kernels import (
    ALIGN,
    GAINS,
    SUMS,
    TERMS,
    Grid,
    Places,
    Planes,
    Stack,
    analyze,
    combine,
    layout,
    lift,
    load,
    rows_at_once,
    store,
    synthesize,
)

INFINITE = (np.float32(-np.inf), np.float32(np.inf))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def unwritten(grid: Grid, planes: int) -> np.ndarray:
    origin, pitch = layout(grid)
    return np.full(2 * origin + planes * pitch, np.nan, np.float32)


def loaded(x: np.ndarray, height: int, width: int, border: int = 1) -> Planes:
    """Planes of images ``(N, C, H, W)``."""
    n, channels, h, w = x.shape
    grid = Grid(n, h // height, w // width, border)
    planes = Planes(unwritten(grid, height * width * channels), grid, height, width, channels)
    rows = (np.arange(grid.rows) * height + np.arange(height)[:, None]) * w
    columns = np.arange(grid.columns) * width + np.arange(width)[:, None]
    starts = np.arange(n) * channels * h * w
    load(x.ravel(), Places(starts, rows.astype(np.uint64), columns.astype(np.uint64), h * w), planes)
    return planes


def stored(
    planes: Planes,
    skip: tuple[int, int] = (0, 0),
    shift: float = 0.0,
    limits: tuple[np.float32, np.float32] = INFINITE,
) -> np.ndarray:
    _, grid, height, width, channels = planes
    h, w = (grid.rows - 2 * skip[0]) * height, (grid.columns - 2 * skip[1]) * width
    out = np.full(5 + grid.images * channels * h * w, np.nan, np.float32)
    store(planes, skip, np.float32(shift), limits, out, 5, (channels * h * w, h * w, w))
    assert np.isnan(out[:5]).all()
    return out[5:].reshape(grid.images, channels, h, w)


@pytest.mark.parametrize(("images", "rows", "columns"), [(1, 1, 1), (3, 2, 5), (2, 7, 14), (1, 40, 33)])
@pytest.mark.parametrize("border", [0, 1])
def test_layout_is_aligned_and_leaves_room(images: int, rows: int, columns: int, border: int) -> None:
    origin, pitch = layout(Grid(images, rows, columns, border))
    assert origin % ALIGN == pitch % ALIGN == 0
    assert origin >= columns + 2  # a row is read before the first plane, and behind the last
    assert pitch >= images * (rows + 2 * border) * (columns + 2)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (2, 4), (1, 16), (1, 1)])
@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("skip", [(0, 0), (1, 0), (0, 2), (2, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_every_sample_comes_back(height: int, width: int, border: int, skip: tuple[int, int], dtype: type) -> None:
    x = (normal(3, 2, 5 * height, 7 * width) * 30 + 128).astype(dtype)
    planes = loaded(x, height, width, border)
    assert np.isfinite(planes.memory).sum() == x.size
    cut = [
        slice(s * side, x.shape[-1] * 9 if s == 0 else -s * side) for s, side in zip(skip, (height, width), strict=True)
    ]
    np.testing.assert_array_equal(stored(planes, skip), x[..., cut[0], cut[1]])


def test_load_takes_samples_from_anywhere() -> None:
    x, grid = normal(1000), Grid(2, 3, 5, 1)
    random = np.random.default_rng(1)
    rows, columns = random.integers(0, 200, (2, 3)), random.integers(0, 200, (4, 5))
    planes = Planes(unwritten(grid, 2 * 4 * 3), grid, 2, 4, 3)
    load(x, Places(np.array([100, 7]), rows.astype(np.uint64), columns.astype(np.uint64), 150), planes)
    result = stored(planes)
    for i, c, r, v, k, j in np.ndindex(2, 3, 3, 2, 5, 4):
        assert result[i, c, 2 * r + v, 4 * k + j] == x[(100, 7)[i] + rows[v, r] + 150 * c + columns[j, k]]


def test_store_shifts_and_clamps_and_keeps_nan() -> None:
    x = normal(1, 1, 8, 72)
    x[0, 0, ::3, ::5], x[0, 0, 1, 1], x[0, 0, 1, 2] = np.nan, np.inf, -np.inf
    result = stored(loaded(x, 2, 4), shift=0.25, limits=(np.float32(-0.5), np.float32(0.75)))
    np.testing.assert_array_equal(result, np.clip(x + np.float32(0.25), -0.5, 0.75))


def lifted(x: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Lift ``(stride, outer, cells, inner)`` planes along the cells, between borders of NaN."""
    stride, outer, cells, inner = x.shape
    pitch, before = outer * (cells + 2) * inner + 3, inner + 5
    array = np.full(before + stride * pitch + inner, np.nan, np.float32)
    planes = np.stack([array[before + i * pitch :][: pitch - 3] for i in range(stride)])
    planes = planes.reshape(stride, outer, cells + 2, inner)
    planes[:, :, 1:-1] = x
    for i in range(stride):
        array[before + i * pitch :][: pitch - 3] = planes[i].ravel()
    lift(Stack(array, before, pitch, stride), outer, cells, inner, inverse)
    planes = [array[before + i * pitch :][: pitch - 3].reshape(outer, cells + 2, inner) for i in range(stride)]
    return np.stack(planes)[:, :, 1:-1]


SHAPES = [(1, 1, 1), (1, 2, 1), (2, 3, 5), (7, 16, 1), (3, 50, 1), (2, 5, 33)]


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_lifting_backwards_undoes_it(stride: int, shape: tuple[int, int, int]) -> None:
    x = normal(stride, *shape)
    forwards = lifted(x)
    assert (stride == 1) is bool((forwards == x).all())
    terms = 16 * stride  # a composed filter has about eight taps per sample of a cell, forwards and backwards
    # In between, values grow: the factors that bring packets to scale are left out.
    assert_close_float32(lifted(forwards, inverse=True), x, terms=terms, factor=4)
    assert_close_float32(lifted(lifted(x, inverse=True)), x, terms=terms, factor=4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_level_is_that_of_pywavelets(shape: tuple[int, int, int]) -> None:
    outer, cells, inner = shape
    x = normal(outer, 2 * cells, inner)
    low, high = (
        lifted(x.reshape(outer, cells, 2, inner).transpose(2, 0, 1, 3))
        * np.array(GAINS, np.float32)[:, None, None, None]
    )
    expected = pywt.dwt(x.astype(np.float64), "bior4.4", "periodization", axis=1)
    assert_close_float32(np.stack([low, high]), np.stack(expected).astype(np.float32), terms=16)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_lifting_lets_nan_pass(value: float) -> None:
    x = normal(8, 2, 40, 1)
    x[3, 1, 20] = value
    for result in (lifted(x), lifted(x, inverse=True)):
        assert not np.isfinite(result[:, 1, 20]).any()
        assert np.isfinite(result[:, 0]).all()
        assert np.isfinite(result[:, 1, [*range(15), *range(26, 40)]]).all()


def rounded_up(weight: np.ndarray) -> np.ndarray:
    return np.pad(weight, ((0, -weight.shape[0] % SUMS), (0, -weight.shape[1] % TERMS)))


@pytest.mark.parametrize("latents", [1, 3, 4, 5, 12, 13])
@pytest.mark.parametrize("packets", [1, 7, 8, 9, 24, 27])
@pytest.mark.parametrize("size", [1, 7, 16, 37, 131])
def test_combine_is_a_product_of_matrices(latents: int, packets: int, size: int) -> None:
    weight, x, y = normal(latents, packets), normal(packets, size + 3), normal(latents + -latents % SUMS, size + 5)
    result = np.concatenate([np.full(3, np.nan, np.float32), y.ravel()])
    memory = np.concatenate([np.full(7, np.nan, np.float32), x.ravel()])
    matrix = rounded_up(weight)
    combine(matrix, Stack(memory, 7, size + 3, packets), Stack(result, 3, size + 5, len(matrix)), size)
    expected = y.astype(np.float64)
    expected[:latents, :size] += weight.astype(np.float64) @ x[:, :size]
    assert_close_float32(result[3:].reshape(y.shape), expected.astype(np.float32), terms=packets + 1)
    np.testing.assert_array_equal(result[3:].reshape(y.shape)[:, size:], y[:, size:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_combine_lets_nan_pass(value: float) -> None:
    weight, x, y = np.ones((4, 24), np.float32), normal(24, 40), np.zeros((4, 40), np.float32)
    x[17, 21] = value
    combine(weight, Stack(x.ravel(), 0, 40, 24), Stack(y.reshape(-1), 0, 40, 4), 40)
    np.testing.assert_array_equal(y[:, 21], [value] * 4)
    assert np.isfinite(np.delete(y, 21, 1)).all()


@pytest.mark.parametrize(("rows", "row"), list(itertools.product((1, 3, 10, 97), (3, 16, 30, 500, 2000))))
def test_groups_of_rows_start_aligned(rows: int, row: int) -> None:
    group = rows_at_once(rows, row)
    assert group >= 1
    assert group >= rows or group * row % ALIGN == 0


@pytest.mark.parametrize(("n", "h", "w"), [(1, 8, 8), (2, 24, 16), (1, 72, 40), (1, 48, 400)])
@pytest.mark.parametrize("channels", [1, 3])
def test_analyze_and_synthesize_invert_each_other(n: int, h: int, w: int, channels: int) -> None:
    x, packets = normal(n, channels, h, w), 64 * channels
    planes = loaded(x, 8, 8)
    eye, bias = np.eye(packets, dtype=np.float32), normal(packets)
    z = unwritten(planes.grid, packets)
    forwards = eye.reshape(packets, 8, 8 * channels).transpose(1, 0, 2).copy()
    analyze(planes, forwards, bias, z)
    backwards = eye.reshape(8, 8 * channels, packets).copy()
    back = Planes(unwritten(planes.grid, packets + SUMS), *planes[1:])
    synthesize(z, packets, backwards, -bias.reshape(8, -1), back)
    assert_close_float32(stored(back), x, terms=(16 * 8) ** 2)  # as above, along both axes

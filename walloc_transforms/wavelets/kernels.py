"""Lifting kernels, compiled by numba: the arithmetic of ``lifting.py``, for one tile.

A level of the CDF 9/7 wavelet (``bior4.4``) is four lifting steps, each of which adds a multiple of two neighbors to
every second sample (Daubechies and Sweldens, 1998): far fewer multiply-adds than convolution. To make every step a long
contiguous loop, samples lie in *planes*: with a stride of ``S = 2**J``, plane ``(v, j, c)`` holds the samples
``(S m + v, S k + j)`` of channel c for all cells ``(m, k)``.

    pixels --load--> S * S * C planes --lift columns--> --lift rows--> packets --combine--> D planes of latents
    pixels <-store-- S * S * C planes <--lift columns-- <--lift rows-- packets <--combine-- D planes of latents

A step reads planes of its own cell or of the next. The next cell's plane is the same plane, read one cell further: for
that, every plane has a border of one cell, which is filled periodically when it is needed. Lifting leaves out the
factors of low and high packets, so the matrix of ``combine`` holds them.

Every sample goes through the same operations in the same order however a signal is tiled, so tiling changes no bit.

All that is compiled is in this one file: numba's cache notices a change of the file that holds a function, but not of
the files that hold what it calls.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

__all__ = ["ALIGN", "GAINS", "LANES", "SUMS", "TERMS", "Grid", "Places", "Planes", "Stack"]
__all__ += ["analyze", "combine", "layout", "lift", "load", "rows_at_once", "store", "synthesize"]

# Lifting steps in turn on odd and even samples, and the factors that bring low and high packets to PyWavelets' scale.
_STEPS = np.array([-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971], np.float32)
GAINS = (1.149604398860241, -0.869864451624781)

ALIGN = 16  # values of a vector, and of a line of the cache
SUMS, TERMS = 4, 8  # planes that are computed at once, and planes that they are computed from
LANES = 1024  # cells that a loop should run over: to start a loop takes as long as about a hundred


class Grid(NamedTuple):
    """The shape of a plane, ``(images, rows + 2 * border, columns + 2)``, counted in cells.

    ``border`` is 1 for images and 0 for waveforms, whose rows have nothing to do with each other.
    """

    images: int
    rows: int
    columns: int
    border: int


class Planes(NamedTuple):
    """The planes of a tile.

    Attributes:
        memory: Flat array of ``height * width * channels`` planes, in that order; :func:`layout` finds them.
        grid: Shape of each.
        height: Rows of a cell; 1 for waveforms and for latents.
        width: Columns of a cell; 1 for latents.
        channels: Number of channels.
    """

    memory: np.ndarray
    grid: Grid
    height: int
    width: int
    channels: int


class Places(NamedTuple):
    """Where the samples of a tile lie in the flat memory of the signals.

    Attributes:
        images: Where each image starts.
        rows: Where each row of the tile starts in an image, ``(rows of a cell, cells)``, unsigned: an index that may
            count from the end is slower.
        columns: Where each column of the tile lies in a row, ``(columns of a cell, cells)``, unsigned.
        channel: From one channel to the next.
    """

    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    channel: int


class Stack(NamedTuple):
    """Planes that lie ``pitch`` apart in ``memory``, the first at ``start``; or the same part of each of them."""

    memory: np.ndarray
    start: int
    pitch: int
    planes: int


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    # Contraction to fused multiply-adds is the only liberty that the compiler may take: NaN must come through.
    options: dict[str, Any] = {"fastmath": {"contract"}, "nogil": True}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # there is no folder to keep the machine code in
        return numba.njit(function, **options)


@_jit
def layout(grid):
    """Return where the first plane starts in the array, and how far planes are apart: both multiples of ``ALIGN``.

    Values before, between and behind planes may be read, and mean nothing.
    """
    rows, columns = grid.images * (grid.rows + 2 * grid.border), grid.columns + 2
    return _up(columns, ALIGN), _up(rows * columns, ALIGN)


@_jit
def _up(value, multiple):
    return -(-value // multiple) * multiple


@_jit
def load(x, places, planes):
    """Copy samples from ``x``, the flat memory of the signals, to planes.

    Args:
        x: Flat array.
        places: Which samples, for every cell of the grid.
        planes: The planes to fill; their borders are not written.
    """
    memory, grid, height, width, channels = planes
    images, rows, columns, channel = places
    m, k = grid.rows, grid.columns
    origin, pitch = layout(grid)
    for i in range(images.size):
        for row in range(m):
            to = (i * (m + 2 * grid.border) + grid.border + row) * (k + 2) + 1
            for v in range(height):
                for j in range(width):
                    samples = columns[j]
                    for c in range(channels):
                        source = np.uint64(images[i] + c * channel) + rows[v, row]
                        target = np.uint64(origin + ((v * width + j) * channels + c) * pitch + to)
                        for cell in range(k):
                            n = np.uint64(cell)
                            memory[target + n] = x[source + samples[n]]


@_jit
def store(planes, skip, shift, limits, out, start, strides):
    """Copy planes, plus ``shift`` and clamped, to ``out``, the flat memory of the signals.

    Args:
        planes: The planes to copy, without their borders.
        skip: Rows and columns of cells to leave out at either side.
        shift: Added to every value, float32.
        limits: What values are clamped to, float32; NaN stays.
        out: Flat array.
        start: Where the first sample belongs.
        strides: From an image, a channel and a row to the next; samples of a row lie side by side.
    """
    memory, grid, height, width, channels = planes
    low, high = limits
    origin, pitch = layout(grid)
    m, k = grid.rows - 2 * skip[0], grid.columns - 2 * skip[1]
    for i in range(grid.images):
        for c in range(channels):
            for r in range(m * height):
                row = start + i * strides[0] + c * strides[1] + r * strides[2]
                first = i * (grid.rows + 2 * grid.border) + grid.border + skip[0] + r // height
                first = first * (grid.columns + 2) + 1 + skip[1]
                for j in range(width):
                    plane = origin + ((r % height * width + j) * channels + c) * pitch + first
                    source, target = np.uint64(plane), np.uint64(row + j)
                    for cell in range(k):
                        n = np.uint64(cell)
                        value = memory[source + n] + shift
                        value = low if value < low else value
                        out[target + n * np.uint64(width)] = high if value > high else value


@_jit
def _step(x, to, left, right, size, factor):
    # Unsigned offsets into one array make a vector loop. Signed ones, which may count from the end, do not, and to make
    # slices takes as long as many of these loops.
    to, left, right = np.uint64(to), np.uint64(left), np.uint64(right)
    for n in range(size):
        i = np.uint64(n)
        x[to + i] += factor * (x[left + i] + x[right + i])


@_jit
def _copy(x, to, source, count, pitch, size):
    for i in range(count):
        a, b = np.uint64(to + i * pitch), np.uint64(source + i * pitch)
        for n in range(size):
            x[a + np.uint64(n)] = x[b + np.uint64(n)]


@_jit
def lift(stack, outer, cells, inner, inverse):
    """Transform planes, which are the samples of each cell, along their middle axis, or undo that.

    The steps run over borders too, which takes less time than vectors that do not start at a multiple of ``ALIGN``.

    Args:
        stack: A power of two of planes ``(outer, cells + 2, inner)``, changed in place.
        outer: Length of the first axis.
        cells: Length of the middle axis without its borders, which are overwritten.
        inner: Length of the last axis.
        inverse: Whether to undo it.
    """
    x, start, pitch, stride = stack
    row = (cells + 2) * inner
    size = outer * row
    level = stride // 2 if inverse else 1
    while 0 < level < stride:
        for first in range(level):
            for i in range(4):
                step = 3 - i if inverse else i
                factor = -_STEPS[step] if inverse else _STEPS[step]
                for even in range(first, stride, 2 * level):
                    odd = even + level
                    if step % 2 == 0:  # odd samples, from the even ones beside them
                        to, left, right = odd, even, odd + level
                    else:
                        to, left, right = even, even - level, odd
                    to, left, right = start + to * pitch, start + left * pitch, start + right * pitch
                    if right >= start + stride * pitch:  # a sample of the next cell
                        right -= stride * pitch
                        _copy(x, right + (cells + 1) * inner, right + inner, outer, row, inner)
                        right += inner
                    if left < start:  # a sample of the cell before
                        left += stride * pitch
                        _copy(x, left, left + cells * inner, outer, row, inner)
                        left -= inner
                    _step(x, to, left, right, size, factor)
        level = level // 2 if inverse else level * 2


@_jit
def _dot(w, a, b, c, d, e, f, g, h):
    return (w[0] * a + w[1] * b + w[2] * c + w[3] * d) + (w[4] * e + w[5] * f + w[6] * g + w[7] * h)


@_jit
def _add(x, at, weights, y, size):
    """Add eight planes of ``x``, which start ``at``, to each of four of stack ``y``, with eight factors each."""
    at0, at1, at2, at3, at4, at5, at6, at7 = at
    w0, w1, w2, w3 = weights
    y, start, pitch, _ = y
    y0, pitch = np.uint64(start), np.uint64(pitch)
    y1 = y0 + pitch
    y2 = y1 + pitch
    y3 = y2 + pitch
    for n in range(size):
        i = np.uint64(n)
        a, b, c, d = x[at0 + i], x[at1 + i], x[at2 + i], x[at3 + i]
        e, f, g, h = x[at4 + i], x[at5 + i], x[at6 + i], x[at7 + i]
        y[y0 + i] += _dot(w0, a, b, c, d, e, f, g, h)
        y[y1 + i] += _dot(w1, a, b, c, d, e, f, g, h)
        y[y2 + i] += _dot(w2, a, b, c, d, e, f, g, h)
        y[y3 + i] += _dot(w3, a, b, c, d, e, f, g, h)


@_jit
def _eight(values):
    return values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7]


@_jit
def combine(weight, x, y, size):
    """Add ``weight @ x`` to ``y``.

    Args:
        weight: Float32 matrix, with a multiple of ``SUMS`` rows and of ``TERMS`` columns; columns beyond the planes of
            ``x`` are zero.
        x: Stack of planes to take.
        y: Stack of planes to add to, one for every row of the matrix.
        size: Values of each plane.
    """
    at = np.empty(TERMS, np.uint64)
    for i in range(0, weight.shape[1], TERMS):
        for n in range(TERMS):
            at[n] = x.start + min(i + n, x.planes - 1) * x.pitch
        for o in range(0, weight.shape[0], SUMS):
            factors = (
                _eight(weight[o, i:]),
                _eight(weight[o + 1, i:]),
                _eight(weight[o + 2, i:]),
                _eight(weight[o + 3, i:]),
            )
            sums = Stack(y.memory, y.start + o * y.pitch, y.pitch, SUMS)
            _add(x.memory, _eight(at), factors, sums, size)


@_jit
def rows_at_once(rows, row):
    """Choose how many of ``rows`` rows of ``row`` values to take at once: ``LANES`` values or so, starting aligned."""
    groups = max(1, rows * row // LANES)
    aligned = 1
    while aligned * row % ALIGN:
        aligned *= 2
    return _up(-(-rows // groups), aligned)


@_jit
def analyze(planes, weight, bias, latents):
    """Lift a tile and combine its packets to latents.

    Args:
        planes: Samples, as :func:`load` leaves them; overwritten.
        weight: ``(height, D, width * channels)``; D is rounded up to a multiple of ``SUMS``, the columns to a multiple
            of ``TERMS``.
        bias: ``(D,)``, rounded up too.
        latents: Memory of D planes to fill; what their borders hold then means nothing.
    """
    x, grid, height, width, channels = planes
    origin, pitch = layout(grid)
    row, per_row = grid.columns + 2, width * channels
    for plane in range(per_row):
        lift(Stack(x, origin + plane * pitch, per_row * pitch, height), grid.images, grid.rows, row, False)
    rows = grid.images * (grid.rows + 2 * grid.border)
    group = rows_at_once(rows, row)
    for first in range(0, rows, group):
        count = min(group, rows - first)
        size, start = count * row, origin + first * row
        for d in range(weight.shape[1]):
            latents[d * pitch + start : d * pitch + start + size] = bias[d]
        for v in range(height):
            packets = v * per_row * pitch + start
            for c in range(channels):
                lift(Stack(x, packets + c * pitch, channels * pitch, width), count, grid.columns, 1, False)
            combine(weight[v], Stack(x, packets, pitch, per_row), Stack(latents, start, pitch, weight.shape[1]), size)


@_jit
def synthesize(latents, count, weight, bias, planes):
    """Combine latents to packets and undo the lifting: the inverse of :func:`analyze`.

    Args:
        latents: Memory of planes of latents, as :func:`load` leaves them.
        count: Number of latent channels D.
        weight: ``(height, width * channels, D)``; the planes are rounded up to a multiple of ``SUMS``, D to a multiple
            of ``TERMS``.
        bias: ``(height, width * channels)``.
        planes: The planes to fill. Their memory has room for as many more as the weight was rounded up by.
    """
    y, grid, height, width, channels = planes
    origin, pitch = layout(grid)
    row, per_row = grid.columns + 2, width * channels
    rows = grid.images * (grid.rows + 2 * grid.border)
    group = rows_at_once(rows, row)
    for first in range(0, rows, group):
        lines = min(group, rows - first)
        size, start = lines * row, origin + first * row
        for v in range(height):
            packets = v * per_row * pitch + start
            for plane in range(per_row):
                y[packets + plane * pitch : packets + plane * pitch + size] = bias[v, plane]
            combine(weight[v], Stack(latents, start, pitch, count), Stack(y, packets, pitch, weight.shape[1]), size)
            for c in range(channels):
                lift(Stack(y, packets + c * pitch, channels * pitch, width), lines, grid.columns, 1, True)
    for plane in range(per_row):
        lift(Stack(y, origin + plane * pitch, per_row * pitch, height), grid.images, grid.rows, row, True)

"""Lifting kernels, compiled by numba: the arithmetic of :mod:`walloc_transforms.wavelets.lifting`, for one tile.

A level of the CDF 9/7 wavelet (``bior4.4``) is four lifting steps, each of which adds a multiple of two neighbors to
every second sample (Daubechies and Sweldens, 1998): far fewer multiply-adds than convolution. So that every step is a
long contiguous loop, samples lie in *planes*: with a stride of ``S = 2**J``, plane ``(v, j, c)`` holds the samples
``(S m + v, S k + j)`` of channel c for all cells ``(m, k)``.

    pixels --load--> S * S * C planes --lift columns--> --lift rows--> packets --combine--> D planes of latents
    pixels <-store-- S * S * C planes <--lift columns-- <--lift rows-- packets <--combine-- D planes of latents

A step reads planes of its own cell or of the next, which is the same plane read one cell further; the border of one
cell around every plane is there for that, and filled periodically when it is needed. The factors that lifting leaves
out go into the matrix of ``combine``. All planes of a tile lie in one flat array, as :class:`Grid` says.

Results do not depend on how a signal is tiled, to the last bit: every sample goes through the same operations in the
same order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

__all__ = ["ALIGN", "GAINS", "LANES", "SUMS", "TERMS", "Grid", "analyze", "layout", "load", "store", "synthesize"]

# Lifting steps in turn on odd and even samples, and what brings low and high bands to the scale of PyWavelets.
_STEPS = np.array([-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971], np.float32)
GAINS = (1.149604398860241, -0.869864451624781)

ALIGN = 16  # values of a vector or of a line of the cache
SUMS, TERMS = 4, 8  # so many planes are computed from so many at once
LANES = 1024  # cells that a loop should run over: starting one costs as much as about a hundred


class Grid(NamedTuple):
    """The planes of a tile: ``(images, rows + 2 * border, columns + 2)``, counted in cells.

    ``border`` is 1 for images and 0 for waveforms, whose rows have nothing to do with each other.
    """

    images: int
    rows: int
    columns: int
    border: int


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    # Contracting to fused multiply-adds is the only liberty taken: NaN must come through.
    options: dict[str, Any] = {"fastmath": {"contract"}, "nogil": True}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # there is no folder to keep the machine code in
        return numba.njit(function, **options)


@_jit
def layout(grid):
    """Where the first plane starts in the array, and how far planes are apart: at multiples of ``ALIGN``.

    What lies before, between and behind is there to be read, and holds no meaning.
    """
    rows, columns = grid.images * (grid.rows + 2 * grid.border), grid.columns + 2
    return _up(columns, ALIGN), _up(rows * columns, ALIGN)


@_jit
def _up(value, multiple):
    return -(-value // multiple) * multiple


@_jit
def load(x, images, rows, columns, channels, channel_stride, grid, planes):
    """Copy samples to planes.

    Args:
        x: The memory of the signals, flat.
        images: Where each image starts in ``x``.
        rows: Where each row of the tile starts in an image, ``(rows of a cell, cells)``.
        columns: Where each column of the tile lies in a row, ``(columns of a cell, cells)``. Both are unsigned: indices
            that may count from the end are slower.
        channels: Number of channels.
        channel_stride: From one channel to the next in ``x``.
        grid: Of the planes.
        planes: Flat array of ``rows of a cell * columns of a cell * channels`` planes.
    """
    (height, m), (width, k) = rows.shape, columns.shape
    origin, pitch = layout(grid)
    for i in range(images.size):
        for row in range(m):
            to = (i * (m + 2 * grid.border) + grid.border + row) * (k + 2) + 1
            for v in range(height):
                for j in range(width):
                    places = columns[j]
                    for c in range(channels):
                        source = np.uint64(images[i] + c * channel_stride) + rows[v, row]
                        target = np.uint64(origin + ((v * width + j) * channels + c) * pitch + to)
                        for cell in range(k):
                            n = np.uint64(cell)
                            planes[target + n] = x[source + places[n]]


@_jit
def store(planes, shift, low, high, height, width, grid, skip_rows, skip_columns, out, channels, start, strides):
    """Copy planes, plus ``shift`` and clamped, to ``out``.

    Args:
        planes: Flat array of ``height * width * channels`` planes.
        shift: Added to every value.
        low: What values are clamped to; NaN stays.
        high: Likewise.
        height: Rows of a cell.
        width: Columns of a cell.
        grid: Of the planes.
        skip_rows: Rows of cells to leave out at either side.
        skip_columns: Likewise.
        out: The memory of the signals, flat.
        channels: Number of channels.
        start: Where the first sample belongs in ``out``.
        strides: From an image, a channel and a row to the next in ``out``; samples of a row lie side by side.
    """
    origin, pitch = layout(grid)
    m, k = grid.rows - 2 * skip_rows, grid.columns - 2 * skip_columns
    for i in range(grid.images):
        for c in range(channels):
            for r in range(m * height):
                row = start + i * strides[0] + c * strides[1] + r * strides[2]
                first = i * (grid.rows + 2 * grid.border) + grid.border + skip_rows + r // height
                first = first * (grid.columns + 2) + 1 + skip_columns
                for j in range(width):
                    plane = origin + ((r % height * width + j) * channels + c) * pitch + first
                    source, target = np.uint64(plane), np.uint64(row + j)
                    for cell in range(k):
                        n = np.uint64(cell)
                        value = planes[source + n] + shift
                        value = low if value < low else value
                        out[target + n * np.uint64(width)] = high if value > high else value


@_jit
def _step(x, to, left, right, size, factor):
    # Unsigned offsets into one array make a vector loop; signed ones, which may count from the end, do not, and slices
    # take as long to make as many a loop.
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
def _lift(x, start, pitch, stride, outer, cells, inner, inverse):
    """Transform ``stride`` planes, ``pitch`` apart, along their middle axis; each ``(outer, cells + 2, inner)``.

    Steps run over borders too, which costs less than vectors that do not start at a multiple of ``ALIGN``.
    """
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
def _add(x, at, w0, w1, w2, w3, y, start, pitch, size):
    """Add eight planes of ``x``, which start ``at``, to each of four of ``y``, with eight factors each."""
    at0, at1, at2, at3, at4, at5, at6, at7 = at
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
def _combine(weight, x, x_start, x_pitch, x_planes, y, y_start, y_pitch, size):
    """Add ``weight @ x`` to ``y``: both planes, of which ``size`` values are taken.

    The weight has a multiple of ``SUMS`` rows, and ``y`` as many planes; its columns are a multiple of ``TERMS``, and
    those beyond the planes of ``x`` are zero.
    """
    at = np.empty(TERMS, np.uint64)
    for i in range(0, weight.shape[1], TERMS):
        for n in range(TERMS):
            at[n] = x_start + min(i + n, x_planes - 1) * x_pitch
        for o in range(0, weight.shape[0], SUMS):
            _add(
                x,
                _eight(at),
                _eight(weight[o, i:]),
                _eight(weight[o + 1, i:]),
                _eight(weight[o + 2, i:]),
                _eight(weight[o + 3, i:]),
                y,
                y_start + o * y_pitch,
                y_pitch,
                size,
            )


@_jit
def _group(rows, row):
    """How many of the rows to take at once, so that each time there are enough values, and they start aligned."""
    groups = max(1, rows * row // LANES)
    aligned = 1
    while aligned * row % ALIGN:
        aligned *= 2
    return _up(-(-rows // groups), aligned)


@_jit
def analyze(planes, height, width, channels, grid, weight, bias, z):
    """Lift a tile and combine the packets to latents.

    Args:
        planes: As :func:`load` leaves them; overwritten.
        height: Rows of a cell, to lift along; 1 for waveforms.
        width: Columns of a cell.
        channels: Number of channels.
        grid: Of the planes.
        weight: ``(height, D, width * channels)``; rounded up to multiples of ``SUMS`` and ``TERMS``.
        bias: ``(D,)``, rounded up likewise.
        z: Flat array of D planes to fill; what their borders hold has no meaning.
    """
    origin, pitch = layout(grid)
    row = grid.columns + 2
    for plane in range(width * channels):
        start = origin + plane * pitch
        _lift(planes, start, width * channels * pitch, height, grid.images, grid.rows, row, False)
    rows = grid.images * (grid.rows + 2 * grid.border)
    group = _group(rows, row)
    for first in range(0, rows, group):
        count = min(group, rows - first)
        size, start = count * row, origin + first * row
        for d in range(weight.shape[1]):
            z[d * pitch + start : d * pitch + start + size] = bias[d]
        for v in range(height):
            packets = v * width * channels * pitch + start
            for c in range(channels):
                _lift(planes, packets + c * pitch, channels * pitch, width, count, grid.columns, 1, False)
            _combine(weight[v], planes, packets, pitch, width * channels, z, start, pitch, size)


@_jit
def synthesize(z, latents, height, width, channels, grid, weight, bias, planes):
    """Combine latents to packets and undo the lifting: the inverse of :func:`analyze`, which explains the arguments.

    Args:
        z: Planes of latents, as :func:`load` leaves them.
        latents: Their number.
        height: Rows of a cell.
        width: Columns of a cell.
        channels: Number of channels.
        grid: Of the planes.
        weight: ``(height, width * channels, D)``; rounded up to multiples of ``SUMS`` and ``TERMS``.
        bias: ``(height, width * channels)``.
        planes: The planes to fill, and as many more as the weight was rounded up by.
    """
    origin, pitch = layout(grid)
    row = grid.columns + 2
    rows = grid.images * (grid.rows + 2 * grid.border)
    group = _group(rows, row)
    for first in range(0, rows, group):
        count = min(group, rows - first)
        size, start = count * row, origin + first * row
        for v in range(height):
            packets = v * width * channels * pitch + start
            for plane in range(width * channels):
                planes[packets + plane * pitch : packets + plane * pitch + size] = bias[v, plane]
            _combine(weight[v], z, start, pitch, latents, planes, packets, pitch, size)
            for c in range(channels):
                _lift(planes, packets + c * pitch, channels * pitch, width, count, grid.columns, 1, True)
    for plane in range(width * channels):
        start = origin + plane * pitch
        _lift(planes, start, width * channels * pitch, height, grid.images, grid.rows, row, True)

"""Analysis of images, compiled by numba: the arithmetic of ``lifting.py`` for a tile, a vector at a time.

The steps of lifting are those of ``kernels.py``. Here a vector holds the samples of several columns, or of the same
place in several rows of cells, so a level runs along an axis with all that it must remember in registers: every sample
is read once and written once per level.

    rows of pixels --a strip, LANES values wide, to float32--> --lift down the strip--> --transpose--> lines
    lines --lift along each--> packets --multiply by the matrix, compand--> latents

A line holds the samples of row v of LANES cells below each other, ``(width * channels, LANES)``. A strip stays in the
first-level cache, and lines, a few rows of cells at a time, in the second.

Vectors are a type of their own, since numba has none. All that is compiled is in this one file: numba's cache notices a
change of the file that holds a function, but not of the files that hold what it calls.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

__all__ = ["CELLS", "CHANNELS", "LANES", "Image", "analyze_images", "lift", "memory_of"]

_A, _B, _C, _D = (
    np.float32(factor) for factor in (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
)
_FOUR = np.float32(4)  # beyond which erf is 1 to 8 digits
_P = np.array(
    [
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    ],
    np.float32,
)
_Q = np.array(
    [-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02],
    np.float32,
)


def _has_avx512() -> bool:
    try:
        return bool(binding.get_host_cpu_features().get("avx512f"))
    except RuntimeError:  # LLVM does not know them on every system
        return False


LANES = 16 if _has_avx512() else 8  # values of a vector
CHANNELS, CELLS = 4, 3  # of latents that are summed at once, in registers
COLUMNS = 33  # of cells whose packets stay in the second-level cache while all latents are summed


class Image(NamedTuple):
    """The geometry of images in memory.

    Attributes:
        channels: Number of channels.
        height: Rows of pixels.
        width: Columns of pixels.
        side: Rows and columns of a cell.
        strides: From an image, a channel, and a row to the next.
        together: How many channels lie side by side: all of them, or one.
    """

    channels: int
    height: int
    width: int
    side: int
    strides: tuple[int, ...]
    together: int


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    # Contraction to fused multiply-adds is the only liberty that the compiler may take: NaN must come through.
    options: dict[str, Any] = {"fastmath": {"contract"}, "nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # there is no folder to keep the machine code in
        return numba.njit(function, **options)


# vectors


_intrinsic: Any = intrinsic  # which gives functions fewer parameters than type checkers see


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_vector, _WORD = _Vector(), ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _FLOATS)


def _at(context: Any, builder: Any, array: Any, array_type: Any, index: Any) -> Any:
    """Point at a value of a flat array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _read(builder: Any, pointer: Any) -> Any:
    kind = pointer.type.pointee
    values = builder.load(builder.bitcast(pointer, ir.VectorType(kind, LANES).as_pointer()), align=1)
    return builder.uitofp(values, _FLOATS) if isinstance(kind, ir.IntType) else values


def _write(builder: Any, values: Any, pointer: Any) -> None:
    builder.store(values, builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_WORD, LANES), lanes))


def _spread(builder: Any, value: Any) -> Any:
    if value.type == _FLOATS:
        return value
    nothing = ir.Constant(_FLOATS, ir.Undefined)
    return _shuffle(builder, builder.insert_element(nothing, value, ir.Constant(_WORD, 0)), nothing, [0] * LANES)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return builder.call(function, [_spread(builder, factor) for factor in (a, b, c)])


@_intrinsic
def _load(typingctx, array, index):
    def generate(context, builder, signature, args):
        return _read(builder, _at(context, builder, args[0], signature.args[0], args[1]))

    return _vector(array, types.uintp), generate


@_intrinsic
def _store(typingctx, array, index, vector):
    def generate(context, builder, signature, args):
        _write(builder, args[2], _at(context, builder, args[0], signature.args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.uintp, vector), generate


@_intrinsic
def _prefetch(typingctx, array, index):
    """Bring a value that will be needed soon, or does not exist, into the second-level cache."""

    def generate(context, builder, signature, args):
        bytes_ = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [bytes_, _WORD, _WORD, _WORD])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        pointer = builder.bitcast(_at(context, builder, args[0], signature.args[0], args[1]), bytes_)
        builder.call(function, [pointer, *(ir.Constant(_WORD, n) for n in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(array, types.uintp), generate


@_intrinsic
def _step(typingctx, factor, left, right, to):
    """Return ``to + factor * (left + right)``."""

    def generate(context, builder, signature, args):
        factor, left, right, to = args
        return _multiply_add(builder, factor, builder.fadd(left, right), to)

    return _vector(types.float32, left, right, to), generate


@_intrinsic
def _transpose(typingctx, x, start, pitch, y, to, step):
    """Write the vectors that lie ``pitch`` apart in ``x`` as the lanes of vectors that lie ``step`` apart in ``y``."""

    def generate(context, builder, signature, args):
        x, start, pitch, y, to, step = args
        rows = []
        for i in range(LANES):
            index = builder.add(start, builder.mul(pitch, ir.Constant(pitch.type, i)))
            rows.append(_read(builder, _at(context, builder, x, signature.args[0], index)))
        block = LANES // 2
        while block:  # swap the off-diagonal blocks of pairs of rows
            for i in range(LANES):
                if not i & block:
                    a, b = rows[i], rows[i | block]
                    lanes = range(LANES)
                    rows[i] = _shuffle(builder, a, b, [(n ^ block) + LANES if n & block else n for n in lanes])
                    rows[i | block] = _shuffle(builder, a, b, [n + LANES if n & block else n | block for n in lanes])
            block //= 2
        for i, row in enumerate(rows):
            index = builder.add(to, builder.mul(step, ir.Constant(step.type, i)))
            _write(builder, row, _at(context, builder, y, signature.args[3], index))
        return context.get_dummy_value()

    index = types.uintp
    return types.void(x, index, index, y, index, index), generate


_sums = types.UniTuple(_vector, CHANNELS * CELLS)
_places = types.UniTuple(types.uintp, CELLS)


@_intrinsic
def _begin(typingctx, bias, at):
    """Begin the sums for CHANNELS latents of CELLS cells with the numbers that lie ``at`` ."""

    def generate(context, builder, signature, args):
        first = _at(context, builder, args[0], signature.args[0], args[1])
        numbers = [builder.load(builder.gep(first, [ir.Constant(_WORD, d)])) for d in range(CHANNELS)]
        vectors = [_spread(builder, number) for number in numbers for _ in range(CELLS)]
        return context.make_tuple(builder, signature.return_type, vectors)

    return _sums(bias, types.uintp), generate


@_intrinsic
def _add(typingctx, sums, weight, at, x, cells):
    """Add a packet, which lies at ``cells`` in ``x``, times the factors that lie ``at`` ."""

    def generate(context, builder, signature, args):
        sums, weight, at, x, cells = args
        first = _at(context, builder, weight, signature.args[1], at)
        places = cgutils.unpack_tuple(builder, cells)
        packets = [_read(builder, _at(context, builder, x, signature.args[3], place)) for place in places]
        done = []
        for n, total in enumerate(cgutils.unpack_tuple(builder, sums)):
            factor = builder.load(builder.gep(first, [ir.Constant(_WORD, n // CELLS)]))
            done.append(_multiply_add(builder, factor, packets[n % CELLS], total))
        return context.make_tuple(builder, signature.return_type, done)

    return _sums(_sums, weight, types.uintp, x, _places), generate


@_intrinsic
def _put(typingctx, sums, y, pitch, cells):
    """Store the sums at ``cells`` in ``y``, the latents ``pitch`` apart."""

    def generate(context, builder, signature, args):
        sums, y, pitch, cells = args
        places = cgutils.unpack_tuple(builder, cells)
        for n, total in enumerate(cgutils.unpack_tuple(builder, sums)):
            own = builder.add(places[n % CELLS], builder.mul(pitch, ir.Constant(pitch.type, n // CELLS)))
            _write(builder, total, _at(context, builder, y, signature.args[1], own))
        return context.get_dummy_value()

    return types.void(_sums, y, types.uintp, _places), generate


@_intrinsic
def _extremes(typingctx, least, greatest, x):
    """Return the lesser and the greater values of two vectors each."""

    def generate(context, builder, signature, args):
        least, greatest, x = args
        low = builder.select(builder.fcmp_ordered("<", x, least), x, least)
        high = builder.select(builder.fcmp_ordered(">", x, greatest), x, greatest)
        return context.make_tuple(builder, signature.return_type, (low, high))

    return types.UniTuple(_vector, 2)(least, greatest, x), generate


# lifting


@_jit
def _level(x, start, step, pairs):
    """Lift ``2 * pairs`` vectors, which lie ``step`` apart and are periodic, in place by one level."""
    two = step + step
    # Of the pairs before the first, which are the last: after the first step d, after the second s, after the third t.
    e1 = start + np.uint64(pairs - 1) * two
    e2 = start + np.uint64(max(0, pairs - 2)) * two
    e3 = start + np.uint64(pairs - 3 if pairs > 2 else pairs - 1) * two
    first = even = _load(x, start)
    d3 = _step(_A, _load(x, e3), _load(x, e2), _load(x, e3 + step))
    d2 = _step(_A, _load(x, e2), _load(x, e1), _load(x, e2 + step))
    d = _step(_A, _load(x, e1), even, _load(x, e1 + step))
    s = _step(_B, d2, d, _load(x, e1))
    t = _step(_C, _step(_B, d3, d2, _load(x, e2)), s, d2)
    last_high, last_low = d, s
    at = start
    for i in range(pairs):
        after = _load(x, at + two) if i < pairs - 1 else first
        d_new = _step(_A, even, after, _load(x, at + step))
        s_new = _step(_B, d, d_new, even)
        high = _step(_C, s, s_new, d)
        low = _step(_D, t, high, s)
        if i == 0:
            last_high, last_low = high, low
        else:
            _store(x, at - step, high)
            _store(x, at - two, low)
        even, d, s, t = after, d_new, s_new, high
        at += two
    _store(x, e1 + step, last_high)
    _store(x, e1, last_low)


@_jit
def lift(x, start, step, cells, side):
    """Transform vectors of samples along an axis, in place and periodic.

    Args:
        x: Flat array.
        start: Where the first vector lies.
        step: From one to the next.
        cells: Cells along the axis.
        side: Samples of a cell, a power of two; packets take their places in the order of :func:`~.kernels.lift`.
    """
    level = 1
    while level < side:
        for first in range(level):
            begin = np.uint64(start) + np.uint64(first) * np.uint64(step)
            _level(x, begin, np.uint64(step * level), cells * side // (2 * level))
        level *= 2


# tiles


@_jit
def _reflected(i, size, side):
    """Find sample ``i`` of an axis that is periodic, and extended by reflection to whole cells."""
    i %= -(-size // side) * side
    return i if i < size else 2 * (size - 1) - i


@_jit
def _fill(x, rows, start, left, width, side, together, strip):
    """Convert a strip to float32: LANES values of every row, from the value ``left`` on."""
    if left + LANES <= width * together:
        begin = np.uint64(start + left)
        for r in range(len(rows)):
            n = np.uint64(r)
            _store(strip, n * np.uint64(LANES), _load(x, begin + rows[n]))
            _prefetch(x, begin + rows[n] + np.uint64(LANES))
    else:
        for n in range(LANES):  # what lies behind the last cell is not used
            column = _reflected((left + n) // together, width, side)
            begin = np.uint64(start + column * together + (left + n) % together)
            for r in range(len(rows)):
                strip[r * LANES + n] = x[begin + rows[r]]


@_jit
def memory_of(image, signals, cells, halo):
    """Count the values of a strip, of the lines and of the sums of a tile."""
    channels, _, width, side, _, _ = image
    across, rows = -(-width // side), max(signals * (cells + 2 * halo), halo + LANES)
    pitch = -(-across * side // LANES) * LANES * channels  # of a line, with what strips reach beyond its end
    blocks = -(-signals * cells // LANES)
    return rows * side * LANES, blocks * side * pitch * LANES, CHANNELS * COLUMNS * LANES, pitch


@_jit
def _to_lines(x, image, tile, strip, lines):
    """Lift a tile down its columns, and transpose it."""
    first, signals, start, cells, halo = tile
    channels, height, width, side, strides, together = image
    across, pitch = -(-width // side), memory_of(image, signals, cells, halo)[3]
    count, step, per_image = signals * cells, channels // together * LANES, (cells + 2 * halo) * side
    rows = np.empty(signals * per_image, np.uint64)
    for i in range(signals):
        for r in range(per_image):
            row = _reflected((start - halo) * side + r, height, side)
            rows[i * per_image + r] = i * strides[0] + row * strides[2]
    for plane in range(channels // together):
        for left in range(0, across * side * together, LANES):
            _fill(x, rows, first * strides[0] + plane * strides[1], left, width, side, together, strip)
            for i in range(signals):
                lift(strip, i * per_image * LANES, LANES, cells + 2 * halo, side)
            for block in range(-(-count // LANES)):
                cell = halo + max(0, min(block * LANES, count - LANES))  # the last block may repeat some rows
                for v in range(side):
                    source = np.uint64((cell * side + v) * LANES)
                    line = (block * side + v) * pitch + left * (channels // together) + plane
                    _transpose(strip, source, np.uint64(side * LANES), lines, np.uint64(line * LANES), np.uint64(step))


@_jit
def _project(lines, at, pitch, columns, side, width, weight, group, bias, sums):
    """Multiply packets by the matrix, for CHANNELS latents: ``sums[latents, columns of cells, lanes]``."""
    begin = _begin(bias, np.uint64(group * CHANNELS))
    cell = np.uint64(width * LANES)
    for column in range(0, columns, CELLS):
        # The last cells may repeat the very last one.
        a, b, c = np.uint64(column), np.uint64(min(column + 1, columns - 1)), np.uint64(min(column + 2, columns - 1))
        total, factor = begin, np.uint64(group * side * width * CHANNELS)
        for v in range(side):
            line = np.uint64(at + v * pitch * LANES)
            x, y, z = line + a * cell, line + b * cell, line + c * cell
            for packet in range(width):
                n = np.uint64(packet * LANES)
                total = _add(total, weight, factor, lines, (x + n, y + n, z + n))
                factor += np.uint64(CHANNELS)
        lanes = np.uint64(LANES)
        _put(total, sums, np.uint64(columns * LANES), (a * lanes, b * lanes, c * lanes))


@_jit
def _look(sums, start, size):
    """Find the least and the greatest of some values; the least is NaN if one of them is not finite."""
    low = high = _load(sums, np.uint64(start))
    finite = _step(np.float32(-0.5), low, low, low)  # 0, or NaN
    for n in range(start, start + size, LANES):
        x = _load(sums, np.uint64(n))
        low, high = _extremes(low, high, x)
        finite = _step(np.float32(0), x, x, finite)
    own = np.empty(3 * LANES, np.float32)
    _store(own, np.uint64(0), low)
    _store(own, np.uint64(LANES), high)
    _store(own, np.uint64(2 * LANES), finite)
    return own[:LANES].min() + own[2 * LANES :].sum(), own[LANES : 2 * LANES].max()


@_jit
def _squeeze(x, slope, limit, size):
    """Replace values by ``limit * erf(slope * x)``, within 4e-7 of the limit: a quotient of polynomials."""
    for n in range(size):
        v = x[np.uint64(n)] * slope
        v = _FOUR if v > _FOUR else v
        v = -_FOUR if v < -_FOUR else v
        s = v * v
        p = ((((((_P[0] * s + _P[1]) * s + _P[2]) * s + _P[3]) * s + _P[4]) * s + _P[5]) * s + _P[6]) * v
        q = (((_Q[0] * s + _Q[1]) * s + _Q[2]) * s + _Q[3]) * s + _Q[4]
        x[np.uint64(n)] = limit * (p / q)


@_jit
def analyze_images(x, image, tile, weight, bias, squeeze, found, out, memory):
    """Compute the latents of a tile.

    Args:
        x: Flat memory of the images, uint8 or float32.
        image: An :class:`Image`.
        tile: Its first image, number of images, first row of cells, rows of cells, and rows of cells around it.
        weight: ``(D / CHANNELS, side, side * channels, CHANNELS)``, flat.
        bias: ``(D,)``, rounded up too.
        squeeze: Slope and limit of what is done to latents at last, ``limit * erf(slope * z)``; nothing if they are 0.
        found: ``(2, n)``: gets the least and the greatest value of the first n channels before that, or NaN.
        out: Latents of all images.
        memory: Flat, as large as :func:`memory_of` says.
    """
    first, signals, start, cells, halo = tile
    channels, _, width, side, _, _ = image
    slope, limit = squeeze
    in_strip, in_lines, in_sums, pitch = memory_of(image, signals, cells, halo)
    strip, lines = memory[:in_strip], memory[in_strip : in_strip + in_lines]
    sums = memory[in_strip + in_lines :][:in_sums]
    across, count = -(-width // side), signals * cells
    found[0], found[1] = np.inf, -np.inf
    if count < LANES:
        strip[count * side * LANES :] = 0  # rows of no image
    _to_lines(x, image, tile, strip, lines)
    for block in range(-(-count // LANES)):
        top, at = max(0, min(block * LANES, count - LANES)), block * side * pitch * LANES
        for v in range(side):
            for c in range(channels):
                lift(lines, at + (v * pitch + c) * LANES, channels * LANES, across, side)
        for left in range(0, across, COLUMNS):
            columns, packets = min(COLUMNS, across - left), at + left * side * channels * LANES
            for d in range(0, out.shape[1], CHANNELS):
                _project(lines, packets, pitch, columns, side, side * channels, weight, d // CHANNELS, bias, sums)
                for n in range(d, min(d + CHANNELS, found.shape[1])):
                    least, greatest = _look(sums, (n - d) * columns * LANES, columns * LANES)
                    found[0, n] = least if least < found[0, n] else found[0, n] + 0 * least  # NaN stays
                    found[1, n] = max(found[1, n], greatest)
                if limit:
                    _squeeze(sums, slope, limit, CHANNELS * columns * LANES)
                for n in range(min(CHANNELS, out.shape[1] - d)):
                    for lane in range(min(LANES, count)):
                        row = out[first + (top + lane) // cells, d + n, start + (top + lane) % cells]
                        for k in range(columns):
                            row[left + k] = sums[np.uint64((n * columns + k) * LANES + lane)]

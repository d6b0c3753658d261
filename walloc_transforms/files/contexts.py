"""Context modeling of integer latents: every code becomes a residual and a class that says how large it may be.

A channel is coded in passes over interlaced sites (`interlacing.py`): the base is predicted by one
number, the channel's mean, and all others from their four neighbors. Smooth channels have two levels, others one.

A site's *activity* estimates the size of its residual in 1/256: a constant, plus the spread of its four neighbors
around the prediction, plus the residuals of the channels before at the same place, each by a weight that the encoder
fits by least squares and writes. The class is the activity's logarithm, an octave each. Within a pass, residuals lie
sorted by class.

Whatever the reader computes is integer arithmetic, so it comes out the same on every machine. How the encoder finds its
weights is its own affair.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .interlacing import BASE, CROSS, DIAGONAL, gather, neighbors, passes, scatter, sites

__all__ = ["CLASSES", "ChannelSymbols", "Reconstruction", "analyze", "scale"]

Ints = NDArray[np.int32]

DEEP = 2  # levels of smooth channels; others have 1
SMOOTH = 0.6  # correlation of neighbors from which a channel counts as smooth
CROP = 32  # side of the crop that tells
BLOCK = 2**18  # values that are analyzed at once, so that temporary arrays stay in cache
SAMPLES = 512  # residuals per channel and pass that weights are fitted to

_WORKING = {np.dtype(np.int8): np.int16, np.dtype(np.int16): np.int32}  # hold sums and differences
_LIMITS = {np.dtype(np.int8): (-128, 127), np.dtype(np.int16): (-32768, 32767)}


_FLOOR = 4  # the lowest activity, in 1/256
CLASSES = 27  # activities stay below 2**29

# Weights as bytes: three bits of mantissa, the rest is the exponent. The largest is below 2**22.
_WEIGHTS = np.array([0, *(((8 + byte % 8) << byte // 8) >> 3 for byte in range(1, 22 * 8))], np.int32)


def scale(index: int) -> tuple[int, int]:
    """Mean absolute residual of a class, as a fraction of two integers.

    Measured: from the fifth class on it is about the middle of the class's activities; below, activities overestimate
    what is rare, and the lowest class holds all that is flat.
    """
    lowest = ((1, 400), (4, 256), (11, 256), (29, 256), (75, 256))
    return lowest[index] if index < len(lowest) else (11 << index - 1, 256)


class ChannelSymbols(NamedTuple):
    """What a coder writes for a channel: parameters, and residuals in the order of ``runs``, pairs (class, count)."""

    parameters: bytes
    residuals: Ints
    runs: list[tuple[int, int]]


def _predict(near: Ints, weights: NDArray[np.int8], limits: tuple[int, int]) -> Ints:
    """Weigh the two pairs of neighbors in 1/128; ``weights`` are ``(2, n)``, and fit int16 (see _fit_prediction)."""
    along, across = weights.astype(near.dtype)[:, :, None]
    prediction = near[0] + near[1]
    prediction *= along
    second = near[2] + near[3]
    second *= across
    prediction += second
    prediction += 64
    prediction >>= 7
    return np.clip(prediction, *limits, out=prediction)


def _spread(near: Ints, prediction: Ints) -> Ints:
    total = np.zeros_like(prediction)
    for values in near:
        difference = values - prediction
        total += np.abs(difference, out=difference)
    return total


def _relative(size: Ints) -> NDArray[np.uint16]:
    """Sizes of residuals ``(n, sites)`` relative to the pass's mean, which becomes 32 or a little less, up to 255."""
    sites = size.shape[1]
    total = size.sum(1, keepdims=True, dtype=np.int64)
    limit = np.maximum(8 * total // sites, 1)
    shift = ((limit >> np.arange(10, 20)) > 0).sum(1, keepdims=True)  # leaves 10 bits, so that the factor has 6
    limit = np.minimum(limit, 65535)
    factor = np.minimum(8160 * sites // np.maximum(total >> shift, 1), 65280)  # times the limit, it fits 16 bits
    relative = np.minimum(size.astype(np.uint16), limit.astype(np.uint16))
    relative >>= shift.astype(np.uint16)
    relative *= factor.astype(np.uint16)
    relative >>= 8
    return relative


def _smooth(x: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Filter ``(n, h, w)`` by 1 2 1 along both axes, the border repeated; the gain is 16."""
    for axis in (1, 2):
        source, out = x.swapaxes(axis, 1), (x << 1).swapaxes(axis, 1)
        out[:, 1:] += source[:, :-1]
        out[:, :-1] += source[:, 1:]
        out[:, 0] += source[:, 0]
        out[:, -1] += source[:, -1]
        x = out.swapaxes(axis, 1)
    return x


class _Surroundings:
    """What the channels so far say about the sizes of residuals, 32 being usual."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.total, self.channels = np.zeros(shape, np.int32), 0

    def append(self, smoothed: NDArray[np.uint16]) -> None:
        self.total += smoothed
        self.channels += 1

    def mean(self) -> Ints:
        # Divided by a power of two, at most the number of channels: the weight does the rest.
        return self.total >> (4 + max(self.channels.bit_length() - 1, 0))


def _classes(weights: NDArray, spread: Ints | None, around: Ints) -> NDArray[np.uint8]:
    """Classes of sites; ``weights`` are ``(3, n)``, in the units of the activity."""
    constant, own, others = weights.astype(np.int32)[:, :, None]
    activity = around * others
    activity >>= 4
    if spread is not None:
        activity += np.multiply(spread, own, dtype=np.int32)
    activity += constant
    np.maximum(activity, _FLOOR, out=activity)
    exponent = activity.astype(np.float32).view(np.int32)  # how integers are rounded to float32 is defined to the bit
    exponent >>= 23
    exponent -= 127 + 2
    return exponent.astype(np.uint8)


def _fit_prediction(y: Ints, near: Ints, kind: int) -> NDArray[np.int8]:
    """Least squares over a sample of the sites; returns ``(2, n)``."""
    sample = slice(None, None, -(-y.shape[1] // SAMPLES))
    target, pairs = y[:, sample].astype(np.float32), near[:, :, sample].astype(np.float32)
    along, across = pairs[0] + pairs[1], pairs[2] + pairs[3]
    if kind == DIAGONAL:
        both = along + across
        weight = (both * target).sum(1) / ((both * both).sum(1) + 1)
        weights = np.stack([weight, weight])
    else:
        aa, ab, bb = (along * along).sum(1), (along * across).sum(1), (across * across).sum(1)
        at, bt = (along * target).sum(1), (across * target).sum(1)
        ridge = 1e-3 * (aa + bb) + 1
        aa, bb = aa + ridge, bb + ridge
        weights = np.stack([at * bb - bt * ab, bt * aa - at * ab]) / (aa * bb - ab * ab)
    weights *= 126 / np.maximum(np.abs(weights).sum(0), 126 / 128)  # rounded, at most 127: int8 codes fit 16 bits
    return np.rint(weights).astype(np.int8)


def _fit_activity(size: Ints, spread: Ints | None, around: Ints) -> NDArray[np.uint8]:
    """Bytes of the weights ``(3, n)``: least squares over a sample, relative errors counting."""
    sample = slice(None, None, -(-size.shape[1] // SAMPLES))
    target = size[:, sample].astype(np.float32)
    target *= 256
    features = np.empty((3 if spread is not None else 2, *target.shape), np.float32)
    features[0] = 1
    features[-1] = around[:, sample]
    if spread is not None:
        features[1] = spread[:, sample]
    # What a site's activity would be if every feature had the same share: errors count relative to it.
    shares = target.mean(1) / (len(features) * np.maximum(features.mean(2), 1e-6))
    guess = np.einsum("fns,fn->ns", features, shares)
    guess += 64
    features /= guess
    target /= guess
    features = features.swapaxes(0, 1)
    gram = (features @ features.swapaxes(1, 2)).astype(np.float64)
    moment = (features @ target[:, :, None]).astype(np.float64)
    diagonal = np.arange(features.shape[1])
    gram[:, diagonal, diagonal] *= 1 + 1e-3
    gram[:, diagonal, diagonal] += 1e-9
    weights = np.maximum(np.linalg.solve(gram, moment), 0)
    # Where a negative weight became zero, the others are too large or too small by now.
    energy = (weights * (gram @ weights)).sum((1, 2))
    weights *= ((weights * moment).sum((1, 2)) / np.maximum(energy, 1e-9))[:, None, None]
    codes = np.zeros((3, len(size)), np.uint8)
    for row, weight in ((0, weights[:, 0, 0]), (2, 16 * weights[:, -1, 0])):
        after = np.searchsorted(_WEIGHTS, weight).clip(1, len(_WEIGHTS) - 1)
        codes[row] = after - (weight - _WEIGHTS[after - 1] < _WEIGHTS[after] - weight)
    if spread is not None:
        codes[1] = np.clip(np.round(weights[:, 1, 0]), 0, 255)
    return codes


def _activity_weights(codes: NDArray[np.uint8]) -> Ints:
    return np.stack([_WEIGHTS[codes[0]], codes[1].astype(np.int32), _WEIGHTS[codes[2]]])


def analyze(channels: NDArray) -> list[ChannelSymbols]:
    """Model int8 or int16 channels ``(D, h, w)``, none of whose sides is zero."""
    limits = _LIMITS[channels.dtype]
    smooth = _is_smooth(channels)
    surroundings = _Surroundings(channels.shape[1:])
    done: list[ChannelSymbols] = []
    most = max(1, BLOCK // channels[0].size)
    while len(done) < len(channels):
        start = len(done)
        alike = next((d for d in range(start, len(channels)) if smooth[d] != smooth[start]), len(channels))
        block = channels[start : min(alike, start + most)].astype(_WORKING[channels.dtype])
        done += _analyze(block, DEEP if smooth[start] else 1, limits, surroundings)
    return done


def _is_smooth(channels: NDArray) -> NDArray[np.bool_]:
    """Whether neighbors resemble each other along both axes, by a crop from the middle."""
    h, w = channels.shape[1:]
    rows, columns = min(h, CROP), min(w, CROP**2 // min(h, CROP))
    top, left = (h - rows) // 2, (w - columns) // 2
    x = channels[:, top : top + rows, left : left + columns].astype(np.float32)
    x -= x.mean((1, 2), keepdims=True)
    enough = SMOOTH * (x * x).sum((1, 2))
    along, across = (x[:, :, 1:] * x[:, :, :-1]).sum((1, 2)), (x[:, 1:] * x[:, :-1]).sum((1, 2))
    return ((along > enough) | (w == 1)) & ((across > enough) | (h == 1))


def _analyze(x: Ints, levels: int, limits: tuple[int, int], surroundings: _Surroundings) -> list[ChannelSymbols]:
    """Model a few channels at once, pass by pass."""
    relative = np.empty(x.shape, np.uint16)
    coded = []
    for kind, step in passes(levels):
        y = gather(x, kind, step)
        if not y.size:
            continue
        spread = None
        if kind == BASE:
            mean = np.round(y.mean(1)).astype("<i2")
            head = mean[:, None].view(np.uint8)
            residuals = y - mean.astype(y.dtype)[:, None]
        else:
            near = neighbors(x, kind, step)
            weights = _fit_prediction(y, near, kind)
            head = weights.T.view(np.uint8)[:, : 1 if kind == DIAGONAL else 2]
            prediction = _predict(near, weights, limits)
            residuals, spread = y - prediction, _spread(near, prediction)
        size = np.abs(residuals)
        scatter(relative, kind, step, _relative(size))
        coded.append((kind, step, head, residuals, size, spread))
    around = np.empty(x.shape, np.int32)
    for d, smoothed in enumerate(_smooth(relative)):
        around[d] = surroundings.mean()
        surroundings.append(smoothed)
    parameters = [[bytes([levels])] for _ in x]
    parts: list[list[Ints]] = [[] for _ in x]
    runs: list[list[tuple[int, int]]] = [[] for _ in x]
    for kind, step, head, residuals, size, spread in coded:
        nearby = gather(around, kind, step)
        codes = _fit_activity(size, spread, nearby)
        classes = _classes(_activity_weights(codes), spread, nearby)
        order = classes.argsort(1, kind="stable")
        for d in range(len(x)):
            parameters[d] += [head[d].tobytes(), codes[:: 2 if kind == BASE else 1, d].tobytes()]
            counts = np.bincount(classes[d])
            present = counts.nonzero()[0]
            runs[d].extend(zip(present.tolist(), counts[present].tolist(), strict=True))
            parts[d].append(residuals[d].take(order[d]))
    return [
        ChannelSymbols(b"".join(parameters[d]), np.concatenate(parts[d]).astype(np.int32), runs[d])
        for d in range(len(x))
    ]


class Reconstruction:
    """The other way round, channel by channel.

    Args:
        shape: ``(h, w)`` of a channel.
        dtype: int8 or int16.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.dtype, self.limits = dtype, _LIMITS[dtype]
        self.shape, self.surroundings = shape, _Surroundings(shape)

    def parameters(self, stream: bytes) -> int:
        """How many bytes the parameters at the head of a channel's stream take.

        Raises:
            ValueError: They are cut off, or the levels are none that exist.
        """
        if not stream or stream[0] not in (1, DEEP):
            raise ValueError(f"damaged: a channel has {stream[0] if stream else 'no'} levels, not 1 or {DEEP}")
        empty = np.broadcast_to(np.bool_(), (1, *self.shape))
        heads = {BASE: 4, DIAGONAL: 4, CROSS: 5}
        size = 1 + sum(heads[k] for k, s in passes(stream[0]) if any(part.size for part in sites(empty, k, s)))
        if len(stream) < size:
            raise ValueError(f"damaged: a channel has {len(stream)} bytes, its parameters alone take {size}")
        return size

    def channel(self, parameters: bytes, read: Callable[[int, int], Ints]) -> NDArray:
        """Rebuild the next channel.

        Args:
            parameters: As :func:`analyze` gave them.
            read: Gives the next residuals, so many of a class.

        Raises:
            ValueError: A parameter or a code is out of range.
        """
        low, high = self.limits
        x = np.zeros((1, *self.shape), _WORKING[self.dtype])
        relative = np.empty((1, *self.shape), np.uint16)
        around = self.surroundings.mean()[None]
        rest = np.frombuffer(parameters, np.uint8)[1:]
        for kind, step in passes(parameters[0]):
            nearby = gather(around, kind, step)
            if not nearby.size:
                continue
            if kind == BASE:
                prediction, spread = rest[:2].view("<i2").astype(x.dtype)[:, None], None
                codes, rest = np.array([rest[2], 0, rest[3]]), rest[4:]
            else:
                pair = 1 if kind == DIAGONAL else 2
                weights = np.broadcast_to(rest[:pair].view(np.int8), 2)[:, None]
                if np.abs(weights.astype(int)).sum() > 127:
                    raise ValueError("damaged: the weights of a prediction add up to more than one")
                near = neighbors(x, kind, step)
                prediction = _predict(near, weights, self.limits)
                spread = _spread(near, prediction)
                codes, rest = rest[pair : pair + 3], rest[pair + 3 :]
            if max(codes[0], codes[2]) >= len(_WEIGHTS):
                raise ValueError(f"damaged: weights must be below {len(_WEIGHTS)}, got {codes[0]} and {codes[2]}")
            classes = _classes(_activity_weights(codes[:, None]), spread, nearby)[0]
            counts = np.bincount(classes)
            residuals = np.empty(len(classes), np.int32)
            read_all = [read(int(c), int(counts[c])) for c in counts.nonzero()[0]]
            residuals[classes.argsort(kind="stable")] = np.concatenate(read_all)
            values = prediction + residuals
            if values.min() < low or values.max() > high:
                raise ValueError(f"damaged: a code is outside [{low}, {high}]")
            scatter(x, kind, step, values)
            scatter(relative, kind, step, _relative(np.abs(residuals)[None]))
        self.surroundings.append(_smooth(relative)[0])
        return x[0].astype(self.dtype)

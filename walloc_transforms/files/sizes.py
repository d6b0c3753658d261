"""Expected sizes of residuals: they tell which table codes a residual well.

In units of 1/256 the absolute residual of a cell is expected to be

    expected = constant + a * spread + b * earlier / 16          at least 4

    spread    distances of the cell's four neighbors from its prediction, added up; none in the first pass
    earlier   residuals of the earlier channels in and around the cell, relative to what is usual in their pass

The weights constant, a and b are fitted by the writer, and stored in a byte each. The octave of the expected size,
log2(expected) - 2 rounded down, selects the table.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .prediction import Ints, sample_of

__all__ = ["OCTAVES", "PART", "EarlierChannels", "SizeModel", "fit_size_model", "mean_size", "relative_sizes"]

OCTAVES = 27  # expected sizes stay below 2**29
PART = 2**18  # cells whose temporary arrays the reader keeps at a time
_LEAST = 4  # the least expected size, in 1/256

# What the bytes of constant and b mean: three bits of mantissa, the rest is the exponent. The largest is below 2**22.
_WEIGHTS = np.array([0, *(((8 + byte % 8) << byte // 8) >> 3 for byte in range(1, 22 * 8))], np.int32)


def mean_size(octave: int) -> tuple[int, int]:
    """Return the mean absolute residual of an octave, as a fraction of two integers.

    Measured: from the fifth octave on, it is about the middle of the octave. Below, it is less, because expected sizes
    are too large where residuals are rare. The lowest octave holds all that is flat.
    """
    lowest = ((1, 400), (4, 256), (11, 256), (29, 256), (75, 256))
    return lowest[octave] if octave < len(lowest) else (11 << octave - 1, 256)


def relative_sizes(sizes: Ints, total: NDArray[np.int64], cells: int) -> NDArray[np.uint16]:
    """Divide the absolute residuals of a pass by their mean, which becomes 32 or a little less.

    Args:
        sizes: Residuals of all cells of the pass, or of some, ``(n, some)``.
        total: The sum of all, ``(n, 1)``.
        cells: The number of all.

    Returns:
        ``(n, some)``, at most 255. No step exceeds 16 bits.
    """
    limit = np.maximum(8 * total // cells, 1)
    shift = ((limit >> np.arange(10, 20)) > 0).sum(1, keepdims=True)  # leaves 10 bits, so that the factor has 6
    limit = np.minimum(limit, 65535)
    factor = np.minimum(8160 * cells // np.maximum(total >> shift, 1), 65280)  # times the limit, it fits 16 bits
    relative = np.minimum(sizes.astype(np.uint16), limit.astype(np.uint16))
    relative >>= shift.astype(np.uint16)
    relative *= factor.astype(np.uint16)
    relative >>= 8
    return relative


class EarlierChannels:
    """The residuals of the channels so far: relative, smoothed over 3x3 cells, and averaged.

    Args:
        shape: ``(h, w)`` of a channel.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.total, self.count = np.zeros(shape, np.int32), 0

    def mean_of(self, total: Ints) -> Ints:
        """Divide cells of ``total`` by the number of channels, or the next lower power of two; 32 to 64 is usual."""
        return total >> (4 + max(self.count.bit_length() - 1, 0))

    def add(self, relative: NDArray[np.uint8]) -> None:
        """Add a channel ``(h, w)``, some rows at a time."""
        h, w = relative.shape
        rows = max(1, PART // w)
        for start in range(0, h, rows):
            stop, top = min(start + rows, h), max(start - 1, 0)
            smoothed = _smooth(relative[None, top : stop + 1].astype(np.uint16))[0]
            self.total[start:stop] += smoothed[start - top : stop - top]
        self.count += 1

    def means_before_each(self, relative: NDArray[np.uint16]) -> Ints:
        """Add channels ``(n, h, w)``, and return the average before each."""
        before = np.empty(relative.shape, np.int32)
        for d, smoothed in enumerate(_smooth(relative)):
            before[d] = self.mean_of(self.total)
            self.total += smoothed
            self.count += 1
        return before


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


class SizeModel(NamedTuple):
    """The weights of expected sizes in a pass for n channels, as they are stored.

    Attributes:
        codes: Bytes of constant, a and b, ``(3, n)``. Those of constant and b stand for numbers in a table, that of a
            for itself.
        uses_spread: Whether the pass has neighbors; if not, a is not stored.
    """

    codes: NDArray[np.uint8]
    uses_spread: bool

    def octaves(self, spread: Ints | None, earlier: Ints) -> NDArray[np.uint8]:
        """Compute the octave of the expected size of every cell.

        Args:
            spread: ``(n, cells)``; None in the first pass.
            earlier: ``(n, cells)``.
        """
        constant, a, b = (part[:, None] for part in (_WEIGHTS[self.codes[0]], self.codes[1], _WEIGHTS[self.codes[2]]))
        expected = earlier * b
        expected >>= 4
        if spread is not None:
            expected += np.multiply(spread, a, dtype=np.int32)
        expected += constant
        np.maximum(expected, _LEAST, out=expected)
        exponent = expected.astype(np.float32).view(np.int32)  # rounding integers to float32 is defined to the bit
        exponent >>= 23
        exponent -= 127 + 2
        return exponent.astype(np.uint8)

    @staticmethod
    def stored_size(uses_spread: bool) -> int:
        """Return the bytes that a model takes per channel."""
        return 3 if uses_spread else 2

    def to_bytes(self, channel: int) -> bytes:
        """Store the model of a channel."""
        return self.codes[:: 1 if self.uses_spread else 2, channel].tobytes()

    @classmethod
    def from_bytes(cls, uses_spread: bool, content: NDArray[np.uint8]) -> "SizeModel":
        """Read the model of one channel.

        Raises:
            ValueError: A byte stands for no weight.
        """
        constant, a, b = content if uses_spread else (content[0], 0, content[1])
        if max(constant, b) >= len(_WEIGHTS):
            raise ValueError(f"damaged: weights must be below {len(_WEIGHTS)}, got {constant} and {b}")
        return cls(np.array([[constant], [a], [b]], np.uint8), uses_spread)


def fit_size_model(sizes: Ints, spread: Ints | None, earlier: Ints) -> SizeModel:
    """Fit the weights of a pass by least squares over a sample of its cells; what counts are relative errors.

    Args:
        sizes: Absolute residuals, ``(n, cells)``.
        spread: ``(n, cells)``; None in the first pass.
        earlier: ``(n, cells)``.
    """
    sample = sample_of(sizes.shape[1])
    target = sizes[:, sample].astype(np.float32)
    target *= 256
    features = np.empty((3 if spread is not None else 2, *target.shape), np.float32)
    features[0] = 1
    features[-1] = earlier[:, sample]
    if spread is not None:
        features[1] = spread[:, sample]
    # A first guess gives every feature the same share. Errors count relative to it.
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
    # Where a negative weight became zero, the others no longer have the best common factor.
    energy = (weights * (gram @ weights)).sum((1, 2))
    weights *= ((weights * moment).sum((1, 2)) / np.maximum(energy, 1e-9))[:, None, None]
    codes = np.zeros((3, len(sizes)), np.uint8)
    codes[0], codes[2] = _nearest_weight(weights[:, 0, 0]), _nearest_weight(16 * weights[:, -1, 0])
    if spread is not None:
        codes[1] = np.clip(np.round(weights[:, 1, 0]), 0, 255)
    return SizeModel(codes, spread is not None)


def _nearest_weight(weight: NDArray[np.float64]) -> NDArray:
    after = np.searchsorted(_WEIGHTS, weight).clip(1, len(_WEIGHTS) - 1)
    return after - (weight - _WEIGHTS[after - 1] < _WEIGHTS[after] - weight)

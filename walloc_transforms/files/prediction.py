"""Prediction of codes: the first pass by the channel's mean, every other from its four neighbors.

    first pass     the channel's mean, rounded
    other passes   (a * (n0 + n1) + b * (n2 + n3) + 64) >> 7, limited to the range of the codes

The weights a and b are int8, fitted by the writer and stored. A diagonal pass has one weight, a = b. |a| + |b| is at
most 127, so that all arithmetic fits the working dtype, which is twice as wide as the codes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .interlacing import BASE, DIAGONAL

__all__ = ["CODE_RANGES", "CodeRange", "Ints", "Predictor", "fit_predictor", "sample_of", "spread_of"]

Ints = NDArray[np.int32]  # or int16: integers that sums and differences of codes fit

SAMPLES = 512  # cells per channel and pass that weights are fitted to


class CodeRange(NamedTuple):
    """The range of a dtype of codes, and the dtype in which they are added."""

    low: int
    high: int
    working: type


CODE_RANGES = {
    np.dtype(np.int8): CodeRange(-128, 127, np.int16),
    np.dtype(np.int16): CodeRange(-32768, 32767, np.int32),
}


class Predictor(NamedTuple):
    """The prediction of a pass for n channels.

    Attributes:
        kind: The kind of the pass.
        weights: The means ``(1, n)``, int16, for the first pass; for others the weights ``(2, n)``, int8.
    """

    kind: int
    weights: NDArray

    def predict(self, near: Ints | None, codes: CodeRange) -> Ints:
        """Predict the cells of the pass.

        Args:
            near: The four neighbors of every cell, ``(4, n, cells)``; None in the first pass.
            codes: The range of the codes.

        Returns:
            ``(n, cells)``, or ``(n, 1)`` in the first pass.
        """
        if near is None:
            return self.weights[0].astype(codes.working)[:, None]
        first, second = self.weights.astype(codes.working)[:, :, None]
        prediction = near[0] + near[1]
        prediction *= first
        others = near[2] + near[3]
        others *= second
        prediction += others
        prediction += 64
        prediction >>= 7
        return np.clip(prediction, codes.low, codes.high, out=prediction)

    @staticmethod
    def stored_size(kind: int) -> int:
        """Return the bytes that a predictor of this kind takes per channel."""
        return 1 if kind == DIAGONAL else 2

    def to_bytes(self, channel: int) -> bytes:
        """Store the predictor of a channel."""
        if self.kind == BASE:
            return self.weights[0, channel].astype("<i2").tobytes()
        return self.weights[:, channel].tobytes()[: self.stored_size(self.kind)]

    @classmethod
    def from_bytes(cls, kind: int, content: NDArray[np.uint8]) -> "Predictor":
        """Read the predictor of one channel.

        Raises:
            ValueError: The weights are too large.
        """
        if kind == BASE:
            return cls(kind, content.view("<i2")[None])
        weights = np.broadcast_to(content.view(np.int8), 2)[:, None]
        if np.abs(weights.astype(int)).sum() > 127:
            raise ValueError("damaged: the weights of a prediction add up to more than one")
        return cls(kind, weights)


def spread_of(near: Ints, prediction: Ints) -> Ints:
    """Add up the distances of the four neighbors from the prediction."""
    total = np.zeros_like(prediction)
    for values in near:
        difference = values - prediction
        total += np.abs(difference, out=difference)
    return total


def sample_of(cells: int) -> slice | NDArray[np.int64]:
    """Choose the cells of a pass that weights are fitted to: all, or one somewhere in each of as many equal parts.

    Cells at equal distances could all lie in one column, such as that of an empty border.
    """
    if cells <= SAMPLES:
        return slice(None)
    return (np.arange(SAMPLES) * cells + np.random.default_rng(0).integers(cells, size=SAMPLES)) // SAMPLES


def fit_predictor(kind: int, values: Ints, near: Ints | None) -> Predictor:
    """Fit the prediction of a pass by least squares over a sample of its cells.

    Args:
        kind: The kind of the pass.
        values: The codes of its cells, ``(n, cells)``.
        near: Their neighbors ``(4, n, cells)``; None in the first pass.
    """
    if near is None:
        return Predictor(kind, np.round(values.mean(1)).astype(np.int16)[None])
    sample = sample_of(values.shape[1])
    target, pairs = values[:, sample].astype(np.float32), near[:, :, sample].astype(np.float32)
    a, b = pairs[0] + pairs[1], pairs[2] + pairs[3]
    if kind == DIAGONAL:
        both = a + b
        weight = (both * target).sum(1) / ((both * both).sum(1) + 1)
        weights = np.stack([weight, weight])
    else:
        aa, ab, bb = (a * a).sum(1), (a * b).sum(1), (b * b).sum(1)
        at, bt = (a * target).sum(1), (b * target).sum(1)
        ridge = 1e-3 * (aa + bb) + 1
        aa, bb = aa + ridge, bb + ridge
        weights = np.stack([at * bb - bt * ab, bt * aa - at * ab]) / (aa * bb - ab * ab)
    weights *= 126 / np.maximum(np.abs(weights).sum(0), 126 / 128)  # rounded, they add up to 127 at most
    return Predictor(kind, np.rint(weights).astype(np.int8))

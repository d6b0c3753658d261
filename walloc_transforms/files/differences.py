"""Volumes as coders get them: their steps of time below each other, many of them as differences from the step before.

What rests in front of a camera changes little from step to step. Every channel of every step but the first is stored as
it is, or as its difference modulo 2**8 or 2**16, whichever looks smaller. Where the camera rests, this saves a quarter
to half of a file; where the whole picture moves, next to nothing (docs/coders.md). A bit for each says what it is, the
steps of the first channel first.
"""

import math

import numpy as np
from numpy.typing import NDArray

from .coder import Shape

__all__ = ["count_flags", "from_rows", "rows_of", "to_rows"]


def rows_of(shape: tuple[int, ...]) -> Shape:
    """Return the shape of latents ``(D, ...)`` as coders get them: channels of rows and columns."""
    return (shape[0], math.prod(shape[1:-1]), shape[-1])


def count_flags(shape: tuple[int, ...]) -> int:
    """Return how many bytes the bits take: none if the latents are of no volume."""
    return -(-shape[0] * (shape[1] - 1) // 8) if len(shape) == 4 else 0


def to_rows(codes: NDArray) -> tuple[NDArray, bytes]:
    """Lay out codes ``(D, t)``, ``(D, h, w)`` or ``(D, t, h, w)`` as :func:`rows_of` says.

    Returns:
        The codes or differences, and the bits.
    """
    if codes.ndim < 4:
        return np.ascontiguousarray(codes.reshape(rows_of(codes.shape))), b""
    stored, flags = codes.copy(), np.zeros((len(codes), codes.shape[1] - 1), np.bool_)
    for step in range(1, codes.shape[1]):
        change = codes[:, step] - codes[:, step - 1]
        smaller = flags[:, step - 1] = _size(change) < _size(codes[:, step])
        stored[smaller, step] = change[smaller]
    return stored.reshape(rows_of(codes.shape)), np.packbits(flags).tobytes()


def _size(planes: NDArray) -> NDArray[np.float64]:
    """Guess how much ``(D, h, w)`` takes: the mean distance from the mean, or from the upper and the left neighbor."""
    x = planes.astype(np.int32)
    plain = np.abs(x - np.rint(x.mean((1, 2), keepdims=True))).mean((1, 2))
    if min(x.shape[1:]) == 1:
        return plain
    return np.minimum(plain, np.abs(x[:, 1:, 1:] - (x[:, 1:, :-1] + x[:, :-1, 1:] >> 1)).mean((1, 2)))


def from_rows(rows: NDArray, flags: bytes, shape: tuple[int, ...]) -> NDArray:
    """Undo :func:`to_rows` for the first channels.

    Args:
        rows: What was stored of these channels.
        flags: The bits of all channels.
        shape: Shape of all latents.

    Raises:
        ValueError: Bits are set that stand for nothing.
    """
    codes = np.ascontiguousarray(rows).reshape(len(rows), *shape[1:])
    if codes.ndim < 4:
        return codes
    bits = np.unpackbits(np.frombuffer(flags, np.uint8)).astype(np.bool_)
    count = shape[0] * (shape[1] - 1)
    if bits[count:].any():
        raise ValueError("damaged: there are more differences than steps of time")
    differs = bits[:count].reshape(shape[0], -1)[: len(rows)]
    for step in range(1, shape[1]):
        codes[differs[:, step - 1], step] += codes[differs[:, step - 1], step - 1]
    return codes

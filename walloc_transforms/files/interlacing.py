"""Interlaced cells of channels ``(n, h, w)``, and their neighbors among the cells of earlier passes.

With one level the passes are

    base        even rows, even columns
    diagonal    odd rows, odd columns: the four diagonal neighbors are known
    cross       all others: the four nearest neighbors are known

and every further level interlaces the base in the same way. A pass is arithmetic on whole arrays. It knows neighbors on
all four sides, where a scan by rows knows only those above and to the left.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["BASE", "CROSS", "DIAGONAL", "cells", "gather", "has_cells", "neighbors", "passes", "scatter"]

BASE, DIAGONAL, CROSS = range(3)


def passes(levels: int) -> Iterator[tuple[int, int]]:
    """Yield the passes in order: pairs of a kind and a step, the distance between the cells of the level."""
    yield BASE, 1 << levels
    for level in reversed(range(levels)):
        yield DIAGONAL, 1 << level
        yield CROSS, 1 << level


def cells(x: NDArray, kind: int, step: int) -> list[NDArray]:
    """Return the rectangles of cells of a pass, as views of ``(n, h, w)``."""
    if kind == BASE:
        return [x[:, ::step, ::step]]
    if kind == DIAGONAL:
        return [x[:, step :: 2 * step, step :: 2 * step]]
    return [x[:, :: 2 * step, step :: 2 * step], x[:, step :: 2 * step, :: 2 * step]]


def has_cells(shape: tuple[int, int], kind: int, step: int) -> bool:
    """Tell whether channels of ``(h, w)`` have cells in a pass."""
    return kind == BASE or (min(shape) if kind == DIAGONAL else max(shape)) > step


def gather(x: NDArray, kind: int, step: int) -> NDArray:
    """Copy the cells of a pass to ``(n, cells)``."""
    parts = [part.reshape(len(x), -1) for part in cells(x, kind, step)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)


def scatter(x: NDArray, kind: int, step: int, values: NDArray) -> None:
    """Set the cells of a pass to ``(n, cells)``."""
    start = 0
    for part in cells(x, kind, step):
        stop = start + part.shape[1] * part.shape[2]
        part[...] = values[:, start:stop].reshape(part.shape)
        start = stop


def _copy(target: NDArray, source: NDArray, shift: int, axis: int) -> None:
    """Set ``target[k] = source[k + shift]`` along an axis; beyond the ends of ``source``, its nearest value."""
    target, source = target.swapaxes(axis, 0), source.swapaxes(axis, 0)
    first = max(-shift, 0)
    count = min(len(target) - first, len(source) - max(shift, 0))
    target[first : first + count] = source[max(shift, 0) : max(shift, 0) + count]
    target[:first] = source[:1]
    target[first + count :] = source[-1:]


def neighbors(x: NDArray, kind: int, step: int) -> NDArray:
    """Gather the four neighbors of every cell of a diagonal or cross pass; at the border, the nearest there are.

    Returns:
        ``(4, n, cells)``: left, right, above, below; or above left, above right, below left, below right.
    """
    even, odd = x[:, :: 2 * step, :: 2 * step], x[:, step :: 2 * step, step :: 2 * step]
    shapes = [part.shape for part in cells(x, kind, step)]
    out = np.empty((4, len(x), sum(h * w for _, h, w in shapes)), x.dtype)
    if kind == DIAGONAL:
        n, h, w = shapes[0]
        corners = np.empty((n, h + 1, w + 1), x.dtype)
        rows, columns = even.shape[1:]
        corners[:, :rows, :columns] = even
        corners[:, rows:] = corners[:, rows - 1 : rows]
        corners[:, :, columns:] = corners[:, :, columns - 1 : columns]
        near = out.reshape(4, n, h, w)
        near[0], near[1] = corners[:, :h, :w], corners[:, :h, 1:]
        near[2], near[3] = corners[:, 1:, :w], corners[:, 1:, 1:]
        return out
    start = 0
    for place, (n, h, w) in enumerate(shapes):
        near = out[:, :, start : start + h * w].reshape(4, n, h, w)  # a view
        start += h * w
        # In the first rectangle the even cells are to the left and right; in the second, above and below.
        along, across = (2, 1) if place == 0 else (1, 2)
        own, other = (near[:2], near[2:]) if place == 0 else (near[2:], near[:2])
        _copy(own[0], even, 0, along)
        _copy(own[1], even, 1, along)
        if odd.size:
            _copy(other[0], odd, -1, across)
            _copy(other[1], odd, 0, across)
        else:
            other[...] = own
    return out

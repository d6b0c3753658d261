"""Context modeling of integer latents: every code becomes a residual, and an octave that tells how large it may be.

A channel is coded in passes over interlaced cells (``interlacing.py``). Every pass does the same, in this order:

    predict     each cell, from neighbors that earlier passes have coded             prediction.py
    expect      the size of each residual, and from it an octave                     sizes.py
    code        the residuals, sorted by octave                                      ans.py

:class:`ChannelReader` does these steps pass by pass. The writer, :func:`analyze`, knows all codes beforehand. It works
on several channels at once, fits the weights that steps one and two need, and stores them: the *parameters* of a
channel. Smooth channels have two levels of passes, others one.

The reader computes with integers alone, so that all machines read a file alike. The writer may fit as it likes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .interlacing import BASE, gather, has_cells, neighbors, passes, scatter
from .prediction import CODE_RANGES, CodeRange, Ints, Predictor, fit_predictor, spread_of
from .sizes import OCTAVES, PART, EarlierChannels, SizeModel, fit_size_model, relative_sizes

__all__ = ["ChannelReader", "ChannelSymbols", "analyze"]

DEEP = 2  # levels of smooth channels; others have 1
SMOOTH = 0.6  # correlation of neighbors from which a channel counts as smooth
CROP = 32  # side of the crop that tells
BLOCK = 2**18  # codes that are analyzed at once, so that temporary arrays stay in cache


class ChannelSymbols(NamedTuple):
    """What is coded for a channel.

    Attributes:
        parameters: Levels, predictors and size models.
        residuals: In the order of ``runs``.
        runs: Pairs of an octave and a number of residuals.
    """

    parameters: bytes
    residuals: Ints
    runs: list[tuple[int, int]]


class _PassOfBlock(NamedTuple):
    """A pass of several channels between prediction and the fit of sizes."""

    kind: int
    step: int
    predictor: Predictor
    residuals: Ints
    spread: Ints | None


def analyze(channels: NDArray) -> list[ChannelSymbols]:
    """Model int8 or int16 channels ``(D, h, w)``, no side of which is zero."""
    codes = CODE_RANGES[channels.dtype]
    smooth = _is_smooth(channels)
    earlier = EarlierChannels(channels.shape[1:])
    done: list[ChannelSymbols] = []
    most = max(1, BLOCK // channels[0].size)
    while len(done) < len(channels):
        start = len(done)
        alike = next((d for d in range(start, len(channels)) if smooth[d] != smooth[start]), len(channels))
        block = channels[start : min(alike, start + most)].astype(codes.working)
        done += _analyze_block(block, DEEP if smooth[start] else 1, codes, earlier)
    return done


def _is_smooth(channels: NDArray) -> NDArray[np.bool_]:
    """Tell whether neighbors resemble each other along both axes, by a crop from the middle."""
    h, w = channels.shape[1:]
    rows, columns = min(h, CROP), min(w, CROP**2 // min(h, CROP))
    top, left = (h - rows) // 2, (w - columns) // 2
    x = channels[:, top : top + rows, left : left + columns].astype(np.float32)
    x -= x.mean((1, 2), keepdims=True)
    enough = SMOOTH * (x * x).sum((1, 2))
    along, across = (x[:, :, 1:] * x[:, :, :-1]).sum((1, 2)), (x[:, 1:] * x[:, :-1]).sum((1, 2))
    return ((along > enough) | (w == 1)) & ((across > enough) | (h == 1))


def _analyze_block(x: Ints, levels: int, codes: CodeRange, earlier: EarlierChannels) -> list[ChannelSymbols]:
    predicted = []
    relative = np.empty(x.shape, np.uint16)
    for kind, step in passes(levels):
        values = gather(x, kind, step)
        if not values.size:
            continue
        near = None if kind == BASE else neighbors(x, kind, step)
        predictor = fit_predictor(kind, values, near)
        prediction = predictor.predict(near, codes)
        residuals = values - prediction
        spread = None if near is None else spread_of(near, prediction)
        sizes = np.abs(residuals)
        total = sizes.sum(1, keepdims=True, dtype=np.int64)
        scatter(relative, kind, step, relative_sizes(sizes, total, sizes.shape[1]))
        predicted.append(_PassOfBlock(kind, step, predictor, residuals, spread))
    before = earlier.means_before_each(relative)
    parameters = [[bytes([levels])] for _ in x]
    parts: list[list[Ints]] = [[] for _ in x]
    runs: list[list[tuple[int, int]]] = [[] for _ in x]
    for kind, step, predictor, residuals, spread in predicted:
        nearby = gather(before, kind, step)
        model = fit_size_model(np.abs(residuals), spread, nearby)
        octaves = model.octaves(spread, nearby)
        order = octaves.argsort(1, kind="stable")
        for d in range(len(x)):
            parameters[d] += [predictor.to_bytes(d), model.to_bytes(d)]
            counts = np.bincount(octaves[d])
            present = counts.nonzero()[0]
            runs[d].extend(zip(present.tolist(), counts[present].tolist(), strict=True))
            parts[d].append(residuals[d].take(order[d]))
    return [
        ChannelSymbols(b"".join(parameters[d]), np.concatenate(parts[d]).astype(np.int32), runs[d])
        for d in range(len(x))
    ]


class ChannelReader:
    """Rebuild channels from their parameters and residuals, one after the other.

    Args:
        shape: ``(h, w)`` of a channel.
        dtype: int8 or int16.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.shape, self.dtype, self.codes = shape, dtype, CODE_RANGES[dtype]
        self.earlier = EarlierChannels(shape)

    def parameters_length(self, stream: bytes) -> int:
        """Return how many bytes the parameters take at the head of a channel's stream.

        Raises:
            ValueError: They are cut off, or the levels are none that exist.
        """
        if not stream or stream[0] not in (1, DEEP):
            raise ValueError(f"damaged: a channel has {stream[0] if stream else 'no'} levels, not 1 or {DEEP}")
        size = 1 + sum(
            Predictor.stored_size(kind) + SizeModel.stored_size(kind != BASE)
            for kind, step in passes(stream[0])
            if has_cells(self.shape, kind, step)
        )
        if len(stream) < size:
            raise ValueError(f"damaged: a channel has {len(stream)} bytes, its parameters alone take {size}")
        return size

    def read(self, parameters: bytes, next_residuals: Callable[[int, int], Ints]) -> NDArray:
        """Rebuild the next channel.

        Args:
            parameters: The parameters as :func:`analyze` gave them.
            next_residuals: Called with an octave and a number; returns this number of the next residuals, in order.

        Returns:
            ``(h, w)``.

        Raises:
            ValueError: A parameter or a code is out of range.
        """
        x = np.zeros((1, *self.shape), self.codes.working)
        relative = np.empty((1, *self.shape), np.uint8)
        rest = np.frombuffer(parameters, np.uint8)[1:]
        for kind, step in passes(parameters[0]):
            if not has_cells(self.shape, kind, step):
                continue
            size = Predictor.stored_size(kind)
            predictor, rest = Predictor.from_bytes(kind, rest[:size]), rest[size:]
            size = SizeModel.stored_size(kind != BASE)
            model, rest = SizeModel.from_bytes(kind != BASE, rest[:size]), rest[size:]
            near = None if kind == BASE else neighbors(x, kind, step)
            prediction = predictor.predict(near, self.codes)
            spread = None if near is None else spread_of(near, prediction)
            del near  # planes are large: none is kept that is not needed
            octaves = self._octaves(model, spread, gather(self.earlier.total[None], kind, step))
            del spread
            values, sizes = self._values(prediction[0], octaves, next_residuals)
            scatter(x, kind, step, values)
            scatter(relative, kind, step, sizes)
        self.earlier.add(relative[0])
        return x[0].astype(self.dtype)

    def _octaves(self, model: SizeModel, spread: Ints | None, total: Ints) -> NDArray[np.uint8]:
        """Compute the octaves of a pass, ``(cells,)``, a part at a time."""
        octaves = np.empty(total.shape[1], np.uint8)
        for part in _parts(len(octaves)):
            nearby = self.earlier.mean_of(total[:, part])
            octaves[part] = model.octaves(None if spread is None else spread[:, part], nearby)[0]
        return octaves

    def _values(
        self, prediction: Ints, octaves: NDArray[np.uint8], next_residuals: Callable[[int, int], Ints]
    ) -> tuple[Ints, NDArray[np.uint8]]:
        """Read the residuals of a pass, which lie sorted by octave, and return codes and relative sizes of its cells.

        Args:
            prediction: ``(cells,)``, or ``(1,)`` for all cells alike.
            octaves: ``(cells,)``.
            next_residuals: As for :meth:`read`.
        """
        cells, parts = len(octaves), _parts(len(octaves))
        counts = [np.bincount(octaves[part], minlength=OCTAVES).tolist() for part in parts]
        ordered, places, start, total = np.empty(cells, np.int32), {}, 0, 0
        for octave, all_counts in enumerate(zip(*counts, strict=True)):
            if count := sum(all_counts):
                places[octave] = start
                ordered[start : start + count] = next_residuals(octave, count)
                start += count
        for part in parts:
            total += int(np.abs(ordered[part]).sum(dtype=np.int64))
        values, sizes = np.empty((1, cells), self.codes.working), np.empty((1, cells), np.uint8)
        for part, own in zip(parts, counts, strict=True):
            pieces = []
            for octave, place in places.items():
                places[octave] += own[octave]
                pieces.append(ordered[place : places[octave]])
            residuals = np.empty(sum(own), np.int32)
            residuals[octaves[part].argsort(kind="stable")] = np.concatenate(pieces)
            found = residuals + (prediction[part] if len(prediction) > 1 else prediction)
            if found.min() < self.codes.low or found.max() > self.codes.high:
                raise ValueError(f"damaged: a code is outside [{self.codes.low}, {self.codes.high}]")
            values[0, part] = found
            sizes[:, part] = relative_sizes(np.abs(residuals)[None], np.array([[total]]), cells)
        return values, sizes


def _parts(cells: int) -> list[slice]:
    return [slice(start, start + PART) for start in range(0, cells, PART)]

"""Bound what a coder of latents with learned weights would save: fit densities to other images, estimate the rate.

Cells are interlaced, as by the coder ``ans``: a coarse grid comes first, finer grids are conditioned on it. But where
``ans`` fits a few weights to every image and stores them, here every channel has weights learned once, for

    center   linear in 12 neighbors of the own channel, and in the codes of all earlier channels in a cell and the four
             next to it: least squares, relative to the expected size
    size     of the distance from the center: linear in the distances of the neighbors, and in the sizes of all earlier
             channels' codes in and around the cell; no weight is negative: greatest likelihood of exponential laws

A quarter octave of the expected size, and for small ones an eighth of the center's fraction, select a table, which is
learned too. All is in closed form, or nearly: it takes seconds. The estimate is the cross-entropy in these tables. A
real stream would take a little more: its weights are integers, and every channel's stream ends in whole bytes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BASE, DIAGONAL, CROSS = range(3)
DEEP = 3  # the first channels, which are smooth, have two levels of passes
SIDE = 32  # of crops to learn from, in cells
_REACH = 3
_CLASSES, _FRACTIONS, _MOST = 56, 5, 255  # quarter octaves, eighths, the largest distance
_FINE = 3.0  # expected size below which fractions matter

_TURNS = [(y, x) for y in (-1, 1) for x in (-1, 1)]
_PLACES = {  # of neighbors that earlier passes hold, the nearest first; those of CROSS where even cells are beside
    BASE: [],
    DIAGONAL: [(a * y, b * x) for a, b in ((1, 1), (1, 3), (3, 1)) for y, x in _TURNS],
    CROSS: [(0, -1), (0, 1), (-1, 0), (1, 0), *((a * y, b * x) for a, b in ((2, 1), (1, 2)) for y, x in _TURNS)],
}
_AROUND = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]


class Pass(NamedTuple):
    """The cells of a pass: of every ``step``-th row and column, those from certain places on.

    Attributes:
        kind: ``BASE``, ``DIAGONAL`` or ``CROSS``.
        step: Distance of the rows and columns of this level.
        places: First row and column, in steps.
        stride: From cell to cell, in steps.
    """

    kind: int
    step: int
    places: list[tuple[int, int]]
    stride: int


def passes(channel: int) -> Iterator[Pass]:
    """Yield the passes of a channel in order."""
    levels = 2 if channel < DEEP else 1
    yield Pass(BASE, 1 << levels, [(0, 0)], 1)
    for step in (2, 1)[2 - levels :]:
        yield Pass(DIAGONAL, step, [(1, 1)], 2)
        yield Pass(CROSS, step, [(0, 1), (1, 0)], 2)


class Seen(NamedTuple):
    """Latents as the densities see them.

    Attributes:
        codes: ``(n, D, h, w)``.
        padded: The same, with a border of one.
        sizes: Absolute codes, and these smoothed over 3x3 cells, ``(2, n, D, h, w)``.
    """

    codes: Floats
    padded: Floats
    sizes: Floats


def look(codes: NDArray[np.int8]) -> Seen:
    """Prepare latents ``(n, D, h, w)``."""
    wide = codes.astype(np.float32)
    padded = np.pad(wide, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    smooth = np.abs(padded)
    smooth = smooth[..., :-2] + 2 * smooth[..., 1:-1] + smooth[..., 2:]
    smooth = smooth[..., :-2, :] + 2 * smooth[..., 1:-1, :] + smooth[..., 2:, :]
    return Seen(wide, padded, np.stack([np.abs(wide), smooth / 16]).astype(np.float32))


class Rows(NamedTuple):
    """The cells of a pass, one after the other.

    Attributes:
        codes: ``(cells,)``.
        near: Neighbors in the own channel, ``(cells, 12)``; none in the first pass.
        inputs: All that the center depends on, ``(cells, p)``.
        sizes: Sizes of earlier channels' codes, and constants, ``(cells, q)``.
    """

    codes: Floats
    near: Floats
    inputs: Floats
    sizes: Floats

    @classmethod
    def of(cls, seen: Seen, channel: int, own: Pass) -> "Rows":
        """Gather the cells of a pass in a channel."""
        h, w = seen.codes.shape[2:]
        plane = seen.codes[:, channel, :: own.step, :: own.step]
        # Mirrored at the border, even places stay even, so that no cell sees one that is coded later.
        mirrored = np.pad(plane, ((0, 0), (_REACH,) * 2, (_REACH,) * 2), mode="reflect") if own.kind else plane
        parts = []
        for top, left in own.places:
            codes = plane[:, top :: own.stride, left :: own.stride]
            rows, columns = (2 * side - 1 for side in codes.shape[1:])
            turned = own.kind == CROSS and top == 1  # here the even cells are above and below
            starts = [(x, y) if turned else (y, x) for y, x in _PLACES[own.kind]]
            starts = [(_REACH + top + y, _REACH + left + x) for y, x in starts]
            near = [mirrored[:, y : y + rows : 2, x : x + columns : 2] for y, x in starts]
            cells = tuple(slice(first * own.step, None, own.stride * own.step) for first in (top, left))
            before = [seen.padded[:, :channel, 1 + y : 1 + y + h, 1 + x : 1 + x + w][(..., *cells)] for y, x in _AROUND]
            sizes = seen.sizes[:, :, :channel][(..., *cells)]
            one = np.ones((codes.size, 1), np.float32)
            columns_near = np.stack([part.ravel() for part in near], 1) if near else one[:, :0]
            flat = [part.transpose(0, 2, 3, 1).reshape(codes.size, -1) for part in (*before, *sizes)]
            inputs = np.concatenate([columns_near, *flat[: len(before)], one], 1)
            constants = [one, one * (own.step > 1)]
            parts.append((codes.ravel(), columns_near, inputs, np.concatenate([*flat[len(before) :], *constants], 1)))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def features(self, center: Floats) -> Floats:
        """Return what the size depends on: earlier channels, and the neighbors' distances from the center."""
        distances = np.abs(self.near - center[:, None])
        four = distances[:, :4]
        if not four.shape[1]:
            return self.sizes
        together = [four.sum(1), four.max(1), np.abs(self.near[:, :4].mean(1))]
        return np.concatenate([self.sizes, distances, np.stack(together, 1)], 1)


class Model(NamedTuple):
    """The weights of one kind of pass in a channel."""

    center: Floats
    size: Floats

    def apply(self, rows: Rows) -> tuple[Ints, Ints, Ints]:
        """Return for every cell the class of its expected size, of its center's fraction, and its distance's index."""
        center = rows.inputs @ self.center
        size = rows.features(center) @ self.size
        nearest = np.round(center)
        fraction = center - nearest
        distance = (rows.codes - nearest) * np.where(fraction < 0, -1, 1)
        octave = np.floor(4 * np.log2(np.maximum(size, 2.0**-7))) + 28
        fine = np.where(size < _FINE, np.round(8 * np.abs(fraction)), 0)
        index = np.clip(distance, -_MOST, _MOST) + _MOST
        return np.clip(octave, 0, _CLASSES - 1).astype(int), fine.astype(int), index.astype(int)

    @classmethod
    def fit(cls, rows: Rows) -> "Model":
        """Fit the center with a rough guess of sizes, the sizes, and both once more."""
        near = rows.near[:, :4]
        guess = 1 + (np.abs(near).mean(1) if near.shape[1] else np.zeros_like(rows.codes))
        rough = cls._fit(rows, guess)
        return cls._fit(rows, rows.features(rows.inputs @ rough.center) @ rough.size + 0.1)

    @classmethod
    def _fit(cls, rows: Rows, sizes: Floats) -> "Model":
        weights = _least_squares(rows.inputs, rows.codes, sizes)
        center = rows.inputs @ weights
        return cls(weights, _likeliest(rows.features(center), np.abs(rows.codes - center)))


def _least_squares(inputs: Floats, target: Floats, sizes: Floats) -> Floats:
    weighted = inputs * (sizes**-2)[:, None]
    gram, moment = (weighted.T @ inputs).astype(float), (weighted.T @ target).astype(float)
    gram += np.diag(1e-4 * np.diag(gram) + 1e-3)
    return np.linalg.solve(gram, moment).astype(np.float32)


def _likeliest(features: Floats, sizes: Floats) -> Floats:
    """Find nonnegative weights for exponential laws with these means; each round is a multiplication."""
    weights = sizes.mean() / features.shape[1] / np.maximum(features.mean(0), 1e-3)
    for _ in range(60):
        inverse = 1 / (features @ weights + 1e-3)
        weights *= ((sizes + 0.05) * inverse**2) @ features / np.maximum(inverse @ features, 1e-9)
    return np.where(weights < 1e-4, 0, weights).astype(np.float32)


class LearnedDensity:
    """Densities of the codes of a codec.

    Args:
        latents: Integers ``(D, h, w)``, int8, to learn from.
        crops: How many crops of them are looked at; large latents give more of them.
        seed: Of the crops.

    Raises:
        ValueError: No latents are large enough for a crop.
    """

    def __init__(self, latents: Sequence[Tensor], crops: int, seed: int = 0) -> None:
        large = [z for z in latents if min(z.shape[1:]) >= SIDE]
        if not large:
            raise ValueError(f"none of {len(latents)} latents to learn from has {SIDE} cells per side")
        random, roots = np.random.default_rng(seed), np.array([z[0].numel() for z in large]) ** 0.5
        cut = []
        for index in random.choice(len(large), crops, p=roots / roots.sum()):
            y, x = (int(random.integers(n - SIDE + 1)) for n in large[index].shape[1:])
            cut.append(large[index][:, y : y + SIDE, x : x + SIDE])
        seen = look(torch.stack(cut).numpy())
        self.channels = len(cut[0])
        self.models: dict[tuple[int, int], Model] = {}
        counts = np.zeros((_CLASSES, _FRACTIONS, 2 * _MOST + 1))
        for channel in tqdm(range(self.channels), desc="fit densities", unit="channel"):
            gathered = [(own.kind, Rows.of(seen, channel, own)) for own in passes(channel)]
            for kind in (BASE, DIAGONAL, CROSS):
                rows = Rows(*map(np.concatenate, zip(*(r for k, r in gathered if k == kind), strict=True)))
                model = self.models[channel, kind] = Model.fit(rows)
                np.add.at(counts, model.apply(rows), 1)
        self.costs = _costs(counts)

    def bits_of(self, seen: Seen, channel: int, own: Pass) -> NDArray[np.float64]:
        """Estimate the bits of every cell of a pass, ``(cells,)``."""
        return self.costs[self.models[channel, own.kind].apply(Rows.of(seen, channel, own))]

    def bits(self, latents: Tensor) -> float:
        """Estimate the bits of latents ``(D, h, w)``, int8."""
        seen = look(latents[None].numpy())
        return sum(float(self.bits_of(seen, d, own).sum()) for d in range(self.channels) for own in passes(d))

    def weights(self) -> int:
        """Count the weights that are not zero."""
        return sum(int(np.count_nonzero(part)) for model in self.models.values() for part in model)


def _costs(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn counts into bits: sparse tables lean on those of the next sizes, and on a geometric law of the same mean."""
    distance = np.abs(np.arange(2 * _MOST + 1) - _MOST)
    mean = (counts * distance).sum((1, 2), keepdims=True) / np.maximum(counts.sum((1, 2), keepdims=True), 1)
    law = np.exp(-distance / (mean + 0.15))
    law /= law.sum(2, keepdims=True)
    shares = counts + (np.concatenate([counts[:1], counts[:-1]]) + np.concatenate([counts[1:], counts[-1:]])) / 4
    shares += 30 * law + 1e-3
    return -np.log2(shares / shares.sum(2, keepdims=True))

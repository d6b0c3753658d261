"""Folded transforms by lifting, where numba is installed: what convolutions compute, in less time.

``strips.py`` analyzes tiles of images; ``kernels.py`` does the rest. Here signals are cut into tiles that overlap by
the reach of the filters, small signals share a tile, and threads share the tiles (``tiles.py``). Only the tiles at work
take memory besides signal and latents.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .filters import band_positions
from .guarded import KernelError, analyze, analyze_images, load, memory_of, store, synthesize
from .kernels import GAINS, SUMS, TERMS, Grid, Places, Planes
from .polyphase import Finish, Prepare
from .strips import CHANNELS, Image
from .tiles import LEAST, TILE, Scratch, Tile, cut, places, run, stop_threads

__all__ = ["KernelError", "LiftedAnalysis", "LiftedSynthesis", "stop_threads"]

_SERIAL = 1 << 15  # values: torch shares larger operations among its own threads, which would compete with ours
_NO_LIMITS = (-math.inf, math.inf)
_SCRATCH = Scratch()


class _Lifting:
    """What analysis and synthesis share.

    Images are cut along their height. Waveforms ``(N, C, T)`` are taken for the rows of one image ``(1, C, N, T)`` that
    is not lifted downwards, and are cut along time.

    Args:
        matrix: Between packets and latents, ``(C * bands, D)``.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.

    Attributes:
        tile: Values of a tile.
        least: Cells of the shortest piece that is cut for another thread.
    """

    def __init__(self, matrix: Tensor, levels: int, dims: int) -> None:
        self.tile, self.least = TILE, LEAST
        self.dims, self.width = dims, 2**levels
        self.height = self.width if dims == 2 else 1
        self.latents = matrix.shape[1]
        self.channels = matrix.shape[0] // (self.height * self.width)
        # In place, the first level decides between even and odd samples, while it is the first bit of a packet's index.
        digits = np.arange(self.width)[:, None] >> np.arange(levels)[::-1] & 1
        place, gain = (digits << np.arange(levels)).sum(1), np.array(GAINS)[digits].prod(1)
        bands = band_positions((levels,) * dims)
        self.gains = gain[bands].prod(0)  # of packets
        self.order = np.argsort(place[bands[0]] * self.width + place[bands[1]] if dims == 2 else place[bands[0]])

    def _packets(self, values: np.ndarray) -> np.ndarray:
        """Bring ``(C, bands, D)`` to the order of the planes, ``(height, width * C, D)``."""
        values = values[:, self.order].transpose(1, 0, 2)
        return values.reshape(self.height, self.width * self.channels, -1)

    def _tiles(self, signals: int, size: tuple[int, ...]) -> list[Tile]:
        """Cut signals of a size in cells."""
        row = size[1] + 2 if self.dims == 2 else 1
        return cut(signals, size[0], row, self.height * self.width * self.channels, self.tile, self.least)

    def _grid(self, tile: Tile, across: int) -> Grid:
        along = tile.cells + 2 * tile.halo
        return Grid(tile.signals, along, across, 1) if self.dims == 2 else Grid(1, tile.signals, along, 0)

    def _load(self, x: Tensor, memory: np.ndarray, tile: Tile, planes: Planes) -> None:
        """Load the samples of a tile, periodic, and extended by reflection at the end."""
        start, strides, grid = tile.start - tile.halo, x.stride(), planes.grid
        signals = np.arange(tile.first, tile.first + tile.signals) * strides[0]
        if self.dims == 2:
            top, rows = places(start, grid.rows, planes.height, x.shape[2], strides[2])
            left, columns = places(0, grid.columns, planes.width, x.shape[3], strides[3])
            images = signals + top + left
        else:
            left, columns = places(start, grid.columns, planes.width, x.shape[2], strides[2])
            images, rows = np.array([left]), signals[None].astype(np.uint64)
        load(memory, Places(images, rows, columns, strides[1]), planes)

    def _store(
        self, planes: Planes, tile: Tile, shift: float, limits: tuple[float, float], out: Tensor, memory: np.ndarray
    ) -> None:
        """Store what belongs to a tile itself."""
        strides = out.stride()
        start = tile.first * strides[0]
        if self.dims == 2:
            start += tile.start * planes.height * strides[2]
            skip = (tile.halo, 0)
        else:
            start += tile.start * planes.width
            skip, strides = (0, tile.halo), (0, strides[1], strides[0])
        bounds = np.float32(limits[0]), np.float32(limits[1])
        store(planes, skip, np.float32(shift), bounds, memory, start, strides[:3])


class LiftedAnalysis(_Lifting):
    """Analysis and projection, as `folded.FoldedAnalysis` for the wavelet ``bior4.4``.

    Args:
        weight: Projection ``(D, C * bands)``.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
    """

    def __init__(self, weight: Tensor, levels: int, dims: int) -> None:
        super().__init__(weight.T, levels, dims)
        values = weight.detach().double().T.numpy().reshape(self.channels, -1, self.latents) * self.gains[:, None]
        packets = self._packets(values)
        if dims == 1:
            self.weight = _round_up(packets.transpose(0, 2, 1))
            self.padded = self.weight.shape[1]
        else:  # latents in groups that are computed together
            packets = np.pad(packets, ((0, 0), (0, 0), (0, -self.latents % CHANNELS))).astype(np.float32)
            self.padded = packets.shape[2]
            self.weight = packets.reshape(*packets.shape[:2], -1, CHANNELS).transpose(2, 0, 1, 3).ravel()

    def __call__(self, x: Tensor, scale: float, bias: Tensor, finish: Finish | None = None) -> Tensor:
        """Transform ``scale * x`` and add the bias.

        Args:
            x: ``(N, C, H, W)`` or ``(N, C, T)``, uint8 or float32, of any strides and at least one cell.
            scale: Factor.
            bias: ``(D,)``.
            finish: What is done to the result.

        Returns:
            Latents, float32.
        """
        size = tuple(-(-side // self.width) for side in x.shape[2:])
        out = x.new_empty((x.shape[0], self.latents, *size), dtype=torch.float32)
        weight = self.weight * np.float32(scale)
        offset = np.zeros(self.padded, np.float32)
        offset[: self.latents] = bias.numpy()
        work = (self._images if self.dims == 2 else self._waveforms)(x, weight, offset, out, finish)
        run(work, self._tiles(x.shape[0], size))
        return out

    def _images(
        self, x: Tensor, weight: np.ndarray, bias: np.ndarray, out: Tensor, finish: Finish | None
    ) -> Callable[[Tile], None]:
        if x.stride(3) != 1 and x.stride()[1::2] != (1, self.channels):
            x = x.contiguous()
        together = 1 if x.stride(3) == 1 else self.channels
        image = Image(self.channels, x.shape[2], x.shape[3], self.width, x.stride()[:3], together)
        finish = finish or Finish()
        look = finish.look
        memory, latents = _flat(x), out.numpy()
        squeeze = np.float32(finish.slope), np.float32(finish.limit)
        looked = 0 if look is None else look.channels

        def work(tile: Tile) -> None:
            scratch = _SCRATCH.memory("samples", sum(memory_of(image, tile.signals, tile.cells, tile.halo)[:3]))
            found = np.empty((2, looked), np.float32)
            analyze_images(memory, image, tile, weight, bias, squeeze, found, latents, scratch)
            if look is not None:
                look.compare(*found)

        return work

    def _waveforms(
        self, x: Tensor, weight: np.ndarray, bias: np.ndarray, out: Tensor, finish: Finish | None
    ) -> Callable[[Tile], None]:
        memory, out_memory = _flat(x), _flat(out)

        def work(tile: Tile) -> None:
            grid = self._grid(tile, 0)
            samples = _SCRATCH.planes("samples", grid, self.height * self.width * self.channels)
            latents = _SCRATCH.planes("latents", grid, len(bias))
            planes = Planes(samples, grid, self.height, self.width, self.channels)
            self._load(x, memory, tile, planes)
            analyze(planes, weight, bias, latents)
            self._store(Planes(latents, grid, 1, 1, self.latents), tile, 0.0, _NO_LIMITS, out, out_memory)
            if finish is not None:
                done = out[tile.first : tile.first + tile.signals].narrow(2, tile.start, tile.cells)
                channels = max(1, _SERIAL * self.latents // done.numel())
                for first in range(0, self.latents, channels):
                    part = done[:, first : first + channels]
                    part.copy_(finish(part, first))

        return work


class LiftedSynthesis(_Lifting):
    """Decoding and synthesis, as `folded.FoldedSynthesis` for the wavelet ``bior4.4``.

    Args:
        weight: ``(C * bands, D)``.
        bias: ``(C * bands,)``.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
    """

    def __init__(self, weight: Tensor, bias: Tensor, levels: int, dims: int) -> None:
        super().__init__(weight, levels, dims)
        values = weight.detach().double().numpy().reshape(self.channels, -1, self.latents) / self.gains[:, None]
        self.weight = _round_up(self._packets(values))
        values = bias.detach().double().numpy().reshape(self.channels, -1, 1) / self.gains[:, None]
        self.bias = self._packets(values)[..., 0].astype(np.float32)

    def __call__(
        self,
        z: Tensor,
        scale: float,
        shift: float,
        prepare: Prepare | None = None,
        limits: tuple[float, float] = _NO_LIMITS,
    ) -> Tensor:
        """Map latents ``(N, D, h, w)`` or ``(N, D, t)`` to ``scale * signal + shift``, clamped.

        Args:
            z: Latents, float32.
            scale: Factor.
            shift: Added after scaling.
            prepare: Called with parts of the latents.
            limits: What the signal is clamped to.
        """
        out = z.new_empty((z.shape[0], self.channels, *[side * self.width for side in z.shape[2:]]))
        memory, out_memory = _flat(z), _flat(out)
        weight, bias = self.weight * np.float32(scale), self.bias * np.float32(scale)

        def work(tile: Tile) -> None:
            grid = self._grid(tile, z.shape[-1])
            samples = _SCRATCH.planes("samples", grid, weight.shape[1] * self.height + SUMS)
            latents = _SCRATCH.planes("latents", grid, self.latents)
            self._load(z, memory, tile, Planes(latents, grid, 1, 1, self.latents))
            if prepare is not None:
                for part in torch.from_numpy(latents).split(_SERIAL):
                    part.copy_(prepare(part))
            planes = Planes(samples, grid, self.height, self.width, self.channels)
            synthesize(latents, self.latents, weight, bias, planes)
            self._store(planes, tile, shift, limits, out, out_memory)

        run(work, self._tiles(z.shape[0], z.shape[2:]))
        return out


def _round_up(matrices: np.ndarray) -> np.ndarray:
    """Extend matrices ``(n, rows, columns)`` by zeros to multiples of ``SUMS`` and ``TERMS``."""
    rows, columns = matrices.shape[1:]
    return np.pad(matrices, ((0, 0), (0, -rows % SUMS), (0, -columns % TERMS))).astype(np.float32)


def _flat(x: Tensor) -> np.ndarray:
    """Return the memory that a tensor spans, as one array."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((span,), (1,)).numpy()

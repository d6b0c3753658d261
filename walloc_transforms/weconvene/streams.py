"""``EntropyCoder``: what both sides of WeConvene's streams share, and how latents become streams and return.

The hyper latents have a stream, coded by a table for each channel, and so has each group of WeChARM. The tables of its
symbols follow from scales that the exact networks compute of what was coded before.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .charm import DecodeSlice, WeChARM
from .coding import SymbolDecoder, SymbolEncoder
from .density import FactorizedPrior, GaussianConditional
from .exact import freeze, on_grid

__all__ = ["EntropyCoder"]


class EntropyCoder:
    """Code latents by exact copies of the networks that predict them, as their weights are now, on the CPU.

    Args:
        means: Makes hyper means of the hyper latents.
        scales: Makes hyper scales of them.
        charm: The model of the groups.
        prior: The density of the hyper latents, with its tables.
    """

    def __init__(self, means: nn.Module, scales: nn.Module, charm: WeChARM, prior: FactorizedPrior) -> None:
        self._slice_of, self._names = charm.slice_of, ["hyper", *charm.sizes]
        self._means, self._scales, self._charm = freeze(means), freeze(scales), freeze(charm)
        self._medians = on_grid(prior.medians.detach().cpu()).view(-1, 1, 1)
        self._hyper_tables, self._tables = prior.tables(), GaussianConditional.tables()

    def run(self, hyper_symbols: Tensor, decode: DecodeSlice) -> list[Tensor]:
        """Decode all groups by a function, given the symbols of the hyper latents."""

        def decode_on_grid(name: str, index: int, means: Tensor, scales: Tensor) -> Tensor:
            return decode(name, index, on_grid(means), on_grid(scales))

        z_hat = hyper_symbols + self._medians
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            return self._charm(self._means(z_hat), self._scales(z_hat), decode_on_grid)

    def hyper_symbols(self, z: Tensor) -> Tensor:
        """Round hyper latents ``(N, C, H, W)``."""
        return _symbols(z.cpu().double() - self._medians)

    def encode(self, parts: Mapping[str, Tensor], z: Tensor) -> tuple[bytes, ...]:
        """Encode the latents of an image, by group, and its hyper latents."""
        parts = {name: part.cpu().double() for name, part in parts.items()}
        encoders = {name: SymbolEncoder() for name in self._names}

        def encode(name: str, index: int, means: Tensor, scales: Tensor) -> Tensor:
            symbols = _symbols(self._slice_of(parts[name], index) - means)
            encoders[name].put(symbols.int().numpy(), _table_of(scales), self._tables)
            return symbols + means

        symbols = self.hyper_symbols(z)
        encoders["hyper"].put(symbols.int().numpy(), self._channels(*z.shape[2:]), self._hyper_tables)
        self.run(symbols, encode)
        return tuple(encoder.finish() for encoder in encoders.values())

    def decode(self, streams: Sequence[bytes], size: Sequence[int]) -> list[Tensor]:
        """Decode the groups of an image whose hyper latents have this size.

        Raises:
            ValueError: A stream is damaged, or there are too many or too few.
        """
        if len(streams) != len(self._names):
            raise ValueError(f"expected {len(self._names)} streams ({', '.join(self._names)}), got {len(streams)}")
        decoders = {name: SymbolDecoder(data) for name, data in zip(self._names, streams, strict=True)}

        def decode(name: str, index: int, means: Tensor, scales: Tensor) -> Tensor:
            return torch.from_numpy(decoders[name].take(_table_of(scales), self._tables)) + means

        symbols = decoders["hyper"].take(self._channels(*size), self._hyper_tables)
        decoded = self.run(torch.from_numpy(symbols), decode)
        for decoder in decoders.values():
            decoder.finish()
        return decoded

    def _channels(self, height: int, width: int) -> NDArray[np.int64]:
        """Number the channel of every hyper latent: it has a table of its own."""
        channels = len(self._medians)
        return np.broadcast_to(np.arange(channels)[:, None, None], (1, channels, height, width))


def _table_of(scales: Tensor) -> NDArray[np.int64]:
    return GaussianConditional.table_of(scales).numpy()


def _symbols(x: Tensor) -> Tensor:
    """Round to integers of 32 bits."""
    return x.round().clamp(-(2**31), 2**31 - 1)

"""Decoders: what maps expanded latents back to wavelet packets."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..wavelets import conv1x1
from .folding import LOCK

__all__ = ["LinearDecoder", "NetworkDecoder"]


class LinearDecoder(nn.Module):
    """One matrix per cell: ``packets = weight @ z + bias``.

    Args:
        channels: Latent channels D.
        packets: Packet channels, ``C * bands``.
    """

    def __init__(self, channels: int, packets: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(packets, channels, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(packets, dtype=torch.float32), requires_grad=False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with LOCK:  # all weights at once
            super()._load_from_state_dict(*args, **kwargs)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(N, D, ...)`` to ``(N, C * bands, ...)``."""
        return conv1x1(z, self.weight, self.bias)


class NetworkDecoder(nn.Module):
    """A network over the grid of latents, in tiles where a whole signal would take too much memory or time.

    Image networks normalize and attend over all that they are given, so a tile comes out a little different from the
    same place in the whole; neighbors share a quarter of their side and are blended by linear ramps. Audio networks
    are local: they are always cut, which changes nothing.

    Args:
        network: Maps ``(N, D, ...)`` to ``(N, C * bands, ...)``.
        packets: Packet channels, ``C * bands``.
        dims: 2 for images, 1 for audio.
        pad: Cells that the network drops at either end.
        post: A filter on the decoded waveform, or nothing.

    Attributes:
        reach: How many cells to either side matter to an Oobleck network: 3 in the first and last convolution each, 39
            in each block's residual units and one in its transposed convolution.
    """

    reach = 86

    def __init__(
        self, network: nn.Module, packets: int, dims: int, pad: int = 0, post: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network, self.post = network, post
        self.packets, self.dims, self.pad = packets, dims, pad

    def forward(self, z: Tensor, tile: int | None = None, progress: bool = False) -> Tensor:
        """Map ``(N, D, h, w)`` or ``(N, D, t)`` to packets.

        Args:
            z: Expanded latents.
            tile: Side of a tile in latents. Default: the whole image, 4,096 latents of audio.
            progress: Show a progress bar.

        Raises:
            ValueError: ``tile`` is below 8 latents (images) or 344 (audio).
        """
        tile = tile or (4096 if self.dims == 1 else None)
        least = 4 * self.reach if self.dims == 1 else 8
        if tile is not None and tile < least:
            raise ValueError(f"a tile must be at least {least} cells wide, got {tile}")
        sides = [side - 2 * self.pad for side in z.shape[2:]]
        reach = self.reach if self.dims == 1 else None
        parts = list(itertools.product(*[cut_side(side, tile or side, reach) for side in sides]))
        if len(parts) == 1 and len(z) > 0 and not progress:
            return self.network(z)
        out = z.new_zeros(len(z), self.packets, *sides)
        with tqdm(total=len(z) * len(parts), desc="decode", unit="tile", disable=not progress) as bar:
            for i, spans in itertools.product(range(len(z)), parts):
                window = [slice(start, start + len(ramp) + 2 * self.pad) for start, ramp in spans]
                place = [slice(start, start + len(ramp)) for start, ramp in spans]
                packets = self.network(z[(slice(i, i + 1), slice(None), *window)])
                for axis, (_, ramp) in enumerate(reversed(spans)):
                    packets = packets * ramp.to(z.device).view(-1, *[1] * axis)
                out[(slice(i, i + 1), slice(None), *place)] += packets
                bar.update()
        return out


def cut_side(side: int, tile: int, reach: int | None) -> list[tuple[int, Tensor]]:
    """Cut a side into overlapping tiles of equal size.

    Args:
        side: Length of the side.
        tile: Length of a tile.
        reach: Of a local network: what lies farther from the end of a tile is as in the whole, so nothing is blended.
            Default: not local, and neighbors are blended.

    Returns:
        Start and weights of every tile; the weights of all tiles sum to 1 everywhere.
    """
    if tile >= side:
        return [(0, torch.ones(side, dtype=torch.float32))]
    overlap = tile // 4 if reach is None else 2 * reach
    count = -(-(side - overlap) // (tile - overlap))
    starts = [round(i * (side - tile) / (count - 1)) for i in range(count)]
    ramps, total = [], torch.zeros(side, dtype=torch.float32)
    for i, start in enumerate(starts):
        before = 0 if i == 0 else starts[i - 1] + tile - start
        after = 0 if i == count - 1 else start + tile - starts[i + 1]
        distance = torch.arange(tile, dtype=torch.float32) + 0.5  # of the middle of a latent
        rise, fall = distance / max(before, 0.5), (tile - distance) / max(after, 0.5)
        if reach is not None:
            rise, fall = ((n > reach) | (m == 0) for n, m in ((distance, before), (tile - distance, after)))
        ramp = torch.minimum(rise.float(), fall.float()).clamp(max=1)
        ramps.append(ramp)
        total[start : start + tile] += ramp
    return [(start, ramp / total[start : start + tile]) for start, ramp in zip(starts, ramps, strict=True)]

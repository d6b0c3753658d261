"""The refiner: a small convolutional network that estimates what the linear decoder leaves out of the packets.

    latents --normalize--> conv 3x3 - blocks of (norm, conv 3x3, GELU, conv 3x3) - norm --> features f
    packets = decoder.weight @ z + decoder.bias + weight @ f

The linear decoder looks at one cell at a time. The cells around it tell more: edges go on, textures repeat. The refiner
looks at them. It works at the resolution of the latents, and its last layer, one matrix per cell, is folded with the
wavelets as the linear decoder is. It is trained beside a frozen codec, so both decoders read the same latents.
"""

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..safe import check_tensors
from .config import CodecConfig
from .networks import building

__all__ = ["Refiner", "build_refiner", "prefix_of", "refiner_state"]

_STATISTICS = ("latent_mean", "latent_std")
_TILE = {2: 256, 1: 65536}  # cells per side, by dims: 34 MB for each intermediate of 128 channels


class Refiner(nn.Module):
    """Maps normalized latents to features, and these to packets.

    An untrained one adds nothing: ``head`` is zero.

    Args:
        channels: Latent channels D.
        packets: Packet channels, ``C * bands``.
        width: Channels of the features.
        blocks: Residual blocks.
        dims: 2 for images, 1 for audio, whose frames become an image of one row.

    Attributes:
        head: ``(packets, width)``.
        scale: ``(packets,)``, what ``head`` is multiplied by: about the spread of what the linear decoder leaves, so
            that one learning rate suits all packets.
        reach: How many cells to either side matter.
        latent_mean: Mean of every latent channel that it was trained with, ``(D,)``; None: that of its codec.
        latent_std: Standard deviation of every latent channel, likewise.
    """

    scale: Tensor
    latent_mean: Tensor | None
    latent_std: Tensor | None

    def __init__(self, channels: int, packets: int, width: int, blocks: int, dims: int) -> None:
        super().__init__()
        self.width, self.dims, self.reach = width, dims, 1 + 2 * blocks
        self.stem = _convolution(channels, width, dims)
        self.blocks = nn.ModuleList(_Block(width, dims) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Parameter(torch.zeros(packets, width))
        self.register_buffer("scale", torch.ones(packets))
        self.register_buffer("latent_mean", None)
        self.register_buffer("latent_std", None)

    @property
    def weight(self) -> Tensor:
        """The last layer, ``(packets, width)``, from features to packets."""
        return self.head * self.scale[:, None]

    def keep_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Go on with these statistics of latents, those of the training, when the codec gets others."""
        if self.latent_mean is None:
            self.latent_mean, self.latent_std = mean.detach().clone(), std.detach().clone()

    def forward(self, latents: Tensor, tile: int | None = None, progress: bool = False) -> Tensor:
        """Compute features ``(N, width, ...)`` of normalized latents ``(N, D, ...)``.

        Args:
            latents: Float32, zero mean and unit variance per channel.
            tile: Cells per side that are computed at once, together with the ``reach`` around them, so the result is
                that of the whole but for rounding. Default: 256, for audio 65,536.
            progress: Show a progress bar, of tiles.
        """
        x = latents if self.dims == 2 else latents[:, :, None]
        sides, step = x.shape[2:], tile or _TILE[self.dims]
        if max(sides) <= step:
            features = self._features(x)
        else:
            size = (len(x), self.width, *sides)
            features = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            places = [*itertools.product(*(range(0, side, step) for side in sides))]
            for place in tqdm(places, desc="decode", unit="tile") if progress else places:
                inner = [slice(start, min(start + step, side)) for start, side in zip(place, sides, strict=True)]
                outer = [slice(max(0, s.start - self.reach), s.stop + self.reach) for s in inner]
                cut = [slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)]
                every = (slice(None), slice(None))
                features[(*every, *inner)] = self._features(x[(*every, *outer)])[(*every, *cut)]
        return features if self.dims == 2 else features[:, :, 0]

    def _features(self, x: Tensor) -> Tensor:
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return _normalize(self.norm, x)

    def packets(self, features: Tensor) -> Tensor:
        """Map features ``(N, width, ...)`` to packets ``(N, packets, ...)``."""
        return F.linear(features.movedim(1, -1), self.weight.to(features.dtype)).movedim(-1, 1)


class _Block(nn.Module):
    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1 = _convolution(width, width, dims)
        self.conv2 = _convolution(width, width, dims)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(_normalize(self.norm, x))))


def _convolution(inputs: int, outputs: int, dims: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, (3, 3) if dims == 2 else (1, 3), padding=(1, 1) if dims == 2 else (0, 1))
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
    return conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations


def _normalize(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Normalize over the channels of every cell: over the whole image, tiles would differ from it."""
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def build_refiner(config: CodecConfig, state: Mapping[str, Tensor] | None = None) -> Refiner:
    """Build the refiner of a codec, frozen.

    Args:
        config: The geometry.
        state: Tensors by name, in half or single precision. Default: an untrained one, always the same.

    Raises:
        ValueError: A tensor is missing, unexpected, of another shape or dtype, or not finite; it is named.
    """
    c = config
    with building(meta=state is not None):
        refiner = Refiner(c.channels, c.packets, c.refiner_width, c.refiner_blocks, c.dims).float()
    if state is not None:
        with torch.inference_mode(False):  # ordinary tensors, which belong to this refiner alone
            state = {
                name: value.to(torch.float32 if value.dtype == torch.float16 else value.dtype, copy=True)
                for name, value in state.items()
            }
        if not state.keys().isdisjoint(_STATISTICS):
            refiner.keep_statistics(*torch.empty(2, c.channels, device="meta"))
        shapes = {name: tuple(value.shape) for name, value in refiner.state_dict().items()}
        check_tensors(state, shapes, f"the refiner of codec {c.name!r}")
        if "latent_std" in state and not bool((state["latent_std"] > 0).all()):
            raise ValueError(f"the refiner of codec {c.name!r}: latent_std must be positive")
        refiner.load_state_dict(state, assign=True)
        for module in refiner.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from annotations
    return refiner.requires_grad_(False)


def refiner_state(refiner: Refiner) -> dict[str, Tensor]:
    """Return the tensors of a refiner as they are stored: its weights in half precision.

    ``scale`` can be tiny, and stays as it is, as statistics do.

    Raises:
        ValueError: A weight is beyond the range of half precision.
    """
    whole = {"scale", *_STATISTICS}
    state = {name: v if name in whole else v.half() for name, v in refiner.state_dict().items()}
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"the refiner's {name} is beyond the range of half precision")
    return state


def prefix_of(state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Take the tensors of a refiner for the first ``channels`` latent channels: the others stay at their mean, zero."""
    shorter = {name: value[:channels] for name, value in state.items() if name in _STATISTICS}
    return {**state, "stem.weight": state["stem.weight"][:, :channels], **shorter}

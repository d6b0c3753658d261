"""The network that separates, the same for every front end: masks on what a front end gives, Conv-TasNet's way.

    waveform -> carrier --lift--> mask features --x masks--lower--> carrier of every source -> waveforms
                   |                                  ^
                   +--> features, normalized --read---+ trunk: Conv-TasNet's mask generator, or a transformer

``read``, ``lift`` and ``lower`` are one learned matrix each, applied to every frame. ``lower`` starts as the inverse of
``lift``: masks of ones reproduce the mixture as far as the front end carries it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.models.conv_tasnet import MaskGenerator

from recipes.common.macs import count_macs
from recipes.separation.front_ends import HOP, FrontEnd


@dataclass
class NetworkSize:
    """How large the network is.

    Attributes:
        mask_features: Features that are masked. Front ends may not have more values: the largest has 512.
        width: Channels of the trunk.
        hidden: Channels within a block of the trunk.
        layers: Blocks per stack, of dilation 1, 2, 4 and so on.
        stacks: Stacks.
    """

    mask_features: int = 512
    width: int = 64
    hidden: int = 128
    layers: int = 6
    stacks: int = 2


class TransformerTrunk(nn.Module):
    """A plain transformer in place of the mask generator, of about its multiply-adds.

    Args:
        features: Mask features.
        sources: Number of sources.
        size: Of the mask generator that it stands in for.
        frames: Of the crops that its number of layers is made for: attention costs more for longer ones.
    """

    def __init__(self, features: int, sources: int, size: NetworkSize, frames: int) -> None:
        super().__init__()
        self.sources, width = sources, size.width
        block = 3 * width * size.hidden + 3 * size.hidden  # multiply-adds per frame
        layer = 12 * width**2 + 2 * frames * width
        layers = max(1, round(size.layers * size.stacks * block / layer))
        self.norm = nn.GroupNorm(1, features)
        self.entry = nn.Conv1d(features, width, 1)
        heads = max(1, width // 16)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True),
            layers,
            norm=nn.LayerNorm(width),
            enable_nested_tensor=False,
        )
        self.exit = nn.Conv1d(width, features * sources, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, features, frames)`` to masks ``(batch, sources, features, frames)``."""
        x = self.entry(self.norm(x)).transpose(1, 2)
        x = self.layers(x + _positions(x))
        return torch.sigmoid(self.exit(x.transpose(1, 2))).unflatten(1, (self.sources, -1))


def _positions(x: Tensor) -> Tensor:
    """Sines and cosines of the place of every frame, ``(frames, width)`` (Vaswani et al. 2017)."""
    frames, width = x.shape[1:]
    rates = torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(10000) / width))
    angles = torch.arange(frames, device=x.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Separator(nn.Module):
    """Estimates the sources of a mixture.

    Args:
        front: The front end; its own parameters are trained if it has any that are not frozen.
        sources: Number of sources.
        trunk: ``conv_tasnet`` or ``transformer``.
        size: Of the network.
        frames: Of the crops to train on.

    Raises:
        ValueError: There is no such trunk, or ``mask_features`` are fewer than the front end's values.
    """

    mean: Tensor
    scale: Tensor
    carrier_scale: Tensor

    def __init__(self, front: FrontEnd, sources: int, trunk: str, size: NetworkSize, frames: int) -> None:
        super().__init__()
        values, self.group, masked = front.values, front.group, size.mask_features
        if not front.linear:
            masked = values
        elif masked < values:
            raise ValueError(f"{masked} mask features cannot carry the {values} values of a frame")
        self.front = front
        columns = values * self.group
        self.read = nn.Conv1d(columns, masked * self.group, 1)
        self.lift = self.lower = None
        if front.linear:
            self.lift = nn.Conv1d(columns, masked * self.group, 1, bias=False)
            self.lower = nn.Conv1d(masked * self.group, columns, 1, bias=False)
            nn.init.orthogonal_(self.lift.weight)
            with torch.no_grad():
                self.lower.weight.copy_(self.lift.weight.transpose(0, 1))
        if trunk == "conv_tasnet":
            self.trunk: nn.Module = MaskGenerator(
                masked, sources, 3, size.width, size.hidden, size.layers, size.stacks, "sigmoid"
            )
        elif trunk == "transformer":
            self.trunk = TransformerTrunk(masked, sources, size, frames)
        else:
            raise ValueError(f"trunk must be conv_tasnet or transformer, got {trunk!r}")
        for name, start in (("mean", 0), ("scale", 1), ("carrier_scale", 1)):
            self.register_buffer(name, torch.full((columns, 1), float(start)))

    @torch.no_grad()
    def measure(self, waveforms: Tensor) -> None:
        """Set the statistics by which features and carrier are normalized, from mixtures ``(batch, 2, time)``."""
        carrier = self.front.analyze(waveforms)
        features = self.front.features(carrier)
        self.mean.copy_(features.mean((0, 2))[:, None])
        # A channel that is silent in the sample must not blow up when it speaks.
        std = features.std((0, 2))[:, None]
        self.scale.copy_(std.clamp(min=1e-3 * float(std.max())))
        power = carrier.abs().square().mean((0, 2)).sqrt()[:, None]
        self.carrier_scale.copy_(power.clamp(min=1e-3 * float(power.max())))

    def forward(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Separate.

        Args:
            mixture: ``(batch, 2, time)``, ``time`` a multiple of 512.

        Returns:
            Waveforms ``(batch, sources, 2, time)``, and their carriers ``(batch, sources, ...)``.
        """
        carrier = self.front.analyze(mixture)
        features = (self.front.features(carrier) - self.mean) / self.scale
        with torch.autocast(mixture.device.type, torch.bfloat16, enabled=mixture.device.type == "cuda"):
            masks = self.trunk(self._ungroup(self.read(features)))
        estimates = self.apply_masks(carrier, masks.float())
        return self.front.synthesize(estimates.flatten(0, 1)).unflatten(0, estimates.shape[:2]), estimates

    def apply_masks(self, carrier: Tensor, masks: Tensor) -> Tensor:
        """Mask a carrier: ``(batch, sources, ...)`` from masks ``(batch, sources, mask features, frames)``."""
        if self.lift is None or self.lower is None:
            return carrier[:, None] * masks
        lifted = self._ungroup(self.lift(carrier / self.carrier_scale))
        masked = self._regroup((lifted[:, None] * masks).flatten(0, 1))
        return (self.lower(masked) * self.carrier_scale).unflatten(0, masks.shape[:2])

    def _ungroup(self, x: Tensor) -> Tensor:
        """Split every column into its frames, one after another."""
        return x.unflatten(1, (-1, self.group)).transpose(2, 3).flatten(2) if self.group > 1 else x

    def _regroup(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.group)).transpose(2, 3).flatten(1, 2) if self.group > 1 else x


def macs_per_second(model: Separator, seconds: float, rate: int) -> tuple[float, float]:
    """Multiply-adds per second of audio: of the trunk, and of all from waveform to waveforms (but Fourier transforms).

    Args:
        model: The network.
        seconds: Of the audio to count on, made a multiple of 512 samples: attention costs more for longer ones.
        rate: Sample rate in Hz.
    """
    samples = round(seconds * rate / (2 * HOP)) * 2 * HOP
    device = model.mean.device
    features = torch.zeros(1, model.read.out_channels // model.group, samples // HOP, device=device)
    mixture = torch.zeros(1, 2, samples, device=device)
    counts = (count_macs(model, lambda: model.trunk(features)), count_macs(model, lambda: model(mixture)))
    return counts[0] * rate / samples, counts[1] * rate / samples

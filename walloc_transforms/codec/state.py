"""A codec's config and tensors as values: the prefix of both, and their fingerprint."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping

from torch import Tensor

from .config import CodecConfig
from .refiner import prefix_of

__all__ = ["PrefixOfRefiner", "fingerprint", "prefix_config", "prefix_state"]


def prefix_config(config: CodecConfig, channels: int) -> CodecConfig:
    """Describe the codec of the first ``channels`` latent channels.

    Raises:
        ValueError: ``channels`` is not from 1 to the codec's own number or cuts a stage, or the encoder or decoder is
            a network, which needs all channels.
    """
    c = config
    if not 1 <= channels <= c.channels:
        raise ValueError(f"channels must be from 1 to {c.channels}, got {channels}")
    if (c.encoder, c.decoder) != ("linear", "linear"):
        raise ValueError(
            f"codec {c.name!r} has a network that needs all of its {c.channels} channels, got channels={channels}"
        )
    per_stage = c.channels // c.stages
    if c.stages > 1 and channels % per_stage:
        raise ValueError(f"channels must be a multiple of {per_stage}, the size of a stage, got {channels}")
    return dataclasses.replace(c, channels=channels, stages=channels // per_stage if c.stages > 1 else 1)


def prefix_state(state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Take the tensors of a linear codec for its first ``channels`` latent channels, without a refiner."""
    shorter = {}
    for name, value in state.items():
        if name == "decoder.weight":
            shorter[name] = value[:, :channels]
        elif not name.startswith("refiner."):
            shorter[name] = value if name == "decoder.bias" else value[:channels]
    return shorter


@dataclasses.dataclass(frozen=True)
class PrefixOfRefiner:
    """A refiner that has not been read yet, for the first latent channels; call it for its tensors by name.

    Attributes:
        whole: Reads the tensors for all channels.
        channels: The number of channels.
    """

    whole: Callable[[], Mapping[str, Tensor]]
    channels: int

    def __call__(self) -> dict[str, Tensor]:
        """Read the tensors."""
        return prefix_of(self.whole(), self.channels)


def fingerprint(config: CodecConfig, tensors: Mapping[str, Tensor]) -> str:
    """Hash what determines latents: SHA-256 of the encoder's geometry and weights, in hexadecimal."""
    c = config
    geometry = (
        c.modality,
        c.signal_channels,
        c.channels,
        c.levels,
        c.wavelet,
        c.latent_bits,
        c.encoder,
        c.encoder_width,
        c.stages,
        c.companding,
        c.pad,
    )
    digest = hashlib.sha256(repr(geometry).encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

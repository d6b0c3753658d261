"""What recipes ask of a codec: which one a name means, its decoders, the dtype of its rounded latents, the responses of
a linear decoder.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import walloc_transforms as wt


def load_codec_of(name: str) -> tuple[wt.Codec, str | None]:
    """Load the codec that ``CODEC``, ``CODEC:CHANNELS`` or either with ``+refiner`` names, and name its decoder.

    Raises:
        ValueError: There is no such codec, it is not for color images, or it has no such channels or decoder.
    """
    codec_name, plus, decoder = name.partition("+")
    codec_name, colon, channels = codec_name.partition(":")
    if (plus and decoder != "refiner") or (colon and not channels.isdecimal()):
        raise ValueError(f"expected CODEC, CODEC:CHANNELS, CODEC+refiner or CODEC:CHANNELS+refiner, got {name!r}")
    codec = wt.load_codec(codec_name, channels=int(channels) if colon else None)
    if codec.config.modality != "image" or codec.config.signal_channels != 3:
        raise ValueError(f"codec {codec_name!r} is not for color images")
    codec.config.check_decoder(decoder or None)
    return codec, decoder or None


def decoders_of(codec: wt.Codec) -> list[str]:
    """Name a codec's decoders: its own, then ``"refiner"`` if it has one."""
    return [codec.config.decoder, *["refiner"] * (codec.config.refiner_width > 0)]


def stored_dtype(codec: wt.Codec) -> torch.dtype:
    """Return the smallest integer dtype that holds a codec's rounded latents."""
    return torch.int8 if codec.config.latent_bits <= 8 else torch.int16


def impulse_responses(decode: Callable[[Tensor], Tensor], channels: int, reach: int, axes: int) -> Tensor:
    """Decode a 1 in each channel, all other values being zero, and take away what zeros give.

    Args:
        decode: An affine map from values ``(batch, channels, ...)`` to signals.
        channels: Of the values.
        reach: Cells or frames to either side of the 1.
        axes: 2 for images, 1 for waveforms.

    Returns:
        A signal for each channel, with its 1 in the middle cell or frame.
    """
    impulses = torch.zeros(channels, channels, *[2 * reach + 1] * axes)
    impulses[(slice(None), slice(None), *[reach] * axes)] = torch.eye(channels)
    return decode(impulses) - decode(torch.zeros_like(impulses[:1]))

"""Rounded latents in ``.wlc`` files, with the codec that belongs to them: ``container.py`` for who has codecs."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..codec import Codec, check_sample_rate
from ..zoo import CodecLike, load_codec
from .wlc import DEFAULT_CODER, LatentFile, read_latents, write_latents

__all__ = ["load_latents", "save_latents", "stored_codec"]


def save_latents(
    file: str | os.PathLike[str],
    latents: Tensor,
    codec: CodecLike,
    *,
    size: Sequence[int],
    sample_rate: int | None = None,
    coder: str = DEFAULT_CODER,
) -> int:
    """Write the rounded latents of one image or waveform, losslessly and atomically.

    Args:
        file: The file, ``.wlc`` by custom.
        latents: ``(D, h, w)`` or ``(D, t)``, integers in any dtype, as encoded with ``quantize``.
        codec: The codec that encoded them; its name is stored, and the hash of its encoder.
        size: ``(H, W)`` or ``(T,)`` of the signal.
        sample_rate: Of a waveform, in Hz. Default: the codec's, if that is known.
        coder: ``"zlib"`` or ``"webp"``; with the extra ``coders`` also ``"ans"`` or ``"jpegls"``. See docs/coders.md.

    Returns:
        The number of bytes written.

    Raises:
        ValueError: Latents that are not rounded or not of this codec, a size that does not belong to them, another
            sample rate than the codec's, or no such coder.
        ImportError: The coder is not installed.
    """
    codec = load_codec(codec)
    c = codec.config
    check_sample_rate(c, sample_rate)
    if latents.ndim != c.dims + 1 or latents.shape[0] != c.channels:
        form = f"({c.channels}, h, w)" if c.dims == 2 else f"({c.channels}, t)"
        raise ValueError(f"codec {c.name!r} has latents of shape {form}, got {tuple(latents.shape)}")
    sides = [-(-side // c.stride) + 2 * c.pad for side in size]
    if sides != list(latents.shape[1:]):
        raise ValueError(
            f"a signal of size {tuple(size)} has latents of {tuple(sides)}, got {tuple(latents.shape[1:])}"
        )
    if latents.dtype not in (torch.int8, torch.int16):
        codes = latents.to(torch.int16 if c.latent_bits > 8 else torch.int8)
        if not torch.equal(codes.to(latents.dtype), latents):
            raise ValueError(f"expected rounded latents, integers of {c.latent_bits} bits: encode with quantize")
        latents = codes
    return write_latents(
        file,
        latents,
        codec=c.name,
        fingerprint=codec.fingerprint(),
        size=tuple(size),
        sample_rate=sample_rate or c.sample_rate or None,
        coder=coder,
    )


def load_latents(file: str | os.PathLike[str], *, channels: int | None = None) -> LatentFile:
    """Read the latents of a ``.wlc`` file, believing nothing before it is checked.

    Args:
        file: The file.
        channels: Read only the first so many latent channels.

    Returns:
        The latents, int8 or int16, with their codec's name, the size of the signal and what else is stored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, no ``.wlc`` file or one of another version, or ``channels`` is out of range.
        ImportError: The coder is not installed.
    """
    return read_latents(file, channels=channels)


def stored_codec(stored: LatentFile, codec: CodecLike | None = None) -> Codec:
    """Load the codec of stored latents.

    Args:
        stored: What :func:`load_latents` gave.
        codec: The codec, where its name does not lead to it, as for one of your own. Default: by the stored name.

    Returns:
        The codec, of as many channels as were read.

    Raises:
        ValueError: The encoder of this codec is not the one that made the latents.
    """
    loaded = load_codec(stored.codec if codec is None else codec)
    if stored.channels < loaded.config.channels:
        loaded = loaded.prefix(stored.channels)
    if loaded.fingerprint() != stored.fingerprint:
        raise ValueError(
            f"these latents were made by another encoder, of SHA-256 {stored.fingerprint[:12]}..., than "
            f"that of codec {loaded.config.name!r}, {loaded.fingerprint()[:12]}..."
        )
    return loaded.prefix(len(stored.latents))

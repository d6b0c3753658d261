"""Rounded latents in ``.wlc`` files together with their codec; ``wlc.py`` is the format, and knows no codec."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..codec import Codec, CodecConfig, check_sample_rate
from ..latents import check_latents
from ..zoo import CodecLike, load_codec
from .wlc import DEFAULT_CODER, LatentFile, write_latents

__all__ = ["save_latents", "stored_codec"]


def save_latents(
    file: str | os.PathLike[str],
    latents: Tensor,
    codec: CodecLike,
    *,
    size: Sequence[int] | int | None = None,
    sample_rate: int | None = None,
    coder: str = DEFAULT_CODER,
) -> int:
    """Write the rounded latents of one image or waveform to a ``.wlc`` file, losslessly and atomically.

    Args:
        file: The file, by custom ``.wlc``; an existing one is replaced.
        latents: ``(D, h, w)`` or ``(D, t)``: integers in any dtype, as encoded with ``quantize=True``.
        codec: The codec that encoded them; ``Latents`` of another one are refused. The file keeps its name and its
            fingerprint.
        size: ``(H, W)``, or T of a waveform. Default: that of ``Latents``; a plain tensor does not know its own. Sizes
            that fill the same cells fit equally: one that is up to ``stride - 1`` samples too small is not noticed, and
            decoding then cuts these samples off.
        sample_rate: Samples per second of a waveform, in Hz. Default: the codec's, if that is known.
        coder: ``"zlib"`` or ``"webp"``; with the extra ``coders`` also ``"ans"`` or ``"jpegls"``. See docs/coders.md.

    Returns:
        The number of bytes written.

    Raises:
        ValueError: Latents that are normalized, not rounded or not of this codec, no size or one that does not belong
            to them, another sample rate than the codec's, or no such coder.
        ImportError: The coder is not installed.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 60, 90), "rgb_16x", quantize=True)
        >>> length = wt.save_latents("image.wlc", latents, "rgb_16x")
        >>> wt.load_latents("image.wlc").size
        (60, 90)
    """
    codec = load_codec(codec)
    c = codec.config
    check_sample_rate(c, sample_rate)
    if latents.ndim != c.dims + 1 or latents.shape[0] != c.channels:
        form = f"({c.channels}, h, w)" if c.dims == 2 else f"({c.channels}, t)"
        raise ValueError(f"codec {c.name!r} has latents of shape {form}, got {tuple(latents.shape)}")
    latents, normalized, own_size = check_latents(latents, codec)
    if normalized:
        raise ValueError("expected rounded latents, got normalized ones: encode with quantize=True, normalize=False")
    sides = c.check_size(size) or own_size
    if sides is None:
        raise ValueError("size is needed: a plain tensor of latents does not know the size of its signal")
    if own_size not in (None, sides):
        raise ValueError(f"these latents are of a signal of size {own_size}, got size {sides}")
    expected = tuple(-(-side // c.stride) + 2 * c.pad for side in sides)
    if expected != latents.shape[1:]:
        raise ValueError(f"a signal of size {sides} has latents of {expected}, got {tuple(latents.shape[1:])}")
    return write_latents(
        file,
        _as_integers(latents, c),
        codec=c.name,
        fingerprint=codec.fingerprint(),
        size=sides,
        sample_rate=sample_rate or c.sample_rate or None,
        coder=coder,
    )


def _as_integers(latents: Tensor, config: CodecConfig) -> Tensor:
    if latents.dtype in (torch.int8, torch.int16):
        return latents
    codes = latents.to(torch.int16 if config.latent_bits > 8 else torch.int8)
    if not torch.equal(codes.to(latents.dtype), latents):
        raise ValueError(f"expected rounded latents, integers of {config.latent_bits} bits: encode with quantize=True")
    return codes


def stored_codec(stored: LatentFile, codec: CodecLike | None = None) -> Codec:
    """Load the codec of stored latents.

    Args:
        stored: What :func:`load_latents` gave.
        codec: The codec, for codecs that are not found by their stored name, such as your own. Default: by name.

    Returns:
        The codec, cut to the number of channels that were read.

    Raises:
        ValueError: The encoder of this codec is not the one that made the latents.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 60, 90), "rgb_16x", quantize=True)
        >>> length = wt.save_latents("image.wlc", latents, "rgb_16x")
        >>> stored = wt.load_latents("image.wlc")
        >>> image = wt.functional.decode_image(stored.latents, wt.stored_codec(stored), size=stored.size)
        >>> tuple(image.shape)
        (3, 60, 90)
    """
    loaded = load_codec(stored.codec if codec is None else codec)
    stored_channels = stored.shape[0]
    if stored_channels < loaded.config.channels:
        loaded = loaded.prefix(stored_channels)
    if loaded.fingerprint() != stored.fingerprint:
        raise ValueError(
            f"these latents were made by another encoder, of SHA-256 {stored.fingerprint[:12]}..., than "
            f"that of codec {loaded.config.name!r}, {loaded.fingerprint()[:12]}..."
        )
    return loaded.prefix(len(stored.latents))

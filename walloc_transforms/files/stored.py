"""Rounded latents in ``.wlc`` files, together with their codec; ``wlc.py`` has the format of the files."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..codec import Codec, CodecConfig, check_latents, check_sample_rate
from ..latents import Latents
from ..safe import shown, write_atomically
from ..zoo import CodecLike, find_embedded, load_codec
from .steps import factors, scaled, step_bytes, step_values
from .wlc import LatentHeader, largest_file, pack, parse, unpack

__all__ = [
    "DEFAULT_CODER",
    "LatentFile",
    "load_latents",
    "pack_latents",
    "read_header",
    "save_latents",
    "stored_codec",
]

DEFAULT_CODER = "zlib"
_DENOMINATOR = 1001  # of rates given as floats; NTSC has 30000/1001


@dataclasses.dataclass(frozen=True)
class LatentFile(LatentHeader):
    """What :func:`load_latents` gives: the header of a ``.wlc`` file, and the latents.

    Attributes:
        latents: ``(channels, h, w)``, ``(channels, t)`` or ``(channels, t, h, w)``, int8 or int16, or float32
            if there are steps: ``wt.Latents``, which other codecs refuse; or a plain tensor of fewer channels than
            ``shape``, if they were asked for.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 60, 90), "rgb_16x", quantize=True, dtype=torch.int8)
        >>> length = wt.save_latents("image.wlc", latents, "rgb_16x")
        >>> stored = wt.load_latents("image.wlc", channels=3)
        >>> stored.codec, stored.size, stored.shape, tuple(stored.latents.shape)
        ('rgb_16x', (60, 90), (12, 8, 12), (3, 8, 12))
    """

    latents: Tensor


def save_latents(
    file: str | os.PathLike[str],
    latents: Tensor,
    codec: CodecLike,
    *,
    size: Sequence[int] | int | None = None,
    sample_rate: int | None = None,
    frame_rate: Fraction | float | None = None,
    coder: str = DEFAULT_CODER,
    steps: Tensor | Sequence[float] | None = None,
) -> int:
    """Write the rounded latents of one image, waveform or volume to a ``.wlc`` file, losslessly and atomically.

    Args:
        file: The file, by custom ``.wlc``; an existing one is replaced.
        latents: ``(D, h, w)``, ``(D, t)`` or ``(D, t, h, w)``: integers in any dtype, as encoded with
            ``quantize=True``; with ``steps`` any values.
        codec: The codec that encoded them; ``Latents`` of another one are refused. The file keeps its name and its
            fingerprint, also with a plain tensor that another codec has encoded, which nobody can tell.
        size: ``(H, W)``, T of a waveform, or ``(T, H, W)`` of a volume. Default: that of ``Latents``; a plain tensor
            does not know its own. Sizes that fill the same cells fit equally: one that is up to ``stride - 1`` samples
            too small is not noticed, and decoding then cuts these samples off.
        sample_rate: Samples per second of a waveform, in Hz. Default: the codec's, if that is known.
        frame_rate: Frames per second of a video. It is kept as a fraction: 29.97003 as 30000/1001. Default: not known.
        coder: ``"zlib"`` or ``"webp"``; with the extra ``coders`` also ``"ans"`` or ``"jpegls"``. See docs/coders.md.
        steps: A step for every channel, as :func:`walloc_transforms.functional.rounding_steps` gives them: latents are
            rounded to multiples of it here. Others become the nearest power of ``2**(1/16)``. Default: latents are
            rounded to integers already.

    Returns:
        The number of bytes written.

    Raises:
        ValueError: Latents that are normalized, not rounded or not of this codec, no size or one that does not belong
            to them, another sample rate than the codec's, no such coder, more pixels or values than
            :func:`load_latents` reads, or steps that are not one for each channel or too fine for int16.
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
    latents, normalized, own_size = check_latents(latents, codec)
    if latents.ndim != c.dims + 1 or latents.shape[0] != c.channels:
        form = {1: "t", 2: "h, w", 3: "t, h, w"}[c.dims]
        raise ValueError(f"codec {c.name!r} has latents of shape ({c.channels}, {form}), got {tuple(latents.shape)}")
    if normalized:
        raise ValueError("expected rounded latents, got normalized ones: encode with quantize=True, normalize=False")
    sides = c.check_size(size) or own_size
    if sides is None:
        raise ValueError("size is needed: a plain tensor of latents does not know the size of its signal")
    if own_size not in (None, sides):
        raise ValueError(f"these latents are of a signal of size {own_size}, got size {sides}")
    expected = tuple(-(-side // stride) + 2 * c.pad for side, stride in zip(sides, c.strides, strict=True))
    if expected != latents.shape[1:]:
        raise ValueError(f"a signal of size {sides} has latents of {expected}, got {tuple(latents.shape[1:])}")
    content = pack_latents(
        _as_integers(latents, c) if steps is None else latents,
        codec=c.name,
        fingerprint=codec.fingerprint(),
        size=sides,
        sample_rate=sample_rate or c.sample_rate or None,
        frame_rate=frame_rate,
        coder=coder,
        steps=steps,
    )
    write_atomically(Path(file), content)
    return len(content)


def _as_integers(latents: Tensor, config: CodecConfig) -> Tensor:
    if latents.dtype in (torch.int8, torch.int16):
        return latents
    codes = latents.to(torch.int16 if config.latent_bits > 8 else torch.int8)
    if not torch.equal(codes.to(latents.dtype), latents):
        raise ValueError(f"expected rounded latents, integers of {config.latent_bits} bits: encode with quantize=True")
    return codes


def load_latents(
    file: str | os.PathLike[str], *, channels: int | None = None, max_pixels: float | None = None
) -> LatentFile:
    """Read the latents of a ``.wlc`` file. Everything in the file is checked before it is used.

    Args:
        file: The file.
        channels: Number of channels to read, from the first on. Streams of later channels are not decoded. Default:
            all.
        max_pixels: The largest number of pixels of the image or volume, of samples per channel of the waveform, and of
            latent values; more are refused before anything is decoded. Default: what Pillow refuses in images, twice
            ``Image.MAX_IMAGE_PIXELS``, 178,956,970. That is 62 minutes of sound at 48 kHz, or 86 frames of 1920 x 1080.

    Returns:
        The latents with the name of their codec, the size of the signal and what else is stored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, no ``.wlc`` file, of another version or by an unknown coder, too large, or
            has fewer channels.
        ImportError: Its coder needs a package that is not installed.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 60, 90), "rgb_16x", quantize=True)
        >>> length = wt.save_latents("image.wlc", latents, "rgb_16x")
        >>> stored = wt.load_latents("image.wlc")
        >>> stored.codec, stored.size, stored.latents.dtype
        ('rgb_16x', (60, 90), torch.int8)
    """
    header, codes = unpack(_read(Path(file), max_pixels), str(file), channels, max_pixels)
    latents = torch.from_numpy(codes)
    if header.steps is not None:
        latents = scaled(latents, torch.tensor(header.steps))
    if len(latents) == header.shape[0]:  # the fingerprint is that of all channels
        latents = Latents(latents, codec=header.codec, fingerprint=header.fingerprint, signal_size=header.size)
    return LatentFile(**vars(header), latents=latents)


def stored_codec(stored: LatentFile, codec: CodecLike | None = None) -> Codec:
    """Load the codec of stored latents.

    Args:
        stored: What :func:`load_latents` gave.
        codec: The codec. Default: the embedded one whose fingerprint is stored. The stored name decides nothing, since
            a stranger may have chosen it: folders, checkpoints and repositories of the hub must be named here.

    Returns:
        The codec, cut to the number of channels that were read.

    Raises:
        ValueError: No embedded codec made the latents, or the encoder of the given codec did not.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 60, 90), "rgb_16x", quantize=True)
        >>> length = wt.save_latents("image.wlc", latents, "rgb_16x")
        >>> stored = wt.load_latents("image.wlc")
        >>> image = wt.functional.decode_image(stored.latents, wt.stored_codec(stored))
        >>> tuple(image.shape)
        (3, 60, 90)
    """
    if codec is None:
        found = find_embedded(stored.fingerprint, stored.shape[0], stored.codec)
        if found is None:
            raise ValueError(
                f"no embedded codec made these latents: the file asks for codec {shown(stored.codec)}, whose encoder "
                f"has the SHA-256 {stored.fingerprint[:12]}...; give the codec (codec=, on the command line --codec) "
                "if you trust it"
            )
        return found.prefix(len(stored.latents))
    loaded = load_codec(codec)
    stored_channels = stored.shape[0]
    if stored_channels < loaded.config.channels:
        loaded = loaded.prefix(stored_channels)
    if loaded.fingerprint() != stored.fingerprint:
        raise ValueError(
            f"these latents were made by another encoder, of SHA-256 {stored.fingerprint[:12]}..., than "
            f"that of codec {loaded.config.name!r}, {loaded.fingerprint()[:12]}..."
        )
    return loaded.prefix(len(stored.latents))


def read_header(file: str | os.PathLike[str]) -> LatentHeader:
    """Read the header of a ``.wlc`` file. The whole file is checked against its CRC, but no latents are decoded.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, no ``.wlc`` file, of another version or by an unknown coder.
    """
    return parse(_read(Path(file), None), str(file))[0]


def _read(file: Path, max_pixels: float | None) -> bytes:
    size, largest = file.stat().st_size, largest_file(max_pixels)
    if size > largest:
        raise ValueError(f"{file} has {size} bytes: a latent file has at most {largest}; raise max_pixels to read it")
    return file.read_bytes()


def pack_latents(
    latents: Tensor,
    *,
    codec: str,
    fingerprint: str,
    size: Iterable[int],
    sample_rate: int | None = None,
    frame_rate: Fraction | float | None = None,
    coder: str = DEFAULT_CODER,
    steps: Tensor | Sequence[float] | None = None,
) -> bytes:
    """Make the content of a ``.wlc`` file.

    Args:
        latents: ``(D, h, w)``, ``(D, t)`` or ``(D, t, h, w)``, int8 or int16; or of another real dtype with integers
            from -128 to 127, which become int8; with ``steps`` any values. ``Latents`` must have this fingerprint; a
            plain tensor is believed.
        codec: Name of the codec, up to 255 bytes in UTF-8.
        fingerprint: SHA-256 of the encoder, 64 hexadecimal digits.
        size: ``(H, W)``, ``(T,)`` or ``(T, H, W)`` of the signal.
        sample_rate: Samples per second of a waveform, in Hz.
        frame_rate: Frames per second of a video; see :func:`save_latents`.
        coder: Name of a coder; see ``coders.py``.
        steps: See :func:`save_latents`.

    Raises:
        TypeError: ``latents`` is no tensor of real numbers.
        ValueError: An argument is out of range, or the coder cannot hold the latents.
        ImportError: The coder needs a package that is not installed.
    """
    if isinstance(latents, Latents):
        if latents.fingerprint != fingerprint.lower():
            raise ValueError(
                f"these latents were encoded by codec {latents.codec!r} (fingerprint {latents.fingerprint[:8]}), got "
                f"fingerprint {fingerprint[:8]!r}"
            )
        if latents.normalized:
            raise ValueError("expected rounded latents, got normalized ones: encode with normalize=False")
    stored_steps = b"" if steps is None else step_bytes(steps, len(latents))
    return pack(
        _as_codes(latents, stored_steps),
        codec=codec,
        fingerprint=fingerprint,
        size=tuple(size),
        sample_rate=sample_rate,
        frame_rate=None if frame_rate is None else _as_fraction(frame_rate),
        coder=coder,
        steps=stored_steps,
    )


def _as_fraction(rate: Fraction | float) -> Fraction:
    if not math.isfinite(rate):
        raise ValueError(f"frame_rate must be a number of frames per second, got {rate}")
    return rate if isinstance(rate, Fraction) else Fraction(rate).limit_denominator(_DENOMINATOR)


def _as_codes(latents: Tensor, steps: bytes) -> np.ndarray:
    if not isinstance(latents, Tensor):
        raise TypeError(f"expected a tensor of latents, got {type(latents).__name__}")
    if latents.dtype is torch.bool or latents.is_complex() or latents.is_quantized:
        raise TypeError(f"expected latents of an integer or float dtype, got {latents.dtype}")
    if latents.ndim not in (2, 3, 4) or not latents.numel():
        raise ValueError(
            f"expected latents of shape (D, h, w), (D, t) or (D, t, h, w), no side zero, got {tuple(latents.shape)}"
        )
    latents = latents.detach().cpu()
    if steps:
        return _as_factors(latents.to(torch.float32), steps)
    if latents.dtype not in (torch.int8, torch.int16):
        small = latents.to(torch.int8)
        if not torch.equal(small.to(latents.dtype), latents):
            raise ValueError(
                f"expected rounded latents, integers from -128 to 127 (encode with quantize) or int16, "
                f"got other values as {latents.dtype}"
            )
        latents = small
    return latents.numpy()


def _as_factors(latents: Tensor, steps: bytes) -> np.ndarray:
    codes = factors(latents, step_values(steps)).numpy()
    largest = np.abs(codes).max()
    for dtype in (np.int8, np.int16):
        if largest <= np.iinfo(dtype).max:
            return codes.astype(dtype)
    raise ValueError(f"expected steps of which int16 holds all multiples, got latents of up to {largest:g} steps")

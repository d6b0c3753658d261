r"""The ``.wlc`` format: the latents of one image, waveform or volume, losslessly coded. It knows only a codec's name.

All numbers are little endian. A *varint* has seven bits per byte, the lowest first, and no more bytes than it needs.

    8 bytes      magic, 89 57 4C 43 0D 0A 1A 0A: no text file starts so, and transfer as text changes it
    1 byte       version, 1
    1 byte       number of the coder (coders.py)
    1 byte       bytes per code: 1 for int8, 2 for int16; plus 16 if steps follow
    1 byte       axes of the signal: 2 for images, 1 for audio, 3 for volumes
    varints      channels D; sides of the latents, (h, w), (t) or (t, h, w); of the signal, (H, W), (T) or (T, H, W)
    varint       samples per second, 0 if not given
    varints      of volumes in place of it, frames per second: numerator and denominator, 0 and 1 if not given
    1 byte, n    length of the codec's name, and the name in UTF-8
    32 bytes     SHA-256 of the encoder
    D bytes      steps, if there are any: a latent is its code times 2**((byte - 128) / 16) of its channel
    varints      length of every stream; the coder and the shape tell the number of streams
    n bytes      of volumes, (D * (t - 1) + 7) // 8 bytes of bits: what is stored as differences (differences.py)
    n bytes      the streams
    n bytes      zeros: padding, so that bits, streams and padding have a byte for every 32 units of work beyond 2**21
    4 bytes      CRC-32 of everything before

The reader checks all of it before it decodes a stream. ``Coder.work`` bounds what decoding may cost, by the coder and
the shape, in units of about a code: so a short file asks for little, and whoever writes large latents that are flat
pays for it with padding. Signals have at most ``max_pixels`` pixels or samples, and latents as many values.
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import torch

from .coder import Coder, Shape
from .coders import CODERS, get_coder
from .differences import count_flags, from_rows, rows_of, to_rows
from .fields import MAX_SIDE, Cursor, check_container, close_container, limit_of_pixels, varint
from .steps import step_values

__all__ = ["LatentHeader", "check_pixels", "largest_file", "pack", "parse", "unpack"]

MAGIC = b"\x89WLC\r\n\x1a\n"
VERSION = 1
STEPS = 16  # added to the bytes per code
WORK_PER_BYTE, FREE_WORK = 32, 2**21  # photographs have 1 to 10 codes per byte

_DTYPES = {1: np.dtype(np.int8), 2: np.dtype(np.int16)}
_TORCH_DTYPES = {1: torch.int8, 2: torch.int16}


@dataclasses.dataclass(frozen=True)
class LatentHeader:
    """What a ``.wlc`` file says beside the latents.

    Attributes:
        shape: Shape of all latents in the file, ``(D, h, w)``, ``(D, t)`` or ``(D, t, h, w)``.
        dtype: Of the codes, ``torch.int8`` or ``torch.int16``.
        codec: Name of the codec.
        fingerprint: SHA-256 of its encoder, 64 hexadecimal digits.
        size: ``(H, W)``, ``(T,)`` or ``(T, H, W)`` of the signal.
        sample_rate: Samples per second of a waveform, in Hz; None if it is not known, and for other signals.
        frame_rate: Frames per second of a video; None if it is not known, and for other signals.
        coder: Name of the coder.
        stream_lengths: Bytes of each of the coder's streams.
        steps: Step of every channel, by which its codes are multiplied; None if latents are integers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    codec: str
    fingerprint: str
    size: tuple[int, ...]
    sample_rate: int | None
    frame_rate: Fraction | None
    coder: str
    stream_lengths: tuple[int, ...]
    steps: tuple[float, ...] | None


def pack(
    codes: np.ndarray,
    *,
    codec: str,
    fingerprint: str,
    size: tuple[int, ...],
    sample_rate: int | None,
    frame_rate: Fraction | None,
    coder: str,
    steps: bytes = b"",
) -> bytes:
    """Make the content of a file.

    Args:
        codes: ``(D, h, w)``, ``(D, t)`` or ``(D, t, h, w)``, int8 or int16.
        codec: Name of the codec, up to 255 bytes in UTF-8.
        fingerprint: SHA-256 of the encoder, 64 hexadecimal digits.
        size: ``(H, W)``, ``(T,)`` or ``(T, H, W)`` of the signal.
        sample_rate: Samples per second of a waveform, in Hz.
        frame_rate: Frames per second of a video.
        coder: Name of a coder; see ``coders.py``.
        steps: A byte per channel, or nothing.

    Raises:
        ValueError: An argument is out of range, or the coder cannot hold the codes.
        ImportError: The coder needs a package that is not installed.
    """
    chosen, name = get_coder(coder), codec.encode()
    if not 1 <= len(name) <= 255:
        raise ValueError(f"codec must have from 1 to 255 bytes in UTF-8, got {len(name)}")
    if len(fingerprint) != 64 or not set(fingerprint) <= set("0123456789abcdefABCDEF"):
        raise ValueError(f"fingerprint must be 64 hexadecimal digits, got {fingerprint!r}")
    if not all(isinstance(n, int) for n in (*size, sample_rate or 0)):
        raise ValueError(f"size and sample_rate must be integers, got {size} and {sample_rate!r}")
    if sample_rate is not None and sample_rate < 1:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    if frame_rate is not None and (frame_rate <= 0 or len(size) != 3):
        raise ValueError(f"only volumes have a frame_rate, a positive one, got {frame_rate} and size {size}")
    shape, rates = rows_of(codes.shape), _rates(sample_rate, frame_rate, len(size))
    _check_geometry(tuple(codes.shape), size, rates)
    check_pixels(tuple(codes.shape), size, None)
    chosen.check_dtype(codes.dtype)
    work = chosen.work(shape, codes.dtype)
    rows, flags = to_rows(codes)
    streams = chosen.encode(rows)
    head = MAGIC + bytes([VERSION, chosen.number, codes.itemsize + STEPS * bool(steps), codes.ndim - 1])
    head += b"".join(map(varint, (*codes.shape, *size, *rates)))
    head += bytes([len(name)]) + name + bytes.fromhex(fingerprint) + steps
    head += b"".join(varint(len(s)) for s in streams)
    payload = flags + b"".join(streams)
    content = head + payload + bytes(_padding(work, len(payload)))
    content = close_container(content)
    if len(content) > largest_file(None):
        raise ValueError(
            f"coder {coder!r} packs latents of shape {codes.shape} in {len(content)} bytes: a latent file has at most "
            f"{largest_file(None)}"
        )
    return content


def unpack(
    content: bytes, file: str, channels: int | None = None, max_pixels: float | None = None
) -> tuple[LatentHeader, np.ndarray]:
    """Check the content of a file, and decode its first channels.

    Args:
        content: The content.
        file: Name of the file, for messages.
        channels: Number of channels to decode. Default: all.
        max_pixels: See :func:`check_pixels`.

    Returns:
        The header, and the codes ``(channels, h, w)``, ``(channels, t)`` or ``(channels, t, h, w)``.

    Raises:
        ValueError: It is damaged, no ``.wlc`` file, of another version or by an unknown coder, too large, or has fewer
            channels.
        ImportError: Its coder needs a package that is not installed.
    """
    header, start = parse(content, file)
    try:
        check_pixels(header.shape, header.size, max_pixels)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    coder, dtype = CODERS[header.coder], np.dtype(str(header.dtype).removeprefix("torch."))
    channels = header.shape[0] if channels is None else channels
    if not 1 <= channels <= header.shape[0]:
        raise ValueError(f"{file} has {header.shape[0]} channels, got channels={channels}")
    shape = rows_of(header.shape)
    flags, start = content[start : start + count_flags(header.shape)], start + count_flags(header.shape)
    streams = []
    for length in header.stream_lengths[: _stream_count(coder, shape, channels)]:
        streams.append(content[start : start + length])
        start += length
    try:
        codes = from_rows(coder.decode(streams, shape, dtype, channels), flags, header.shape)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return header, codes


def parse(content: bytes, file: str) -> tuple[LatentHeader, int]:
    """Check everything but the streams, and return the header and where the streams, or the bits before them, start.

    Raises:
        ValueError: It is damaged, no ``.wlc`` file, of another version or by an unknown coder.
    """
    content = check_container(content, file, MAGIC, VERSION, "latent file")
    try:
        return _parse_checked(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def check_pixels(shape: tuple[int, ...], size: tuple[int, ...], max_pixels: float | None) -> None:
    """Refuse latents and signals that are too large to be meant.

    Args:
        shape: Shape of the latents.
        size: Size of the signal.
        max_pixels: The largest number of pixels, of samples per channel, and of values in the latents. Default: twice
            Pillow's ``Image.MAX_IMAGE_PIXELS``, 178,956,970, from where on Pillow refuses images.

    Raises:
        ValueError: They are larger.
    """
    limit = limit_of_pixels(max_pixels)
    if max(math.prod(shape), math.prod(size)) > limit:
        raise ValueError(
            f"latents of shape {shape} and a signal of size {size} have more than {limit} values or pixels: raise "
            "max_pixels if you trust them, or PIL.Image.MAX_IMAGE_PIXELS, whose double is the default"
        )


def largest_file(max_pixels: float | None) -> float:
    """Return how many bytes a file may have."""
    return 2 * limit_of_pixels(max_pixels) + 2**20


def _stream_count(coder: Coder, shape: Shape, channels: int) -> int:
    return -(-channels // coder.channels_per_stream(shape))


def _padding(work: int, payload: int) -> int:
    return max(0, -(-(work - FREE_WORK) // WORK_PER_BYTE) - payload)


def _rates(sample_rate: int | None, frame_rate: Fraction | None, dims: int) -> tuple[int, ...]:
    """Return the numbers that a file of a signal with so many axes has for its rate."""
    if dims < 3:
        return (sample_rate or 0,)
    if sample_rate:
        raise ValueError(f"only waveforms have a sample_rate, got {sample_rate} for a volume: name its frame_rate")
    return (frame_rate or Fraction(0)).as_integer_ratio()


def _check_geometry(shape: tuple[int, ...], size: tuple[int, ...], rates: tuple[int, ...]) -> None:
    """Refuse shapes and sizes that no codec makes, whichever it is."""
    if len(size) != len(shape) - 1:
        raise ValueError(f"latents of shape {shape} are of a signal with {len(shape) - 1} axes, got size {size}")
    if not all(1 <= n <= MAX_SIDE for n in (*shape, *size)):
        raise ValueError(f"sides must be from 1 to {MAX_SIDE}, got shape {shape} and size {size}")
    for side, samples in zip(shape[1:], size, strict=True):
        # The stride of a codec is from 1 to 2**16; some audio codecs add a frame at either end.
        if not side - 2 <= samples <= side * 2**16:
            raise ValueError(f"a signal of size {size} does not have latents of shape {shape}")
    if rates[0] and len(size) == 2:
        raise ValueError(f"only waveforms have a sample_rate, got {rates[0]} and a signal of size {size}")
    if max(rates) > MAX_SIDE:
        raise ValueError(f"rates must be numbers, or fractions of numbers, up to {MAX_SIDE}, got {rates}")
    if len(size) == 3 and (not rates[1] or math.gcd(*rates) != 1):
        raise ValueError(f"a rate of frames must be a fraction in lowest terms, got {rates[0]}/{rates[1]}")


def _parse_checked(content: bytes) -> tuple[LatentHeader, int]:
    cursor = Cursor(content, 9)
    number, (has_steps, itemsize), dims = cursor.byte(), divmod(cursor.byte(), STEPS), cursor.byte()
    coder = next((c for c in CODERS.values() if c.number == number), None)
    if coder is None:
        known = ", ".join(f"{c.number} ({c.name})" for c in CODERS.values())
        raise ValueError(f"unknown coder {number}: this release knows {known}")
    if itemsize not in _DTYPES or has_steps > 1 or dims not in (1, 2, 3):
        raise ValueError(
            f"codes have 1 or 2 bytes ({STEPS} more where steps follow) and signals 1 to 3 axes, got "
            f"{STEPS * has_steps + itemsize} and {dims}"
        )
    if _DTYPES[itemsize] not in coder.dtypes:
        raise ValueError(f"coder {coder.name!r} does not store {_DTYPES[itemsize]}")
    shape = tuple(cursor.varint() for _ in range(dims + 1))
    size = tuple(cursor.varint() for _ in range(dims))
    rates = tuple(cursor.varint() for _ in range(2 if dims == 3 else 1))
    _check_geometry(shape, size, rates)
    work = coder.work(rows_of(shape), _DTYPES[itemsize])
    if work > FREE_WORK + WORK_PER_BYTE * len(content):
        raise ValueError(f"{len(content)} bytes cannot hold latents of shape {shape}")
    name = cursor.take(cursor.byte())
    try:
        codec = name.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the codec's name is no UTF-8: {error}") from error
    if not codec:
        raise ValueError("the codec has no name")
    fingerprint = cursor.take(32).hex()
    steps = tuple(step_values(cursor.take(shape[0])).tolist()) if has_steps else None
    count = _stream_count(coder, rows_of(shape), shape[0])
    lengths = tuple(cursor.varint() for _ in range(count))
    payload = count_flags(shape) + sum(lengths)
    cursor.check_rest(payload, _padding(work, payload))
    header = LatentHeader(
        shape=shape,
        dtype=_TORCH_DTYPES[itemsize],
        codec=codec,
        fingerprint=fingerprint,
        size=size,
        sample_rate=(rates[0] or None) if dims < 3 else None,
        frame_rate=(Fraction(*rates) or None) if dims == 3 else None,
        coder=coder.name,
        stream_lengths=lengths,
        steps=steps,
    )
    return header, cursor.place

r"""The ``.wcv`` format: an image that a WeConvene model compressed. The model is named by its hash.

All numbers are little endian; ``files/fields.py`` says what a varint is.

    8 bytes      magic, 89 57 43 56 0D 0A 1A 0A: no text file starts so, and transfer as text changes it
    1 byte       version, 1
    32 bytes     SHA-256 of the model
    varints      sides of the image, (H, W)
    1 byte       number of streams
    varints      length of every stream
    n bytes      the streams
    n bytes      zeros: padding, so that streams and padding have a byte for every 256 pixels beyond 2**18
    4 bytes      CRC-32 of everything before

The reader checks all of it before a stream is decoded. The model works on sides that are multiples of 64, and its work
is in proportion to the pixels that are then there. They are counted, so that 50 bytes cannot ask for more work than a
photograph of a quarter megapixel. Photographs have 5 to 100 pixels per byte. Whoever writes a large flat image pays
with padding.
"""

import dataclasses
import os
from pathlib import Path

from ..files import MAX_SIDE, Cursor, check_container, close_container, limit_of_pixels, varint
from ..safe import write_atomically
from .model import Compressed

__all__ = ["SUFFIX", "CompressedHeader", "read_compressed", "read_compressed_header", "write_compressed"]

SUFFIX = ".wcv"
MAGIC = b"\x89WCV\r\n\x1a\n"
VERSION = 1
MULTIPLE = 64  # what the model rounds sides up to
PIXELS_PER_BYTE, FREE_PIXELS = 256, 2**18
_BYTES_PER_PIXEL = 16  # which no image takes: 5 latents per pixel, and few of them over a byte


@dataclasses.dataclass(frozen=True)
class CompressedHeader:
    """What a ``.wcv`` file says beside its streams.

    Attributes:
        size: ``(H, W)`` of the image.
        model: SHA-256 of the model, 64 hexadecimal digits.
        stream_lengths: Bytes of each stream.
    """

    size: tuple[int, int]
    model: str
    stream_lengths: tuple[int, ...]


def write_compressed(file: str | os.PathLike[str], compressed: Compressed, model: str) -> int:
    """Write an image that a model compressed to a ``.wcv`` file, atomically.

    Args:
        file: The file; an existing one is replaced.
        compressed: What ``WeConvene.compress`` gave for one image.
        model: What :func:`~walloc_transforms.weconvene.fingerprint` gives for that model.

    Returns:
        The number of bytes written.

    Raises:
        ValueError: An argument is out of range, or the image has more pixels than are read again.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> model = wt.weconvene.WeConvene(n=4, m=4, slices=1, blocks=0).eval()
        >>> [compressed] = model.compress(torch.zeros(1, 3, 20, 30))
        >>> length = wt.weconvene.write_compressed("image.wcv", compressed, wt.weconvene.fingerprint(model))
        >>> length == 51 + sum(map(len, compressed.streams))
        True
    """
    streams, size = compressed.streams, compressed.size
    if len(model) != 64 or not set(model) <= set("0123456789abcdef"):
        raise ValueError(f"model must be the 64 hexadecimal digits of its fingerprint, got {model!r}")
    if not 1 <= len(streams) <= 255:
        raise ValueError(f"expected from 1 to 255 streams, got {len(streams)}")
    work = _pixels(size)
    _check_limit(size, work, None)
    head = MAGIC + bytes([VERSION]) + bytes.fromhex(model) + varint(size[0]) + varint(size[1])
    head += bytes([len(streams)]) + b"".join(varint(len(stream)) for stream in streams)
    payload = b"".join(streams)
    content = close_container(head + payload + bytes(_padding(work, len(payload))))
    if len(content) > _largest_file(None):
        raise ValueError(f"the streams of an image of size {size} have {len(payload)} bytes: a file has fewer")
    write_atomically(Path(file), content)
    return len(content)


def read_compressed(
    file: str | os.PathLike[str], model: str | None = None, *, max_pixels: float | None = None
) -> Compressed:
    """Read a ``.wcv`` file for ``WeConvene.decompress``. All of it is checked but the streams.

    Args:
        file: The file.
        model: Fingerprint of the model that is to decode it. Default: whoever decodes it compares.
        max_pixels: The largest number of pixels, counted as the model sees them: sides rounded up to multiples of 64.
            Default: twice Pillow's ``Image.MAX_IMAGE_PIXELS``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, no ``.wcv`` file, of another version or model, or has too many pixels.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> model = wt.weconvene.WeConvene(n=4, m=4, slices=1, blocks=0).eval()
        >>> name = wt.weconvene.fingerprint(model)
        >>> [compressed] = model.compress(torch.zeros(1, 3, 20, 30))
        >>> length = wt.weconvene.write_compressed("image.wcv", compressed, name)
        >>> [image] = model.decompress([wt.weconvene.read_compressed("image.wcv", name)])
        >>> image.shape
        torch.Size([3, 20, 30])
    """
    content = _read(Path(file), max_pixels)
    header, start = _parse(content, str(file))
    if model is not None and model != header.model:
        raise ValueError(
            f"{file} was compressed by another model, of SHA-256 {header.model[:12]}..., than the one given, of "
            f"{model[:12]}...: it can be decoded by that model only"
        )
    try:
        _check_limit(header.size, _pixels(header.size), max_pixels)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    streams = []
    for length in header.stream_lengths:
        streams.append(content[start : start + length])
        start += length
    return Compressed(tuple(streams), header.size)


def read_compressed_header(file: str | os.PathLike[str]) -> CompressedHeader:
    """Read the header of a ``.wcv`` file. The whole file is checked against its CRC, but nothing is decoded.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, no ``.wcv`` file, or of another version.
    """
    return _parse(_read(Path(file), None), str(file))[0]


def _read(file: Path, max_pixels: float | None) -> bytes:
    size, largest = file.stat().st_size, _largest_file(max_pixels)
    if size > largest:
        raise ValueError(f"{file} has {size} bytes: such a file has at most {largest}; raise max_pixels to read it")
    return file.read_bytes()


def _largest_file(max_pixels: float | None) -> float:
    return _BYTES_PER_PIXEL * limit_of_pixels(max_pixels) + 2**20


def _parse(content: bytes, file: str) -> tuple[CompressedHeader, int]:
    content = check_container(content, file, MAGIC, VERSION, "file of WeConvene")
    try:
        return _parse_checked(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _parse_checked(content: bytes) -> tuple[CompressedHeader, int]:
    cursor = Cursor(content, 9)
    model = cursor.take(32).hex()
    size = (cursor.varint(), cursor.varint())
    work = _pixels(size)
    if work > FREE_PIXELS + PIXELS_PER_BYTE * len(content):
        raise ValueError(f"{len(content)} bytes cannot hold an image of size {size}")
    lengths = tuple(cursor.varint() for _ in range(cursor.byte()))
    if not lengths:
        raise ValueError("it has no streams")
    payload = sum(lengths)
    cursor.check_rest(payload, _padding(work, payload))
    return CompressedHeader(size, model, lengths), cursor.place


def _pixels(size: tuple[int, int]) -> int:
    """Count the pixels that the model works on."""
    height, width = size
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"sides must be from 1 to {MAX_SIDE}, got size {size}")
    return (-(-height // MULTIPLE) * MULTIPLE) * (-(-width // MULTIPLE) * MULTIPLE)


def _check_limit(size: tuple[int, int], pixels: int, max_pixels: float | None) -> None:
    limit = limit_of_pixels(max_pixels)
    if pixels > limit:
        raise ValueError(
            f"an image of size {size}, which is {pixels} pixels with sides rounded up to multiples of {MULTIPLE}, has "
            f"more than {limit}: raise max_pixels if you trust it, or PIL.Image.MAX_IMAGE_PIXELS, whose double is the "
            "default"
        )


def _padding(work: int, payload: int) -> int:
    return max(0, -(-(work - FREE_PIXELS) // PIXELS_PER_BYTE) - payload)

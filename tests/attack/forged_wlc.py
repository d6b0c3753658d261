"""Forged ``.wlc`` files, put together byte by byte, and small valid ones to mutate."""

import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

import walloc_transforms as wt
from tests.attack.forged import Forged
from tests.helpers import write_latents
from walloc_transforms.files import CODERS, load_latents, stored_codec

Shape = tuple[int, int, int]


def varint(value: int) -> bytes:
    """Seven bits per byte, the lowest first."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def container(
    coder: str,
    shape: Shape,
    streams: Sequence[bytes],
    *,
    dtype: str = "int8",
    size: tuple[int, int] | None = None,
    name: bytes = b"rgb_16x",
    padding: int | None = None,
) -> bytes:
    """Make a file of any shape and streams, with its checksum right.

    Args:
        coder: Name of the coder.
        shape: ``(D, h, w)``.
        streams: The streams.
        dtype: Dtype of the codes.
        size: Size of the image. Default: a stride of 2.
        name: Name of the codec.
        padding: Bytes of padding. Default: what the reader asks for.
    """
    code = np.dtype(dtype)
    payload = b"".join(streams)
    if padding is None:
        padding = max(0, -(-(CODERS[coder].work(shape, code) - 2**21) // 32) - len(payload))
    content = b"\x89WLC\r\n\x1a\n" + bytes([1, CODERS[coder].number, code.itemsize, 2])
    content += b"".join(map(varint, (*shape, *(size or (2 * shape[1], 2 * shape[2])), 0)))
    content += bytes([len(name)]) + name + bytes(32) + b"".join(varint(len(s)) for s in streams)
    content += payload + bytes(padding)
    return content + struct.pack("<I", zlib.crc32(content))


def flat_streams(coder: str, shape: Shape, dtype: str) -> list[bytes]:
    """Make the shortest streams that can be read: few bytes for any number of codes."""
    count, h, w = shape
    if coder == "zlib":  # predicted, which costs most
        size = h * w * np.dtype(dtype).itemsize
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
        block = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH) if size > 2**20 else b""
        return [b"\1" + block * (size >> 20) + deflate.compress(bytes(size % 2**20)) + deflate.flush()] * count
    if coder == "webp":  # no transforms, no color cache, and five codes of one symbol each, which take no bits
        return [int(("000" + "1000" * 5)[::-1], 2).to_bytes(3, "little")]
    if coder == "jpegls":
        group = CODERS["jpegls"].channels_per_stream(shape)
        return [_jpegls_runs(min(group, count - start) * h, w) for start in range(0, count, group)]
    levels = 2  # the bytes of a channel's parameters, which are zero: all codes are predicted from the mean, zero
    passes = [(h + 3 >> 2) * (w + 3 >> 2) and 4]
    for step in (2, 1):
        passes += [((h + step - 1) // (2 * step) and (w + step - 1) // (2 * step)) and 4]
        passes += [((h + step - 1) // step > 1 or (w + step - 1) // step > 1) and 5]
    return [bytes([levels]) + bytes(sum(passes))] * count


def _jpegls_runs(rows: int, columns: int) -> bytes:
    """Code rows that are zero, from end to end: runs whose lengths double, a bit that is one for each."""
    exponents = [*(n // 4 for n in range(16)), 4, 4, 5, 5, 6, 6, 7, 7, *range(8, 16)]
    bits = place = 0
    for _ in range(rows):
        left = columns
        while left >= 1 << exponents[place]:
            left -= 1 << exponents[place]
            bits, place = bits + 1, min(place + 1, 31)
        bits += left > 0
    rest = "1111111101111111"[: bits % 15 + (bits % 15 >= 8)]  # a zero is stuffed in after a byte of ones
    rest += "0" * (-len(rest) % 8)
    return b"\xff\x7f" * (bits // 15) + int("1" + rest, 2).to_bytes(len(rest) // 8 + 1, "big")[1:]


def _file(content: Callable[[], bytes], folder: Path) -> Path:
    file = folder / "forged.wlc"
    file.write_bytes(content())
    return file


def _forge(coder: str, shape: Shape, dtype: str, ratio: int | None) -> bytes:
    """Make a file of flat latents; with a ratio, padded as it was when a byte was asked for so many codes."""
    streams = flat_streams(coder, shape, dtype)
    padding = None if ratio is None else max(0, int(np.prod(shape)) // ratio + 1 - sum(map(len, streams)))
    return container(coder, shape, streams, dtype=dtype, padding=padding)


def _largest(coder: str, form: Callable[[int], Shape], dtype: str) -> bytes:
    """Make the file of 1 MB that asks for the most work."""
    low, high = 1, 2**27
    while high - low > 1:
        middle = (low + high) // 2
        try:
            work = CODERS[coder].work(form(middle), np.dtype(dtype))
        except ValueError:  # the coder's own limit
            work = 2**62
        low, high = (middle, high) if work <= 2**21 + 32 * 1_000_000 else (low, middle)
    return _forge(coder, form(low), dtype, None)


def _read(file: Path) -> tuple[int, ...]:
    return tuple(load_latents(file).latents.shape)


def _read_codec(file: Path) -> str:
    return stored_codec(load_latents(file)).config.name


def _amplifying(coder: str, shape: Shape, dtype: str = "int8") -> Forged:
    return Forged(f"wlc: {coder} {shape} {dtype}", partial(_file, partial(_forge, coder, shape, dtype, 2048)), _read)


def _largest_of(what: str, coder: str, form: Callable[[int], Shape], dtype: str = "int8") -> Forged:
    make = partial(_file, partial(_largest, coder, form, dtype))
    return Forged(f"wlc: {coder} {dtype}, largest of 1 MB, {what}", make, _read, accepted=True)


def _mosaic(pixels: tuple[int, int], *, note_first: bool, folder: Path) -> Path:
    """Make a PNG of black pixels that says that it holds 12 channels; its size does not fit them."""
    width, height = pixels
    size = height * (1 + 3 * width)
    deflate = zlib.compressobj(9)
    block = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = block + block[2:] * ((size >> 20) - 1) + rest.compress(bytes(size % 2**20)) + rest.flush()
    data += struct.pack(">HH", size % 65521, 1)  # Adler-32 of zeros
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "walloc latents: 12 channels of 8 bits in RGB"
    note = (b"eXIf", exif.tobytes()[6:])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    chunks.insert(1 if note_first else 2, note)
    file = folder / "forged.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks
        )
    )
    return file


def _mosaic_of_odd_size(folder: Path) -> Path:
    return _mosaic((9001, 9001), note_first=True, folder=folder)


def _mosaic_with_its_note_at_the_end(folder: Path) -> Path:
    return _mosaic((9000, 9000), note_first=False, folder=folder)


def _read_mosaic(file: Path) -> tuple[int, ...]:
    with Image.open(file) as image:
        return tuple(wt.functional.pil_to_latents([image]).shape)


def _square(n: int) -> Shape:
    return (1, n, n)


def _color(n: int) -> Shape:
    return (3, n, n)


def _thin(n: int) -> Shape:
    return (1, 2, n)


def _row(n: int) -> Shape:
    return (1, 1, n)


def _channels(n: int) -> Shape:
    return (n, 1, 1)


def _small_channels(n: int) -> Shape:
    return (n, 5, 5)


def _gigapixel() -> bytes:
    return container("zlib", (1, 9, 9), flat_streams("zlib", (1, 9, 9), "int8"), size=(2**15, 2**15))


def _strange_name() -> bytes:
    name = b"rgb_16x\nfingerprint: 0\x1b[2J\xe2\x80\xae" + b"a" * 200
    return container("zlib", (1, 9, 9), flat_streams("zlib", (1, 9, 9), "int8"), name=name)


FORGED: list[Forged] = [
    *(_amplifying("zlib", (1, 2, n)) for n in (1_000_000, 5_000_000)),  # one of 100,000 is allowed, and quick
    *(_amplifying("zlib", (1, n, n)) for n in (4096, 16384)),
    *(_amplifying("ans", (1, n, n), dtype) for n in (4096, 16384) for dtype in ("int8", "int16")),
    *(_amplifying("jpegls", (1, n, n), dtype) for n in (4096, 16384) for dtype in ("int8", "int16")),
    *(_amplifying("webp", (3, n, n)) for n in (4096, 9400)),
    _amplifying("ans", (20_000, 1, 1)),
    Forged("wlc: a gigapixel", partial(_file, _gigapixel), _read),
    Forged("wlc: name of a codec that moves the cursor", partial(_file, _strange_name), _read_codec),
    Forged("mosaic: of a size that holds no tiles", _mosaic_of_odd_size, _read_mosaic),
    Forged("mosaic: with its note behind the pixels", _mosaic_with_its_note_at_the_end, _read_mosaic),
    _largest_of("a plane", "zlib", _square),
    _largest_of("a plane", "zlib", _square, "int16"),
    _largest_of("two rows", "zlib", _thin),
    _largest_of("channels of one cell", "zlib", _channels, "int16"),
    _largest_of("a plane", "ans", _square),
    _largest_of("a plane", "ans", _square, "int16"),
    _largest_of("a row", "ans", _row),
    _largest_of("channels of 25 cells", "ans", _small_channels),
    _largest_of("a plane", "jpegls", _square),
    _largest_of("a plane", "jpegls", _square, "int16"),
    _largest_of("three planes", "webp", _color),
]


def seeds() -> list[bytes]:
    """Make small valid files by all coders, of all kinds of latents, always the same; some decode, too."""
    chance = np.random.default_rng(0)
    image, prefix, sound = wt.load_codec("rgb_16x"), wt.load_codec("rgb_4x", channels=5), wt.load_codec("stereo_20x")
    one = sound.prefix(1)
    kinds: list[tuple[wt.Codec, tuple[int, ...], str, tuple[int, ...], int | None]] = [
        (image, (12, 5, 7), "int8", (37, 50), None),
        (prefix, (5, 17, 3), "int8", (136, 24), None),
        (image, (12, 1, 1), "int8", (8, 8), None),
        (sound, (27, 9), "int8", (2300,), 44_100),
        (image, (12, 6, 4), "int16", (48, 32), None),
        (sound, (27, 30), "int16", (7600,), 8_000),
        (one, (1, 40), "int16", (10_240,), None),
    ]
    files = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.wlc"
        for coder in CODERS:
            for codec, shape, dtype, size, rate in kinds:
                if (coder, dtype) == ("webp", "int16"):
                    continue
                values = chance.laplace(0, 6, shape).cumsum(-1).round().clip(-128, 127)
                latents = torch.from_numpy(values).to(getattr(torch, dtype))
                write_latents(
                    file,
                    latents,
                    codec=codec.config.name,
                    fingerprint=codec.fingerprint(),
                    size=size,
                    sample_rate=rate,
                    coder=coder,
                )
                files.append(file.read_bytes())
            write_latents(
                file,
                torch.from_numpy(chance.laplace(0, 3, (1, 40))),
                codec=one.config.name,
                fingerprint=one.fingerprint(),
                size=(10_240,),
                coder=coder,
                steps=[0.5],
            )
            files.append(file.read_bytes())
    return files

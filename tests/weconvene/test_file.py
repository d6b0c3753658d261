"""The container: it gives back what was put in, and refuses everything else before anything is decoded."""

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from walloc_transforms.weconvene import Compressed
from walloc_transforms.weconvene.file import (
    CompressedHeader,
    read_compressed,
    read_compressed_header,
    write_compressed,
)

MODEL = "0123456789abcdef" * 4


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def forge(*fields: bytes | int, model: bytes = bytes.fromhex(MODEL)) -> bytes:
    """Make a file of fields, of which integers are varints, with its checksum right."""
    content = b"\x89WCV\r\n\x1a\n\1" + model
    content += b"".join(field if isinstance(field, bytes) else varint(field) for field in fields)
    return content + struct.pack("<I", zlib.crc32(content))


def test_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "x.wcv"
    for streams, size in [((b"low", b"", b"z" * 300), (67, 1)), ((b"",), (1, 1)), ((b"a", b"b"), (500, 500))]:
        assert write_compressed(file, Compressed(streams, size), MODEL) == file.stat().st_size
        assert read_compressed(file, MODEL) == read_compressed(file) == Compressed(streams, size)
        assert read_compressed_header(file) == CompressedHeader(size, MODEL, tuple(map(len, streams)))
    write_compressed(file, Compressed((b"low", b"high", b"z"), (300, 5)), MODEL)
    assert file.read_bytes() == forge(300, 5, b"\3", 3, 4, 1, b"lowhighz")
    assert list(tmp_path.iterdir()) == [file]


def test_flat_images_are_padded(tmp_path: Path) -> None:
    file, size = tmp_path / "x.wcv", (2048, 1025)  # 1088 columns, as the model sees it
    padding = 2048 * 1088 // 256 - 2**18 // 256 - 5
    assert write_compressed(file, Compressed((b"12345",), size), MODEL) == padding + 56
    assert read_compressed(file, MODEL) == Compressed((b"12345",), size)
    assert file.read_bytes() == forge(*size, b"\1", 5, b"12345", bytes(padding))
    file.write_bytes(forge(*size, b"\1", 5, b"12345", bytes(padding - 1)))
    with pytest.raises(ValueError, match="and should have"):
        read_compressed(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of WeConvene: it starts with nothing"),
        (b"\x89WLC\r\n\x1a\n" + bytes(99), "no file of WeConvene: it starts with 89574c43"),
        (b"\x89WCV\r\n\x1a\n\2" + bytes(99), "of version 2: this release reads version 1"),
        (forge(64, 64, b"\1", 1, b"a")[:-1], "damaged or cut off"),
        (forge(), "its header is cut off"),
        (forge(model=b"short"), "its header is cut off"),
        (forge(64), "its header is cut off"),
        (forge(64, 64), "its header is cut off"),
        (forge(64, 64, b"\2", 1), "its header is cut off"),
        (forge(0, 64, b"\1", 1, b"a"), r"from 1 to 4294967295, got size \(0, 64\)"),
        (forge(64, 64, b"\0"), "it has no streams"),
        (forge(64, 64, b"\1", 2, b"a"), "have 1 bytes, and should have 2"),
        (forge(64, 64, b"\1", 1, b"ab"), "have 2 bytes, and should have 1"),
        (forge(64, 64, b"\1", 2**32 - 1, b"ab"), "have 2 bytes, and should have 4294967295"),
        (forge(64, 64, b"\1", 2**32, b"ab"), "above 2[*][*]32 - 1"),
        (forge(b"\xc0\0", 64, b"\1", 1, b"a"), "longer than it need be"),
        (forge(1, 20000, b"\1", 1, b"a"), r"cannot hold an image of size \(1, 20000\)"),
        (forge(2**32 - 1, 2**32 - 1, b"\1", 1, b"a"), r"cannot hold an image of size \(4294967295, 4294967295\)"),
        (forge(576, 512, b"\1", 0, bytes(127) + b"\1"), "its padding is not zero"),
    ],
)
def test_refuses(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.wcv").write_bytes(content)
    for read in (read_compressed, read_compressed_header):
        with pytest.raises(ValueError, match=message) as error:
            read(tmp_path / "x.wcv")
        assert "x.wcv" in str(error.value)


def test_limit_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, large = tmp_path / "x.wcv", Compressed((b"a",), (65, 64))
    write_compressed(file, large, MODEL)
    with pytest.raises(ValueError, match=r"size \(65, 64\), which is 8192 pixels .* more than 8191: raise max_pixels"):
        read_compressed(file, max_pixels=8191)
    assert read_compressed(file, max_pixels=8192) == large
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4095)
    for refused in (lambda: read_compressed(file), lambda: write_compressed(tmp_path / "y.wcv", large, MODEL)):
        with pytest.raises(ValueError, match="more than 8190"):
            refused()
    assert not (tmp_path / "y.wcv").exists()
    file.write_bytes(bytes(2**21))
    with pytest.raises(ValueError, match="2097152 bytes: such a file has at most"):
        read_compressed(file)


def test_another_model(tmp_path: Path) -> None:
    write_compressed(tmp_path / "x.wcv", Compressed((b"a",), (64, 64)), MODEL)
    with pytest.raises(ValueError, match=r"another model, of SHA-256 0123456789ab\.\.\., than .* aaaaaaaaaaaa"):
        read_compressed(tmp_path / "x.wcv", "a" * 64)


@pytest.mark.parametrize(
    ("streams", "size", "model", "message"),
    [
        ((), (1, 1), MODEL, "from 1 to 255 streams, got 0"),
        ((b"",) * 256, (1, 1), MODEL, "from 1 to 255 streams, got 256"),
        ((b"",), (1, 0), MODEL, r"got size \(1, 0\)"),
        ((b"",), (1, 1), MODEL[1:], "64 hexadecimal digits"),
        ((b"",), (1, 1), MODEL.upper(), "64 hexadecimal digits"),
        ((bytes(2**21),), (1, 1), MODEL, "a file has fewer"),
    ],
)
def test_wrong_arguments(
    streams: tuple[bytes, ...],
    size: tuple[int, int],
    model: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2048)
    with pytest.raises(ValueError, match=message):
        write_compressed(tmp_path / "x.wcv", Compressed(streams, size), model)
    assert list(tmp_path.iterdir()) == []


FUZZ = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(place=st.integers(0, 8 * 78 - 1), cut=st.booleans())
def test_flips_and_cuts(place: int, cut: bool, tmp_path: Path) -> None:
    content = bytearray(forge(300, 200, b"\3", 5, 0, 20, bytes(range(25))))
    assert len(content) == 78
    if cut:
        content = content[: place // 8]
    else:
        content[place // 8] ^= 1 << place % 8
    (tmp_path / "x.wcv").write_bytes(content)
    with pytest.raises(ValueError):
        read_compressed(tmp_path / "x.wcv")

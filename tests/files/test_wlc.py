"""Latent files: exact, compact, strict about everything that is not as written."""

import importlib.util
import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.helpers import write_latents
from walloc_transforms.files import LatentFile, load_latents, read_header, save_latents
from walloc_transforms.files.coders import CODERS

FINGERPRINT = "0123456789abcdef" * 4
PACKAGES = {"jpegls": "imagecodecs", "ans": "constriction"}
# version, coder zlib, int8, an image; (3, 2, 5) of (16, 37); no rate; "rgb"; the fingerprint; three streams; CRC-32
GOLDEN = (
    "89574c430d0a1a0a0101010203020510250003726762"
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    "0d060d00e3e2e6e1e5e3e6e1e5e30700006380014600006ba867606060fccfc0c00000ebf444da"
)
GOLDEN_LATENTS = [
    [[10, 11, 12, 13, 14], [11, 12, 13, 14, 15]],
    [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]],
    [[-128, 127, 0, 0, 0], [1, -1, 0, 0, 0]],
]


def codes(*shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
    """Some noise on a ramp."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4
    return (noise + torch.arange(shape[-1]) % 50).round().to(dtype)


def write(file: Path, latents: Tensor, **options: Any) -> int:
    size = tuple(8 * n for n in latents.shape[1:])
    return write_latents(file, latents, **{"codec": "rgb_16x", "fingerprint": FINGERPRINT, "size": size, **options})


def written(tmp_path: Path, latents: Tensor | None = None, **options: Any) -> bytes:
    write(tmp_path / "x.wlc", codes(3, 4, 5) if latents is None else latents, **options)
    return (tmp_path / "x.wlc").read_bytes()


def varint(value: int) -> bytes:
    """Seven bits per byte, the lowest first."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def with_crc(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def read_bytes(tmp_path: Path, content: bytes) -> LatentFile:
    file = tmp_path / "y.wlc"
    file.write_bytes(content)
    return load_latents(file)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
@pytest.mark.parametrize(
    "shape", [(3, 4, 5), (1, 1, 1), (20, 1, 7), (5, 6, 1), (4, 9), (1, 1), (3, 4, 2, 5), (2, 1, 3, 1), (9, 5, 1, 2)]
)
def test_round_trip(coder: str, dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    if coder in PACKAGES:
        pytest.importorskip(PACKAGES[coder])
    latents, file = codes(*shape, dtype=dtype), tmp_path / "x.wlc"
    size = tuple(16 * n - 3 for n in shape[1:])
    rate = 44_100 if len(shape) == 2 else None
    options = {"codec": "häuser", "fingerprint": FINGERPRINT.upper(), "size": size, "sample_rate": rate, "coder": coder}
    if (coder, dtype) == ("webp", torch.int16):
        with pytest.raises(ValueError, match="coder 'webp' stores int8, got int16"):
            write_latents(file, latents, **options)
        assert not os.listdir(tmp_path)
        return
    assert write_latents(file, latents, **options) == file.stat().st_size
    read = load_latents(str(file))
    assert read.latents.dtype == dtype
    assert torch.equal(read.latents, latents)
    read.latents.add_(1)  # it is the caller's own
    expected = ("häuser", FINGERPRINT, size, rate, coder)
    assert (read.codec, read.fingerprint, read.size, read.sample_rate, read.coder) == expected
    header = read_header(file)
    assert (header.codec, header.fingerprint, header.size, header.sample_rate, header.coder) == expected
    assert (header.shape, header.dtype) == (shape, dtype)
    streams = {"webp": 1, "jpegls": -(-shape[0] // 16)}.get(coder, shape[0])
    assert len(header.stream_lengths) == streams
    for channels in range(1, shape[0] + 1):
        assert torch.equal(load_latents(file, channels=channels).latents, latents[:channels])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8])
def test_integers_of_other_dtypes_become_int8(dtype: torch.dtype, tmp_path: Path) -> None:
    latents = codes(3, 4, 5).abs()
    write(tmp_path / "x.wlc", latents.to(dtype).requires_grad_(dtype.is_floating_point))
    read = load_latents(tmp_path / "x.wlc").latents
    assert read.dtype == torch.int8
    assert torch.equal(read, latents)


def test_views_and_batches_of_any_strides(tmp_path: Path) -> None:
    latents = codes(4, 6, 10)[::2, :, 1::3].transpose(1, 2)
    write(tmp_path / "x.wlc", latents)
    assert torch.equal(load_latents(tmp_path / "x.wlc").latents, latents)


def test_format_is_stable(tmp_path: Path) -> None:
    read = read_bytes(tmp_path, bytes.fromhex(GOLDEN))
    assert read.latents.tolist() == GOLDEN_LATENTS
    assert (read.codec, read.size, read.sample_rate, read.coder) == ("rgb", (16, 37), None, "zlib")
    assert read.fingerprint == FINGERPRINT


def test_format_with_steps_is_stable(tmp_path: Path) -> None:
    """16 more in the bytes per code, and a byte per channel after the fingerprint: 1/2, 1 and 2**(3/8)."""
    plain = bytes.fromhex(GOLDEN)[:-4]
    place = plain.index(bytes.fromhex(FINGERPRINT)) + 32
    read = read_bytes(tmp_path, with_crc(plain[:10] + b"\x11" + plain[11:place] + b"\x70\x80\x86" + plain[place:]))
    steps = torch.tensor([0.5, 1.0, 2.0**0.375])
    assert read.steps == tuple(steps.tolist()) and read.dtype == torch.int8
    assert torch.equal(read.latents, torch.tensor(GOLDEN_LATENTS) * steps.view(3, 1, 1))
    assert load_latents(tmp_path / "y.wlc", channels=1).latents.tolist() == (read.latents[:1]).tolist()


def test_header_is_small(tmp_path: Path) -> None:
    size = write(tmp_path / "x.wlc", codes(12, 32, 32))
    assert size - sum(read_header(tmp_path / "x.wlc").stream_lengths) < 95


@pytest.mark.parametrize("coder", ["zlib", "ans"])
def test_prefix_does_not_touch_later_streams(coder: str, tmp_path: Path) -> None:
    if coder in PACKAGES:
        pytest.importorskip(PACKAGES[coder])
    latents, file = codes(6, 8, 9), tmp_path / "x.wlc"
    write(file, latents, coder=coder)
    rest = sum(read_header(file).stream_lengths[2:])
    content = file.read_bytes()
    file.write_bytes(with_crc(content[: -4 - rest] + b"\xff" * rest))
    assert torch.equal(load_latents(file, channels=2).latents, latents[:2])
    with pytest.raises(ValueError, match=r"x\.wlc: damaged"):
        load_latents(file)


@pytest.mark.parametrize("channels", [0, -1, 4])
def test_prefix_of_channels_that_are_not_there(channels: int, tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ValueError, match=f"has 3 channels, got channels={channels}"):
        load_latents(tmp_path / "x.wlc", channels=channels)


# writing


@pytest.mark.parametrize(
    ("latents", "options", "error", "match"),
    [
        (np.zeros((3, 4, 5), np.int8), {"size": (9, 9)}, TypeError, "expected a tensor of latents, got ndarray"),
        (torch.zeros(3, 4, 5, dtype=torch.bool), {}, TypeError, "integer or float dtype, got torch.bool"),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), {}, TypeError, "got torch.complex64"),
        (torch.zeros(3), {}, ValueError, r"\(D, t\) or \(D, t, h, w\), no side zero, got \(3,\)"),
        (torch.zeros(1, 2, 3, 4, 5), {}, ValueError, r"got \(1, 2, 3, 4, 5\)"),
        (torch.zeros(3, 0, 5), {}, ValueError, r"no side zero, got \(3, 0, 5\)"),
        (torch.full((3, 4, 5), 0.5), {}, ValueError, "integers from -128 to 127 .* got other values as torch.float32"),
        (torch.full((3, 4, 5), torch.nan), {}, ValueError, "expected rounded latents"),
        (torch.full((3, 4, 5), 128.0), {}, ValueError, "expected rounded latents"),
        (torch.full((3, 4, 5), -129), {}, ValueError, "got other values as torch.int64"),
        (codes(3, 4, 5), {"coder": "png"}, ValueError, "unknown coder 'png'"),
        (codes(3, 4, 5), {"codec": ""}, ValueError, "from 1 to 255 bytes in UTF-8, got 0"),
        (codes(3, 4, 5), {"codec": "ä" * 128}, ValueError, "from 1 to 255 bytes in UTF-8, got 256"),
        (codes(3, 4, 5), {"fingerprint": "0" * 63}, ValueError, "64 hexadecimal digits, got '0{63}'"),
        (codes(3, 4, 5), {"fingerprint": "g" * 64}, ValueError, "64 hexadecimal digits"),
        (codes(3, 4, 5), {"fingerprint": " 0" * 32}, ValueError, "64 hexadecimal digits"),
        (codes(3, 4, 5), {"size": (32,)}, ValueError, r"signal with 2 axes, got size \(32,\)"),
        (codes(3, 4, 5), {"size": (32, 0)}, ValueError, "sides must be from 1 to"),
        (codes(3, 4, 5), {"size": (32, 2**32)}, ValueError, "sides must be from 1 to 4294967295"),
        (codes(3, 4, 5), {"size": (32, 40.0)}, ValueError, "must be integers"),
        (codes(3, 4, 5), {"size": (1, 40)}, ValueError, r"size \(1, 40\) does not have latents of shape \(3, 4, 5\)"),
        (codes(3, 4, 5), {"size": (4 * 2**16 + 1, 40)}, ValueError, "does not have latents"),
        (codes(3, 4, 5), {"sample_rate": 44_100}, ValueError, "only waveforms have a sample_rate, got 44100"),
        (codes(3, 4), {"sample_rate": 0}, ValueError, "sample_rate must be positive, got 0"),
        (codes(3, 4), {"sample_rate": 2**32}, ValueError, "rates must be numbers, .*up to"),
        (codes(3, 4), {"sample_rate": 44.1}, ValueError, "must be integers"),
        (codes(3, 4), {"frame_rate": 25}, ValueError, r"only volumes have a frame_rate, .* got 25 and size \(32,\)"),
        (codes(3, 2, 4, 5), {"frame_rate": 0}, ValueError, "a positive one, got 0"),
        (codes(3, 2, 4, 5), {"frame_rate": torch.inf}, ValueError, "frames per second, got inf"),
        (codes(3, 2, 4, 5), {"frame_rate": 1e12}, ValueError, "rates must be numbers, or fractions"),
        (codes(3, 2, 4, 5), {"sample_rate": 25}, ValueError, "only waveforms have a sample_rate, got 25 for a volume"),
    ],
)
def test_write_refuses(latents: Any, options: dict, error: type[Exception], match: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=match):
        write(tmp_path / "x.wlc", latents, **options)
    assert not os.listdir(tmp_path)


def test_failed_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_latents(tmp_path / "x.wlc", codes(12, 6, 7), "rgb_16x", size=(48, 56))
    assert os.listdir(tmp_path) == ["x.wlc"]
    assert (tmp_path / "x.wlc").read_bytes() == before


# reading what nobody wrote


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_latents(tmp_path / "x.wlc")


def test_too_long_for_a_latent_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.wlc").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=f"has {2**40} bytes: a latent file has at most"):
        load_latents(tmp_path / "x.wlc")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda b: b"", "no latent file: it starts with nothing"),
        (lambda b: b"\x89PNG\r\n\x1a\n" + b[8:], "no latent file: it starts with 89504e470d0a1a0a"),
        (lambda b: b[:8], "damaged or cut off"),
        (lambda b: b[:9], "damaged or cut off"),
        (lambda b: b[:-1], "damaged or cut off: its CRC-32 is another"),
        (lambda b: b[: len(b) // 2], "damaged or cut off"),
        (lambda b: b + b"\0", "damaged or cut off"),
        (lambda b: b[:50] + bytes([b[50] ^ 4]) + b[51:], "damaged or cut off"),
        (lambda b: b[:8] + b"\2" + b[9:], "of version 2: this release reads version 1"),
        (lambda b: b.replace(b"\r\n", b"\n"), "no latent file"),
    ],
)
def test_damaged(damage: Callable[[bytes], bytes], match: str, tmp_path: Path) -> None:
    content = damage(written(tmp_path))
    with pytest.raises(ValueError, match=rf"y\.wlc .*{match}"):
        read_bytes(tmp_path, content)
    with pytest.raises(ValueError, match=match):
        read_header(tmp_path / "y.wlc")


MOST = b"\xff\xff\xff\xff\x0f"  # 2**32 - 1


@pytest.mark.parametrize(
    ("start", "replaced", "by", "match"),
    [
        (9, 1, b"\0", r"unknown coder 0: this release knows 1 \(zlib\), 2 \(webp\), 3 \(jpegls\), 4 \(ans\)"),
        (10, 1, b"\3", "codes have 1 or 2 bytes .* got 3 and 2"),
        (10, 1, b"\x21", "16 more where steps follow.* got 33 and 2"),
        (10, 1, b"\x11", "header is cut off|streams and padding have|longer than"),
        (11, 1, b"\4", "1 to 3 axes, got 1 and 4"),
        (11, 1, b"\3", "sides must be from 1"),
        (9, 2, b"\2\2", "coder 'webp' does not store int16"),
        (12, 1, b"\0", "sides must be from 1"),
        (12, 1, MOST, "bytes cannot hold latents of shape"),
        (12, 3, MOST * 3, "does not have latents of shape|bytes cannot hold"),
        (12, 5, MOST * 5, "bytes cannot hold"),
        (12, 1, b"\xff\xff\xff\xff\x1f", "above 2.*32 - 1 or longer than it need be"),
        (12, 1, b"\xff" * 30, "above 2.*32 - 1 or longer than it need be"),
        (12, 1, b"\x83\0", "longer than it need be"),
        (12, 3, b"\x80\x80\4\4\5", r"bytes cannot hold latents of shape \(65536, 4, 5\)"),
        (12, 3, b"\3\x80\x80\4\x80\1", "does not have latents"),
        (15, 1, b"\1", "does not have latents of shape"),
        (17, 1, b"\1", "only waveforms have a sample_rate"),
        (18, 8, b"\0", "the codec has no name"),
        (18, 2, b"\7\xff", "the codec's name is no UTF-8"),
        (18, 1, b"\xff", "header is cut off"),
        (12, 1, b"\x80\1", "streams and padding have|header is cut off|longer than"),
        (58, 1, b"\0", "streams and padding have .* bytes, and should have"),
        (58, 1, MOST, "streams and padding have"),
        (61, 0, b"\0", "streams and padding have"),
    ],
)
def test_headers_with_a_valid_crc(start: int, replaced: int, by: bytes, match: str, tmp_path: Path) -> None:
    content = written(tmp_path)[:-4]
    assert content[18:26] == b"\7rgb_16x" and content[12:15] == b"\3\4\5"
    (tmp_path / "y.wlc").write_bytes(with_crc(content[:start] + by + content[start + replaced :]))
    begin = time.perf_counter()
    for read in (read_header, load_latents):
        with pytest.raises(ValueError, match=rf"y\.wlc: .*({match})"):
            read(tmp_path / "y.wlc")
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize("cut", range(9, 61))
def test_cut_header_with_a_valid_crc(cut: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"damaged or cut off|header is cut off|the codec has no name"):
        read_bytes(tmp_path, with_crc(written(tmp_path)[:cut]))


@pytest.mark.parametrize("coder", CODERS)
def test_flat_latents_are_padded(coder: str, tmp_path: Path) -> None:
    """A few bytes may not ask for megabytes, so whoever writes what is flat has to pay."""
    if coder in PACKAGES:
        pytest.importorskip(PACKAGES[coder])
    latents = torch.full((3, 1100, 1200), 7, dtype=torch.int8)
    content = written(tmp_path, latents, coder=coder)
    work = CODERS[coder].work((3, 1100, 1200), np.dtype(np.int8))
    assert latents.numel() <= work
    assert 0 <= len(content) - (work - 2**21) // 32 < 100
    assert torch.equal(read_bytes(tmp_path, content).latents, latents)
    assert content[-5] == 0
    with pytest.raises(ValueError, match="padding is not zero"):
        read_bytes(tmp_path, with_crc(content[:-5] + b"\1"))
    with pytest.raises(ValueError, match="bytes cannot hold latents"):
        read_bytes(tmp_path, with_crc(content[:-204]))


def test_cap_on_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(tmp_path)  # 60 codes, 32 x 40 pixels
    assert read_bytes(tmp_path, content).size == (32, 40)
    message = "have more than 1279 values or pixels: raise max_pixels if you trust them, or PIL.Image.MAX_IMAGE_PIXELS"
    with pytest.raises(ValueError, match=message):
        load_latents(tmp_path / "y.wlc", max_pixels=1279)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 639)
    with pytest.raises(ValueError, match="more than 1278 values or pixels"):
        load_latents(tmp_path / "y.wlc")
    with pytest.raises(ValueError, match="more than 1278 values or pixels"):
        write(tmp_path / "x.wlc", codes(3, 4, 5))
    assert read_header(tmp_path / "y.wlc").size == (32, 40)
    assert load_latents(tmp_path / "y.wlc", max_pixels=1280).size == (32, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_latents(tmp_path / "y.wlc").size == (32, 40)


def test_an_hour_of_stereo_is_no_bomb(tmp_path: Path) -> None:
    """48 kHz, by a codec of 108 channels and a stride of 512, all silent."""
    latents = torch.zeros(108, 337_500, dtype=torch.int8)
    size = write_latents(
        tmp_path / "x.wlc", latents, codec="hour", fingerprint=FINGERPRINT, size=(3600 * 48_000,), sample_rate=48_000
    )
    assert size < 1_200_000
    assert load_latents(tmp_path / "x.wlc", channels=1).size == (172_800_000,)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_deflate_bomb(dtype: torch.dtype, tmp_path: Path) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"\0" + deflate.compress(bytes(2**26)) + deflate.flush()
    content = written(tmp_path, codes(1, 4, 5, dtype=dtype))[:-4]
    length = read_header(tmp_path / "x.wlc").stream_lengths[0]
    content = content[: -length - 1] + varint(len(bomb)) + bomb
    tracemalloc.start()
    with pytest.raises(ValueError, match="channel 0 does not hold"):
        read_bytes(tmp_path, with_crc(content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(bomb) + 2**16


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Files by every coder that is installed, to be changed."""
    folder = tmp_path_factory.mktemp("seeds")
    there = [name for name in CODERS if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name])]
    files = [written(folder, codes(4, 5, 6), coder=name) for name in there]
    with_steps = written(folder, codes(3, 4, 5), steps=[0.5, 1.0, 200.0])
    sound = written(folder, codes(3, 40, dtype=torch.int16), sample_rate=8000)
    return [*files, with_steps, sound, written(folder, codes(3, 4, 2, 5), frame_rate=25)]


def try_to_read(tmp_path: Path, content: bytes, channels: int | None) -> None:
    """Only a ValueError may come out, soon, and with memory in proportion to what the file may hold."""
    file = tmp_path / "y.wlc"
    file.write_bytes(content)
    begin = time.perf_counter()
    tracemalloc.start()
    try:
        read = load_latents(file, channels=channels)
        assert read.latents.numel() <= 2**21 + 32 * len(content)
    except ValueError as error:
        assert str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**24 + 32 * 8 * len(content)
    assert time.perf_counter() - begin < 2


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(FUZZ, max_examples=200)
@given(content=st.binary(max_size=200), magic=st.booleans(), crc=st.booleans())
def test_random_bytes(content: bytes, magic: bool, crc: bool, tmp_path: Path) -> None:
    content = (b"\x89WLC\r\n\x1a\n\1" if magic else b"") + content
    try_to_read(tmp_path, with_crc(content) if crc else content, None)


@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_flips_and_cuts(data: st.DataObject, seeds: list[bytes], tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(seeds)))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
    (tmp_path / "y.wlc").write_bytes(content)
    for read in (read_header, load_latents):
        with pytest.raises(ValueError):
            read(tmp_path / "y.wlc")


@pytest.mark.slow
@settings(FUZZ, max_examples=400)
@given(data=st.data())
def test_mutations_with_a_valid_crc(data: st.DataObject, seeds: list[bytes], tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(seeds))[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(9, len(content) - 1) if len(content) > 10 else st.just(0))
        if data.draw(st.booleans()):  # the header is where the structure is
            place = 9 + place % 54
        kind = data.draw(st.sampled_from(["set", "set", "insert", "delete", "number"]))
        if kind == "set":
            content[place : place + 1] = bytes([data.draw(st.sampled_from([0, 1, 2, 3, 4, 127, 128, 255]))])
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=5))
        elif kind == "delete":
            del content[place : place + data.draw(st.integers(1, 5))]
        else:
            value = data.draw(st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)))
            content[place : place + 1] = varint(value)
    try_to_read(tmp_path, with_crc(bytes(content)), data.draw(st.sampled_from([None, 1])))

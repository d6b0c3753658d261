"""Coders of integer latents: exact, independent of later channels, and strict about their streams."""

import math
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from walloc_transforms.files import ans, contexts, interlacing, sizes
from walloc_transforms.files.coders import CODERS, Coder, get_coder

PACKAGES = {"jpegls": "imagecodecs", "ans": "constriction"}
SHAPES = [(1, 1, 1), (3, 1, 5), (2, 5, 1), (1, 2, 2), (4, 7, 3), (2, 33, 2), (12, 16, 31), (20, 9, 11), (5, 1, 300)]
CASES = [(name, dtype) for name in CODERS for dtype in (np.int8, np.int16) if (name, dtype) != ("webp", np.int16)]


def coder(name: str) -> Coder:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return get_coder(name)


def noise(dtype: type, *shape: int) -> NDArray:
    info = np.iinfo(dtype)
    return np.random.default_rng(0).integers(info.min, info.max + 1, shape, dtype)


def smooth(dtype: type, *shape: int) -> NDArray:
    """Sums that pass the ends of the range and come back from the other side."""
    steps = np.random.default_rng(1).integers(-3, 4, shape)
    return steps.cumsum(-1).cumsum(-2).astype(dtype)


def heavy_tails(dtype: type, *shape: int) -> NDArray:
    info = np.iinfo(dtype)
    return np.random.default_rng(2).standard_cauchy(shape).clip(info.min, info.max).astype(dtype)


def extremes(dtype: type, *shape: int) -> NDArray:
    info = np.iinfo(dtype)
    return np.where(np.random.default_rng(3).random(shape) < 0.2, info.max, info.min).astype(dtype)


def constant(dtype: type, *shape: int) -> NDArray:
    ends = np.array([np.iinfo(dtype).min, 0, np.iinfo(dtype).max])
    return np.resize(ends, (shape[0], 1, 1)).repeat(shape[1], 1).repeat(shape[2], 2).astype(dtype)


def like_latents(dtype: type, *shape: int) -> NDArray:
    """Channels of falling variance, the first smooth, whose sizes vary together from place to place."""
    rng = np.random.default_rng(4)
    codes = rng.laplace(0, 1, shape) * np.geomspace(40, 0.3, shape[0])[:, None, None]
    codes *= np.linspace(0.2, 2, shape[2])
    codes[0] = codes[0].cumsum(1) / 8
    return codes.round().clip(-128, 127).astype(dtype)


@pytest.mark.parametrize("make", [noise, smooth, heavy_tails, extremes, constant, like_latents])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_round_trip_is_exact_for_every_prefix(name: str, dtype: type, make: Callable[..., NDArray]) -> None:
    own = coder(name)
    for shape in SHAPES:
        codes = make(dtype, *shape)
        before = codes.copy()
        streams = own.encode(codes)
        np.testing.assert_array_equal(codes, before)
        group = own.channels_per_stream(shape)
        assert len(streams) == math.ceil(shape[0] / group)
        for channels in {1, 2, shape[0] - 1, shape[0]} & set(range(1, shape[0] + 1)):
            needed = streams[: math.ceil(channels / group)]
            read = own.decode(needed, shape, codes.dtype, channels)
            assert read.dtype == codes.dtype
            np.testing.assert_array_equal(read, codes[:channels], err_msg=f"{shape} {channels}")


@settings(max_examples=40, deadline=None)
@given(st.data())
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_round_trip_of_anything(name: str, dtype: type, data: st.DataObject) -> None:
    own = coder(name)
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)))
    width = data.draw(st.integers(1, 16))
    values = data.draw(st.lists(st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1), min_size=1, max_size=40))
    codes = np.resize(np.array(values), shape).astype(dtype)
    read = own.decode(own.encode(codes), shape, codes.dtype, shape[0])
    np.testing.assert_array_equal(read, codes)


def test_numbers_and_names_are_one_to_one() -> None:
    assert {name: own.number for name, own in CODERS.items()} == {"zlib": 1, "webp": 2, "jpegls": 3, "ans": 4}
    assert all(own.name == name for name, own in CODERS.items())
    with pytest.raises(ValueError, match=r"unknown coder 'png': expected one of zlib, webp, jpegls, ans"):
        get_coder("png")


def test_latents_shrink_and_ans_shrinks_them_most() -> None:
    codes = like_latents(np.int8, 12, 64, 96)
    lengths = {name: sum(map(len, coder(name).encode(codes))) for name in CODERS}
    assert lengths["ans"] < 0.97 * min(length for name, length in lengths.items() if name != "ans")
    assert max(lengths.values()) < 0.6 * codes.nbytes
    for name in ("zlib", "ans"):
        wide = sum(map(len, coder(name).encode(codes.astype(np.int16))))
        assert wide < 1.05 * lengths[name]


# what cannot be stored


@pytest.mark.parametrize(
    ("name", "codes", "match"),
    [
        ("webp", noise(np.int16, 3, 4, 4), "coder 'webp' stores int8, got int16; coder 'zlib' stores both"),
        (
            "webp",
            np.zeros((4, 1, 8192), np.int8),
            r"mosaics of up to 16383 pixels .* got channels of shape \(4, 1, 8192",
        ),
        ("webp", np.zeros((3, 16384, 1), np.int8), "up to 16383 pixels"),
        ("jpegls", np.zeros((1, 1, 65536), np.int8), r"up to 65535 rows and columns, got .*coder 'zlib' has no limit"),
        ("jpegls", np.zeros((1, 65536, 1), np.int8), "up to 65535 rows and columns"),
    ],
)
def test_refused(name: str, codes: NDArray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        coder(name).encode(codes)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("webp", (3, 1, 16383)), ("jpegls", (2, 65535, 1)), ("ans", (1, 1, 2**17)), ("zlib", (1, 2**17, 1))],
)
def test_largest_sides(name: str, shape: tuple[int, int, int]) -> None:
    codes = like_latents(np.int8, *shape)
    np.testing.assert_array_equal(coder(name).decode(coder(name).encode(codes), shape, codes.dtype, shape[0]), codes)


@pytest.mark.parametrize("name", PACKAGES)
def test_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    match = rf'coder {name!r} needs {PACKAGES[name]}: pip install "walloc_transforms\[coders\]"'
    with pytest.raises(ImportError, match=match):
        CODERS[name].encode(noise(np.int8, 1, 4, 4))
    with pytest.raises(ImportError, match=match):
        CODERS[name].decode([b""], (1, 4, 4), np.dtype(np.int8), 1)


# damaged streams: whatever is in them, a ValueError or codes come out, and no more memory than the shape says


def deflate(content: bytes) -> bytes:
    raw = zlib.compressobj(wbits=-15)
    return raw.compress(content) + raw.flush()


DAMAGED = [
    ("zlib", [b""], "says neither that it is predicted nor that it is not"),
    ("zlib", [b"\2"], "says neither"),
    ("zlib", [b"\0\xff\xff"], "channel 0 is no deflate stream"),
    ("zlib", [b"\0" + deflate(bytes(16))[:-1]], "does not hold 16 bytes and nothing else"),
    ("zlib", [b"\0" + deflate(bytes(15))], "does not hold 16 bytes"),
    ("zlib", [b"\0" + deflate(bytes(17))], "does not hold 16 bytes"),
    ("zlib", [b"\0" + deflate(bytes(16)) + b"\0"], "and nothing else"),
    ("webp", [b""], "no WebP image"),
    ("webp", [b"\xff" * 30], "no WebP image"),
    ("jpegls", [b""], "no JPEG-LS stream"),
    ("ans", [b""], "a channel has no levels, not 1 or 2"),
    ("ans", [b"\3" + bytes(40)], "a channel has 3 levels, not 1 or 2"),
    ("ans", [b"\1\0\0"], "a channel has 3 bytes, its parameters alone take 14"),
    ("ans", [b"\1" + bytes(13) + b"\1\0"], "end in a zero"),
    ("ans", [b"\1" + bytes(13) + b"\1" * 40], "holds more than its codes"),
    ("ans", [b"\1\0\0\xff\0" + bytes(9)], "weights must be below 176, got 255 and 0"),
    ("ans", [b"\1\0\0\0\0\x7f\0\0\0" + bytes(5)], "weights of a prediction add up to more than one"),
    ("ans", [b"\1\xff\x7f" + bytes(11)], r"a code is outside \[-128, 127\]"),
]


@pytest.mark.parametrize(("name", "streams", "match"), DAMAGED)
def test_damaged(name: str, streams: list[bytes], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        coder(name).decode(streams, (1, 4, 4), np.dtype(np.int8), 1)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), junk=st.binary(max_size=80), edits=st.integers(0, 4))
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_damage_of_any_kind(name: str, dtype: type, seed: int, junk: bytes, edits: int) -> None:
    own, rng = coder(name), np.random.default_rng(seed)
    shape = (int(rng.integers(1, 12)), int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    streams = own.encode((heavy_tails, smooth)[seed % 2](dtype, *shape))
    place = int(rng.integers(len(streams)))
    content = bytearray(streams[place] if edits else junk)
    for _ in range(edits if content else 0):
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
    if seed % 3 == 0:
        content = content[: int(rng.integers(len(content) + 1))]
    streams[place] = bytes(content)
    try:
        codes = own.decode(streams, shape, np.dtype(dtype), shape[0])
    except ValueError:
        return
    assert codes.shape == shape and codes.dtype == dtype


# the model


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 9), (2, 2), (5, 4), (8, 9)])
def test_passes_visit_every_cell_once_and_see_none_of_their_own(levels: int, shape: tuple[int, int]) -> None:
    seen = np.zeros((1, *shape), np.int32)
    for kind, step in interlacing.passes(levels):
        cells = interlacing.gather(seen, kind, step)
        assert (cells == 0).all()
        if kind != interlacing.BASE and cells.size:
            assert (interlacing.neighbors(seen, kind, step) == 1).all()
        interlacing.scatter(seen, kind, step, np.ones_like(cells))
    assert (seen == 1).all()


def test_neighbors() -> None:
    x = np.arange(12, dtype=np.int32).reshape(1, 3, 4)
    diagonal = interlacing.neighbors(x, interlacing.DIAGONAL, 1)[:, 0]  # of 5 and 7
    assert diagonal.T.tolist() == [[0, 2, 8, 10], [2, 2, 10, 10]]
    cross = interlacing.neighbors(x, interlacing.CROSS, 1)[:, 0]  # of 1, 3, 9, 11 and of 4, 6
    assert cross.T.tolist() == [[0, 2, 5, 5], [2, 2, 7, 7], [8, 10, 5, 5], [10, 10, 7, 7], [5, 5, 0, 8], [5, 7, 2, 10]]


@pytest.mark.parametrize("index", range(sizes.OCTAVES))
def test_tables_add_up_and_have_their_mean(index: int) -> None:
    frequencies = ans.table(index)
    assert sum(frequencies) == 2**24
    assert min(frequencies) > 0
    assert frequencies[:-1] == frequencies[-2::-1]
    half = len(frequencies) // 2 - 1
    mean, unit = sizes.mean_size(min(index, 11))
    found = sum(abs(k - half) * f for k, f in enumerate(frequencies[:-1])) / 2**24
    assert found == pytest.approx(mean / unit, rel=0.05)


def test_tables_are_the_same_everywhere() -> None:
    """By integers alone: files of today are read tomorrow."""
    assert zlib.crc32(repr([ans.table(index) for index in range(sizes.OCTAVES)]).encode()) == 3134098697


@pytest.mark.parametrize(
    "values",
    [[1] * 9 + [0] * 7 + [7, 0], [0] * 999 + [1], [65535, 1, 0], [65535] * 9, [300] * 8 + [0] * 64, [3, 3, 3], [0, 0]],
)
def test_relative_sizes(values: list[int]) -> None:
    found = sizes.relative_sizes(np.array([values], np.int32), np.array([[sum(values)]]), len(values))[0].tolist()
    mean = max(sum(values) / len(values), 1 / 8)
    assert found == pytest.approx([min(32 * value / mean, 255) for value in values], rel=0.03, abs=2)
    assert max(found) < 256


def test_planes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader takes large planes apart; the file is the same."""
    own, codes = coder("ans"), np.concatenate([integers(np.int8), like_latents(np.int8, 3, 14, 17)])
    streams = own.encode(codes)
    for part in (1, 7, 17, 100):
        monkeypatch.setattr(sizes, "PART", part)
        monkeypatch.setattr(contexts, "PART", part)
        np.testing.assert_array_equal(own.decode(streams, codes.shape, codes.dtype, 6), codes)


def integers(dtype: type) -> NDArray:
    """Channels made without a random generator: smooth, rough, rare."""
    i = np.arange(14 * 17).reshape(14, 17)
    rough = i * i * 7919 % 10007 % 41 - 20
    smooth = (np.arange(14)[:, None] - 6) * 7 + (np.arange(17) - 8) ** 2 + rough // 6
    return np.stack([smooth, rough * (i % 17) // 16, np.where(rough > 18, 1, 0)]).astype(dtype) * (
        1 if dtype is np.int8 else 211
    )


def test_smooth_channels_are_predicted_and_have_two_levels() -> None:
    codes = integers(np.int8)
    assert [stream[0] for stream in coder("zlib").encode(codes)] == [1, 0, 0]
    assert [stream[0] for stream in coder("ans").encode(codes)] == [2, 1, 1]


ANS_STREAMS = {
    np.int8: [
        "02200068001e4d0000143251000021490200152d490000394816c2c939f65dc753f66351bbd129ba4489a6ca9e75f1845041"
        "ed26558de6182db13c77f65f83387361da8fac2f8acb4008228edfdcc07dac27fa950ab03b94369f1b586381b99557501cd7"
        "38407fd75d6598e749b65b3f9b6c1beee40f4e20c3210f71e3e712e8e9e7f5f3bed405411b40ced02e185fd52b5dffc10d",
        "01feff53000b383034fb2200263fecfc7ee07fe53405a9bd5ec2c98f1117f9e004d61ac628d03af5e86f5260d7dd219870c3"
        "34f80d11e3e31c1ae4db1876a9682d125bed4beb909edc40f662497aecd472101f3e1cda9e9379166efd1eff529b874624a6"
        "b60a888d63ddc2b970f88d426f031bcb21b82c1d2558f87a99f600e4ac91178220239d5af12c8db0ae2bd9354498ea11a60c"
        "4703",
        "01000011000000001200001600003d90b7770caf7f1b2802",
    ],
    np.int16: [
        "02161a7a001e7a07001432800d0021810900152d84030000008054495e51fbd13053e46d85e2ea766a4f8eca4378e3fcf20d"
        "7f17eaf9f8582d1b3c042c9d033e06d73c204ae62dc939e2f91e050807f5a826fd820abe7718eaa665f9b79b0cf56c972223"
        "8905e31f6dd4ddc0cc65336820e07e68b981af3d10f251061c700f7257e5b979862220e8e02a5195b72a367d30a2b957090c"
        "ab682fb9064f1f3173e20608897c8550d4f45b6eccb1cbb92d17e6095a1e9e0005da8126e2b7d760c0ff0bfd6b6bea6b93ab"
        "e0d63385cd16df5998ee3fbed45b3de64059d3374499cf0ac6b9283c7a45aec0e28d07a03e82a8695759eb6416437a679610"
        "19dff5f62df7641f92ab1ee4a838e179e4b302e431f88acd6f7855acc3e803b3cecc493aed6586fe1697daded087c726659d"
        "2e17f625ea3b2547211b6c9d623a2e852b051278dd82ed50d53b151c68290b42450a2f6522048a839f89753c098a2e0a4792"
        "483ded931af35386a95e036e17e5cc8890e70f62225260fa599bfeffed13ffff2c33ffffb3e24905351afeffaa96feff22c1"
        "feffaaf3ffffe163ffff7e9cffff652f05",
        "0121fe7c870b583376fb22002b7a6a166bb2e56b30f445d3f0d6b47dbe1b1a944fd911f25767061b6e99992f91bae08c516d"
        "25d2e0621f23617aafc708018effcc23bb9df4fd83e70de677ce3c7fff4c68cc745ae280cbe1e825f38f143ef10a4783be92"
        "6b2f2e70658fa6705176e589525542662126da3adf484f5d0d8e5f55046100f2f4d9b31834bc2a9d8b39aae6eaad268f72b3"
        "ef77c1786fd81cc2a0434a398cecb0683f8dd0bede0b622c2c0aa12ff2ad73399663c101a27e963292d4421cc853209a0228"
        "89ab4bb8e8830d10b70fdcc7d7fbcb37d40442000fbe23c509e206e1744525cc19be963c459efed055d47a0258a9befe0ebf"
        "9915e4b176f31c8661b88d7f00ef97836ca68ba7135f28b3de7e8468886669bb93076c9106133d9fd1f8cdec674313ec1779"
        "604b1dd52d64d250da829aa135a7ef1a944f86b8bb5aec873ed1566be8aa9ab3c261a97ff77c94f2f97f15fc735f006a8792"
        "9500ffcd6a27a623e58901b73a0efa8927b3fc43ec0ffa85b5fc50a4a74001811b01",
        "0103005900000000510000560000c4098200e2177630c3568a0442feff0423707dda2a09899fc5798775832e779fdef57a7b"
        "091675dd69e680020bed7add2049893a169f7c8d6f37894247ef84582ab67b5eda267cdbfa398376663c83b68be27daeabd2"
        "788a32f1876e9ee2640eb2ce5e2f0dde5e5f44ba5d4dc42c62dc8fb75f4b055e635cbeef6538c42b60fcd68661ad3b245d50"
        "d1",
    ],
}


@pytest.mark.parametrize("dtype", ANS_STREAMS)
def test_format_of_ans_is_stable(dtype: type) -> None:
    """Also guards what constriction makes of a table: a stream of today is read tomorrow."""
    codes = integers(dtype)
    streams = [bytes.fromhex(s) for s in ANS_STREAMS[dtype]]
    np.testing.assert_array_equal(coder("ans").decode(streams, codes.shape, codes.dtype, 3), codes)


def test_ans_sees_what_lies_between_empty_borders() -> None:
    """Cells at equal distances from each other would all lie in the border, and the weights would fit nothing else."""
    pytest.importorskip("constriction", reason="ans codes with it: extra coders")
    rng = np.random.default_rng(0)
    codes = np.zeros((1, 960, 25), np.int8)
    codes[:, :, 8:17] = rng.laplace(0, 4, (1, 960, 9)).round().clip(-128, 127)
    assert len(CODERS["ans"].encode(codes)[0]) < 1.2 * len(CODERS["zlib"].encode(codes)[0])

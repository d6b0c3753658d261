"""Symbols as bytes and back."""

import copy
import hashlib
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from walloc_transforms.weconvene import GaussianConditional, SymbolDecoder, SymbolEncoder, Tables

constriction = pytest.importorskip("constriction", reason="coding needs the extra coders")
INT32 = np.iinfo(np.int32)
GAUSSIAN = GaussianConditional.tables()


def make_tables(generator: np.random.Generator, count: int) -> Tables:
    """Tables of all lengths and places, which tails of none or nearly all of the mass."""
    rows = [generator.dirichlet(np.full(generator.integers(2, 40), 0.3)) for _ in range(count)]
    places = [INT32.min, INT32.max - 38, -20, 0, 1000]
    return Tables.from_probabilities(rows, generator.choice(places, count))


def encode(parts: list[tuple[NDArray, NDArray]], tables: Tables) -> bytes:
    encoder = SymbolEncoder()
    for symbols, indices in parts:
        encoder.put(symbols, indices, tables)
    return encoder.finish()


def decode(data: bytes, indices: list[NDArray], tables: Tables) -> list[NDArray]:
    decoder = SymbolDecoder(data)
    symbols = [decoder.take(part, tables) for part in indices]
    decoder.finish()
    return symbols


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[tuple[NDArray, NDArray]], Tables]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 6))
    tables = make_tables(generator, count)
    parts = []
    for shape in draw(st.lists(st.sampled_from([(0,), (), (1,), (7,), (2, 3, 4), (300,)]), max_size=4)):
        indices = draw(arrays(np.int64, shape, elements=st.integers(0, count - 1)))
        near = np.minimum(tables.offsets[indices] + generator.integers(-3, 43, shape), INT32.max)
        anywhere = draw(arrays(np.int64, shape, elements=st.integers(INT32.min, INT32.max)))
        outside = generator.random(shape) < draw(st.sampled_from([0.0, 0.1, 1.0]))
        parts.append((np.where(outside, anywhere, near.clip(INT32.min)), indices))
    return parts, tables


@settings(deadline=None, max_examples=100)
@given(messages())
def test_symbols_return(message: tuple[list[tuple[NDArray, NDArray]], Tables]) -> None:
    parts, tables = message
    data = encode(parts, tables)
    for (symbols, _), decoded in zip(parts, decode(data, [i for _, i in parts], tables), strict=True):
        assert decoded.dtype == np.int32
        np.testing.assert_array_equal(decoded, symbols)


@settings(deadline=None, max_examples=100)
@given(messages(), st.data())
def test_damage_is_refused_or_is_the_stream_of_other_symbols(
    message: tuple[list[tuple[NDArray, NDArray]], Tables], data: st.DataObject
) -> None:
    parts, tables = message
    stream = bytearray(encode(parts, tables))
    if stream and data.draw(st.booleans()):
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        stream = stream[: data.draw(st.integers(0, len(stream)))] + data.draw(st.binary(max_size=9))
    indices = [i for _, i in parts]
    try:
        decoded = decode(bytes(stream), indices, tables)
    except ValueError as error:
        assert "damaged" in str(error)
    else:
        assert encode(list(zip(decoded, indices, strict=True)), tables) == stream


@pytest.mark.parametrize("symbol", [INT32.min, INT32.min + 1, -(2**16), -2, 2, 2**16, INT32.max - 1, INT32.max])
def test_escapes_are_exact(symbol: int) -> None:
    symbols, indices = np.array([symbol, 0, symbol]), np.zeros(3, int)
    data = encode([(symbols, indices)], GAUSSIAN)
    np.testing.assert_array_equal(decode(data, [indices], GAUSSIAN)[0], symbols)


def test_no_symbols_are_no_bytes() -> None:
    nothing = np.empty((0, 4), int)
    assert encode([], GAUSSIAN) == b"" == encode([(nothing, nothing)], GAUSSIAN)
    assert decode(b"", [nothing], GAUSSIAN)[0].shape == (0, 4)


def test_what_is_left_over_or_missing_is_refused() -> None:
    generator = np.random.default_rng(0)
    indices = generator.integers(0, 64, 5000)
    symbols = np.rint(generator.standard_normal(5000)).astype(int)
    data = encode([(symbols, indices)], GAUSSIAN)
    wrong = [data[:-4], data[:100], b"", data + bytes(4), data + data, bytes(len(data)), b"\xff" * len(data), data[:-1]]
    for stream in wrong:
        with pytest.raises(ValueError, match="damaged"):
            decode(stream, [indices], GAUSSIAN)
    with pytest.raises(ValueError, match="damaged"):
        decode(data, [indices[:-50]], GAUSSIAN)
    with pytest.raises(ValueError, match="damaged"):
        decode(data, [], GAUSSIAN)


@pytest.mark.parametrize(
    ("symbols", "indices", "error", "message"),
    [
        (np.zeros(3, int), np.zeros(4, int), ValueError, r"symbols \(3,\) and indices \(4,\)"),
        (np.zeros(3), np.zeros(3, int), TypeError, "symbols are integers, got float64"),
        (np.zeros(3, int), np.zeros(3), TypeError, "indices of tables are integers, got float64"),
        (np.array([2**31]), np.zeros(1, int), ValueError, "32 bits"),
        (np.zeros(2, int), np.array([0, 64]), ValueError, "64 tables, got 0 to 64"),
        (np.zeros(2, int), np.array([-1, 0]), ValueError, "64 tables, got -1 to 0"),
    ],
)
def test_misuse(symbols: NDArray, indices: NDArray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SymbolEncoder().put(symbols, indices, GAUSSIAN)


def test_frequencies_are_those_that_code() -> None:
    """A stream of two words is a point; those at the ends of a symbol's interval decode to it."""
    for tables, index in [(GAUSSIAN, 0), (GAUSSIAN, 40), (make_tables(np.random.default_rng(1), 1), 0)]:
        stops = tables[index].cumsum(dtype=np.int64)
        for code, (start, stop) in enumerate(zip([0, *stops[:-1]], stops, strict=True)):
            for point in (int(start) * (2**40 - 1), int(stop) * (2**40 - 1) - 1):  # a whole is 2**64 - 1
                words = np.array([point >> 32, point & 0xFFFFFFFF], np.uint32)
                assert constriction.stream.queue.RangeDecoder(words).decode(tables.model(index), 1)[0] == code


@pytest.mark.parametrize(
    ("frequencies", "lengths", "offsets"),
    [
        ([2**24], [1], [0]),
        ([2**24 - 1, 1], [3], [0]),
        ([2**24, 0], [2], [0]),
        ([2**24 - 2, 1], [2], [0]),
        ([2**24 + 5, -5], [2], [0]),
        ([2**24 - 1, 1], [2], [0, 0]),
        ([2**24 - 2, 1, 1], [3], [INT32.max]),
        ([2**24 - 1, 1, 2**24 - 1, 1], [-2, 6], [0, 0]),
    ],
)
def test_tables_that_are_none(frequencies: Any, lengths: Any, offsets: Any) -> None:
    with pytest.raises(ValueError, match="table"):
        Tables(*(np.array(a, np.int32) for a in (frequencies, lengths, offsets)))
    with pytest.raises(ValueError, match="int32"):
        Tables(np.array([2**24 - 1, 1]), np.array([2]), np.array([0]))


def test_probabilities_that_are_none() -> None:
    for wrong in (np.nan, np.inf, -0.1):
        with pytest.raises(ValueError, match="probabilities are finite"):
            Tables.from_probabilities([np.array([0.5, wrong, 0.0])], [0])


def test_tables_in_use_can_be_copied() -> None:
    symbols, indices = np.array([3, -2, 9]), np.array([30, 40, 2])
    data = encode([(symbols, indices)], GAUSSIAN)
    for twin in (copy.deepcopy(GAUSSIAN), pickle.loads(pickle.dumps(GAUSSIAN))):
        assert encode([(symbols, indices)], twin) == data


def test_streams_stay_as_they_are() -> None:
    """Versions of constriction, and machines, make the same bytes."""
    positions = np.arange(4000, dtype=np.int64)
    noise = positions * 2654435761 % 2**32 % 1009 - 504
    indices = positions % 64
    symbols = noise * (2 ** (indices // 6)) >> 10
    symbols[::97] *= 100003
    data = encode([(symbols, indices)], GAUSSIAN)
    assert hashlib.sha256(data).hexdigest() == "d524c8cc8b4dfdfc25e7926fafcc7f475517b9777e2e18457caa26d350b92ec8"


def test_rate_is_the_entropy() -> None:
    generator = np.random.default_rng(0)
    tables = make_tables(generator, 20)
    indices = generator.integers(0, 20, 200_000)
    symbols = np.empty_like(indices)
    bits = 0.0
    for table in range(20):
        own, frequencies = indices == table, tables[table][:-1]
        drawn = generator.choice(len(frequencies), own.sum(), p=frequencies / frequencies.sum())
        symbols[own] = drawn + tables.offsets[table]
        bits += 24 * own.sum() - np.log2(frequencies[drawn]).sum()
    length = 8 * len(encode([(symbols, indices)], tables))
    assert math.isclose(length, bits, rel_tol=1e-5, abs_tol=64), length / bits - 1

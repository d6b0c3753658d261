"""Checkpoints of any bytes, and damaged ones: read as they were, or refused by a ValueError."""

import datetime
import functools
import io
import pickletools
import struct
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.zoo.checkpoint_files import FLOATS, STORAGE, bounded, in_dict, pickled, read_or_refuse, rebuild, text

FUZZ = settings(derandomize=True, deadline=datetime.timedelta(seconds=5))
VALUE = {
    "x": torch.arange(6.0),
    "p": nn.Parameter(torch.ones(2, 2)),
    "l": [1, -1, 0.5, None, True, (2, "s")],
    "o": OrderedDict(a=torch.zeros(2, 3, dtype=torch.int64).T),
    "n": types.SimpleNamespace(a=1),
    "s": {5: 6},
}


@functools.cache
def valid(protocol: int = 2) -> tuple[bytes, bytes, dict[str, bytes]]:
    """A whole file, its pickle, its storages."""
    stream = io.BytesIO()
    torch.save(VALUE, stream, pickle_protocol=protocol)
    with zipfile.ZipFile(stream) as archive:
        names = [name for name in archive.namelist() if "/data/" in name]
        storages = {f"s{name.split('/')[-1]}": archive.read(name) for name in names}
        return stream.getvalue(), archive.read("archive/data.pkl"), storages


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.pth"


@settings(FUZZ, max_examples=200)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PK\3\4"]),
    st.sampled_from([b"", valid()[0][-22:], valid()[0][-300:]]),
)
def test_any_bytes_as_file(fuzzed: Path, content: bytes, start: bytes, end: bytes) -> None:
    fuzzed.write_bytes(start + content + end)
    with bounded(5, 16):
        read_or_refuse(fuzzed)


@pytest.mark.slow
@settings(FUZZ, max_examples=300)
@given(st.data())
def test_damaged_files(fuzzed: Path, data: st.DataObject) -> None:
    content = bytearray(valid()[0])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.integers(0, 3))
        if kind == 0:
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == 1:
            content[position : position + 4] = data.draw(st.binary(min_size=0, max_size=8))
        elif kind == 2:
            content[position : position + 4] = struct.pack("<I", data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1])))
        else:
            del content[data.draw(st.integers(len(content) // 2, len(content))) :]
            content.append(0)
    fuzzed.write_bytes(content)
    with bounded(5, 16):
        read_or_refuse(fuzzed)


PIECES = [bytes([code]) for code in range(256)] + [
    text("storage"),
    text("0"),
    text("k"),
    FLOATS,
    STORAGE,
    rebuild(),
    b"c__main__\nConfig\n",
    b"ccollections\nOrderedDict\n",
    b"K\x01",
    b"K\x04",
    b"h\0",
    b"q\0",
    *([bytes([c]) for c in b"()\x85\x86tRbsu}]Nea"] * 3),
]


@settings(FUZZ, max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)), st.booleans())
def test_any_bytes_as_pickle(fuzzed: Path, content: bytes, wrapped: bool) -> None:
    pickled(fuzzed, in_dict(content) if wrapped else content + b".", s0=bytes(16))
    with bounded(5, 16):
        read_or_refuse(fuzzed)


@functools.cache
def opcodes(protocol: int) -> list[bytes]:
    content = valid(protocol)[1]
    positions = [position for _, _, position in pickletools.genops(content)]
    return [content[a:b] for a, b in zip(positions, [*positions[1:], len(content)], strict=True)]


@pytest.mark.slow
@settings(FUZZ, max_examples=400)
@given(st.data(), st.sampled_from([2, 4]))
def test_mutated_pickles(fuzzed: Path, data: st.DataObject, protocol: int) -> None:
    pieces = list(opcodes(protocol))
    for _ in range(data.draw(st.integers(1, 5))):
        i, j = (data.draw(st.integers(0, len(pieces) - 2)) for _ in range(2))
        kind = data.draw(st.integers(0, 4))
        if kind == 0:
            del pieces[i]
        elif kind == 1:
            pieces.insert(i, pieces[j])
        elif kind == 2:
            pieces[i], pieces[j] = pieces[j], pieces[i]
        elif kind == 3:
            pieces.insert(i, data.draw(st.sampled_from(PIECES)))
        else:  # the same opcode, another argument
            argument = data.draw(st.binary(min_size=len(pieces[i]) - 1, max_size=len(pieces[i]) - 1))
            pieces[i] = pieces[i][:1] + argument
    pickled(fuzzed, b"".join(pieces), **valid(protocol)[2])
    with bounded(5, 16):
        read_or_refuse(fuzzed)

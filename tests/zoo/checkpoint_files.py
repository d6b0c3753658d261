"""Checkpoints as files, whole and broken, and what reading them must give."""

import contextlib
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from walloc_transforms.zoo.checkpoints import read_checkpoint
from walloc_transforms.zoo.lazy import LazyTensor


def save(file: Path, value: object, **options: Any) -> Path:
    torch.save(value, file, **options)
    return file


def read_all(value: Any) -> Any:
    """The same with tensors read."""
    if isinstance(value, LazyTensor):
        return value.read()
    if isinstance(value, dict):
        return type(value)((k, read_all(v)) for k, v in value.items())
    return type(value)(map(read_all, value)) if isinstance(value, list | tuple) else value


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list | tuple) else a == b


def edit(file: Path, compression: int = zipfile.ZIP_STORED, **changes: bytes | None) -> Path:
    """Write entries anew: ``data_pkl`` and ``byteorder`` by content, None leaves one out."""
    replaced = {name.replace("_", "."): content for name, content in changes.items()}
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    for name, content in replaced.items():
        key = f"{next(iter(entries)).split('/')[0]}/{name}"
        entries.pop(key, None)
        if content is not None:
            entries[key] = content
    return write_zip(file, entries.items(), compression)


def write_zip(file: Path, entries: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        for name, content in entries:
            archive.writestr(name, content)
    return file


def pickled(file: Path, content: bytes, **storages: bytes) -> Path:
    """An archive around a pickle, with storages ``s0``, ``s1``, ..."""
    entries = {"a/data.pkl": content, "a/version": b"3\n", **{f"a/data/{k[1:]}": v for k, v in storages.items()}}
    return write_zip(file, entries.items())


def refused(file: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        read_all(read_checkpoint(file))
    assert str(file) in str(caught.value)


@contextlib.contextmanager
def bounded(seconds: float = 10.0, megabytes: float = 64.0) -> Iterator[None]:
    """Far above what honest files of this size take, far below what a bomb does."""
    start = time.perf_counter()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < seconds


def read_or_refuse(file: Path, expected: object = None) -> None:
    """No other error than ValueError; and with ``expected``, no other result."""
    try:
        read = read_all(read_checkpoint(file))
    except ValueError as error:
        assert str(file) in str(error)
    else:
        assert expected is None or same(read, expected)


# Pieces of pickles, written by hand


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def in_dict(value: bytes) -> bytes:
    return b"\x80\x02}" + text("k") + value + b"s."


FLOATS = b"ctorch\nFloatStorage\n"
STORAGE = b"(" + text("storage") + FLOATS + text("0") + text("cpu") + b"K\x04tQ"


def rebuild(
    storage: bytes = STORAGE,
    start: bytes = b"K\0",
    size: bytes = b"K\x04\x85",
    stride: bytes = b"K\x01\x85",
    rest: bytes = b"\x89ccollections\nOrderedDict\n)R",
) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + start + size + stride + rest + b"tR"

"""Checkpoints of strangers: what PyTorch writes is read as PyTorch reads it, and nothing else is."""

import builtins
import contextlib
import copyreg
import datetime
import functools
import io
import operator
import os
import pickle
import pickletools
import struct
import sys
import time
import tracemalloc
import types
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from walloc_transforms.zoo.checkpoints import InertRecord, Limits, read_checkpoint
from walloc_transforms.zoo.lazy import LazyTensor

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


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


# What torch.save writes


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dict_reads_as_in_pytorch(protocol: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 1))
    file = save(tmp_path / "model.v1.pth", model.state_dict(), pickle_protocol=protocol)
    lazy = read_checkpoint(str(file))
    assert all(type(value) is LazyTensor for value in lazy.values())
    assert same(read_all(lazy), OrderedDict(model.state_dict())) and not vars(lazy)
    if protocol == 2:  # the one that PyTorch's own restricted reader knows
        assert same(read_all(lazy), torch.load(file, weights_only=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    value = (torch.randn(3, 5) * 50).to(dtype)
    file = save(tmp_path / "x.pth", {"x": value, "scalar": value[1, 2].clone(), "empty": value.new_empty(0, 7)})
    read = read_checkpoint(file)
    assert (read["x"].shape, read["x"].dtype) == ((3, 5), dtype)
    assert same(read_all(read), torch.load(file, weights_only=True))
    assert read["scalar"].shape == () and read["empty"].shape == (0, 7)


def test_containers_and_numbers(tmp_path: Path) -> None:
    shared = ["one", 1]
    value = {
        "text": "tést",
        "": None,
        "numbers": [0, -1, 255, 65536, -(2**31), 2**40, -(2**70), 0.1, float("inf")],
        "flags": (True, False),
        "triple": (1, (2,), ()),
        "many": tuple(range(10)),
        "by number": {0: "a", -7: "b"},
        "ordered": OrderedDict(b=1, a=[]),
        "log": [i / 7 for i in range(5000)],
        "first": shared,
        "second": shared,
    }
    read = read_checkpoint(save(tmp_path / "x.pth", value))
    assert same(read, value)
    assert read["first"] is read["second"]


def test_state_of_a_training(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [130, 180])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule.step()
    value = {"loss": torch.tensor(0.5), "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict()}
    read = read_all(read_checkpoint(save(tmp_path / "x.pth", value)))
    assert read["lr_scheduler"].pop("milestones") == {130: 1, 180: 1}
    del value["lr_scheduler"]["milestones"]
    assert same(read, value)


def test_views_and_shared_storages(tmp_path: Path) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    value = {
        "base": base,
        "row": base[1],
        "column": base[:, :, 2],
        "transposed": base.permute(2, 0, 1),
        "one": base[2, 3, 4],
        "steps": base[::2, 1::2, 1:4],
        "flat": base.view(-1)[7:11],
        "none": base[3:],
        "line": base[1:2, :, 4:],
    }
    file = save(tmp_path / "x.pth", value)
    read = read_checkpoint(file)
    assert same(read_all(read), torch.load(file, weights_only=True))
    for name, lazy in read.items():
        tensor = lazy.read()
        assert tensor.is_contiguous(), name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4, name
        tensor.zero_()  # writable, and its own
    assert torch.equal(read["row"].read(), base[1])


def test_parameters(tmp_path: Path) -> None:
    value = nn.Parameter(torch.randn(4, 2))
    tensor = read_checkpoint(save(tmp_path / "x.pth", {"p": value, "q": value.detach().requires_grad_()}))["p"].read()
    assert torch.equal(tensor, value) and not tensor.requires_grad and type(tensor) is Tensor


@pytest.mark.parametrize("protocol", [2, 5])
def test_configs_of_notebooks(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value: dict[str, Any] = {"model_state_dict": nn.Linear(2, 3).state_dict(), "i_epoch": 149}
    for name in ["Config", "Args", "args"]:
        kind = type(name, (), {"__module__": "__main__"})
        monkeypatch.setattr(sys.modules["__main__"], name, kind, raising=False)
        value[name] = kind()
    value["Config"].__dict__.update(
        channels=3, J=3, Ne=None, lightweight_encode=True, inner=types.SimpleNamespace(b=8.0)
    )
    file = save(tmp_path / "x.pth", value, pickle_protocol=protocol)
    monkeypatch.undo()
    read = read_checkpoint(file)
    expected = {"channels": 3, "J": 3, "Ne": None, "lightweight_encode": True, "inner": InertRecord({"b": 8.0})}
    assert read["Config"] == InertRecord(expected)
    assert read["Args"] == read["args"] == InertRecord({})
    assert torch.equal(read["model_state_dict"]["weight"].read(), value["model_state_dict"]["weight"])
    assert read["i_epoch"] == 149


# Laziness


def big_and_small(file: Path) -> Path:
    return save(
        file, {"big": torch.randn(1_000_000), "small": torch.arange(30.0), "part": torch.randn(500_000)[100:350]}
    )


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    file = big_and_small(tmp_path / "x.pth")  # 6 MB
    with bounded(megabytes=0.3):
        read = read_checkpoint(file)
        for name in ("small", "part"):
            read[name].read()
    with bounded(megabytes=4.3):
        read["big"].read()


def test_damage_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    file = big_and_small(tmp_path / "x.pth")
    whole = read_checkpoint(file)
    content = bytearray(file.read_bytes())
    content[whole["big"].record.offset + 1_234_567] ^= 4
    file.write_bytes(content)
    read = read_checkpoint(file)
    assert torch.equal(read["small"].read(), torch.arange(30.0))
    for lazy in read["big"], whole["big"]:
        with pytest.raises(ValueError, match=r"x\.pth is damaged: the CRC-32 of the entry at byte \d+ is wrong"):
            lazy.read()
    os.truncate(file, whole["part"].record.offset + 1000)
    with pytest.raises(ValueError, match=r"x\.pth is damaged: it ends inside a record"):
        whole["part"].read()


def test_lazy_tensors_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big_and_small(tmp_path / "x.pth")
    monkeypatch.chdir(tmp_path)
    lazy = read_checkpoint("x.pth")["big"]
    monkeypatch.chdir("/")  # a relative path must not stay relative
    content = pickle.dumps(lazy)
    assert len(content) < 1000
    assert torch.equal(pickle.loads(content).read(), lazy.read())
    (tmp_path / "x.pth").unlink()
    with pytest.raises(FileNotFoundError):
        lazy.read()


# Pickles that would run code


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


CALLS: list[tuple[Callable[[str], Any], str]] = [
    (lambda command: Call(os.system, command), r"'posix\.system'"),
    (lambda command: Call(builtins.eval, f"__import__('os').system({command!r})"), r"'builtins\.eval'|__builtin__"),
    (lambda command: Call(builtins.exec, f"__import__('os').system({command!r})"), "exec"),
    (lambda command: Call(getattr, Call(__import__, "os"), "system"), "getattr"),
    (lambda command: Call(map, Call(getattr, Call(__import__, "os"), "system"), [command]), "map"),
    (lambda command: Call(operator.attrgetter, "os.system"), r"'operator\.attrgetter'"),
    (lambda command: Call(functools.partial, os.system, command), r"'functools\.partial'"),
    (lambda command: Call(torch.load, command), r"'torch\.serialization\.load'"),
    (lambda command: Call(torch.hub.load, command), r"'torch\.hub\.load'"),
    (lambda command: Call(copyreg.__dict__["_reconstructor"], object, object, None), r"_reconstructor"),
    (lambda command: nn.Linear(2, 2), r"'torch\.nn\.modules\.linear\.Linear'"),
    (lambda command: Path(command), "pathlib"),
    (lambda command: {1, 2}, r"set|EMPTY_SET"),
    (lambda command: b"bytes", r"_codecs\.encode|SHORT_BINBYTES"),
    (lambda command: torch.float32, r"'torch\.float32'"),
    (lambda command: torch.device("cpu"), r"'torch\.device'"),
    (lambda command: torch.ones(2).to_sparse(), r"'torch\._utils\._rebuild_sparse_tensor'"),
    (lambda command: torch.ones(2, dtype=torch.complex64), r"'torch\.ComplexFloatStorage'"),
    (lambda command: torch.ones(2, dtype=torch.uint16), r"'torch\._utils\._rebuild_tensor_v3'"),
    (lambda command: torch.ones(2).untyped_storage(), r"'torch\.storage\.UntypedStorage'"),
    (lambda command: types.SimpleNamespace, r"'types\.SimpleNamespace' itself, not an instance"),
    (lambda command: [(OrderedDict,)], r"'collections\.OrderedDict' itself"),
    (lambda command: {(1, 2): 3}, "keys of a dict must be strings or integers"),
    (lambda command: {2**61 - 1: 3}, "keys of a dict must be strings or integers"),
    (lambda command: Call(OrderedDict, [("a", 1)]), r"calls collections\.OrderedDict with unexpected arguments"),
    (lambda command: Call(Counter, [("a", 1)]), r"calls collections\.Counter with unexpected arguments"),
    (lambda command: Call(types.SimpleNamespace, {"a": 1}), r"calls types\.SimpleNamespace with unexpected arguments"),
    (lambda command: Call(types.SimpleNamespace, state={"__class__": 1}), "sets the attribute .*__class__"),
    (lambda command: Call(types.SimpleNamespace, state={"__reduce__": [1]}), "sets the attribute .*__reduce__"),
    (lambda command: Call(types.SimpleNamespace, state={1: 2}), "sets the attribute .*1"),
    (lambda command: Call(types.SimpleNamespace, state=(None, {"a": 1})), "sets the state of a InertRecord by a tuple"),
    (lambda command: Call(types.SimpleNamespace, state=[1]), "sets the state of a InertRecord by a list"),
]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("make", "match"), CALLS)
def test_what_could_run_is_refused(make: Callable, match: str, protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    value = make(f"touch {canary}")
    file = save(tmp_path / "x.pth", {"x": torch.ones(2), "y": [value]}, pickle_protocol=protocol)
    refused(file, match)
    assert not canary.exists()


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


OPCODES = [
    (b"cos\nsystem\n(" + text("touch CANARY") + b"tR", r"asks for 'os\.system'"),
    (b"(ios\nsystem\n", "opcode INST has no place"),
    (b"(S'touch CANARY'\nios\nsystem\n", "opcode STRING"),
    (b"(cos\nsystem\n" + text("touch CANARY") + b"o", r"'os\.system'"),
    (b"(c__main__\nConfig\no", "opcode OBJ"),
    (b"(i__main__\nConfig\n", "opcode INST"),
    (b"\x82\xf0", "opcode EXT1"),
    (b"\x83\xf0\0", "opcode EXT2"),
    (b"\x84\xf0\0\0\0", "opcode EXT4"),
    (b"Pstorage\n", "opcode PERSID"),
    (b"c__main__\nConfig\n)}\x92", "opcode NEWOBJ_EX"),
    (b"]\x98", "opcode READONLY_BUFFER"),
    (b"\x97", "opcode NEXT_BUFFER"),
    (b"c__main__\nConfig.__init__\n", r"asks for '__main__\.Config\.__init__'"),
    (b"c__main__\nConfig\n\x89R", r"calls __main__\.Config with unexpected"),
    (text("os") + text("system") + b"\x93", r"asks for 'os\.system'"),
    (b"K\x01" + text("system") + b"\x93", "is no string"),
    (b"N)R", "calls a NoneType"),
    (text("x") + b")R", "calls a str"),
    (b"c__main__\nConfig\n)R)R", "calls a InertRecord"),
    (FLOATS + b")R", r"calls torch\.FloatStorage"),
    (b"c__main__\nConfig\n}b", "sets the state of a _Global"),
    (b"]}b", "sets the state of a list"),
    (rebuild() + b"}b", "sets the state of a LazyTensor"),
    (b"c__main__\nConfig\n)R" + text("a") + b"K\x01s", "sets items of a InertRecord"),
    (b"c__main__\nConfig\nK\x01a", "appends to a _Global"),
    (b"}(K\x01u", "longer|shorter"),
    (STORAGE, "a storage that belongs to no tensor"),
    (text("storage") + b"Q", "persistent id is no storage"),
    (b"(" + text("module") + FLOATS + text("0") + text("cpu") + b"K\x04tQ", "persistent id is no storage"),
    (STORAGE.replace(FLOATS, b"ccollections\nOrderedDict\n"), "persistent id is no storage"),
    (STORAGE.replace(FLOATS, text("torch.FloatStorage")), "persistent id is no storage"),
    (STORAGE.replace(text("0"), b"K\0"), "persistent id is no storage"),
    (STORAGE.replace(text("0"), text("../version")), r"storage '\.\./version'.*is not in the file"),
    (STORAGE.replace(b"K\x04", b"K\x05"), "storage '0' with 5 elements of torch.FloatStorage is not in the file"),
    (STORAGE.replace(b"K\x04", b"J\xff\xff\xff\xff"), "storage '0' with -1 elements"),
    (rebuild(b"K\x01"), "unexpected arguments"),
    (rebuild(start=b"K\x01"), "exceeds its storage of 4"),
    (rebuild(start=b"J\xff\xff\xff\xff"), "offset, size and stride"),
    (rebuild(size=b"K\x05\x85"), "exceeds its storage of 4"),
    (rebuild(stride=b"K\x02\x85"), "exceeds its storage of 4"),
    (rebuild(stride=b"J\xff\xff\xff\xff\x85", start=b"K\x03"), "offset, size and stride"),
    (rebuild(size=b"J\xff\xff\xff\xff\x85"), "offset, size and stride"),
    (rebuild(size=b"K\x04]\x86", stride=b"K\x01K\x01\x86"), "offset, size and stride"),
    (rebuild(size=b"\x88\x85"), "offset, size and stride"),
    (rebuild(size=b"]"), "offset, size and stride"),
    (rebuild(size=b"K\x04K\x01\x86"), "offset, size and stride"),
    (rebuild(size=b"(" + b"K\x01" * 65 + b"t", stride=b"(" + b"K\x01" * 65 + b"t"), "offset, size and stride"),
    (rebuild(size=b"J\xff\xff\xff\x7f\x85", stride=b"K\0\x85"), "exceeds its storage of 4"),
    (rebuild(size=b"K\0\x8a\x07\0\0\0\0\0\0\2\x86", stride=b"K\1K\1\x86"), "offset, size and stride"),
    (rebuild(size=b"K\0" + b"\x8a\x06\0\0\0\0\0\1" * 2 + b"\x87", stride=b"K\1K\1K\1\x87"), "exceeds its storage"),
    (rebuild(size=b"K\0\x85", start=b"K\x05"), "exceeds its storage of 4"),
    (rebuild(rest=b"\x89}"), "hooks or metadata"),
    (rebuild(rest=b"\x89ccollections\nOrderedDict\n)R" + text("f") + b"Ns"), "hooks or metadata"),
    (rebuild(rest=b"\x89ccollections\nOrderedDict\n)R}" + text("neg") + b"\x88s"), "hooks or metadata"),
    (rebuild(rest=b"\x89"), "unexpected arguments"),
    (rebuild(rest=b"\x89ccollections\nOrderedDict\n)RNN"), "unexpected arguments"),
    (b"ctorch._utils\n_rebuild_parameter\n" + b"N\x88ccollections\nOrderedDict\n)R\x87R", "unexpected arguments"),
    (
        b"ctorch._utils\n_rebuild_parameter\n"
        + rebuild()
        + b"\x88ccollections\nOrderedDict\n)R"
        + text("f")
        + b"Ns\x87R",
        "a parameter has hooks",
    ),
    (b"](}" + text("__class__") + b"Nsq\0c__main__\nConfig\n)Rh\0be", "sets the attribute .*__class__"),
    (b"](c__main__\nConfig\n)R}" + text("__class__") + b"Nsq\0bh\0e", "sets the attribute .*__class__"),
    (b"cos\\q\nsystem\n", r"asks for 'os\\\\q\.system'"),
    (b"cos\n\xff\n", "utf-8"),
    (b"cos", r"asks for 'oss\.\.'"),
]


@pytest.mark.parametrize(("value", "match"), OPCODES)
def test_opcodes_that_are_refused(value: bytes, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("posix", "system", 240)
    try:
        pickle.loads(b"\x80\x02\x82\xf0.")  # in the cache now, which unpicklers take without asking
        refused(pickled(tmp_path / "x.pth", in_dict(value), s0=bytes(16)), match)
    finally:
        copyreg.remove_extension("posix", "system", 240)
        copyreg.clear_extension_cache()
    assert os.listdir(tmp_path) == ["x.pth"]


def test_the_hand_written_tensor_is_else_fine(tmp_path: Path) -> None:
    """So that each refusal above has its own reason."""
    content = struct.pack("<4f", 1, 2, 3, 4)
    for value in rebuild(), rebuild(rest=b"\x88ccollections\nOrderedDict\n)RN"):
        read = read_checkpoint(pickled(tmp_path / "x.pth", in_dict(value), s0=content))
        assert read["k"].read().tolist() == [1, 2, 3, 4]
    corner = rebuild(start=b"K\x01", size=b"K\x02K\x01\x86", stride=b"K\x02K\xff\x86")
    assert read_checkpoint(pickled(tmp_path / "x.pth", in_dict(corner), s0=content))["k"].read().tolist() == [[2], [4]]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "ends before"),
        (b"\x80\x02", "ends before"),
        (b".", "empty"),
        (b"K\x01.", "holds a int"),
        (b"].", "holds a list"),
        (b"X\4\0\0\0\xff\xff\xff\xff.", "utf-8"),
        (b"}K\x01K\x02s.", "a dict with names for keys"),
        (b"\xff.", "unknown"),
        (b"h\x05.", "refused: 5"),
        (b"q\x05.", "refused"),
        (b"a.", "refused"),
        (b"s.", "refused"),
        (b"u.", "refused"),
        (b"R.", "refused"),
        (b"b.", "refused"),
        (b"t.", "refused"),
        (b"\x87.", "refused"),
        (b"Q.", "refused"),
        (b"\x8a\x7f1.", "long1|expected"),
        (b"I\xff\n.", "opcode INT"),
        (b"(dp0\n.", "opcode DICT"),
    ],
)
def test_broken_pickles(content: bytes, match: str, tmp_path: Path) -> None:
    refused(pickled(tmp_path / "x.pth", content), match)


# Bombs


def nested(n: int, item: bytes, close: bytes) -> bytes:
    return item * n + close * (n - 1)


N = 20_000
RECORD = b"c__main__\nConfig\nq\1)\x81"
BOMBS = [
    (nested(N, b"]", b"a"), True),
    (b")" + b"\x85" * N, True),
    (RECORD + (b"}" + text("f") + b"h\1)\x81") * N + b"sb" * N, True),
    (b"}" + (text("f") + b"}") * N + b"s" * N, True),
    (b"](Nq\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"e", True),  # 2**60 references
    (b"Nr\xff\xff\xff\xff", True),
    (b"(" * N + b"N", False),
    (b"\x8e" + struct.pack("<Q", 2**40), False),
    (b"\x8d" + struct.pack("<Q", 2**40), False),
    (b"\x96" + struct.pack("<Q", 2**40), False),
    (b"\x8b\xff\xff\xff\x7f", False),
    (b"X\xff\xff\xff\xff", False),
    (b"B\xff\xff\xff\xff", False),
    (b"T\xff\xff\xff\x7f", False),
    (b"\x95" + struct.pack("<Q", 2**62) + b"N", True),
    (b"I" + b"9" * 10**7 + b"\n", False),
    (b"S'\\q'\n", False),
    (
        b"}(" + b"".join(b"\x8a\x0a" + ((2**61 - 1) * i).to_bytes(10, "little") + b"N" for i in range(50_000)) + b"u",
        False,
    ),  # keys of one hash
    # One large object, used again and again.
    (
        b"]("
        + RECORD
        + b"}("
        + b"".join(text(str(i)) + b"N" for i in range(20_000))
        + b"uq\0"
        + b"h\1)\x81h\0b" * 20_000
        + b"e",
        True,
    ),
    (b"(" + b"K\1" * 50_000 + b"tq\0" + b"](" + rebuild(size=b"h\0", stride=b"h\0") * 5_000 + b"e", False),
    (b"(" + STORAGE + b"K\0" * 50_000 + b"tq\0ctorch._utils\n_rebuild_tensor_v2\nq\1" + b"h\0Rh\1" * 20_000, False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "accepted"), BOMBS, ids=range(len(BOMBS)))
def test_bombs(value: bytes, accepted: bool, tmp_path: Path) -> None:
    file = pickled(tmp_path / "x.pth", in_dict(value), s0=bytes(16))
    with bounded(megabytes=160):
        try:
            read_checkpoint(file)
        except ValueError:
            assert not accepted
        else:
            assert accepted


def test_limits(tmp_path: Path) -> None:
    file = save(tmp_path / "x.pth", {"log": list(range(1000))})
    read_checkpoint(file, Limits(work=1300))
    for limits, match in [
        (Limits(work=1000), "too many opcodes"),
        (Limits(pickle=1000), r"its data\.pkl has \d+ bytes, more than 1000"),
        (Limits(directory=100), r"a zip directory of \d+ bytes, more than 100"),
    ]:
        with pytest.raises(ValueError, match=match):
            read_checkpoint(file, limits)


@pytest.mark.slow
def test_published_checkpoints_stay_far_below_the_limits(tmp_path: Path) -> None:
    """The largest decoder that is about has 552 tensors, the longest logs 13 MB."""
    tensors = {f"decoder.1.up_blocks.0.resnets.{i}.conv1.weight": torch.ones(1) for i in range(600)}
    record = types.SimpleNamespace(**{f"setting_{i}": i / 7 for i in range(50)})
    without = {"model_state_dict": tensors, "config": record, "i_epoch": 149}
    read_checkpoint(save(tmp_path / "x.pth", without), Limits(work=Limits().work // 10))
    logs = {name: [i / 7 for i in range(480_000)] for name in ("losses", "rates", "norms")}
    read_checkpoint(save(tmp_path / "x.pth", {**without, **logs}), Limits(work=Limits().work // 2))


def test_too_many_entries(tmp_path: Path) -> None:
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 500_000 * len(entry), 30, 0)
    (tmp_path / "x.pth").write_bytes(b"PK\3\4" + bytes(26) + entry * 500_000 + end)
    with bounded():
        refused(tmp_path / "x.pth", "a zip directory of 23500000 bytes, more than")


# The container


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "x.pth", {"x": torch.arange(12.0), "y": [torch.ones(3, dtype=torch.int8)], "z": "text"})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [b"", b"P", b"PK\3", pickle.dumps({"a": 1}), b"\x1f\x8b" * 50, b"\0" * 1000])
def test_no_zip(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", r"no zip archive, .* PyTorch 1\.6: its older format and plain pickles are refused")


def test_formats_of_before_1_6(tmp_path: Path) -> None:
    file = save(tmp_path / "x.pth", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    refused(file, r"no zip archive, .* PyTorch 1\.6: its older format and plain pickles are refused")


def test_other_entries(file: Path, tmp_path: Path) -> None:
    expected = torch.load(file, weights_only=True)
    assert same(read_all(read_checkpoint(edit(file, byteorder=None))), expected)  # as PyTorch 1.6 to 1.13 wrote it
    with pytest.raises(ValueError, match="is b'big'; only b'little' is read"):
        read_checkpoint(edit(file, byteorder=b"big"))
    refused(edit(file, byteorder=b"little" * 10**6), "byteorder is b'littlelittlelitt'")
    refused(edit(file, byteorder=None, version=b"4\n"), "version is b'4'; only b'3' is read")
    refused(edit(file, version=None), r"no PyTorch checkpoint: its folder must hold data\.pkl and version")
    refused(
        edit(file, version=b"3\n", data_pkl=None), r"no PyTorch checkpoint: its folder must hold data\.pkl and version"
    )
    refused(write_zip(file, []), "no zip archive|damaged")


def test_compressed_and_encrypted(file: Path) -> None:
    content = file.read_bytes()
    refused(edit(file, zipfile.ZIP_DEFLATED), r"'x/data\.pkl' is compressed or encrypted")
    for header, field, value in [(b"PK\1\2", 8, 1), (b"PK\3\4", 6, 1), (b"PK\1\2", 10, 8), (b"PK\3\4", 8, 8)]:
        damaged = bytearray(content)
        damaged[content.index(header) + field] |= value
        file.write_bytes(damaged)
        refused(file, "is compressed or encrypted")


@pytest.mark.parametrize(
    "names",
    [
        ["x/data.pkl"],
        ["y/data/0"],
        ["data.pkl"],
        ["/data.pkl"],
        ["x/../data.pkl"],
        ["x/a/../../b"],
        ["x//a"],
        ["x/a\\b"],
        ["x/."],
        ["x/data/"],
        ["x/data/7", "x/data/7"],
        ["x/data.pkl\0z"],
        ["/etc/passwd"],
        ["C:\\a"],
        [""],
    ],
)
def test_names(file: Path, names: list[str]) -> None:
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = name
            archive.writestr(entry, b"12345678")
    refused(file, "must hold one folder, and each name once|is not where its directory says")


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (42, "<L", 5),
        (42, "<L", 2**32 - 2),
        (20, "<L", 10),
        (24, "<L", 10),
        (24, "<L", 2**31),
        (10, "<H", 8),
        (10, "<H", 99),
        (6, "<H", 99),
        (16, "<L", 0),
        (28, "<H", 9),
        (28, "<H", 2**16 - 1),
        (46, "<B", 255),
    ],
)
def test_lies_of_the_directory(file: Path, offset: int, form: str, value: int) -> None:
    content = bytearray(file.read_bytes())
    position = content.index(b"PK\1\2") + offset  # of data.pkl
    content[position : position + struct.calcsize(form)] = struct.pack(form, value)
    file.write_bytes(content)
    with bounded(5, 16):
        refused(file, "damaged|compressed|pickle is refused")


def test_entries_that_are_not_there(file: Path) -> None:
    content = file.read_bytes()
    second = content.index(b"PK\3\4", 4)
    for position in (second, second + 30):
        file.write_bytes(content[:position] + b"?" + content[position + 1 :])
        refused(file, "damaged: 'x/.*' is not where its directory says")


def test_longer_than_the_file(file: Path) -> None:
    """Both sizes agree, and are a lie."""
    content = file.read_bytes()
    for size in (10**4, 2**31, 2**32 - 2):
        damaged = bytearray(content)
        position = damaged.index(b"PK\1\2") + 20
        damaged[position : position + 8] = struct.pack("<2L", size, size)
        file.write_bytes(damaged)
        with bounded(5, 16):
            refused(file, rf"damaged: 'x/data\.pkl' cannot have {size} bytes")


def test_cut_off_anywhere(file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        refused(file, "damaged or cut off|no zip archive")


@pytest.mark.slow
def test_flipped_bits_are_noticed_or_do_not_matter(file: Path) -> None:
    content, expected = file.read_bytes(), torch.load(file, weights_only=True)
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        read_or_refuse(file, expected)


# Fuzzing

FUZZ = settings(derandomize=True, deadline=datetime.timedelta(seconds=5))
VALUE = {
    "x": torch.arange(6.0),
    "p": nn.Parameter(torch.ones(2, 2)),
    "l": [1, -1, 0.5, None, True, (2, "s")],
    "o": OrderedDict(a=torch.zeros(2, 3, dtype=torch.int64).T),
    "n": types.SimpleNamespace(a=1),
    "s": {5: 6},
}


def read_or_refuse(file: Path, expected: object = None) -> None:
    """No other error than ValueError; and with ``expected``, no other result."""
    try:
        read = read_all(read_checkpoint(file))
    except ValueError as error:
        assert str(file) in str(error)
    else:
        assert expected is None or same(read, expected)


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

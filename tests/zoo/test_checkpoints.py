"""Checkpoints of strangers: what PyTorch writes is read as PyTorch reads it, and nothing else is."""

import builtins
import copyreg
import functools
import operator
import os
import pickle
import struct
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.checkpoint_files import (
    FLOATS,
    STORAGE,
    bounded,
    in_dict,
    pickled,
    read_all,
    rebuild,
    refused,
    same,
    save,
    text,
)
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

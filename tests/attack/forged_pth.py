"""Forged checkpoints (``.pth``), and the JSON beside them.

The pickles are written by hand where Python's own pickler would not write them.
"""

import io
import json
import os
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.attack.forged import Forged
from tests.reference import load_golden, make_state, taps
from walloc_transforms.zoo.checkpoints import read_checkpoint
from walloc_transforms.zoo.published import read_published

# What reads them


def read(file: Path) -> str:
    """Read a checkpoint as a codec, and its decoder, too."""
    codec = read_published(file)
    codec.load_decoder()
    return codec.config.name


def read_content(file: Path) -> int:
    """Read what any checkpoint holds."""
    return len(read_checkpoint(file))


# What they are made of

_MARK = 0x12345678  # an integer in a pickle, where other bytes go


def text(value: str) -> bytes:
    """Pickle a string."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def saved(value: object, replacement: bytes | None = None) -> bytes:
    """Save as ``torch.save`` does, with other bytes for the pickle of ``_MARK``."""
    stream = io.BytesIO()
    torch.save(value, stream)
    if replacement is None:
        return stream.getvalue()
    with zipfile.ZipFile(stream) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return zipped({k: v.replace(b"J" + struct.pack("<I", _MARK), replacement) for k, v in parts.items()})


def zipped(parts: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Make an archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return stream.getvalue()


def pickled(value: bytes, storage: bytes = bytes(16)) -> bytes:
    """Make a checkpoint whose dict has one value, given as its pickle."""
    pickle = b"\x80\x02}" + text("k") + value + b"s."
    return zipped({"a/data.pkl": pickle, "a/version": b"3\n", "a/data/0": storage})


def state(name: str = "linear") -> dict[str, Tensor]:
    """Make the tensors of one of the golden codecs."""
    shapes = load_golden(name)[1]
    return {**make_state(shapes), **taps(1 if name.startswith("codec1d") else 2)}


def checkpoint(settings: object, tensors: Mapping[Any, Tensor] | None = None, deep: bytes | None = None) -> bytes:
    """Make the checkpoint of a codec with given settings."""
    return saved({"model_state_dict": tensors or state(), "config": settings}, deep)


def laugh(times: int) -> list[Any]:
    """Nest lists that hold the same list twice: 2**times elements to print."""
    value: list[Any] = ["ha"]
    for _ in range(times):
        value = [value, value]
    return value


def deep_list(depth: int = 100_000) -> bytes:
    """Pickle nested lists."""
    return b"]" * depth + b"a" * (depth - 1)


def audio(levels: int, channels: int = 1) -> bytes:
    """Make a linear codec of mono sound with many levels."""
    weight = torch.ones(channels, 2**levels) / 2**levels
    linear = {"encoder.0.weight": weight, "encoder.0.bias": torch.zeros(channels)}
    linear |= {"decoder.1.weight": weight.T.clone(), "decoder.1.bias": torch.zeros(2**levels)}
    return checkpoint({"channels": 1, "J": levels, "latent_bits": 8}, {**linear, **taps(1)})


def shared(prefix: str, names: int, elements: int = 2**20, end: str = "") -> bytes:
    """Give many names to one storage, of 4 MB unless told otherwise, in a codec with networks."""
    tensor = torch.zeros(1, elements)
    return checkpoint(BITS, {**state("codec2d_deep"), **{f"{prefix}{i}{end}": tensor for i in range(names)}})


def spread(elements: int = 200_000, names: int = 300) -> bytes:
    """Make many small tensors of two elements, each far apart in one storage."""
    whole = torch.zeros(elements)
    view = whole.as_strided((2,), (elements - 1,))
    return checkpoint(BITS, {**state(), **{f"encoder.0.{i}": view for i in range(names)}})


def without_values(kind: str, part: str) -> bytes:
    """Make a codec with a network of which only the first and the last tensor are there."""
    tensors = state(kind)
    kept = [name for name in tensors if name.startswith(part)]
    ends = [name for name in kept if re.search(r"\.(conv_in|conv_out|conv1|conv2)\.\w+$", name) and "block" not in name]
    for name in set(kept) - set(ends):
        del tensors[name]
    return checkpoint({**BITS, "channels": 2 if kind.startswith("codec1d") else 3}, tensors)


def negative_offset() -> bytes:
    """Make an archive whose directory claims too much: the first entry begins below 0."""
    content = bytearray(pickled(b"N"))
    places = [match.start() + 42 for match in re.finditer(b"PK\1\2", content)][1:]  # of the other entries
    for place in [*places, content.rindex(b"PK\5\6") + 16]:
        struct.pack_into("<I", content, place, struct.unpack_from("<I", content, place)[0] + 1000)
    return bytes(content)


def many_entries(count: int = 20_000) -> bytes:
    """Make an archive whose directory has as many entries as fit, of one place."""
    return zipped({"a/data.pkl": b"", "a/version": b"3\n"} | {f"a/{i}": b"" for i in range(count)})


def rebuilt(count: int) -> bytes:
    """Pickle tensors that share all their arguments, of 16 axes."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    axes = b"(" + b"K\1" * 16 + b"tq\4"
    arguments = b"(" + storage + b"K\0" + axes + b"h\4\x89ccollections\nOrderedDict\n)Rtq\5"
    return b"(ctorch._utils\n_rebuild_tensor_v2\nq\2" + arguments + b"R" + b"h\2h\5R" * count + b"t"


def records(depth: int) -> bytes:
    """Pickle records in records."""
    return b"c__main__\nConfig\nq\1)\x81" + (b"}" + text("f") + b"h\1)\x81") * depth + b"sb" * depth


def strings(count: int) -> bytes:
    """Pickle a list of empty strings, each remembered."""
    return b"](" + b"".join(text("") + b"r" + struct.pack("<I", i) for i in range(count)) + b"e"


def _forged(
    name: str,
    content: Callable[[], bytes],
    settings: str | None = None,
    reader: Callable[[Path], Any] = read,
    accepted: bool = False,
) -> Forged:
    def make(folder: Path) -> Path:
        file = folder / "strange.pth"
        file.write_bytes(content())
        if settings is not None:
            file.with_suffix(".json").write_text(settings)
        return file

    return Forged(f"pth, {name}", make, reader, accepted)


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "strange.pth")
    return folder / "strange.pth"


BITS = {"latent_bits": 8}
FILTERS = {"0 axes": torch.ones(()), "0 channels": torch.ones(0, 2, 129), "4,096 channels": torch.ones(4096, 1, 1)}

FORGED: list[Forged] = [
    *[
        _forged(f"laughing {name}", lambda name=name, n=n: checkpoint({**BITS, name: laugh(n)}))
        for name, n in [("latent_bits", 30), ("num_stages", 30), ("J", 24)]
    ],
    _forged("laughing Nd", lambda: checkpoint({**BITS, "Nd": laugh(30)}, state("codec2d"))),
    _forged("laughing args", lambda: saved({"model_state_dict": state(), "args": {"n_bits": laugh(30)}})),
    _forged("laughing tensors", lambda: saved({"model_state_dict": laugh(30)})),
    _forged("deep J", lambda: checkpoint({**BITS, "J": _MARK}, None, deep_list())),
    _forged("deep record for J", lambda: checkpoint({**BITS, "J": _MARK}, None, records(15_000))),
    _forged("deep state", lambda: pickled(records(160_000)), reader=read_content),
    _forged("deep tuples", lambda: pickled(b")" + b"\x85" * 2**20), reader=read_content),
    _forged("empty dicts", lambda: pickled(b"](" + b"}" * 2**20 + b"e"), reader=read_content),
    _forged("deep tuples at the limit", lambda: pickled(b")" + b"\x85" * 245_000), reader=read_content, accepted=True),
    _forged("strings remembered", lambda: pickled(strings(800_000)), reader=read_content),
    _forged("tensors of shared arguments", lambda: pickled(rebuilt(80_000)), reader=read_content, accepted=True),
    *[
        _forged(f"1,000 names {prefix}* of one storage", lambda prefix=prefix: shared(prefix, 1000))
        for prefix in ("encoder.0.", "decoder.1.", "post.", "wt.")
    ],
    _forged("300 views of distant elements", spread),
    _forged("40,000 stages of one number", lambda: shared("encoders.", 40_000, 1, ".weight")),
    _forged("numbers for names", lambda: checkpoint(BITS, {5: torch.ones(2)})),
    _forged("a name of 1 MB", lambda: checkpoint(BITS, {"\x1b[31m\n" + "x" * 2**20: torch.ones(2)})),
    _forged("an encoder network of two tensors", lambda: without_values("codec2d_deep", "encoder.0.")),
    _forged("a sound encoder of two tensors", lambda: without_values("codec1d_deep", "encoder.0.")),
    _forged("a decoder of two tensors", lambda: without_values("codec2d", "decoder.1.")),
    *[_forged(f"sound of {levels} levels", lambda levels=levels: audio(levels)) for levels in (10, 12, 16)],
    _forged("sound of 9 levels", lambda: audio(9), accepted=True),
    *[
        _forged(f"a filter of {what}", lambda t=t: checkpoint(BITS, {**state("codec1d"), "post.weight": t}))
        for what, t in FILTERS.items()
    ],
    _forged("a vector for a matrix", lambda: checkpoint(BITS, {**state(), "encoder.0.weight": torch.ones(12)})),
    _forged("integers for weights", lambda: checkpoint(BITS, {**state(), "encoder.0.bias": torch.ones(12).int()})),
    _forged("a negative offset", negative_offset),
    _forged("20,000 entries", many_entries, reader=read_content),
    _forged("a deflated pickle of 32 MB", lambda: zipped({"a/data.pkl": bytes(2**25)}, zipfile.ZIP_DEFLATED)),
    *([Forged("pth, a pipe", _pipe, read)] if hasattr(os, "mkfifo") else []),
    _forged("settings nested 100,000 times", lambda: checkpoint({}), '{"a":' + "[" * 100_000),
    _forged("settings with a number of 1 MB", lambda: checkpoint({}), '{"latent_bits": ' + "9" * 10**6 + "}"),
    _forged("settings of 9 MB", lambda: checkpoint({}), '{"latent_bits": 8, "a": [' + "[]," * 3_000_000 + "0]}"),
    _forged(
        "settings that are lists", lambda: checkpoint({}), json.dumps({**BITS, "num_stages": [["x" * 1000] * 100]})
    ),
]


def seeds() -> list[bytes]:
    """Make small valid checkpoints of every kind that is read."""
    numbers = {
        str(dtype): torch.arange(6).to(dtype) for dtype in (torch.float64, torch.float16, torch.int64, torch.bool)
    }
    views = torch.arange(24.0).reshape(2, 3, 4)
    log = {"i_epoch": 3, "losses": [0.5, 1e-3], "by number": {0: None, -7: (True, "ü")}, "empty": ()}
    return [
        checkpoint(BITS),
        saved({"model_state_dict": state(), "args": {"n_bits": 5, "J": 3, "Nd": None}}),
        checkpoint(SimpleNamespace(latent_bits=8, num_stages=4), state("residual")),
        checkpoint({**BITS, "channels": 3, "J": 3, "Nd": None, "latent_dim": 12}),
        audio(2, 3),
        saved({**numbers, **log, "record": SimpleNamespace(inner=SimpleNamespace(a=1))}),
        saved({"view": views[1], "turned": views.permute(2, 0, 1), "line": views[:, 1, ::2], "empty": views[2:]}),
        saved({"parameter": torch.nn.Parameter(torch.ones(2, 2)), "ordered": OrderedDict(a=torch.zeros(3, 2).T)}),
        pickled(rebuilt(3)),
        saved({"long": 2**70, "negative": -(2**31), "shared": [log, log]}),
    ]

"""Shards: safetensors files of many records, written whole and read by mapping.

records     all latents, laid end to end: int8 or int16; the first k channels of a record are its first k*h*w numbers
grids       (n, dims) int64, cells per axis
sizes       (n, dims) int64, of the signals
labels      (n,) int64; -1 is none
parts       (n,) int64, number of the view or window
keys        uint8, all keys in UTF-8, laid end to end
key_ends    (n,) int64, where each key ends

The metadata of the file names the plan, the shard's number in it, and the samples that could not be read.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ..codec import CodecConfig
from ..safe import escaped, shown
from .plan import Plan
from .records import NO_LABEL, Record, integers

__all__ = ["Shard", "pack_shard", "shard_name", "shard_number"]

FORMAT = "walloc_transforms.shard.1"
MAX_HEADER = 1 << 24
"""Most bytes of the header of a shard, which names unreadable samples; others have 1,000 bytes."""

_METADATA = "walloc"
_REASON = 1024  # most characters of a reason
_NAME = re.compile(r"shard-(\d{5,12})\.safetensors")


def shard_name(number: int) -> str:
    """Return the name of a shard's file.

    Example:
        >>> shard_name(7)
        'shard-00007.safetensors'
    """
    return f"shard-{number:05d}.safetensors"


def shard_number(name: str) -> int | None:
    """Return the number of a shard by the name of its file; None if that is no shard's.

    Example:
        >>> shard_number("shard-00007.safetensors"), shard_number("shard-7.safetensors")
        (7, None)
    """
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and shard_name(int(match[1])) == name else None


def pack_shard(
    records: Sequence[Record], *, plan: Plan, number: int, unreadable: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Lay records out as the content of a shard. The same records always make the same bytes.

    Args:
        records: In the order of the source. There may be none, if nothing could be read.
        plan: The plan of the data set.
        number: Of the shard.
        unreadable: Keys of samples that are left out, each with the reason, of which the beginning is kept.

    Raises:
        ValueError: A record is not of the plan's codec, or its label of no class; or the names of unreadable samples
            are too long.
    """
    c, dtype = plan.codec, integers(plan.codec.latent_bits)
    for record in records:
        expected = (c.channels, *_grid(record.size, c))
        if record.latents.dtype != dtype or record.latents.shape != expected:
            raise ValueError(
                f"the record of {escaped(record.key)} must be {dtype} of shape {expected}, got {record.latents.dtype} "
                f"of shape {record.latents.shape}"
            )
        if not NO_LABEL <= record.label < (len(plan.classes) or math.inf):
            raise ValueError(
                f"the label of {escaped(record.key)} must be an index of {len(plan.classes)} classes, or {NO_LABEL}, "
                f"got {record.label}"
            )
    keys = [record.key.encode("utf-8", "surrogateescape") for record in records]
    shape = (len(records), c.dims)
    tensors = {
        "records": np.concatenate([np.empty(0, dtype), *(record.latents.reshape(-1) for record in records)]),
        "grids": np.array([record.latents.shape[1:] for record in records], np.int64).reshape(shape),
        "sizes": np.array([record.size for record in records], np.int64).reshape(shape),
        "labels": np.array([record.label for record in records], np.int64),
        "parts": np.array([record.part for record in records], np.int64),
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
    }
    fields = {"format": FORMAT, "plan": plan.hash, "number": number}
    # One entry: safetensors writes several in an order that differs from run to run.
    return safetensors.numpy.save(tensors, {_METADATA: _text_of(fields, unreadable)})


def _text_of(fields: Mapping[str, Any], unreadable: Sequence[tuple[str, str]]) -> str:
    """Write the metadata, with reasons that are cut as short as the header of a shard demands."""
    pairs, limit = [(escaped(key), escaped(reason)) for key, reason in unreadable], _REASON
    while limit:
        cut = [[key, reason if len(reason) <= limit else f"{reason[:limit]}..."] for key, reason in pairs]
        text = json.dumps({**fields, "unreadable": cut})
        if len(json.dumps(text)) + 1000 <= MAX_HEADER:  # as a text within JSON, which escapes it once more
            return text
        limit //= 2
    raise ValueError(
        f"{len(pairs):,} unreadable samples have longer names than the {MAX_HEADER:,} bytes of a shard's header hold: "
        "choose a smaller shard_size"
    )


class Shard:
    """A shard that is mapped: what is read of it is read when it is needed, and all processes share its pages.

    Args:
        file: The file.
        plan: The plan it must be of.
        number: Its number in the plan.

    Attributes:
        grids: ``(n, dims)``, cells per axis.
        sizes: ``(n, dims)``, of the signals.
        labels: ``(n,)``; -1 is none.
        parts: ``(n,)``, number of the view or window.
        unreadable: Keys of samples that are left out, each with the reason.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no whole shard of this plan and number. The numbers of the latents are not checked, but that
            they are all there.
    """

    def __init__(self, file: Path, plan: Plan, number: int) -> None:
        self.file = file
        c, dtype = plan.codec, integers(plan.codec.latent_bits)
        metadata, tensors = _open(file)
        fields = _fields(metadata.get(_METADATA, ""))
        if fields.get("format") != FORMAT:
            raise ValueError(f"{file} is no shard of latents: expected format {FORMAT!r}")
        if (fields.get("plan"), fields.get("number")) != (plan.hash, number):
            raise ValueError(
                f"{file} belongs to another data set, or was renamed: its plan is not that of {file.parent}"
            )
        self.unreadable = _unreadable(fields.get("unreadable"), file)
        n = len(tensors["labels"]) if "labels" in tensors and tensors["labels"].ndim == 1 else 0
        expected = {
            "records": ((tensors["records"].size if "records" in tensors else 0,), dtype),
            "grids": ((n, c.dims), np.dtype(np.int64)),
            "sizes": ((n, c.dims), np.dtype(np.int64)),
            "labels": ((n,), np.dtype(np.int64)),
            "parts": ((n,), np.dtype(np.int64)),
            "keys": ((tensors["keys"].size if "keys" in tensors else 0,), np.dtype(np.uint8)),
            "key_ends": ((n,), np.dtype(np.int64)),
        }
        found = {name: (array.shape, array.dtype) for name, array in tensors.items()}
        if found != expected:
            wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise ValueError(f"{file}: {', '.join(shown(name, 40) for name in wrong)} of the shard have another form")
        self.grids, self.sizes = np.array(tensors["grids"]), np.array(tensors["sizes"])
        self.labels, self.parts = np.array(tensors["labels"]), np.array(tensors["parts"])
        self._records, self._keys, self._key_ends = tensors["records"], tensors["keys"], np.array(tensors["key_ends"])
        self._check(plan)
        self._channels = c.channels
        self._ends = np.cumsum(self.grids.prod(1) * c.channels)
        self._table: np.ndarray | None = None  # of records of one grid, which are quicker to find
        if len(self) and (self.grids == self.grids[0]).all():
            self._table = self._records.reshape(len(self), c.channels, *self.grids[0])

    def _check(self, plan: Plan) -> None:
        c = plan.codec
        if len(self) and self.sizes.min() < 1:
            raise ValueError(f"{self.file}: a signal has no samples")
        if not np.array_equal(self.grids, _grid(self.sizes, c)):
            raise ValueError(f"{self.file}: grids are not those of signals of these sizes")
        # In floating point, where nothing wraps around; exact below 2**53.
        values = float((self.grids.astype(np.float64).prod(1) * c.channels).sum())
        if values != len(self._records):
            raise ValueError(f"{self.file}: expected {values:.0f} latents, as the grids say, got {len(self._records)}")
        if len(self) and not (self.labels.min() >= NO_LABEL and self.labels.max() < (len(plan.classes) or math.inf)):
            raise ValueError(f"{self.file}: labels must be indices of {len(plan.classes)} classes, or {NO_LABEL}")
        lengths = np.diff(self._key_ends, prepend=0)
        if (len(self) and lengths.min() < 0) or int(self._key_ends[-1] if len(self) else 0) != len(self._keys):
            raise ValueError(f"{self.file}: the ends of the keys are out of order")

    def __len__(self) -> int:
        return len(self.labels)

    def latents(self, index: int) -> np.ndarray:
        """Return the latents ``(D, *grid)`` of a record: a view into the file, not to be written to."""
        if self._table is not None:
            return self._table[index]
        shape, end = (self._channels, *self.grids[index].tolist()), int(self._ends[index])
        return self._records[end - math.prod(shape) : end].reshape(shape)

    def key(self, index: int) -> str:
        """Return the key of a record."""
        start = self._key_ends[index - 1] if index else 0
        return self._keys[start : self._key_ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def record(self, index: int) -> Record:
        """Copy a record out of the file."""
        size = tuple(self.sizes[index].tolist())
        return Record(
            self.latents(index).copy(), size, self.key(index), int(self.labels[index]), int(self.parts[index])
        )


def _grid(size: Any, config: CodecConfig) -> Any:
    """Return the cells per axis of signals of a size, or of an array of sizes."""
    if isinstance(size, tuple):
        return tuple(-(-side // stride) + 2 * config.pad for side, stride in zip(size, config.strides, strict=True))
    return -(-size // np.array(config.strides)) + 2 * config.pad


def _open(file: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Map a safetensors file; returns metadata and arrays, whose pages are read when they are used."""
    with file.open("rb") as opened:
        length = opened.read(8)
        total = os.fstat(opened.fileno()).st_size
    if len(length) < 8 or int.from_bytes(length, "little") > min(MAX_HEADER, total - 8):
        raise ValueError(f"{file} is no shard: it is cut off, or its header is longer than {MAX_HEADER:,} bytes")
    try:
        with safetensors.safe_open(
            str(file), "pt"
        ) as opened:  # the arrays of torch are mapped, those of numpy are copies
            names = opened.keys()
            kinds = {name: opened.get_slice(name).get_dtype() for name in names}
            if not set(kinds.values()) <= {"I8", "U8", "I16", "I64"}:
                raise ValueError(f"{file} is no shard of latents: it holds {', '.join(sorted(set(kinds.values())))}")
            return opened.metadata() or {}, {name: opened.get_tensor(name).numpy() for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is no whole safetensors file: {escaped(str(error))[:200]}") from error


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _unreadable(pairs: object, file: Path) -> tuple[tuple[str, str], ...]:
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs
    ):
        raise ValueError(f"{file}: the list of unreadable samples is damaged")
    return tuple((escaped(key), escaped(reason)) for key, reason in pairs)

"""The Parquet file of a shard: a row for each record, and a binary column for each group of channels.

The schema describes the shard under the name ``walloc``, and the columns in the words of Hugging Face's ``datasets``.
"""

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..safe import atomic_file, escaped, listed, shown
from .plan import Plan, plan_of
from .records import Record, integers
from .shards import Shard

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Header", "check_prefixes", "is_written", "read_header", "read_records", "write_file"]

_FORMAT, _VERSION, _METADATA = "walloc_transforms.parquet", 1, b"walloc"


@dataclasses.dataclass(frozen=True)
class Header:
    """What the schema of a file says of its shard, under the name ``walloc``.

    Attributes:
        plan: The plan of the data set.
        number: Of the shard.
        sha256: Of the shard.
        prefixes: Where groups of channels end.
        unreadable: Keys of samples that are left out, each with the reason.
    """

    plan: Plan
    number: int
    sha256: str
    prefixes: tuple[int, ...]
    unreadable: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if type(self.number) is not int or not 0 <= self.number < self.plan.shards:
            raise ValueError(f"number must be from 0 to {self.plan.shards - 1}, got {shown(self.number)}")
        check_prefixes(self.prefixes, self.plan.codec.channels)
        if not all(len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in self.unreadable):
            raise ValueError("unreadable must be pairs of a key and a reason")

    def to_json(self) -> bytes:
        """Write the fields as the schema holds them."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps({"format": _FORMAT, "version": _VERSION, **own, "plan": self.plan.fields()}).encode()


def check_prefixes(prefixes: Sequence[int], channels: int) -> None:
    """Refuse numbers of channels that do not rise to all of them."""
    if not all(type(end) is int for end in prefixes):
        raise ValueError(f"prefixes must be whole numbers, got {listed(list(map(str, prefixes)))}")
    steps = [end - start for start, end in itertools.pairwise([0, *prefixes])]
    if not prefixes or min(steps) < 1 or prefixes[-1] != channels:
        raise ValueError(f"prefixes must rise to {channels}, the number of channels, got {list(prefixes)}")


def _groups(prefixes: Sequence[int]) -> dict[str, slice]:
    """Name the columns of latents, each with its channels."""
    return {f"latents_{start}_{end}": slice(start, end) for start, end in itertools.pairwise([0, *prefixes])}


def _schema(header: Header) -> "pa.Schema":
    """Describe the columns of a file, also in the words of Hugging Face's ``datasets``."""
    import pyarrow as pa

    types = {"key": pa.string(), "label": pa.int64(), "part": pa.int32()}
    types |= {"size": pa.list_(pa.int32()), "grid": pa.list_(pa.int32())}
    types |= {name: pa.binary() for name in _groups(header.prefixes)}
    features: dict[str, Any] = {name: {"dtype": str(type_), "_type": "Value"} for name, type_ in types.items()}
    for name in ("size", "grid"):
        features[name] = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"}
    if header.plan.classes:
        features["label"] = {"names": list(header.plan.classes), "_type": "ClassLabel"}
    metadata = {_METADATA: header.to_json(), b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.schema(list(types.items()), metadata)


def is_written(file: Path, header: Header) -> bool:
    """Tell whether an earlier call has written the file of a shard.

    Raises:
        ValueError: Something else has its name.
    """
    import pyarrow.parquet as pq

    if not file.exists():
        return False
    with _reading(file):
        found = pq.read_schema(file).metadata
    if found != _schema(header).metadata:
        raise ValueError(f"{file} is there, and is of another data set or has other columns: expected a new folder")
    return True


def write_file(file: Path, shard: Shard, header: Header, row_group: int) -> None:
    """Write the file of a shard, atomically.

    Args:
        file: The file.
        shard: The shard.
        header: What the file says of it.
        row_group: Most rows in a row group.

    Raises:
        ValueError: A key is no UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, groups = _schema(header), _groups(header.prefixes)
    plain: Any = [name for name in schema.names if name not in groups]  # pyarrow annotates it as a bool
    dtype = _dtype(header)
    with (
        atomic_file(file, durable=True) as opened,
        pq.ParquetWriter(
            opened,
            schema,
            compression="zstd",
            write_page_checksum=True,
            # Latents do not repeat, and their smallest and largest bytes tell nothing.
            use_dictionary=plain,
            write_statistics=plain,
        ) as writer,
    ):
        for start in range(0, len(shard), row_group):
            records = [shard.record(i) for i in range(start, min(start + row_group, len(shard)))]
            columns: dict[str, list[Any]] = {"grid": [record.latents.shape[1:] for record in records]}
            for name in ("key", "label", "part", "size"):
                columns[name] = [getattr(record, name) for record in records]
            for name, channels in groups.items():
                columns[name] = [record.latents[channels].astype(dtype, copy=False).tobytes() for record in records]
            try:
                writer.write_table(pa.table(columns, schema))
            except UnicodeEncodeError as error:
                raise ValueError(f"{shard.file}: the key {escaped(str(error.object))} is no UTF-8") from error


def _dtype(header: Header) -> np.dtype:
    return integers(header.plan.codec.latent_bits).newbyteorder("<")


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into a ValueError that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OSError) as error:  # some damage is an OSError without a number
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{file} is no whole Parquet file of latents: {escaped(str(error))[:200]}") from error


def read_header(file: Path) -> Header:
    """Read what a file says of its shard.

    Raises:
        ValueError: It is none of ours, or damaged; what is missing is named.
    """
    import pyarrow.parquet as pq

    with _reading(file):
        schema = pq.read_schema(file)
    if (text := (schema.metadata or {}).get(_METADATA)) is None:
        raise ValueError(
            f"{file} lacks the metadata 'walloc' in its schema, which tells the codec: expected a file of to_parquet, "
            "or one that was made of it and keeps its metadata"
        )
    try:
        fields = json.loads(text)
        expected = {"format", "version", *(field.name for field in dataclasses.fields(Header))}
        if not isinstance(fields, dict) or fields.keys() != expected:
            raise ValueError(f"expected the fields {', '.join(sorted(expected))}")
        if (fields.pop("format"), version := fields.pop("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"expected version {_VERSION} of {_FORMAT}, got version {shown(version)}")
        for name in ("prefixes", "unreadable"):
            if not isinstance(fields[name], list):
                raise ValueError(f"{name} must be a list, got {shown(fields[name])}")
        fields["unreadable"] = tuple(tuple(pair) for pair in fields["unreadable"] if isinstance(pair, list))
        if not isinstance(fields["plan"], dict):
            raise ValueError(f"plan must be a mapping, got {shown(fields['plan'])}")
        fields |= {"plan": plan_of(fields["plan"], "the plan"), "prefixes": tuple(fields["prefixes"])}
        header = Header(**fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: its metadata 'walloc' is damaged: {error}") from error
    if missing := set(_schema(header).names) - set(schema.names):
        raise ValueError(f"{file} lacks columns {listed(missing)}")
    return header


def read_records(file: Path, header: Header) -> Iterator[Record]:
    """Read the records of a file, a row group at a time.

    Raises:
        ValueError: The file is damaged, a column of another type, or a value missing.
    """
    import pyarrow.parquet as pq

    schema, groups, dtype = _schema(header), _groups(header.prefixes), _dtype(header)
    with contextlib.ExitStack() as stack:
        with _reading(file):
            opened = stack.enter_context(pq.ParquetFile(file, page_checksum_verification=True))
        for number in range(opened.num_row_groups):
            with _reading(file):
                table = opened.read_row_group(number, columns=schema.names).select(schema.names).cast(schema)
                rows = table.to_pylist()
            if empty := [name for name in schema.names if table[name].null_count]:
                raise ValueError(f"{file}: column {empty[0]} lacks values")
            try:
                yield from [_record(row, groups, dtype) for row in rows]
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error


def _record(row: dict[str, Any], groups: dict[str, slice], dtype: np.dtype) -> Record:
    """Put the groups of channels together again."""
    for name in ("size", "grid"):
        if None in row[name] or min(row[name], default=0) < 1:
            raise ValueError(f"{name} of {escaped(row['key'])} must be positive, got {row[name]}")
    parts = []
    for name, channels in groups.items():
        expected = (channels.stop - channels.start) * math.prod(row["grid"]) * dtype.itemsize
        if len(row[name]) != expected:
            raise ValueError(f"column {name} has {len(row[name])} bytes of {escaped(row['key'])}, expected {expected}")
        parts.append(np.frombuffer(row[name], dtype).reshape(-1, *row["grid"]))
    latents = np.concatenate(parts).astype(dtype.newbyteorder("="), copy=False)
    return Record(latents, tuple(row["size"]), row["key"], row["label"], row["part"])

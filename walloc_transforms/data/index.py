"""``dataset.json``: what makes a folder of shards a latent data set. It is written last."""

import dataclasses
import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..safe import escaped, listed, shown
from ..sealed import read_config, write_config
from .plan import MAX_JSON, PLAN_FILE, Plan, plan_of, read_plan
from .shards import Shard, shard_name
from .storage import Storage

__all__ = ["CODEC_FOLDER", "INDEX_FILE", "Index", "ShardEntry", "merge_dataset", "missing_shards", "read_index"]

INDEX_FILE, CODEC_FOLDER = "dataset.json", "codec"

_FORMAT, _VERSION = "walloc_transforms.dataset", 1


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """What the index says of a shard.

    Attributes:
        records: Number of records.
        unreadable: Number of samples that could not be read.
        bytes: Length of the file.
        sha256: Hash of the file.
    """

    records: int
    unreadable: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """What ``dataset.json`` says.

    Attributes:
        plan: What the data set was to hold.
        shards: Its shards, in order.
    """

    plan: Plan
    shards: tuple[ShardEntry, ...]

    @property
    def records(self) -> int:
        """Number of records in all shards."""
        return sum(shard.records for shard in self.shards)

    @property
    def unreadable(self) -> int:
        """Number of samples that could not be read."""
        return sum(shard.unreadable for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Length of all shards."""
        return sum(shard.bytes for shard in self.shards)


def missing_shards(names: Collection[str], plan: Plan) -> list[int]:
    """List the numbers of the shards that are not among the names of files."""
    return [number for number in range(plan.shards) if shard_name(number) not in names]


def merge_dataset(folder: str | os.PathLike[str], *, progress: bool = True) -> None:
    """Write the index of a latent data set whose shards are all there, whoever encoded them.

    ``encode_dataset`` does it when it finds the last shard done. Call it after copying shards of several machines into
    one folder.

    Args:
        folder: With ``plan.json`` and the shards; or a URL. ``dataset.json`` is written there; the same shards make the
            same file.
        progress: Show a progress bar: every shard is read and hashed.

    Raises:
        FileNotFoundError: There is no such folder, or no plan in it.
        ValueError: Shards are missing, damaged, or of another plan.

    Example:
        >>> import tempfile, torch, walloc_transforms as wt
        >>> images = [(torch.rand(3, 64, 64), 0) for _ in range(3)]
        >>> out = tempfile.mkdtemp()
        >>> for part in (0, 1):
        ...     found = wt.encode_dataset(images, out, "rgb_16x", shard_size=2, part=(part, 2), progress=False)
        >>> wt.merge_dataset(out, progress=False)
        >>> len(wt.LatentDataset(out))
        3
    """
    storage = Storage(folder)
    if PLAN_FILE not in storage.names():
        raise FileNotFoundError(f"there is no {PLAN_FILE} in {escaped(str(storage))}")
    with storage.local(PLAN_FILE) as file:
        plan = read_plan(file.parent)
    if missing := missing_shards(storage.names(), plan):
        names = [shard_name(number) for number in missing]
        raise ValueError(f"{folder} lacks {len(missing)} of {plan.shards} shards: {listed(names)}")
    entries: list[dict[str, Any]] = []
    for number in tqdm(range(plan.shards), "merge", unit="shard", disable=not progress):
        with storage.local(shard_name(number)) as file:
            shard = Shard(file, plan, number)
            entry = ShardEntry(len(shard), len(shard.unreadable), file.stat().st_size, hash_of(file))
        entries.append(dataclasses.asdict(entry))
    if not any(entry["records"] for entry in entries):
        raise ValueError(f"{folder} would hold no record: none of {plan.samples} samples could be read")
    fields = {"format": _FORMAT, "version": _VERSION, "plan": plan.fields(), "shards": entries}
    storage.save("", lambda place: write_config(place / INDEX_FILE, fields))


def read_index(folder: Path) -> Index:
    """Read ``dataset.json``.

    Raises:
        FileNotFoundError: There is none: the folder is no data set, or is not complete.
        ValueError: It is damaged, or does not describe a data set.
    """
    file = folder / INDEX_FILE
    if not file.is_file():
        if (folder / PLAN_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} is not complete: run the command that encodes it again, or merge its parts"
            )
        raise FileNotFoundError(f"{folder} is no latent data set: there is no {INDEX_FILE} in it")
    fields = read_config(file, "a latent data set", _FORMAT, (_VERSION,), limit=MAX_JSON)
    if fields.keys() != {"version", "plan", "shards"}:
        raise ValueError(f"{file} must have the fields plan and shards, and no other")
    if not isinstance(fields["plan"], dict) or not isinstance(fields["shards"], list):
        raise ValueError(f"{file}: plan must be a mapping, and shards a list")
    plan = plan_of(fields["plan"], str(file))
    index = Index(plan, tuple(_entry(entry, file) for entry in fields["shards"]))
    if len(index.shards) != plan.shards:
        raise ValueError(f"{file} must list {plan.shards} shards, as its plan says, got {len(index.shards)}")
    return index


def _entry(fields: Any, file: Path) -> ShardEntry:
    if not isinstance(fields, Mapping) or fields.keys() != {field.name for field in dataclasses.fields(ShardEntry)}:
        raise ValueError(f"{file}: a shard must have the fields records, unreadable, bytes and sha256")
    for name in ("records", "unreadable", "bytes"):
        if type(fields[name]) is not int or not 0 <= fields[name] < 2**62:
            raise ValueError(f"{file}: {name} of a shard must be a whole number, got {shown(fields[name])}")
    if type(fields["sha256"]) is not str:
        raise ValueError(f"{file}: sha256 of a shard must be text, got {shown(fields['sha256'])}")
    return ShardEntry(**fields)


def hash_of(file: Path) -> str:
    """Compute the SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

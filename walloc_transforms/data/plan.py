"""What a latent data set is to hold, fixed before anything is encoded: ``plan.json``.

Shard ``j`` is made of the samples ``[j * shard_size, (j + 1) * shard_size)`` of the source, whoever encodes it, and on
whatever machine. So a run that was killed goes on with the shards that are missing, and several runs share the work.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..codec import CodecConfig
from ..safe import listed, shown
from ..sealed import read_config, seal, write_config

__all__ = ["MAX_JSON", "PLAN_FILE", "Plan", "plan_of", "read_plan", "write_plan"]

PLAN_FILE = "plan.json"
MAX_JSON = 1 << 24
"""Most bytes of ``plan.json`` and ``dataset.json``: an entry has 160 bytes."""

MAX_SHARDS = 100_000

_FORMAT, _VERSION = "walloc_transforms.plan", 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a latent data set is to hold.

    Attributes:
        codec: Geometry of the codec.
        fingerprint: ``Codec.fingerprint()`` of the codec.
        samples: Number of samples in the source.
        shard_size: Samples per shard; the last has fewer.
        classes: Names of the classes, by label; empty if there are no labels.
        settings: Everything else that changes a record, as JSON holds it, a hash of the source's keys among it.
    """

    codec: CodecConfig
    fingerprint: str
    samples: int
    shard_size: int
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _read: Mapping[str, Any] | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("samples", "shard_size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value < 2**48:
                raise ValueError(f"{name} must be an integer of at least 1, got {shown(value)}")
        if self.shards > MAX_SHARDS:
            raise ValueError(
                f"{self.samples} samples, {self.shard_size} a shard, make {self.shards} shards: expected at most "
                f"{MAX_SHARDS}"
            )
        if type(self.fingerprint) is not str or len(self.fingerprint) != 64:
            raise ValueError(f"fingerprint must have 64 hexadecimal digits, got {shown(self.fingerprint)}")
        if not all(type(name) is str for name in self.classes):
            raise ValueError("classes must be names, which are text")
        if not isinstance(self.settings, dict):
            raise ValueError(f"settings must be a mapping, got {shown(self.settings)}")

    def fields(self) -> dict[str, Any]:
        """Return the plan as JSON holds it; one that was read as it was read, so that its hash stays what it was.

        An older release may have written fewer fields of the codec.
        """
        return self._fields() if self._read is None else dict(self._read)

    def _fields(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _FIELDS}
        return {**own, "codec": dataclasses.asdict(self.codec), "classes": list(self.classes)}

    @property
    def hash(self) -> str:
        """SHA-256 of the plan: every shard names it, so that those of two plans do not mix."""
        return seal(self.fields())["config_sha256"]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.samples // self.shard_size)

    def range(self, shard: int) -> range:
        """Return which samples of the source a shard is made of."""
        if not 0 <= shard < self.shards:
            raise ValueError(f"shard must be from 0 to {self.shards - 1}, got {shard}")
        return range(shard * self.shard_size, min(self.samples, (shard + 1) * self.shard_size))

    def differences(self, other: "Plan") -> list[str]:
        """Say in what another plan differs, a line for each setting."""
        own, others = ({**plan._fields(), **plan.settings} for plan in (self, other))
        names = sorted((own.keys() | others.keys()) - {"settings"})
        return [
            f"{name}: {_short(own.get(name))}, not {_short(others.get(name))}"
            for name in names
            if own.get(name) != others.get(name)
        ]


_FIELDS = tuple(field.name for field in dataclasses.fields(Plan) if field.init)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write ``plan.json``, atomically."""
    write_config(folder / PLAN_FILE, {"format": _FORMAT, "version": _VERSION, **plan.fields()})


def read_plan(folder: Path) -> Plan:
    """Read ``plan.json``.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or does not describe a plan.
    """
    file = folder / PLAN_FILE
    return plan_of(read_config(file, "a plan", _FORMAT, (_VERSION,), limit=MAX_JSON), str(file))


def plan_of(fields: Mapping[str, Any], file: str) -> Plan:
    """Make a plan of the fields of a file.

    Raises:
        ValueError: A field is missing, unknown, or out of range.
    """
    fields = {name: value for name, value in fields.items() if name != "version"}
    if fields.keys() != set(_FIELDS):
        raise ValueError(f"{file} must have the fields {', '.join(sorted(_FIELDS))}, and no other")
    if not isinstance(fields["codec"], dict) or not isinstance(fields["classes"], list):
        raise ValueError(f"{file}: codec must be a mapping, and classes a list")
    if unknown := fields["codec"].keys() - {field.name for field in dataclasses.fields(CodecConfig)}:
        raise ValueError(f"{file}: a codec has no {listed(unknown)}")
    try:
        codec = CodecConfig(**fields["codec"])
        plan = Plan(**{**fields, "codec": codec, "classes": tuple(fields["classes"])})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    object.__setattr__(plan, "_read", fields)
    return plan


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

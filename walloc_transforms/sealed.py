"""Folders of a config and tensors: the config vouches for the other files by their SHA-256, and for its own fields.

A reader that comes while such a folder is written, or after the writer was killed, finds files that do not belong
together, and says so.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor

from .safe import escaped, shown, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["read_config", "read_tensors", "seal", "write_config", "write_tensors", "writing"]

MAX_CONFIG = 1 << 16
"""Most bytes of a ``config.json``: real ones have about 1,000."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make a folder, and hold it while its files are written, so that those of two writers do not mix."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def seal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Add ``config_sha256``, the hash of all other fields, whatever their order.

    Raises:
        ValueError: A number is not finite.
        TypeError: A value is none of JSON.
    """
    fields = {name: value for name, value in fields.items() if name != "config_sha256"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**fields, "config_sha256": hashlib.sha256(text.encode()).hexdigest()}


def write_config(file: Path, fields: Mapping[str, Any]) -> None:
    """Write a config with its own hash. It comes last: it makes the folder whole."""
    write_atomically(file, (json.dumps(seal(fields), indent=2) + "\n").encode(), durable=True)


def read_config(
    file: Path, what: str, form: str, versions: tuple[int, ...], *, limit: int = MAX_CONFIG
) -> dict[str, Any]:
    """Read the fields of a config, its version among them.

    Args:
        file: The config.
        what: What it describes, for messages, such as ``"a codec"``.
        form: What its ``format`` must be.
        versions: What its ``version`` may be. Before the last one, a hash of its own fields may be missing.
        limit: The most bytes it may have.

    Returns:
        The fields, without ``format`` and ``config_sha256``.

    Raises:
        ValueError: It is too long, no JSON, of another format or version, or was edited.
    """
    with file.open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{file} is too long: expected at most {limit:,} bytes (walloc_transforms.sealed)")
    try:
        fields = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        sealed = seal(fields) if isinstance(fields, dict) else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file: {error}") from error
    if not isinstance(fields, dict) or fields.pop("format", None) != form:
        raise ValueError(f"{file} does not describe {what}: expected format {form!r}")
    version, sha256 = fields.get("version"), fields.pop("config_sha256", None)
    if type(version) is not int or version not in versions:
        known = " and ".join(map(str, versions))
        raise ValueError(
            f"{file} is of version {shown(version)}: this release reads version{'s' * (len(versions) > 1)} {known}"
        )
    if (version == versions[-1] or sha256 is not None) and sha256 != sealed["config_sha256"]:
        raise ValueError(
            f"{file} was edited after {what} was saved: its config_sha256 is not that of its other fields. "
            "Restore the file, or make the change in Python and save again"
        )
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file, and return its SHA-256 for the config."""
    state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    content = safetensors.torch.save(state)
    write_atomically(file, content, durable=True)
    return hashlib.sha256(content).hexdigest()


def read_tensors(file: Path, sha256: object) -> dict[str, Tensor]:
    """Read a safetensors file whose SHA-256 the config names.

    Raises:
        ValueError: It is another file, damaged, or no safetensors file.
    """
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{file} is damaged or belongs to another config: its SHA-256 is not the one that config.json names"
        )
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError) as error:  # of a dtype that torch does not have
        raise ValueError(f"{file} is no safetensors file that torch can hold: {escaped(str(error))[:200]}") from error

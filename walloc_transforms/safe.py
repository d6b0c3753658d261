"""Write files that are there whole or not at all, check tensors before they are used, and show what a file says."""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "atomic_file",
    "check_shapes",
    "check_tensors",
    "escaped",
    "listed",
    "lock_file",
    "remove_leftovers",
    "shown",
    "write_atomically",
]

_PARTIAL = re.compile(r"\.walloc-[0-9a-f]{16}\.partial")
_ABANDONED = 86400  # seconds since the last change of a file that nobody writes any more, where files have no locks


def check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare the names, shapes and values of tensors with those that are expected.

    Args:
        state: The tensors by name.
        shapes: The expected shapes by name.
        what: Where the tensors come from, for messages.

    Raises:
        ValueError: A tensor is missing, unexpected, of another shape, not float32 or not finite; it is named.
    """
    check_shapes({name: tuple(value.shape) for name, value in state.items()}, shapes, what)
    for name, value in state.items():
        if value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ValueError(f"{what}: {name} must hold finite float32 values")


def check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare the names and shapes of tensors, which need not have been read, with those that are expected.

    Args:
        found: The shapes by name.
        expected: The expected shapes by name.
        what: Where the tensors come from, for messages.

    Raises:
        ValueError: A tensor is missing, unexpected or of another shape; it is named.
    """
    if found.keys() != expected.keys():
        missing, unexpected = listed(expected.keys() - found.keys()), listed(found.keys() - expected.keys())
        raise ValueError(f"{what} does not fit its config: missing tensors {missing}, unexpected {unexpected}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"{what} does not fit its config: {name} has shape {str(found[name])[:200]}, not {shape}")


def listed(names: Collection[str]) -> str:
    """List names that came from a file, in a message: the first of many."""
    more = [f"{len(names) - 4} more"] if len(names) > 4 else []
    return f"[{', '.join([shown(name, 60) for name in sorted(names)[:4]] + more)}]"


def write_atomically(file: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file so that it is there whole or not at all, whoever else writes or reads it.

    Args:
        file: The file; one that exists is replaced.
        content: What it shall hold.
        durable: Wait until the file is on the disk, so that a power failure does not lose it.
    """
    with atomic_file(file, durable=durable) as opened:
        opened.write(content)


@contextlib.contextmanager
def atomic_file(file: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the block ends without an error, and only then.

    Until then it has a temporary name in the same folder, which no other writer uses, and is locked. The lock ends with
    the process, so :func:`remove_leftovers` can tell what a killed process left.

    Args:
        file: The file; one that exists is replaced.
        durable: Wait until the file is on the disk, so that a power failure does not lose it.

    Yields:
        The file, open for writing bytes.
    """
    partial, descriptor = _create_partial(file)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            yield opened
            opened.flush()
            if durable:
                os.fsync(descriptor)
            if fcntl:
                os.replace(partial, file)  # under the lock
        if not fcntl:
            os.replace(partial, file)  # Windows renames no open file
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        raise
    if durable and fcntl:  # Windows opens no folder
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _create_partial(file: Path) -> tuple[Path, int]:
    """Create a file beside another one, under a name that nobody else has, and lock it."""
    while True:
        partial = file.with_name(f".walloc-{secrets.token_hex(8)}.partial")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:  # the user knows the other name
            raise OSError(error.errno, error.strerror, str(file)) from error
        if not fcntl:
            return partial, descriptor
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(partial), os.fstat(descriptor)):
                return partial, descriptor
        os.close(descriptor)  # it was taken for a leftover before it was locked


def remove_leftovers(folder: Path) -> None:
    """Delete the partial files that killed processes left in a folder, and none that is being written."""
    for file in folder.glob(".walloc-*.partial"):
        if _PARTIAL.fullmatch(file.name):
            with contextlib.suppress(OSError):  # it may have got its final name just now, or be of another user
                _remove_abandoned(file)


def _remove_abandoned(file: Path) -> None:
    old = time.time() - file.lstat().st_mtime > _ABANDONED
    if not fcntl:
        if old:
            file.unlink()
        return
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError) or not old:
                return
        file.unlink()  # under the lock, so that nobody starts to write it
    finally:
        os.close(descriptor)


def lock_file(file: Path, busy: str, *, part: int | None = None) -> int:
    """Lock a file for this process, which is made if it is not there. On Windows nothing is locked.

    The lock is of the kind that belongs to the process: it ends with it, and loader workers, which may outlive a killed
    process by seconds, do not hold it.

    Args:
        file: The file; whoever holds it may remove it.
        busy: The message if another process holds it.
        part: Number of the part that is locked; holders of different parts go together. Default: all of it.

    Returns:
        The descriptor; closing it ends the lock.

    Raises:
        ValueError: Another process holds it, or the part.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if not fcntl:
            return descriptor
        try:
            if part is None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:  # the first byte stands for the whole, those behind it for the parts
                fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + part)
        except (BlockingIOError, PermissionError) as error:
            os.close(descriptor)
            raise ValueError(busy) from error
        except OSError:  # some network file systems have no locks
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(file), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # its owner removed it before it was locked


def shown(value: Any, limit: int = 200) -> str:
    r"""Show a value that came from a file, in a message or on a terminal, as one short line of printable characters.

    Args:
        value: A string, which is quoted and escaped, or a number. Of anything else only the type is shown: containers
            may share and nest without end.
        limit: The number of characters after which the line is cut.

    Examples:
        >>> print(shown("rgb_16x"), shown("\x1b[31mred"), shown(3.5), shown([1, 2]))
        'rgb_16x' '\x1b[31mred' 3.5 a list
        >>> shown("abcdefgh", limit=5)
        "'abcd..."
    """
    if isinstance(value, str):
        text = repr(str(value[: limit + 1]))
    elif value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 1024):
        text = repr(value)
    else:
        name = type(value).__name__
        text = f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
    return text if len(text) <= limit else f"{text[:limit]}..."


def escaped(text: str) -> str:
    """Escape what is not printable in a text, such as a file name, so that it is one line and moves no cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

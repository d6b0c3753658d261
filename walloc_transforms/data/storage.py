"""Where a latent data set is written: a folder, or a place of fsspec such as ``s3://bucket/data``.

A file appears under its name when it is whole. A folder can be held, so that two runs do not do the same work.
"""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..codec import CONFIG_FILE
from ..safe import lock_file, remove_leftovers, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LOCK_FILE", "Storage"]

LOCK_FILE = ".run.lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Storage:
    """The place of a data set. It can be pickled, and used by several processes at once.

    Args:
        out: A folder, or a URL that fsspec knows.

    Attributes:
        folder: The folder; None of a URL.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.url = os.fspath(out)
        local = "://" not in self.url or self.url.startswith("file://")
        self.folder = Path(self.url.removeprefix("file://")) if local else None

    def __str__(self) -> str:
        return self.url

    def names(self) -> set[str]:
        """List the files and folders that are there; none if the place is not there."""
        if self.folder is not None:
            return set(os.listdir(self.folder)) if self.folder.exists() else set()
        system, root = self._remote()
        with contextlib.suppress(FileNotFoundError):
            return {path.rstrip("/").rsplit("/", 1)[-1] for path in system.ls(root, detail=False, refresh=True)}
        return set()

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
        """
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        system, root = self._remote()
        return system.cat_file(f"{root}/{name}")

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Give the path of a file or folder, or of a copy that is there as long as the block lasts.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if self.folder is not None:
            yield self.folder / name
            return
        system, root = self._remote()
        with tempfile.TemporaryDirectory() as folder:
            if system.isdir(f"{root}/{name}"):
                system.get(f"{root}/{name}/", f"{folder}/{name}", recursive=True)
            else:
                (Path(folder) / name).write_bytes(self.read(name))
            yield Path(folder) / name

    def write(self, name: str, content: bytes) -> None:
        """Write a file that is there whole or not at all, and replaces what was there.

        Raises:
            OSError: It cannot be written; if there is no space left, the message says how much is needed.
        """
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self.folder / name, content, durable=True)
            else:
                self._write_remote(name, content)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OSError(
                error.errno,
                f"{name} needs {len(content):,} bytes, and there is no space for them ({error.strerror}). What is "
                "finished is kept: the same call goes on from there",
                self.url,
            ) from error

    def save(self, name: str, write: Callable[[Path], object]) -> None:
        """Let a function write files to a folder here, or to a temporary one from which they are copied.

        A new folder gets its name when it is whole. If a process is killed before, :meth:`remove_staged` removes it.
        At a URL, the config of a codec is written last.

        Args:
            name: Of the folder; empty if the storage itself is meant.
            write: Called with the path. It writes each file atomically, for a folder that is there keeps what it has.
        """
        if self.folder is not None:
            if not name or (self.folder / name).exists():
                write(self.folder / name)
                return
            staged = self.folder / f".walloc-{secrets.token_hex(8)}.partial"
            try:
                write(staged)
                staged.rename(self.folder / name)
            except BaseException:  # also an interruption leaves nothing behind; it is raised again
                shutil.rmtree(staged, ignore_errors=True)
                raise
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            for file in sorted(Path(folder).iterdir(), key=lambda file: (file.name == CONFIG_FILE, file.name)):
                self.write(f"{name}/{file.name}" if name else file.name, file.read_bytes())

    def remove_staged(self) -> None:
        """Remove the folders that killed processes have not finished; nobody else may be saving one."""
        if self.folder is not None:
            for staged in self.folder.glob(".walloc-*.partial"):
                if staged.is_dir():
                    shutil.rmtree(staged, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with what is in it; nothing if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            if self.folder is None:
                system, root = self._remote()
                system.rm(f"{root}/{name}", recursive=True)
            elif (self.folder / name).is_dir():
                shutil.rmtree(self.folder / name)
            else:
                (self.folder / name).unlink()

    @contextlib.contextmanager
    def held(self, part: tuple[int, int] = (0, 1)) -> Iterator[None]:
        """Hold the place for a run, as long as it lasts. A URL cannot be held, nor a folder on Windows.

        Args:
            part: Number of the part that the run does, and how many there are. Runs of different parts go together.

        Raises:
            ValueError: Another process does the same work.
        """
        if self.folder is None:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        number, parts = part
        busy = f"another process is encoding into {self.folder}: expected one run, or runs of different parts"
        descriptor = lock_file(self.folder / LOCK_FILE, busy, part=number if parts > 1 else None)
        try:
            remove_leftovers(self.folder)
            yield
        finally:
            with contextlib.suppress(OSError):  # another part is still at work, or Windows, which removes no open file
                if fcntl:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (self.folder / LOCK_FILE).unlink()
            os.close(descriptor)

    def _remote(self) -> tuple[Any, str]:
        """Return the file system of a URL, and the path there."""
        import fsspec  # huggingface_hub brings it

        system, root = fsspec.url_to_fs(self.url)
        return system, root.rstrip("/")

    def _write_remote(self, name: str, content: bytes) -> None:
        system, root = self._remote()
        partial = f"{root}/.walloc-{secrets.token_hex(8)}.partial"
        system.makedirs(root, exist_ok=True)
        try:
            system.pipe_file(partial, content)
            system.mv(partial, f"{root}/{name}")
        except BaseException:  # also an interruption leaves nothing behind; it is raised again
            with contextlib.suppress(Exception):  # the first error tells more
                system.rm_file(partial)
            raise

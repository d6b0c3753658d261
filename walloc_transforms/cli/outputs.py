"""The outputs of a run: their names, what is never overwritten, and which of them an earlier run has finished.

A journal in the output folder, ``.walloc.jsonl``, has a line for every output that was written: what it is, what it was
made of, and how. An output that it knows in its present state, made of the same source in the same way, is skipped. If
it does not know the output (the process was killed before the line was written, or the folder was copied), the output
is made again elsewhere and compared. So the journal saves time, and nothing depends on it.
"""

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..safe import remove_leftovers
from .work import Report

__all__ = ["JOURNAL", "Outputs", "name_outputs", "state_of"]

JOURNAL = ".walloc.jsonl"


def name_outputs(relatives: Iterable[Path]) -> dict[Path, Path]:
    """Name outputs by the paths of their sources without suffixes; with them, where two would be called the same.

    Args:
        relatives: Paths of the sources in the folders that were given. The names do not depend on their order.

    Returns:
        The names by the paths; the suffix of the output is still to be added.
    """
    names = {relative: relative.with_suffix("") for relative in relatives}
    while True:
        # Some file systems do not tell upper from lower case; names shall be the same everywhere.
        counts = Counter(str(name).casefold() for name in names.values())
        longer = {path: path if counts[str(name).casefold()] > 1 else name for path, name in names.items()}
        if longer == names:
            return names
        names = longer


def state_of(file: Path) -> list[int]:
    """Return what tells whether a file has changed: its size and the time of its last change."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


class Outputs:
    """The outputs that are made of the sources of a run.

    Args:
        sources: Files and their relative paths, as :func:`~walloc_transforms.cli.work.find_or_fail` gives them.
        inputs: Files and folders, as the user gave them.
        output: The folder; for a single file the output itself, if it has a suffix and is no folder.
        settings: What the outputs depend on, beside their sources.
        force: Whether existing files are overwritten.
        report: Where finished outputs are counted.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Path, Path]],
        inputs: Sequence[Path],
        output: Path,
        settings: dict[str, Any],
        force: bool,
        report: Report,
    ) -> None:
        self.output, self.force, self.report = output, force, report
        self.settings = json.loads(json.dumps(settings))
        self.single = len(inputs) == 1 and inputs[0].is_file() and bool(output.suffix) and not output.is_dir()
        self.names = name_outputs(relative for _, relative in sources)
        self.owners: dict[Path, Path] = {}
        self.sources = {_identity(source) for source, _ in sources}
        self.journal = None if self.single else _Journal(output / JOURNAL)
        for folder in {output.parent} if self.single else {(output / name).parent for name in self.names.values()}:
            remove_leftovers(folder)

    def make(self, source: Path, relative: Path, suffix: str, write: Callable[[Path], object]) -> None:
        """Make the output of a source, unless an earlier run has finished it.

        Args:
            source: The source.
            relative: Its relative path.
            suffix: That of the output, if it lies in a folder.
            write: Makes it under the name that it is given, atomically.

        Raises:
            ValueError: It is a source itself, or another source has the same output.
            FileExistsError: It exists and is something else, and is not to be overwritten.
        """
        target = self.output if self.single else self.output / f"{self.names[relative]}{suffix}"
        if self.owners.setdefault(target, source) != source:
            raise ValueError(f"{target} is made of {self.owners[target]} in this run")
        exists = os.path.lexists(target)
        if target.exists() and _identity(target) in self.sources:
            raise ValueError(f"{target} is a file that is to be read: it is never overwritten")
        made = {"source": [os.path.abspath(source), *state_of(source)], "settings": self.settings}
        if exists and not self.force:
            if not self._is_finished(target, made, write):
                raise FileExistsError(f"{target} exists, and this command makes something else: --force overwrites it")
            self.report.finished += 1
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target)
        self._note(target, made)

    def _is_finished(self, target: Path, made: dict[str, Any], write: Callable[[Path], object]) -> bool:
        if not target.is_file():
            return False
        known = self.journal.find(self._name(target)) if self.journal else None
        if known and known.get("state") == state_of(target):
            if any(known.get(key) != value for key, value in made.items()):
                raise FileExistsError(f"{target} exists, of another source or other options: --force overwrites it")
            return True
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder) / target.name
            write(again)
            if again.read_bytes() != target.read_bytes():
                return False
        self._note(target, made)
        return True

    def _name(self, target: Path) -> str:
        return target.relative_to(self.output).as_posix()

    def _note(self, target: Path, made: dict[str, Any]) -> None:
        if self.journal:
            self.journal.add({"output": self._name(target), "state": state_of(target), **made})


class _Journal:
    """Lines of JSON, to which several processes may append. What cannot be read or written is missing, and no error."""

    def __init__(self, file: Path) -> None:
        self.file, self.lines, self.position = file, {}, 0

    def find(self, output: str) -> dict[str, Any] | None:
        """Return the last line about an output."""
        self._read_on()
        return self.lines.get(output)

    def _read_on(self) -> None:
        with contextlib.suppress(OSError), self.file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size == self.position:
                return
            opened.seek(self.position)
            for line in opened:
                with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):  # cut off by a kill
                    entry = json.loads(line)
                    self.lines[entry["output"]] = entry
            self.position = opened.tell()

    def add(self, entry: dict[str, Any]) -> None:
        """Append a line at once: the line break before it ends one that was cut off."""
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.file, flags, 0o666)
            try:
                os.write(descriptor, f"\n{json.dumps(entry)}\n".encode())
            finally:
                os.close(descriptor)


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino

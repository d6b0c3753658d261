"""The output folder of a run: one run's alone, and untouched until everything else has been checked.

    with claim("classification", config, ranks, FILES) as begin:
        ...  # open the data, check what can be checked
        begin()
        ...  # work, write

Processes that start at once exclude each other by a lock, except on Windows.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from recipes.common.ranks import Ranks
from walloc_transforms.safe import lock_file, remove_leftovers, write_atomically

TIME = "TIME"
"""The part of a path that is replaced by date and time, so that runs with default settings do not meet."""
_LOCK = ".lock"
# What may differ when a run is resumed: where things are, how often they are saved or shown, what else is run.
_NOT_OF_A_RUN = {
    "resume",
    "overwrite",
    "output_dir",
    "data_root",
    "memory_gb",
    "checkpoint_every",
    "sheet_images",
    "seeds",
    "arms",
    "task",
}
_begun_in: Path | None = None


@contextlib.contextmanager
def claim(
    recipe: str, config: Any, ranks: Ranks, files: Sequence[str], *, settings: str = "config.yaml"
) -> Iterator[Callable[[], None]]:
    """Hold the output folder of a run, so that no other run touches it, and it touches no other run.

    The folder must be new or empty. With ``config.resume`` it may hold a run of the same recipe and settings, with
    ``config.overwrite`` any run of the same recipe.

    Args:
        recipe: Its name; the folder's settings keep it.
        config: The run's settings: a dataclass with ``output_dir`` and ``overwrite``, and with ``resume`` if the recipe
            can go on with a run. ``output_dir`` becomes the name of the folder, date and time in place of ``TIME``.
        ranks: The processes of the run; the first one holds the folder for all.
        files: Patterns of the files that the recipe writes there: what ``config.overwrite`` removes.
        settings: Name of the file of settings.

    Yields:
        A function to be called when all is checked that can be. It removes the run that is overwritten, and writes the
        settings. If it is not called, everything stays as it was.

    Raises:
        ValueError: The folder holds something else, or another process is writing to it, or the options contradict
            each other.
        OSError: The folder cannot be written to.
    """
    global _begun_in
    outer, _begun_in, folder = _begun_in, None, None  # a recipe may run others in its own folder

    def hold() -> Path:
        nonlocal folder
        folder = _Folder(recipe, config, settings)
        return folder.path

    def start() -> None:
        if folder is not None:
            folder.begin(config, files)

    def begin() -> None:
        global _begun_in
        _first_does(ranks, start)
        _begun_in = config.output_dir

    try:
        config.output_dir = _first_does(ranks, hold)
        yield begin
    finally:
        if folder is not None:
            folder.release()
        _begun_in = outer or _begun_in


def begun_in() -> Path | None:
    """Return the folder of this process' run once it has passed all checks: what fails later is no user's mistake."""
    return _begun_in


def _first_does(ranks: Ranks, work: Callable[[], Any]) -> Any:
    """Let the first process do something; all get the result, or the error."""
    result, error = None, None
    if ranks.first:
        try:
            result = work()
        except (ValueError, OSError) as raised:
            error = raised
    result, error = ranks.agree((result, error))
    if error is not None:
        raise error
    return result


class _Folder:
    """An output folder that this process holds."""

    def __init__(self, recipe: str, config: Any, settings: str) -> None:
        self.path, self.settings, self.recipe, self.begun = config.output_dir, settings, recipe, False
        resume = getattr(config, "resume", False)
        if resume and config.overwrite:
            raise ValueError("--resume goes on with a run, --overwrite starts it anew: expected one of them")
        self.resumed = resume
        self.missing: list[Path] = []
        if TIME in self.path.parts:
            if resume:
                raise ValueError(f"--resume needs --output-dir, the folder of the run to go on with{self._example()}")
            self._make_new()
        else:
            self._check(config)  # before it gets a lock
            self.missing = _missing(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            if not os.access(self.path, os.W_OK):
                raise PermissionError(f"cannot write to {self.path}")
            self.lock = lock_file(self.path / _LOCK, f"another process is writing to {self.path}")
        except BaseException:  # an interrupt, too, must leave no folder behind
            self._remove_empty()
            raise
        try:
            self._check(config)  # another process may have written there meanwhile
        except BaseException:  # an interrupt, too, must leave no lock behind
            self.release()
            raise

    def begin(self, config: Any, files: Sequence[str]) -> None:
        """Remove what the run takes the place of, and write its settings."""
        if config.overwrite:
            self._remove(files)
        remove_leftovers(self.path)
        self.begun = True
        content = {"recipe": self.recipe, **_plain(asdict(config))}
        write_atomically(self.path / self.settings, yaml.safe_dump(content, sort_keys=False).encode(), durable=True)

    def release(self) -> None:
        """Let others have the folder; one that was made for nothing is removed."""
        with contextlib.suppress(OSError):  # Windows removes no open file
            (self.path / _LOCK).unlink()
        os.close(self.lock)
        if not self.begun:
            self._remove_empty()

    def _make_new(self) -> None:
        """Replace ``TIME``, and make a folder that was not there."""
        now, template, count = time.strftime("%Y-%m-%d_%H-%M-%S"), self.path, 1
        while True:
            name = now if count == 1 else f"{now}_{count}"
            self.path = Path(*(name if part == TIME else part for part in template.parts))
            self.missing = _missing(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.path.mkdir()
                return
            count += 1

    def _example(self) -> str:
        """Name the newest folder of this recipe, if there is one."""
        parent = Path(*self.path.parts[: self.path.parts.index(TIME)])
        runs = [file.parent for file in parent.glob(f"*/{self.settings}")] if self.path.parent == parent else []
        return f", such as {max(runs, key=lambda run: run.stat().st_mtime)}" if runs else ""

    def _check(self, config: Any) -> None:
        """Refuse a folder that holds anything else than what this run goes on with or takes the place of."""
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file: expected a folder to write to")
        held = sorted(f.name for f in self.path.iterdir() if not f.name.startswith(".")) if self.path.exists() else []
        if not held:
            return
        before = _read_settings(self.path / self.settings)
        if before.get("recipe") != self.recipe:
            what = f"a run of {before['recipe']}" if "recipe" in before else f"{held[0]}, which no recipe wrote"
            raise ValueError(f"{self.path} holds {what}: expected a new or an empty folder for {self.recipe}")
        if not (self.resumed or config.overwrite):
            go_on = "go on with it by --resume, " if hasattr(config, "resume") else ""
            raise ValueError(
                f"{self.path} holds a run of {self.recipe}: {go_on}replace it by --overwrite, or give another "
                "--output-dir"
            )
        if self.resumed:
            now = _flat(_plain(asdict(config)))
            for name, value in _flat(before).items():
                if name.split(".")[-1] not in _NOT_OF_A_RUN and now.get(name, value) != value:
                    raise ValueError(
                        f"{self.path} holds a run with {name} {value}, and is to be resumed with {now[name]}: "
                        "resume it with the same settings, or start in another folder"
                    )

    def _remove(self, files: Sequence[str]) -> None:
        """Remove a run's files, those that tell its settings last, and its folders if nothing else is in them."""
        found = sorted({file for pattern in files for file in self.path.glob(pattern)})
        for file in found:
            if file.name != self.settings:
                file.unlink()
        for folder in sorted({file.parent for file in found} - {self.path}, reverse=True):
            (folder / self.settings).unlink(missing_ok=True)
            remove_leftovers(folder)
            with contextlib.suppress(OSError):  # it holds what others have put there
                folder.rmdir()

    def _remove_empty(self) -> None:
        for folder in self.missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _missing(folder: Path) -> list[Path]:
    """List the folders that must be made, innermost first."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def _read_settings(file: Path) -> dict[str, Any]:
    """Read a run's settings; none where there is no such file, or another one of this name."""
    try:
        settings = yaml.safe_load(file.read_text("utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _plain(value: Any) -> Any:
    """Replace paths and tuples by what YAML knows, in groups of settings too."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _flat(settings: dict[str, Any], group: str = "") -> dict[str, Any]:
    """Name settings of groups ``group.name``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{group}{name}.") if isinstance(value, dict) else {f"{group}{name}": value}
    return flat

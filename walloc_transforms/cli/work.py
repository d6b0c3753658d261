"""Work through many files: do what can be done, name every file that could not be done."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..files import READ_ERRORS, find_files, read_signal
from ..signals import Modality
from ..wavelets import check_size

__all__ = ["DEBUG", "Failures", "Targets", "check_new", "check_signals", "find_or_fail", "read_signals"]

DEBUG: ContextVar[bool] = ContextVar("DEBUG", default=False)  # whether to show tracebacks, by --debug


class Failures:
    """The files that could not be done."""

    def __init__(self) -> None:
        self.files: list[Path] = []

    @contextmanager
    def noted(self, file: Path) -> Iterator[None]:
        """Note and print an error that the work on a file raises, and go on; of a bug, with its traceback."""
        try:
            yield
        except Exception as error:
            self.files.append(file)
            tqdm.write(f"walloc: {file}: {error}", file=sys.stderr)
            if DEBUG.get() or not isinstance(error, READ_ERRORS):
                tqdm.write(traceback.format_exc(), file=sys.stderr)

    def exit_code(self) -> int:
        """Print the number of files, and return 1 if there are any."""
        if self.files:
            print(f"walloc: {len(self.files)} files could not be done", file=sys.stderr)
        return 1 if self.files else 0


class Targets:
    """What files are made from which: below a folder, the same tree with other suffixes.

    Args:
        inputs: Files and folders, as given.
        output: The folder; for a single file, the target itself, if it has a suffix and is no folder.
        force: Whether existing files are overwritten.
    """

    def __init__(self, inputs: Sequence[Path], output: Path, force: bool) -> None:
        self.output, self.force = output, force
        self.single = len(inputs) == 1 and inputs[0].is_file() and bool(output.suffix) and not output.is_dir()
        self.sources: dict[Path, Path] = {}  # of the targets so far

    def make(self, source: Path, relative: Path, suffix: str) -> Path:
        """Name the target of a source, and make its folder.

        Raises:
            ValueError: Another source has the same target.
            FileExistsError: It exists, and is not to be overwritten.
        """
        target = self.output if self.single else (self.output / relative).with_suffix(suffix)
        if target in self.sources and target.exists():
            raise ValueError(f"{target} has been written from {self.sources[target]} just now")
        check_new(target, self.force)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.sources[target] = source
        return target


def check_new(target: Path, force: bool) -> None:
    """Raise a FileExistsError if the target exists and is not to be overwritten."""
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists: --force overwrites it")


def find_or_fail(inputs: Sequence[Path], suffixes: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """Find files as :func:`~walloc_transforms.files.find_files` does, at least one.

    Raises:
        FileNotFoundError: There is no such file or folder, or none of the suffixes in it.
    """
    files = list(find_files(inputs, suffixes))
    if not files:
        where = ", ".join(map(str, inputs)) or "no file or folder at all"
        raise FileNotFoundError(f"there is nothing to do in {where}: looked for {', '.join(suffixes)}")
    return files


def read_signals(
    files: Sequence[Path], modality: Modality, failures: Failures, channels: int = 3
) -> Iterator[tuple[Path, Tensor, int | None]]:
    """Read files, with a progress bar, and leave out those that cannot be read.

    Yields:
        The file, the signal and its sample rate.
    """
    for file in tqdm(files, unit="file", disable=None):
        with failures.noted(file):
            signal, rate = read_signal(file, modality, channels)
            yield file, signal, rate


def check_signals(
    signals: Iterator[tuple[Path, Tensor, int | None]], stride: int, failures: Failures
) -> Iterator[tuple[Tensor, int | None]]:
    """Leave out signals that a codec cannot be fitted to together with the first one.

    Yields:
        The signal and its sample rate.
    """
    first: dict[str, int | None] = {}
    for file, signal, rate in signals:
        with failures.noted(file):
            check_size(signal.shape[1:], stride)
            if not torch.isfinite(signal).all():
                raise ValueError("it holds NaN or infinite values")
            for what, given in (("channels", len(signal)), ("Hz", rate)):
                if first.setdefault(what, given) != given:
                    raise ValueError(f"it has {given} {what}, but the first file {first[what]}")
            yield signal, rate

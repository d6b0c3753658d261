"""Work through many files: do what can be done, name every file that could not be done, and count what was left out."""

import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..codec import check_values
from ..files import READ_ERRORS, find_files, read_signal
from ..safe import escaped
from ..signals import Modality
from ..wavelets import check_size

__all__ = [
    "DEBUG",
    "Output",
    "Report",
    "check_new",
    "check_signals",
    "find_or_fail",
    "pixel_limit",
    "read_signals",
    "say",
]

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]

DEBUG: ContextVar[bool] = ContextVar("DEBUG", default=False)  # whether to show tracebacks, by --debug


def say(message: str) -> None:
    """Print a message to stderr as one line, whatever the names of files hold, and keep progress bars whole."""
    tqdm.write(f"walloc: {escaped(message)}", file=sys.stderr)


class Report:
    """What became of the files of a run.

    Attributes:
        failed: Files that could not be done.
        finished: How many an earlier run had done already.
        notices: Counts of files, by what was not read of them.
        left_out: Counts of files in folders, by suffixes that are not read.
        suffixes: Those that are read.
    """

    def __init__(self) -> None:
        self.failed: list[Path] = []
        self.finished = 0
        self.notices: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.suffixes: tuple[str, ...] = ()

    @contextmanager
    def noted(self, file: Path) -> Iterator[None]:
        """Note and print an error that the work on a file raises, and go on; of a bug, with its traceback."""
        try:
            yield
        except Exception as error:
            self.failed.append(file)
            reason = str(error) or type(error).__name__
            named = reason.startswith(f"{file.name} ")  # "a.mp4 is cut off"
            say(f"{file}{reason.removeprefix(file.name)}" if named else f"{file}: {reason}")
            if DEBUG.get() or not isinstance(error, READ_ERRORS):
                tqdm.write(traceback.format_exc(), file=sys.stderr)

    def exit_code(self) -> int:
        """Print the counts, and return 1 if any file could not be done."""
        if self.left_out:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.left_out.items()))
            say(f"left out {counts} (suffixes that are read: {' '.join(self.suffixes)})")
        for notice, count in sorted(self.notices.items()):
            say(f"{_files(count)} with {notice}")
        if self.finished:
            say(f"skipped {_files(self.finished)} that had been finished before; --force makes them again")
        if self.failed:
            say(f"{_files(len(self.failed))} could not be done")
        return 1 if self.failed else 0


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def check_new(target: Path, force: bool, data: Sequence[Path] = ()) -> None:
    """Raise an error if the target may not be written.

    Raises:
        FileExistsError: It exists, and is not to be overwritten.
        ValueError: It is one of the files that are read.
    """
    if any(os.path.samefile(target, file) for file in data if target.exists() and file.exists()):
        raise ValueError(f"{target} is a file that is to be read: it is never overwritten")
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists: --force overwrites it")


@contextmanager
def pixel_limit(pixels: int | None) -> Iterator[None]:
    """Move the limit of pixels, or samples per channel, from where on files are refused: twice that of Pillow."""
    before = Image.MAX_IMAGE_PIXELS
    if pixels is not None:
        if pixels < 1:
            raise ValueError(f"--max-pixels must be positive, got {pixels}")
        Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2  # Pillow warns of more
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def find_or_fail(inputs: Sequence[Path], suffixes: tuple[str, ...], report: Report) -> list[tuple[Path, Path]]:
    """Find files as :func:`~walloc_transforms.files.find_files` does, at least one; each once.

    Raises:
        FileNotFoundError: There is no such file or folder, or none of the suffixes in it.
    """
    report.suffixes = suffixes
    files = {
        (source.resolve(), relative): (source, relative)
        for source, relative in find_files(inputs, suffixes, report.left_out)
    }
    if not files:
        where = ", ".join(map(str, inputs)) or "no file or folder at all"
        raise FileNotFoundError(f"there is nothing to do in {where}: looked for {', '.join(suffixes)}")
    return list(files.values())


def read_signals(
    files: Sequence[Path], modality: Modality, report: Report, channels: int = 3
) -> Iterator[tuple[Path, Tensor, int | None]]:
    """Read files, with a progress bar, and leave out those that cannot be read.

    Yields:
        The file, the signal and its sample rate.
    """
    for file in tqdm(files, unit="file", disable=None):
        with report.noted(file):
            signal, rate = read_signal(file, modality, channels, report.notices)
            yield file, signal, rate


def check_signals(
    signals: Iterator[tuple[Path, Tensor, int | None]], modality: Modality, strides: Sequence[int], report: Report
) -> Iterator[tuple[Tensor, int | None]]:
    """Leave out signals that a codec cannot be fitted to together with the first one.

    Yields:
        The signal and its sample rate.
    """
    first: dict[str, int | None] = {}
    for file, signal, rate in signals:
        with report.noted(file):
            check_size(signal.shape[1:], strides)
            check_values(signal, modality, "fitting")
            for what, given in (("channels", len(signal)), ("Hz", rate)):
                if first.setdefault(what, given) != given:
                    raise ValueError(f"it has {given} {what}, but the first file {first[what]}")
            yield signal, rate

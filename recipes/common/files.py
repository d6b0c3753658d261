"""Files of a folder."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from walloc_transforms.files import find_files


def files_of(folder: str | Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """List the files of some suffixes below a folder, sorted.

    Args:
        folder: Searched with all that is below it.
        suffixes: In lower case, with the dot.
        what: The files' name in an error: ``image``, ``sound``.

    Raises:
        FileNotFoundError: There is no such folder, or no such file in it.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    files = [file for file, _ in find_files([Path(folder)], suffixes)]
    if not files:
        stored = (Path(folder) / "dataset.json").is_file()
        why = f"a latent data set has no {what}s" if stored else f"looked for {', '.join(suffixes)}"
        raise FileNotFoundError(f"there is no {what} in {str(folder)!r}: {why}")
    return files


def names_of(files: Iterable[Path]) -> list[str]:
    """Name files by their paths below the folder that they have in common: several may be called ``mixture.wav``."""
    whole = [file.absolute() for file in files]
    folder = os.path.commonpath([file.parent for file in whole]) if whole else ""
    return [file.relative_to(folder).as_posix() for file in whole]


def select_files(files: Sequence[Path], include: Sequence[str]) -> list[Path]:
    """Keep the files whose paths end as one of some patterns says; all if there is no pattern.

    Raises:
        FileNotFoundError: A pattern matches no file.
    """
    for pattern in include:
        if not any(file.match(pattern) for file in files):
            raise FileNotFoundError(f"none of the {len(files)} files matches {pattern!r}")
    return [file for file in files if not include or any(file.match(pattern) for pattern in include)]

"""All forged files: what makes each, what reads it, and whether it may be read.

``python -m tests.attack.forged`` prints what each costs; an argument selects by a part of the name.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attack.measure import measured


@dataclass(frozen=True)
class Forged:
    """A file or folder made to harm who reads it.

    Attributes:
        name: What it is, such as ``"zlib, 2 rows of 5,000,000"``.
        make: Writes it into the empty folder that it is given, and returns its path.
        read: Reads it; a function from the top level of a module. What it returns is shown as text.
        accepted: Whether reading it is right, because it costs little. Otherwise it must raise a ValueError.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    accepted: bool = False


def all_forged() -> list[Forged]:
    """List the forged files of every kind."""
    from tests.attack import forged_folders, forged_pth, forged_wcv, forged_wlc  # which import this module

    return [*forged_folders.FORGED, *forged_pth.FORGED, *forged_wlc.FORGED, *forged_wcv.FORGED]


def main() -> None:
    """Print a table of costs."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    print(f"{'file':<58}{'bytes':>10}{'seconds':>9}{'MB':>7}  outcome")
    for forged in all_forged():
        if part in forged.name:
            with tempfile.TemporaryDirectory() as folder:
                path = forged.make(Path(folder))
                size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
                cost = measured(forged.read, path)
            outcome = f"{cost.error}: {cost.message}" if cost.error else "read"
            print(
                f"{forged.name:<58}{size:>10,}{cost.seconds:>9.2f}{cost.megabytes:>7.0f}  {outcome[:120]!a}", flush=True
            )


if __name__ == "__main__":
    main()

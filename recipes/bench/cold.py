"""Forget files, so that the next to read them must go to the disk."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_TRIES = 20


def forget(files: Iterable[Path]) -> bool:
    """Ask the system to drop files from its cache; says whether it has done so.

    Pages that a process has mapped and used stay, and so does what lies in memory only, such as in ``/dev/shm``.
    """
    if sys.platform != "linux":
        return False
    gone = True
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # pages that are not written yet are not dropped
            for _ in range(_TRIES):  # pages that were read just now are dropped a little later
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if not _cached(opened.fileno()):
                    break
                time.sleep(0.01)
            else:
                gone = False
    return gone


def _cached(file: int) -> bool:
    """Whether a byte in the middle of a file can be read without waiting."""
    try:
        return os.preadv(file, [bytearray(1)], os.fstat(file).st_size // 2, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError:  # a file system that cannot say
        return True

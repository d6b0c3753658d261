"""Run a function in a process of its own, and measure what it costs: seconds, and megabytes beyond the imports."""

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import walloc_transforms

# The server imports what all children need, so that a child starts in milliseconds and imports count for nothing.
_CONTEXT = multiprocessing.get_context("forkserver")
_FORGED = [f"tests.attack.forged_{kind}" for kind in ("folders", "pth", "wcv", "wlc")]  # whose functions are measured
_CONTEXT.set_forkserver_preload([walloc_transforms.__name__, "torchvision.transforms.v2", *_FORGED, __name__])


@dataclass(frozen=True)
class Cost:
    """What a call cost and gave.

    Attributes:
        seconds: Time it took.
        megabytes: Growth of the resident memory at its peak; 0 where the system does not tell (it does on Linux).
        error: Class of the exception, such as ``"ValueError"``; empty if there was none, ``"killed"`` if the call ran
            out of time or took its process down.
        message: Text of the exception, or what the call returned as text.
    """

    seconds: float
    megabytes: float
    error: str
    message: str


def measured(function: Callable[..., Any], *args: Any, timeout: float = 60) -> Cost:
    """Call a function that can be pickled in a fresh process.

    Args:
        function: The function, from the top level of a module.
        args: Its arguments.
        timeout: Seconds after which the process is killed.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    start = time.perf_counter()
    child = _CONTEXT.Process(target=_work, args=(sender, function, args), daemon=True)
    child.start()
    sender.close()
    try:
        if receiver.poll(timeout):
            return receiver.recv()
    except EOFError:
        pass
    finally:
        child.kill()
        child.join()
        receiver.close()
    return Cost(time.perf_counter() - start, 0.0, "killed", f"no answer within {timeout:g} s, or its process is gone")


def _work(sender: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    gc.freeze()  # a collector that looks at what the server made would copy all its pages
    start, error, message = time.perf_counter(), "", ""
    with peak_growth() as growth:
        try:
            message = str(function(*args))
        except Exception as raised:
            error, message = type(raised).__name__, str(raised)
    sender.send(Cost(time.perf_counter() - start, growth[0], error, message))


def _reset_peak() -> None:
    """Forget the peak of the resident memory so far; memory that is free goes back to the system first."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError, TypeError):
        pass


def _status(field: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), 0.0)


@contextmanager
def peak_growth() -> Iterator[list[float]]:
    """Measure by how many megabytes the resident memory of this process grows within the block, at its peak.

    Yields:
        A list that gets the number at the end.
    """
    _reset_peak()
    before, growth = _status("VmRSS"), [0.0]
    try:
        yield growth
    finally:
        growth[0] = max(0.0, _status("VmHWM") - before)

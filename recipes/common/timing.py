"""Seconds and memory of calls, and what they are measured on."""

import importlib.metadata
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch


def median_seconds(
    calls: Mapping[str, Callable[[], object]], repeats: int, budget: float, device: str = "cpu"
) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns; one round to warm up.

    Args:
        calls: What to time, by name.
        repeats: Rounds, not counting the first.
        budget: Seconds after which no further round begins, once three have been timed.
        device: On ``"cuda"`` events on the device are timed instead of the calls on the host.
    """
    stopwatch = _cuda_seconds if device == "cuda" else _host_seconds
    times: dict[str, list[float]] = {name: [stopwatch(call)] for name, call in calls.items()}
    begin = time.perf_counter()
    for done in range(repeats):
        if done >= 3 and time.perf_counter() - begin > budget:
            break
        for name, call in calls.items():
            times[name].append(stopwatch(call))
    return {name: statistics.median(own[1:]) for name, own in times.items()}


def _host_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cuda_seconds(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


@contextmanager
def use_tf32(allow: bool) -> Iterator[None]:
    """Whether convolutions and products on a GPU may round float32 to TensorFloat-32."""
    backends: Any = torch.backends  # its annotations lack some
    switches = (backends.cudnn.conv, backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if allow else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a module in a new process, which shares nothing with this one, and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(function, *args).result()


def memory_rise(call: Callable[[], object]) -> int:
    """Bytes by which the process's resident memory is higher at most during a call than before; its result counts.

    Linux keeps the peak of a process in ``/proc`` and can forget it. ``ru_maxrss``, used elsewhere, cannot be reset,
    and on Linux a new process inherits it from the one that started it, which would hide the rise.
    """
    if not Path("/proc/self/clear_refs").exists():
        before = max_rss()
        call()
        return max_rss() - before
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _proc_status("VmRSS")
    call()
    return _proc_status("VmHWM") - before


def _proc_status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024


def max_rss() -> int:
    """Most resident memory of this process since it began, in bytes."""
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """Describe what figures depend on: processor, device, releases; None where something is not there."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the build's suffix
        **{package: _release(package) for package in ("torchvision", "pillow", "numba", "ptwt")},
    }


def _release(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

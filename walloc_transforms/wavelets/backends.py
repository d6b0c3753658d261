"""The two ways to compute a folded transform, and when the faster one can be used.

``"convolutions"`` are torch's: they run on any device and can be differentiated, compiled and traced. ``"lifting"`` is
compiled by numba: it is faster on a CPU and reads and writes memory behind torch's back.
"""

import contextlib
import functools
import importlib
import warnings
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = [
    "Backend",
    "check_backend",
    "in_full_precision",
    "lifting",
    "missing",
    "obstacle",
    "refuse_vmap",
    "stop_lifting",
    "stop_threads",
]

Backend = Literal["auto", "convolutions", "lifting"]
"""How to compute: by torch's convolutions, by lifting with numba, or by lifting where that is possible."""

_WAVELET = "bior4.4"
_FAILURES: list[str] = []  # of the compiled loops in this process


def check_backend(backend: str, wavelet: str) -> None:
    """Raise an error unless the backend exists and can transform by this wavelet in this process.

    Raises:
        ImportError: The backend is ``"lifting"`` and numba cannot be used.
        ValueError: The backend is unknown, or ``"lifting"`` for another wavelet.
    """
    if backend not in ("auto", "convolutions", "lifting"):
        raise ValueError(f"backend must be 'auto', 'convolutions' or 'lifting', got {backend!r}")
    if backend == "lifting" and (reason := missing(wavelet)):
        error = ValueError if wavelet != _WAVELET else ImportError
        raise error(f"backend='lifting' cannot be used: {reason}")


def missing(wavelet: str) -> str:
    """Name what lifting by this wavelet lacks in this process; empty if nothing."""
    if wavelet != _WAVELET:
        return f"the wavelet is {wavelet!r}, and only {_WAVELET!r} is lifted"
    if _FAILURES:
        return _FAILURES[0]
    if lifting() is not None:
        return ""
    return (
        'numba is not installed (pip install "walloc_transforms[fast]"), does not fit numpy, or is told not to compile'
    )


def obstacle(x: Tensor) -> str:
    """Name what keeps compiled loops from replacing torch's operations on a tensor; empty if nothing."""
    if x.device.type != "cpu":
        return f"a tensor is on {x.device}, and lifting runs on the CPU"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "it is being compiled or traced, which records only torch's own operations"
    if is_in_torch_dispatch_mode():
        return "a dispatch mode (fake tensors, make_fx, a FLOP counter) must see torch's own operations"
    if type(x) is not Tensor:
        return f"it got a {type(x).__name__}, and the subclass must see torch's own operations"
    if not _has_memory(x):
        return "a tensor's memory does not hold its values, as within torch.func or in a negated view"
    if x.requires_grad and torch.is_grad_enabled():
        return "its gradient is wanted"
    return "" if unpack_dual(x).tangent is None else "its forward derivative is wanted"


def _has_memory(x: Tensor) -> bool:
    try:
        return x.data_ptr() != 0 and not x.is_neg()  # a functional tensor's is 0; a negated view's holds other values
    except RuntimeError:  # within the transforms of torch.func
        return False


@functools.cache
def lifting() -> Any:
    """Import the module of that name; None where numba is missing, does not fit numpy, or is told not to compile."""
    try:
        if importlib.import_module("numba").config.DISABLE_JIT:
            return None
    except ImportError:
        return None
    return importlib.import_module(".lifting", __package__)


def stop_lifting(error: Exception) -> None:
    """Convolve from now on in this process, and say so once.

    Args:
        error: What numba raised.
    """
    if not _FAILURES:
        _FAILURES.append(f"numba failed: {error}")
        warnings.warn(
            f"numba failed: {error}. This process convolves instead of lifting, which takes longer. If its cache is "
            "full or damaged, make room, delete its *.nbi and *.nbc files, or let NUMBA_CACHE_DIR name another folder.",
            RuntimeWarning,
            stacklevel=2,
        )


def refuse_vmap(x: Tensor) -> None:
    """Refuse a tensor whose batch ``torch.vmap`` hides: values cannot be looked at, nor memory be laid out.

    Raises:
        ValueError: It is one.
    """
    if torch.compiler.is_compiling():
        return
    while is_functorch_wrapped_tensor(x):
        if is_batchedtensor(x):
            raise ValueError("torch.vmap is not supported, nor needed: pass the whole batch, any leading dimensions do")
        x = get_unwrapped(x)


def in_full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Turn autocast off for the device of a tensor, if it is on; the meta device has none."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def stop_threads() -> None:
    """End the threads of lifting and free what they keep. The next call makes new ones."""
    module = lifting()
    if module is not None:
        module.stop_threads()

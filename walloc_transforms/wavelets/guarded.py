"""The compiled loops as lifting calls them: what numba raises is told from all other errors.

numba compiles at the first call, keeps machine code in files, and reads those in other processes. A full or damaged
disk shows there.
"""

import functools
from collections.abc import Callable
from typing import Any

from . import kernels, strips

__all__ = ["KernelError", "analyze", "analyze_images", "layout", "load", "memory_of", "store", "synthesize"]


class KernelError(RuntimeError):
    """numba could not compile a loop, or could not keep or read its machine code."""


def _guarded(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(kernel)
    def call(*arguments: Any) -> Any:
        try:
            return kernel(*arguments)
        except Exception as error:
            raise KernelError(f"{type(error).__name__}: {error}") from error

    return call


analyze_images, memory_of = _guarded(strips.analyze_images), _guarded(strips.memory_of)
analyze, layout, load = _guarded(kernels.analyze), _guarded(kernels.layout), _guarded(kernels.load)
store, synthesize = _guarded(kernels.store), _guarded(kernels.synthesize)

"""``FoldedPath``: folded kernels that are made on first use and follow the weights they are made of.

Threads may use a codec from its first call on: a kernel is folded by one of them, under ``LOCK``, and appears whole to
the others. Weights are loaded under it, too, so no kernel is folded of some old and some new ones.

A process may fork after it has loaded a codec: no thread holds ``LOCK`` in the moment of the fork, and the child works
without torch's threads. Those of its parent did not come along, and torch would wait for them for ever.
"""

import functools
import itertools
import operator
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LOCK", "FoldedPath", "stamp_of"]

_KEYS = itertools.count()
_PATHS: "weakref.WeakValueDictionary[int, FoldedPath]" = weakref.WeakValueDictionary()
LOCK = threading.RLock()


class FoldedPath(nn.Module):
    """Linear parts of a codec, folded with the wavelet transform on first use and again after one of them has changed.

    Args:
        of: Lists the tensors that the folded module is made of.
        make: Makes the folded module from them.

    Attributes:
        folded: The folded module as the last call left it; None before the first.
    """

    folded: nn.Module | None

    def __init__(self, of: Callable[[], Sequence[Tensor]], make: Callable[[], nn.Module | None]) -> None:
        super().__init__()
        self.of, self.make = of, make
        self.register_module("folded", None)
        self.stamp: object = None
        self._enlist()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._enlist()

    def _enlist(self) -> None:
        self._key = next(_KEYS)
        _PATHS[self._key] = self
        _leave_threads_behind()

    def current(self) -> Any:
        """Return the folded module, up to date; None where the tensors hold no values to fold, as in an export."""
        _update(self._key)
        return self.folded

    def refresh(self) -> None:
        """Fold again now if it was folded before: after a load, whose writes to inference tensors leave no trace.

        An export that comes next could not fold, and would take kernels of the weights before.
        """
        with LOCK:
            self.stamp = None
            if self.folded is not None:
                self.current()


class Stamp:
    """Tensors and the state of their values. A copy fits no tensors, because copies of tensors are others.

    It holds the tensors: another one could come to have the ``id`` of one that is gone.
    """

    def __init__(self, tensors: Sequence[Tensor] = ()) -> None:
        self.tensors, self.states = [*tensors], [_state_of(t) for t in tensors]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stamp) or len(self.tensors) != len(other.tensors):
            return False
        return all(map(operator.is_, self.tensors, other.tensors)) and self.states == other.states

    __hash__ = None  # type: ignore[assignment]  # as for a list

    def __reduce__(self) -> tuple[type["Stamp"], tuple[()]]:
        return Stamp, ()


def stamp_of(tensors: Sequence[Tensor]) -> Stamp:
    """Identify the tensors and their values: the stamp changes when one of them is replaced or written to.

    Two kinds of writes leave no trace: those to inference tensors, and those in place through ``tensor.data``, an array
    of numpy, or other memory that is shared. ``tensor.data = another`` is noticed.
    """
    return Stamp(tensors)


def _state_of(tensor: Tensor) -> tuple[object, ...]:
    version = -1 if tensor.is_inference() else tensor._version
    try:  # the storage itself: another one may come to lie at the address of one that is gone
        return version, weakref.ref(tensor.untyped_storage()), tensor.storage_offset()
    except RuntimeError:  # the tensors of functorch have none
        return (version,)


def _probe() -> Tensor:
    """Make a tensor as an export would: a stand-in, while one goes on."""
    return torch.empty(0, device="cpu")


def _update(key: int) -> bool:
    path = _PATHS[key]
    tensors = path.of()
    if path.stamp == (stamp := stamp_of(tensors)):
        return True
    # An export replaces parameters by stand-ins without values: it takes the kernels that the last call has left.
    if all(type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta for tensor in (*tensors, _probe())):
        with LOCK, torch.inference_mode(False), torch.device("cpu"):
            if path.stamp != (stamp := stamp_of(path.of())):
                path.folded = path.make()
                path.stamp = stamp
    return True


@functools.cache
def _leave_threads_behind() -> None:
    """Let children that are forked from now on use one thread of torch, as the workers of a ``DataLoader`` do."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)

# A compiler that traces calls such a function instead of tracing it, if its arguments are of simple types: hence the
# key. torch.compiler.assume_constant_result sets the same mark, but imports torch._dynamo, which takes a second.
# tests/codec/test_folding.py::test_compiles_whole fails where torch renames the mark.
vars(_update)["_dynamo_marked_constant"] = True

"""Find out how a model hangs together, by one forward pass without data on the meta device.

A *unit* is a module that takes what the one before it gives, and nothing else: a convolution of a stem, a block of a
stage. Units can be replaced one by one.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Trace", "Unit"]


class Unit(NamedTuple):
    """A module of the chain that begins at the model's input."""

    path: str
    shape: tuple[int, ...]  # of its output, without the batch dimension


class Trace:
    """What one forward pass shows of a model, which is not changed: shapes, multiply-adds, and the chain of units.

    Args:
        model: The model; it is traced in evaluation mode.
        shape: ``(C, H, W)`` of one input.

    Attributes:
        macs: Multiply-adds of convolutions and matrix products.
        shapes: Shape of what every module gives, by its path, without the batch dimension.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self._model = model
        with FlopCounterMode(display=False) as counter:
            self._seen = _record(model, shape)
        self.macs = counter.get_total_flops() // 2
        self.shapes = {path: tuple(out.shape[1:]) for path, (_, out) in self._seen.items()}

    def units(self, stem: tuple[str, ...]) -> list[Unit]:
        """List the units of the model from its input on, until they are a chain no more.

        Args:
            stem: Paths of the modules of the stem, whose parts are units where they are a chain. Elsewhere the parts of
                ``nn.Sequential`` and of stages are units: what looks like a chain in a residual block is none.
        """
        units: list[str] = []
        last: Any = None
        for name, child in self._model.named_children():
            for path, module in [(name, child)] if name in self._seen else self._parts(name, child, stem):
                if units and self._seen[path][0] is not last:
                    return self._with_shapes(units)
                units += self._expand(path, module, stem)
                last = self._seen[path][1]
        return self._with_shapes(units)

    def _with_shapes(self, units: list[str]) -> list[Unit]:
        return [Unit(unit, self.shapes[unit]) for unit in units]

    def _parts(self, path: str, module: nn.Module, stem: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
        in_stem = any(path == root or path.startswith(f"{root}.") for root in stem)
        names = [name for name, _ in module.named_children()]
        stage = isinstance(module, (nn.Sequential, nn.ModuleList)) or "blocks" in names
        if not (in_stem or stage or (names and all(re.fullmatch(r"b\d+", name) for name in names))):
            return []
        return [(f"{path}.{name}", child) for name, child in module.named_children() if f"{path}.{name}" in self._seen]

    def _expand(self, path: str, module: nn.Module, stem: tuple[str, ...]) -> list[str]:
        children = self._parts(path, module, stem)
        ends = [self._seen[child] for child, _ in children]
        chain = bool(children) and ends[0][0] is self._seen[path][0] and ends[-1][1] is self._seen[path][1]
        if not chain or any(b[0] is not a[1] for a, b in itertools.pairwise(ends)):
            return [path]
        return [unit for child in children for unit in self._expand(*child, stem)]


def _record(model: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Note what the modules get and give when they are first called, where it is one tensor."""
    inputs: dict[str, Tensor] = {}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with contextlib.ExitStack() as stack:
        for path, module in model.named_modules():

            def before(_: nn.Module, args: Any, path: str = path) -> None:
                if path not in inputs and args and isinstance(args[0], Tensor):
                    inputs[path] = args[0]

            def after(_: nn.Module, args: Any, out: Any, path: str = path) -> None:
                if path in inputs and path not in seen and isinstance(out, Tensor):
                    seen[path] = (inputs[path], out)

            if path:
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        _run(model, shape)
    return seen


def _run(model: nn.Module, shape: tuple[int, ...]) -> None:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    with _evaluating(model), torch.no_grad():
        meta = {name: tensor.detach().to("meta") for name, tensor in tensors}
        functional_call(model, meta, (torch.empty(1, *shape, device="meta", dtype=dtype),))


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module of it back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

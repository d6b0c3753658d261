"""Find out how a model's first modules hang together, by one forward pass without data on the meta device.

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

__all__ = ["Unit", "count_macs", "output_shapes", "trace_units"]


class Unit(NamedTuple):
    """A module of the chain that begins at the model's input."""

    path: str
    shape: tuple[int, ...]  # of its output


def trace_units(model: nn.Module, shape: tuple[int, ...], stem: tuple[str, ...]) -> list[Unit]:
    """List the units of a model from its input on, as far as they are a chain.

    Args:
        model: The model; nothing of it is changed.
        shape: ``(C, H, W)`` of one input.
        stem: Paths of the modules of the stem, whose parts are units where they are a chain. Elsewhere the parts of
            ``nn.Sequential`` and of stages are: what looks like a chain in a residual block is none.
    """
    seen = _record(model, shape)
    units: list[str] = []

    def parts(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        in_stem = any(path == root or path.startswith(f"{root}.") for root in stem)
        names = [name for name, _ in module.named_children()]
        stage = isinstance(module, (nn.Sequential, nn.ModuleList)) or "blocks" in names
        if not (in_stem or stage or (names and all(re.fullmatch(r"b\d+", name) for name in names))):
            return []
        return [(f"{path}.{name}", child) for name, child in module.named_children() if f"{path}.{name}" in seen]

    def expand(path: str, module: nn.Module) -> list[str]:
        children = parts(path, module)
        ends = [seen[child] for child, _ in children]
        chain = bool(children) and ends[0][0] is seen[path][0] and ends[-1][1] is seen[path][1]
        if not chain or any(b[0] is not a[1] for a, b in itertools.pairwise(ends)):
            return [path]
        return [unit for child in children for unit in expand(*child)]

    last: Any = None
    for name, child in model.named_children():
        for path, module in [(name, child)] if name in seen else parts(name, child):
            if units and seen[path][0] is not last:
                return [Unit(unit, tuple(seen[unit][1].shape[1:])) for unit in units]
            units += expand(path, module)
            last = seen[path][1]
    return [Unit(unit, tuple(seen[unit][1].shape[1:])) for unit in units]


def output_shapes(model: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of what every module gives, by its path, without the batch dimension."""
    return {path: tuple(out.shape[1:]) for path, (_, out) in _record(model, shape).items()}


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward pass, of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        _run(model, shape)
    return counter.get_total_flops() // 2


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

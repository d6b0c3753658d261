"""A lower bound whose gradient lets values return."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["lower_bound"]


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Raise what is below a bound to the bound.

    The gradient of :func:`torch.clamp` is zero below the bound, so that a value there stays there for good. Here a
    gradient passes wherever a step against it leads upward.
    """
    return _LowerBound.apply(x, bound)  # pyright: ignore[reportReturnType] (apply is typed as giving None)

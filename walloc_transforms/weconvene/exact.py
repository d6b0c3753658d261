"""Entropy networks that give the same numbers on every machine.

A decoder must find the encoder's means and scales to the last bit, or it reads other symbols from there on. Sums of
floats depend on their order, and so on the number of threads, the batch, the processor and its libraries. Here they do
not, because nothing is ever rounded while it is added up:

* Weights are integers times a power of two, one for every output channel. A layer first rounds what it reads to
  multiples of 1/256 within +-8192. The products are integers times a power of two, too, and their sums stay below
  2**53 of it: float64 adds them exactly in any order.
* GELU, sigmoid and tanh are tables. No entry lies near a rounding threshold, so that no machine makes another table.
* A square root is rounded down to an integer, which is checked by integers.
* All else (sums of two tensors, products, wavelet bands) is elementwise: single operations of IEEE 754 in float64,
  which round alike everywhere.

A network is not written twice: :func:`freeze` copies it and replaces its layers. It runs on the CPU.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import GDN

__all__ = ["freeze", "on_grid"]

_STEPS = 256  # per unit
_LIMIT = 8192


def on_grid(x: Tensor) -> Tensor:
    """Round to multiples of 1/256 within +-8192, in float64."""
    return (x.double() * _STEPS).round_().clamp_(-_LIMIT * _STEPS, _LIMIT * _STEPS).div_(_STEPS)


def freeze(network: nn.Module) -> nn.Module:
    """Copy a network so that its results depend on nothing but its weights and its input.

    Args:
        network: Of convolutions, inverse GDN, GELU, sigmoid, tanh, and layers without weights that are exact in float64
            by themselves (ReLU, leaky ReLU, pixel shuffle). It may be on any device.

    Returns:
        The copy, in float64 on the CPU, without parameters. Its results are no multiples of 1/256 unless
        :func:`on_grid` rounds them.

    Raises:
        TypeError: A layer of another kind.
        ValueError: A weight that is not finite.
    """
    frozen: dict[int, nn.Module] = {}
    for name, layer in network.named_modules():
        if (make := _LAYERS.get(type(layer))) is not None:
            frozen[id(layer)] = make(layer)
        elif not isinstance(layer, _EXACT) and not [*layer.children()]:
            raise TypeError(f"cannot freeze {name or 'the network'}: no exact form of {type(layer).__name__} is known")
    # what memo has is not copied
    twin = copy.deepcopy(network, {**frozen})  # pyright: ignore[reportArgumentType]
    if left := [name for name, _ in twin.named_parameters()]:
        raise TypeError(f"cannot freeze {left[0]}: it belongs to no layer whose exact form is known")
    return twin


class _Convolution(nn.Module):
    """A convolution whose sums are exact."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d)
        if layer.padding_mode != "zeros":
            raise TypeError(f"cannot freeze a convolution with padding_mode={layer.padding_mode!r}: expected 'zeros'")
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
        weight, bias = _rounded_weights(layer.weight, bias, largest=_LIMIT)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(on_grid(x), self.weight, self.bias, *self.geometry)


class _InverseGDN(nn.Module):
    """``x * sqrt(beta + gamma @ x**2)``, with a square root in steps of 2**-13."""

    beta: Tensor
    gamma: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, GDN)
        if not layer.inverse:
            raise TypeError("cannot freeze GDN: only its inverse is used where symbols are decoded")
        beta, gamma = layer.coefficients()
        gamma, beta = _rounded_weights(gamma[:, :, None, None], beta, largest=_LIMIT**2)
        self.register_buffer("gamma", gamma)
        self.register_buffer("beta", beta)

    def forward(self, x: Tensor) -> Tensor:
        x = on_grid(x)
        squares = (x * x * _STEPS).round_().div_(_STEPS)
        norm = F.conv2d(squares, self.gamma, self.beta).clamp_(0, _LIMIT**2)
        return x * _integer_root((norm * 2**26).floor_()).div_(2**13)


def _integer_root(x: Tensor) -> Tensor:
    """Compute the largest integers whose squares are at most ``x``, integers up to 2**52."""
    root = x.sqrt().floor_()
    root -= (root * root > x).double()
    root += ((root + 1) * (root + 1) <= x).double()
    return root


class _Table(nn.Module):
    """A function by table, beyond which it is constant or goes on with slope 1."""

    table: Tensor

    def __init__(self, function: Callable[[float], float], reach: int, steps: int, slope: bool = False) -> None:
        super().__init__()
        self.reach, self.slope = reach, slope
        edge = reach * _STEPS
        values = [function(i / _STEPS) * steps for i in range(-edge, edge + 1)]
        if any(abs(value - math.floor(value) - 0.5) < 1e-9 for value in values):
            raise ArithmeticError("an entry of a table lies too near a rounding threshold to be the same everywhere")
        self.register_buffer(
            "table", torch.tensor([round(value) / steps for value in values], dtype=torch.float64, device="cpu")
        )

    def forward(self, x: Tensor) -> Tensor:
        x = on_grid(x)
        inside = x.clamp(-self.reach, self.reach)
        y = self.table[((inside + self.reach) * _STEPS).long()]
        return y + (x - inside).clamp_(min=0) if self.slope else y


def _rounded_weights(weight: Tensor, bias: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Round every output channel to integers times a power of two, as fine as exact sums allow.

    The power follows from integers alone: sums of floats would depend on their order here, too.

    Args:
        weight: ``(out, in, height, width)``.
        bias: ``(out)``.
        largest: What the weights are multiplied with is a multiple of 1/256 not above this.
    """
    wide, bias_ = (values.detach().cpu().double().numpy() for values in (weight, bias))
    for name, values in (("weight", wide), ("bias", bias_)):
        if not np.isfinite(values).all():
            raise ValueError(f"cannot freeze a layer whose {name} holds values that are not finite")
    rows = np.abs(np.concatenate([wide.reshape(len(wide), -1) * largest, bias_[:, None]], 1))
    # fine enough to tell the size of a row, coarse enough to add it up exactly
    unit = np.ldexp(1.0, np.frexp(rows.max(1))[1] - 36)
    size = np.ceil(rows / unit[:, None]).sum(1) * unit  # at least the largest sum that can occur
    step = np.ldexp(1.0, np.frexp(size)[1] - 51)  # of sums, which are below 2**52 of it even of rounded weights
    bias_ = np.rint(bias_ / step) * step
    step = (step * _STEPS)[:, None, None, None]
    return torch.from_numpy(np.rint(wide / step) * step), torch.from_numpy(bias_)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _gelu(x: float) -> float:
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def _make_gelu(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.GELU)
    if layer.approximate != "none":
        raise TypeError(f"cannot freeze GELU(approximate={layer.approximate!r}): expected 'none'")
    return _Table(_gelu, 8, _STEPS, slope=True)


_LAYERS: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    nn.Conv2d: _Convolution,
    GDN: _InverseGDN,
    nn.GELU: _make_gelu,
    nn.Sigmoid: lambda layer: _Table(_sigmoid, 12, 2**16),
    nn.Tanh: lambda layer: _Table(math.tanh, 8, 2 * _STEPS),
}
_EXACT = (nn.ReLU, nn.LeakyReLU, nn.PixelShuffle, nn.Identity)

"""Companding by the Gaussian distribution function, and the three ways to round.

A latent ``z`` of the linear projection is roughly bell-shaped. ``compand`` squeezes it into the range of a signed
integer of ``bits`` bits, so that rounding to integers is the quantizer; ``expand`` undoes it (WaLLoC, section 3):

    compand: u = 2 M (Phi(z / s) - 1/2)                      range (-M, M)
    expand:  z = s Phi^-1(clip(v / (2 M) + 1/2, 1e-4, 1 - 1e-4))

with ``q = 2**(bits - 1) - 1``, ``M = q + 0.5 - 0.001``, ``s = q / 1.85`` and ``Phi`` the standard normal distribution
function. Beyond ``3.72 s`` the expansion saturates.
"""

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["Rounding", "clip", "compand", "compand_curve", "expand", "round_latents", "saturation", "slope"]

Rounding = Literal["none", "round", "noise"]

_TAIL = 1e-4  # probability at which the expansion saturates


def _constants(bits: int) -> tuple[float, float]:
    largest_code = 2 ** (bits - 1) - 1
    return largest_code + 0.5 - 0.001, largest_code / 1.85


def compand(z: Tensor, bits: int = 8) -> Tensor:
    """Map projected latents to the range of ``bits``-bit codes, ``(-M, M)``; differentiable.

    Args:
        z: Float tensor of any shape.
        bits: Width of a code; 8 gives ``M = 127.499`` and ``s = 68.65``.
    """
    slope, limit = compand_curve(bits)
    return torch.erf(z * slope) * limit


def compand_curve(bits: int = 8) -> tuple[float, float]:
    """Return the two numbers of which :func:`compand` is made, ``limit * erf(slope * z)``: slope and limit."""
    limit, scale = _constants(bits)
    return 1 / (scale * math.sqrt(2)), limit


def expand(v: Tensor, bits: int = 8) -> Tensor:
    """Undo :func:`compand` for values or codes ``v``; exact to about 1e-3 within 3 s, saturating at 3.72 s."""
    looks_up = v.dtype == torch.int8 and v.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks_up and not is_in_torch_dispatch_mode():  # a tracer's stand-in would stay in the cache
        return _expanded_codes(bits).index_select(0, v.flatten().view(torch.uint8).to(torch.int32)).view(v.shape)
    limit, scale = _constants(bits)
    most = 1 - 2 * _TAIL
    p = (v * (1 / limit)).clamp(-most, most)
    inverse = _exported_erfinv(p) if torch.compiler.is_exporting() else torch.erfinv(p)
    return inverse * (scale * math.sqrt(2))


@functools.cache
def _expanded_codes(bits: int) -> Tensor:
    """Return a table of what the 256 codes of int8 expand to, in the order of their bytes: 0 to 127, -128 to -1."""
    with torch.inference_mode(False), torch.device("cpu"):
        return expand(torch.arange(256, dtype=torch.uint8).view(torch.int8).to(torch.float32), bits)


def _exported_erfinv(p: Tensor) -> Tensor:
    """Compute ``erfinv``, which ONNX lacks, from what it has: a guess (Winitzki, 2008), and two of Newton's steps."""
    log, a = torch.log(1 - p * p), 0.147
    t = 2 / (math.pi * a) + log / 2
    y = torch.sign(p) * torch.sqrt((torch.sqrt(t * t - log / a) - t).clamp(min=0))
    for _ in range(2):
        y = y - (torch.erf(y) - p) * torch.exp(y * y) * (math.sqrt(math.pi) / 2)
    return y


def clip(z: Tensor, bits: int = 8) -> Tensor:
    """Limit to ``[-M, M]`` and do nothing else: what the codecs before companding did; nothing undoes it."""
    limit, _ = _constants(bits)
    return z.clamp(-limit, limit)


def slope(bits: int = 8) -> float:
    """Derivative of :func:`compand` at 0: how many codes one unit of the projection spans there (1.482 for 8 bits)."""
    limit, scale = _constants(bits)
    return 2 * limit / (scale * math.sqrt(2 * math.pi))


def saturation(bits: int = 8) -> float:
    """Magnitude at which :func:`expand` saturates, ``3.719 s`` (255.3 for 8 bits)."""
    limit, _ = _constants(bits)
    return float(expand(torch.tensor(limit, dtype=torch.float64), bits))


def round_latents(u: Tensor, rounding: Rounding) -> Tensor:
    """Round companded latents, or stand in for it while a codec is trained.

    Args:
        u: Companded latents.
        rounding: ``"none"`` leaves them as they are; ``"round"`` rounds to integers, half to even; ``"noise"`` adds
            noise uniform in [-0.5, 0.5), the differentiable stand-in for rounding.

    Raises:
        ValueError: ``rounding`` is none of the three.
    """
    match rounding:
        case "none":
            return u
        case "round":
            return torch.round(u)
        case "noise":
            return u + torch.rand_like(u) - 0.5
    raise ValueError(f"rounding must be one of {', '.join(map(repr, get_args(Rounding)))}, got {rounding!r}")

"""The names and shapes of the reference's state dict, written down from what is known of its layers.

They are made here layer by layer, and not from our model, so that a translation that forgets a layer is noticed.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Geometry", "reference_state", "reference_tensors"]

Shapes = Iterator[tuple[str, tuple[int, ...], bool]]
"""Names, shapes, and whether they are parameters."""


@dataclass(frozen=True)
class Geometry:
    """The numbers that the reference has in its code; all but the first three are fixed there."""

    n: int = 128
    m: int = 320
    slices: int = 5
    z: int = 192
    inner: int = 128
    hidden: tuple[int, int] = (224, 128)


def _conv(name: str, ins: int, outs: int, side: int = 3) -> Shapes:
    yield f"{name}.weight", (outs, ins, side, side), True
    yield f"{name}.bias", (outs,), True


def _gdn(name: str, channels: int) -> Shapes:
    yield f"{name}.beta", (channels,), True
    yield f"{name}.gamma", (channels, channels), True
    for part in ("beta", "gamma"):
        yield f"{name}.{part}_reparam.pedestal", (1,), False
        yield f"{name}.{part}_reparam.lower_bound.bound", (1,), False


def _wavelet(name: str) -> Shapes:
    for band in ("ll", "lh", "hl", "hh"):
        yield f"{name}dwt.w_{band}", (1, 1, 2, 2), False
    yield f"{name}idwt.filters", (4, 1, 2, 2), False


def _residual(name: str, channels: int) -> Shapes:
    yield from _conv(f"{name}.conv1", channels, channels)
    yield from _conv(f"{name}.conv2", channels, channels)


def _residuals(name: str, numbers: range, channels: int) -> Shapes:
    for i in numbers:
        yield from _residual(f"{name}.{i}", channels)


def _wave_convolutions(name: str, channels: int, norm: str) -> Shapes:
    yield from _wavelet(f"{name}.")
    yield from _conv(f"{name}.low_freq_conv", channels, channels)
    yield from _conv(f"{name}.high_freq_conv", 3 * channels, 3 * channels)
    yield from _gdn(f"{name}.{norm}_low", channels)
    yield from _gdn(f"{name}.{norm}_high", 3 * channels)


def _wave_down(name: str, ins: int, outs: int) -> Shapes:
    yield from _conv(f"{name}.conv1", ins, outs)
    yield from _conv(f"{name}.conv2", outs, outs)  # which it never uses
    yield from _wave_convolutions(name, outs, "gdn")
    yield from _conv(f"{name}.skip", ins, outs, 1)


def _wave_up(name: str, ins: int, outs: int) -> Shapes:
    yield from _conv(f"{name}.subpel_conv.0", ins, 4 * outs)
    yield from _wave_convolutions(name, outs, "igdn")
    yield from _conv(f"{name}.upsample.0", ins, 4 * outs)


def _transforms(g: Geometry) -> Shapes:
    n = g.n
    yield from _conv("g_a.0.conv1", 3, n)
    yield from _conv("g_a.0.conv2", n, n)
    yield from _gdn("g_a.0.gdn", n)
    yield from _conv("g_a.0.skip", 3, n, 1)
    yield from _residuals("g_a", range(1, 4), n)
    yield from _wave_down("g_a.4", n, n)
    yield from _residuals("g_a", range(5, 8), n)
    yield from _wave_down("g_a.8", n, n)
    yield from _residuals("g_a", range(9, 12), n)
    yield from _conv("g_a.12", n, g.m)
    yield from _conv("g_s.0.subpel_conv.0", g.m, n)
    yield from _conv("g_s.0.conv", n, n)
    yield from _gdn("g_s.0.igdn", n)
    yield from _conv("g_s.0.upsample.0", g.m, n)
    yield from _residuals("g_s", range(1, 4), n)
    yield from _wave_up("g_s.4", n, n)
    yield from _residuals("g_s", range(5, 8), n)
    yield from _wave_up("g_s.8", n, n)
    yield from _residuals("g_s", range(9, 12), n)
    yield from _conv("g_s.12.0", n, 12)


def _hyper(g: Geometry) -> Shapes:
    yield from _wave_down("h_a.0", 4 * g.m, g.n)
    yield from _residuals("h_a", range(1, 4), g.n)
    yield from _conv("h_a.4", g.n, g.z)
    for name in ("h_mean_s", "h_scale_s"):
        yield from _wave_up(f"{name}.0", g.z, g.n)
        yield from _residuals(name, range(1, 4), g.n)
        yield from _conv(f"{name}.4.0", g.n, 4 * g.m)


def _attention(name: str, ins: int, outs: int, inner: int) -> Shapes:
    yield from _conv(f"{name}.in_conv", ins, inner, 1)
    for branch in ("conv_a", "conv_b"):
        for i in range(3):
            unit = f"{name}.{branch}.{i}.conv"
            yield from _conv(f"{unit}.0", inner, inner // 2, 1)
            yield from _conv(f"{unit}.2", inner // 2, inner // 2)
            yield from _conv(f"{unit}.4", inner // 2, inner, 1)
    yield from _conv(f"{name}.conv_b.3", inner, inner, 1)
    yield from _residual(f"{name}.non_local_block.block_1", inner)
    yield from _residual(f"{name}.non_local_block.block_2", inner)
    yield from _conv(f"{name}.out_conv", inner, outs, 1)


def _three(name: str, ins: int, outs: int, hidden: tuple[int, int]) -> Shapes:
    for i, (a, b) in zip((0, 2, 4), ((ins, hidden[0]), hidden, (hidden[1], outs)), strict=True):
        yield from _conv(f"{name}.{i}", a, b)


def _slices(g: Geometry) -> Shapes:
    for band, width, extra in (("real", g.m // g.slices, 0), ("imag", 3 * g.m // g.slices, g.m)):
        for i in range(g.slices):
            support = g.m + width * i
            for kind in ("mean", "scale"):
                yield from _attention(f"atten_{kind}_{band}.{i}.0", support + extra, support, g.inner)
                yield from _three(f"cc_{kind}_transforms_{band}.{i}", support, width, g.hidden)
            yield from _three(f"lrp_transforms_{band}.{i}", support + extra + width, width, g.hidden)


def _entropy(g: Geometry, naming: Literal["older", "newer"]) -> Shapes:
    filters = (1, 3, 3, 3, 3, 1)
    matrix, bias, factor = (
        ("_matrix", "_bias", "_factor") if naming == "older" else ("matrices.", "biases.", "factors.")
    )
    for i, (a, b) in enumerate(itertools.pairwise(filters)):
        yield f"entropy_bottleneck.{matrix}{i}", (g.z, b, a), True
        yield f"entropy_bottleneck.{bias}{i}", (g.z, b, 1), True
        if i < 4:
            yield f"entropy_bottleneck.{factor}{i}", (g.z, b, 1), True
    yield "entropy_bottleneck.quantiles", (g.z, 1, 3), True
    yield "entropy_bottleneck.target", (3,), False
    yield "entropy_bottleneck.likelihood_lower_bound.bound", (1,), False
    tables = ("_offset", "_quantized_cdf", "_cdf_length")
    for name in tables:
        yield f"entropy_bottleneck.{name}", (0,), False
    for band in ("real", "imag"):
        for name in (*tables, "scale_table"):
            yield f"gaussian_conditional_{band}.{name}", (0,), False
        for name in ("scale_bound", "likelihood_lower_bound.bound", "lower_bound_scale.bound"):
            yield f"gaussian_conditional_{band}.{name}", (1,), False


def reference_tensors(
    geometry: Geometry, naming: Literal["older", "newer"] = "newer"
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """List all tensors of the state dict: their shapes, and whether they are parameters."""
    g = geometry
    parts = (_wavelet(""), _transforms(g), _hyper(g), _slices(g), _entropy(g, naming))
    return {name: (shape, parameter) for part in parts for name, shape, parameter in part}


def _buffer(name: str, shape: tuple[int, ...]) -> Tensor:
    """Make a buffer as the reference has it before its tables are made."""
    last = name.rsplit(".", 1)[1]
    if "dwt." in name:
        low, high = (torch.tensor([1.0, sign]) / 2**0.5 for sign in (1.0, -1.0))
        bands = {"ll": (low, low), "lh": (high, low), "hl": (low, high), "hh": (high, high)}
        kernels = {band: torch.outer(*pair)[None] for band, pair in bands.items()}
        return torch.stack(list(kernels.values())) if last == "filters" else kernels[last.removeprefix("w_")][None]
    pedestal = 2.0**-36
    values = {
        "pedestal": [pedestal],
        "beta_reparam.lower_bound.bound": [(1e-6 + pedestal) ** 0.5],
        "gamma_reparam.lower_bound.bound": [pedestal**0.5],
        "likelihood_lower_bound.bound": [1e-9],
        "lower_bound_scale.bound": [0.11],
        "scale_bound": [0.11],
        "target": [-math.log(2e9 - 1), 0.0, math.log(2e9 - 1)],
    }
    for end, value in values.items():
        if name.endswith(end):
            return torch.tensor(value)
    return torch.zeros(shape, dtype=torch.float32 if last == "scale_table" else torch.int32)


def reference_state(
    geometry: Geometry, naming: Literal["older", "newer"] = "newer", *, prefix: str = ""
) -> dict[str, Tensor]:
    """Make a state dict of random parameters, always the same."""
    chance = np.random.RandomState(0)  # the same in every version of numpy
    state = {}
    for name, (shape, parameter) in reference_tensors(geometry, naming).items():
        if not parameter:
            state[prefix + name] = _buffer(name, shape)
        elif name.endswith("gamma"):
            state[prefix + name] = torch.full(shape, 2.0**-18) + 0.3 * torch.eye(shape[0])
        elif name.endswith("beta"):
            state[prefix + name] = 1 + 0.1 * torch.from_numpy(chance.uniform(size=shape)).float()
        elif name.endswith("quantiles"):
            state[prefix + name] = torch.tensor([-10.0, 0.0, 10.0]).expand(shape).contiguous()
        else:
            state[prefix + name] = torch.from_numpy(chance.normal(0, 0.1, shape)).float()
    return state

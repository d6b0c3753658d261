"""The names that the reference implementation gives its tensors, and ours for the same.

CompressAI before version 1.2.7 wrote ``_matrix0`` for ``matrices.0``, and training on several GPUs puts ``module.``
before every name.

The reference also has tensors that carry nothing. A convolution in every block that halves the sides is never used.
The taps of Haar's wavelet are saved eight times, and so are constants of the normalizations and densities: they must be
what they are here. Its tables of frequencies are made anew. All these are dropped.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..safe import check_shapes, shown
from ..wavelets import split_bands
from ..zoo import LazyTensor
from .density import SCALES
from .model import WeConvene

__all__ = ["TABLES", "find_arguments", "translate"]

TABLES = ("prior.frequencies", "prior.lengths", "prior.offsets")
"""Integer tables of a model, which the reference makes when it needs them."""

# Applied in turn to a name of ours. "real" means low and "imag" high: they are left of an older design.
_RENAMING = (
    (r"^analysis\.", r"g_a."),
    (r"^synthesis\.", r"g_s."),
    (r"^hyper_analysis\.", r"h_a."),
    (r"^hyper_(mean|scale)s\.", r"h_\1_s."),
    (r"^prior\.", r"entropy_bottleneck."),
    (r"^charm\.groups\.low\.slices\.", r"real."),
    (r"^charm\.groups\.high\.slices\.", r"imag."),
    (r"^(real|imag)\.(\d+)\.(mean|scale)_attention\.", r"atten_\3_\1.\2.0."),
    (r"^(real|imag)\.(\d+)\.(mean|scale)\.", r"cc_\3_transforms_\1.\2."),
    (r"^(real|imag)\.(\d+)\.residual\.", r"lrp_transforms_\1.\2."),
    # attention
    (r"\.enter\.", r".in_conv."),
    (r"\.leave\.", r".out_conv."),
    (r"\.features\.([012])\.body\.", r".conv_a.\1.conv."),
    (r"\.mask\.([012])\.body\.", r".conv_b.\1.conv."),
    (r"\.mask\.3\.", r".conv_b.3."),
    (r"\.context\.0\.", r".non_local_block.block_1."),
    (r"\.context\.1\.", r".non_local_block.block_2."),
    # changes of resolution
    (r"\.body\.(low|high)\.", r".\1_freq_conv."),
    (r"^(g_a|h_a)\.(\d+)\.conv\.", r"\1.\2.conv1."),
    (r"^(g_a|h_a)\.(\d+)\.body\.0\.", r"\1.\2.conv2."),
    (r"^(g_a|h_a)\.(\d+)\.body\.1\.", r"\1.\2.gdn."),
    (r"^(g_a|h_a)\.(\d+)\.body\.norm_", r"\1.\2.gdn_"),
    (r"^(g_s|h_mean_s|h_scale_s)\.(\d+)\.conv\.", r"\1.\2.subpel_conv."),
    (r"^(g_s|h_mean_s|h_scale_s)\.(\d+)\.skip\.", r"\1.\2.upsample."),
    (r"^(g_s|h_mean_s|h_scale_s)\.(\d+)\.body\.0\.", r"\1.\2.conv."),
    (r"^(g_s|h_mean_s|h_scale_s)\.(\d+)\.body\.1\.", r"\1.\2.igdn."),
    (r"^(g_s|h_mean_s|h_scale_s)\.(\d+)\.body\.norm_", r"\1.\2.igdn_"),
)
_OLDER = re.compile(r"^entropy_bottleneck\._(matrix|bias|factor)(?=\d+$)")
_NEWER = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
_MADE = ("._offset", "._quantized_cdf", "._cdf_length", ".scale_table")  # of any size: none before tables are made

_PEDESTAL = 2.0**-36
_LEAST = {"beta": math.sqrt(1e-6 + _PEDESTAL), "gamma": math.sqrt(_PEDESTAL)}
_TARGET = math.log(2 / 1e-9 - 1)


def find_arguments(state: Mapping[str, Any]) -> dict[str, int]:
    """Find the arguments of the model that a state dict of the reference belongs to.

    Args:
        state: Tensors, or :class:`LazyTensor`, by the reference's names.

    Raises:
        ValueError: It is of another model.
    """
    state = _normalize(state)
    channels = []
    for name in ("g_a.0.conv1.weight", "g_a.12.weight"):
        shape = tuple(state[name].shape) if name in state else ()
        if len(shape) != 4:
            raise ValueError(f"it is no checkpoint of WeConvene: expected a tensor {name} of 4 axes")
        channels.append(shape[0])
    slices = sum(re.fullmatch(r"lrp_transforms_real\.\d+\.0\.weight", name) is not None for name in state)
    return {"n": channels[0], "m": channels[1], "slices": slices, "blocks": 3}


def translate(state: Mapping[str, Any], model: WeConvene) -> dict[str, Tensor]:
    """Rename the tensors of a state dict of the reference, and drop those that carry nothing.

    All names, shapes and types are compared before the first tensor is read.

    Args:
        state: Tensors, or :class:`LazyTensor`, by the reference's names.
        model: What they are for; it may be on the meta device.

    Returns:
        A state dict of the model, but for the tables of its hyper latents.

    Raises:
        ValueError: A tensor is missing, unexpected, of another shape or type, or not what it must be; it is named.
    """
    state = _normalize(state)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in TABLES}
    names = {ours: _rename(ours) for ours in shapes}
    expected = {theirs: shapes[ours] for ours, theirs in names.items()}
    constants = dict(_constants(expected))
    expected |= dict(_unused(expected)) | {name: tuple(value.shape) for name, value in constants.items()}
    made = {name for name in constants if name.endswith(_MADE)}
    found = {name: expected[name] if name in made else tuple(value.shape) for name, value in state.items()}
    c = model.config
    check_shapes(found, expected, f"this checkpoint of n={c['n']}, m={c['m']} and {c['slices']} slices")
    for name, value in state.items():
        integer = name in made and not name.endswith(".scale_table")
        if value.dtype != (torch.int32 if integer else torch.float32):
            raise ValueError(f"{name} must be of {'int32' if integer else 'float32'}, got {value.dtype}")
    for name, value in constants.items():
        if not name.endswith(_MADE[:3]):
            _compare(name, _read(state[name]), value)
    return {ours: _read(state[theirs]) for ours, theirs in names.items()}


def _normalize(state: Mapping[str, Any]) -> dict[str, Any]:
    """Bring all names into their newer form, without prefix."""
    prefix = "module." if state and all(name.startswith("module.") for name in state) else ""
    normal: dict[str, Any] = {}
    for name, value in state.items():
        new = _OLDER.sub(lambda found: f"entropy_bottleneck.{_NEWER[found[1]]}.", name.removeprefix(prefix))
        if new in normal:
            raise ValueError(f"it has {shown(new)} twice, by an older and a newer name")
        normal[new] = value
    return normal


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMING:
        name = re.sub(pattern, replacement, name)
    return name


def _unused(expected: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """List the convolutions that the reference saves and never uses, and their shapes."""
    for name, shape in expected.items():
        if found := re.fullmatch(r"((?:g_a|h_a)\.\d+)\.low_freq_conv\.(weight|bias)", name):
            yield f"{found[1]}.conv2.{found[2]}", shape


def _constants(expected: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """List what the reference saves beside its parameters, and its values."""
    blocks = [name.removesuffix("low_freq_conv.weight") for name in expected if name.endswith("low_freq_conv.weight")]
    taps = split_bands(torch.eye(4).view(4, 1, 2, 2)).view(4, 4).T.reshape(4, 1, 2, 2)
    for block in ("", *blocks):
        for band, kernel in zip(("ll", "lh", "hl", "hh"), taps, strict=True):
            yield f"{block}dwt.w_{band}", kernel[None]
        yield f"{block}idwt.filters", taps
    for norm in [name.removesuffix("beta") for name in expected if name.endswith(".beta")]:
        for part, least in _LEAST.items():
            yield f"{norm}{part}_reparam.pedestal", torch.tensor([_PEDESTAL])
            yield f"{norm}{part}_reparam.lower_bound.bound", torch.tensor([least])
    yield "entropy_bottleneck.target", torch.tensor([-_TARGET, 0, _TARGET])
    for density in ("entropy_bottleneck", "gaussian_conditional_real", "gaussian_conditional_imag"):
        yield f"{density}.likelihood_lower_bound.bound", torch.tensor([1e-9])
        for name in _MADE[:3]:
            yield f"{density}{name}", torch.empty(0)
        if density != "entropy_bottleneck":
            yield f"{density}.scale_table", torch.tensor(SCALES)
            yield f"{density}.scale_bound", torch.tensor([SCALES[0]])
            yield f"{density}.lower_bound_scale.bound", torch.tensor([SCALES[0]])


def _compare(name: str, found: Tensor, expected: Tensor) -> None:
    if name.endswith(".scale_table") and not found.numel():  # before tables are made
        return
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=0):
        first = found.flatten()[:4].tolist()
        raise ValueError(f"{name} must be {expected.flatten()[:4].tolist()}..., got {first}...: it is another model's")


def _read(value: Tensor | LazyTensor) -> Tensor:
    return value.read() if isinstance(value, LazyTensor) else value

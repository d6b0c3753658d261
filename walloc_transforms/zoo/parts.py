"""The parts of a published codec: which tensors of a checkpoint belong to which, and what they are for us.

    wt.*, iwt.*                         taps of the wavelet: compared with ours
    encoder.0.weight, .bias             a linear encoder
    encoder.0.conv_in.*, .conv1.*, ...  an encoder network (autoencoder_kl, oobleck)
    encoders.i.*, decoders.i.*          linear stages; each codes the error of the ones before it
    decoder.1.*                         the decoder, linear or a network; decoder.0 is the companding
    decoder.0.*                         the decoder of a codec before version 1.0, which clips instead of companding
    post.*                              a filter on the decoded waveform

All names, shapes and types are compared before the first tensor is read.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..codec import CodecConfig, Network, network_shapes, post_shapes
from ..safe import check_shapes, shown
from ..wavelets import library_taps
from .lazy import LazyTensor

__all__ = ["NetworkSource", "Part", "Parts", "check_parts", "convert", "take_apart"]

_PREFIX = re.compile(r"(?:encoder\.0|encoders\.\d+|decoder\.[01]|decoders\.\d+|post|wt|iwt)\.")
_MARKS: dict[str, Network] = {"weight": "linear", "conv_in.weight": "autoencoder_kl", "conv1.weight_v": "oobleck"}


class Part(NamedTuple):
    """The encoder, a decoder, a stage of one, or the filter of a checkpoint.

    Attributes:
        prefix: What the names of its tensors begin with.
        kind: What it is.
        tensors: By name, without the prefix.
    """

    prefix: str
    kind: Network
    tensors: dict[str, LazyTensor]

    def size(self, name: str, axis: int) -> int:
        """Tell the size of a tensor along an axis.

        Raises:
            ValueError: There is no such tensor or axis.
        """
        if name not in self.tensors or len(self.tensors[name].shape) <= axis:
            raise ValueError(f"there is no tensor {self.prefix}{name}, or it has too few dimensions")
        return self.tensors[name].shape[axis]

    def width(self, hidden: str) -> int:
        """Return the number of hidden channels; in an Oobleck network, that of the tensor ``hidden``."""
        names = {"linear": "", "autoencoder_kl": "conv_in.weight", "oobleck": hidden}
        return 0 if self.kind == "linear" else self.size(names[self.kind], 0)


class Parts(NamedTuple):
    """All parts of a checkpoint.

    Attributes:
        dims: 2 for images, 1 for audio.
        wavelet: The taps, by name.
        encoders: The encoder, or one per stage.
        decoders: The decoder, or one per stage.
        post: The filter on the waveform; None if there is none.
    """

    dims: int
    wavelet: dict[str, LazyTensor]
    encoders: list[Part]
    decoders: list[Part]
    post: Part | None


def take_apart(state: Mapping[str, LazyTensor]) -> Parts:
    """Sort the tensors of a checkpoint by part.

    Raises:
        ValueError: A part is missing, or tensors belong to none.
    """
    groups: dict[str, dict[str, LazyTensor]] = {}
    for name, value in state.items():  # once, however many there are
        match = _PREFIX.match(name)
        if match is None:
            raise ValueError(f"it is no WaLLoC codec: unexpected tensor {shown(name)}")
        groups.setdefault(match[0], {})[name[match.end() :]] = value
    wavelet = {f"{prefix}{name}": v for prefix in ("wt.", "iwt.") for name, v in groups.pop(prefix, {}).items()}
    post = groups.pop("post.", None)
    stages = sum(prefix.startswith("encoders.") for prefix in groups)
    if stages:
        encoders, decoders = ([_part(groups, f"{e}.{i}.") for i in range(stages)] for e in ("encoders", "decoders"))
    else:
        encoders = [_part(groups, "encoder.0.")]
        decoders = [_part(groups, "decoder.0." if "decoder.0." in groups else "decoder.1.")]
    if groups:
        raise ValueError(f"it is no WaLLoC codec: unexpected tensors {shown(min(groups))}*")
    dims = 2 if "wt.h0_col" in wavelet else 1
    return Parts(dims, wavelet, encoders, decoders, None if post is None else Part("post.", "linear", post))


def _part(groups: dict[str, dict[str, LazyTensor]], prefix: str) -> Part:
    tensors = groups.pop(prefix, {})
    for mark, kind in _MARKS.items():
        if mark in tensors:
            return Part(prefix, kind, tensors)
    raise ValueError(f"there is no encoder or decoder under the name {prefix}*")


def check_parts(parts: Parts, config: CodecConfig) -> None:
    """Compare all tensors with the config, but for a decoder network, which is compared when it is read.

    Raises:
        ValueError: A tensor is missing, unexpected, of another shape or not float32, or the wavelet is another.
        ImportError: The encoder is a network, and diffusers is not installed.
    """
    c, rows = config, config.channels // config.stages
    for part in parts.encoders:
        linear = {"weight": (rows, c.packets), "bias": (rows,)}
        _check(part, linear if part.kind == "linear" else _published_shapes(config, "encoder"), c.name)
    for part in parts.decoders:
        if part.kind == "linear":
            _check(part, {"weight": (c.packets, rows), "bias": (c.packets,)}, c.name)
    if parts.post is not None:
        _check(parts.post, {name.removeprefix("post."): shape for name, shape in post_shapes(c).items()}, c.name)
    _check_wavelet(parts.wavelet, config)


def _check(part: Part, expected: Mapping[str, tuple[int, ...]], codec: str) -> None:
    found = {name: value.shape for name, value in part.tensors.items()}
    if part.kind == "linear" and part.prefix != "post.":  # a convolution of one sample, or a matrix
        found = {name: shape[:2] if set(shape[2:]) <= {1} else shape for name, shape in found.items()}
    check_shapes(found, expected, f"{part.prefix}* of codec {codec!r}")
    for name, value in part.tensors.items():
        if value.dtype != torch.float32:
            raise ValueError(f"{part.prefix}{name} must hold finite float32 values, not {value.dtype}")


def _published_shapes(config: CodecConfig, part: Literal["encoder", "decoder"]) -> dict[str, tuple[int, ...]]:
    """List the shapes of a network's tensors as checkpoints hold them: Oobleck's with weight normalization."""
    shapes = network_shapes(config, part)
    if getattr(config, part) == "oobleck":
        for name in [name for name in shapes if name.endswith(".weight")]:
            v = shapes.pop(name)
            shapes |= {f"{name}_v": v, f"{name}_g": (v[0], *[1] * (len(v) - 1))}
    return shapes


def _check_wavelet(tensors: Mapping[str, LazyTensor], config: CodecConfig) -> None:
    low, high, *synthesis = torch.from_numpy(library_taps(config.wavelet))
    taps = dict(zip(("wt.h0", "wt.h1", "iwt.g0", "iwt.g1"), (low.flip(0), high.flip(0), *synthesis), strict=True))
    axes = ["_col", "_row"] if config.dims == 2 else [""]
    expected = {f"{name}{axis}": values for name, values in taps.items() for axis in axes}
    found = {name: (math.prod(value.shape),) for name, value in tensors.items()}
    check_shapes(found, {name: (len(values),) for name, values in expected.items()}, "the wavelet")
    for name, values in expected.items():
        if not torch.allclose(tensors[name].read().flatten().double(), values, 0, 1e-6):
            raise ValueError(f"{name} does not hold the taps of the wavelet {config.wavelet}")


def convert(parts: Parts, config: CodecConfig) -> tuple[dict[str, Tensor], "NetworkSource | None"]:
    """Read the tensors, and give them our names; a decoder network is left in the file."""
    tensors: dict[str, Tensor] = {}
    source, decoders = None, []
    if parts.encoders[0].kind != "linear":
        tensors |= {f"encoder.{name}": value for name, value in _read_network(parts.encoders[0]).items()}
    if parts.decoders[0].kind != "linear":
        source = NetworkSource(parts.decoders[0], parts.post, config)
    else:
        decoders = [_read_linear(part) for part in parts.decoders]
        tensors["decoder.weight"] = torch.cat([weight for weight, _ in decoders], 1)
        tensors["decoder.bias"] = torch.stack([bias for _, bias in decoders]).sum(0)
    if parts.encoders[0].kind == "linear":
        encoders = [_read_linear(part) for part in parts.encoders]
        tensors["weight"] = torch.cat([weight for weight, _ in encoders])
        tensors["bias"] = torch.cat([bias for _, bias in encoders])
        if len(encoders) > 1:
            # A stage encodes the error of the stages before it, biases included: put these into its own bias.
            before = torch.stack([bias for _, bias in decoders]).cumsum(0)
            taken = [weight @ bias for (weight, _), bias in zip(encoders[1:], before, strict=False)]
            tensors["bias"] -= torch.cat([torch.zeros(len(encoders[0][1])), *taken])
    return tensors, source


def _read_linear(part: Part) -> tuple[Tensor, Tensor]:
    return part.tensors["weight"].read().flatten(1), part.tensors["bias"].read()


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """A decoder network that has not been read yet; a call reads it from its checkpoint.

    Attributes:
        network: The decoder.
        post: The filter on the waveform; None if there is none.
        config: The geometry of the codec.
    """

    network: Part
    post: Part | None
    config: CodecConfig

    def __call__(self) -> dict[str, Tensor]:
        """Read the tensors.

        Raises:
            ValueError: A tensor does not fit the config, or the file is damaged.
            ImportError: diffusers is not installed.
        """
        _check(self.network, _published_shapes(self.config, "decoder"), self.config.name)
        tensors = {f"network.{name}": value for name, value in _read_network(self.network).items()}
        post = {} if self.post is None else self.post.tensors
        return tensors | {f"post.{name}": value.read() for name, value in post.items()}


def _read_network(part: Part) -> dict[str, Tensor]:
    """Read the tensors of a network, with weight normalization multiplied out: ``g * v / |v|`` per output."""
    state = {name: value.read() for name, value in part.tensors.items()}
    for name in [name for name in state if name.endswith("weight_v")]:
        v, g = state.pop(name), state.pop(name.removesuffix("_v") + "_g")
        state[name.removesuffix("_v")] = v * (g / v.norm(dim=tuple(range(1, v.ndim)), keepdim=True))
    return state

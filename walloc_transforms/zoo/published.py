"""Read checkpoints of the reference implementation (``.pth``) as codecs.

Their tensors:

    wt.*, iwt.*                         taps of the wavelet: compared with ours
    encoder.0.weight, .bias             a linear encoder
    encoder.0.conv_in.*, .conv1.*, ...  an encoder network (autoencoder_kl, oobleck)
    encoders.i.*, decoders.i.*          linear stages; each codes the error of the ones before it
    decoder.1.*                         the decoder, linear or a network; decoder.0 is the companding
    decoder.0.*                         the decoder of a codec before version 1.0, which clips instead of companding
    post.*                              a filter on the decoded waveform

Their shapes tell the geometry. The rest, above all the number of bits, comes from the JSON file beside the checkpoint,
from the configuration pickled in it, or from the name of a known file.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codec import Codec, CodecConfig, Network
from ..wavelets import library_taps
from .checkpoints import InertRecord, LazyTensor, read_checkpoint

__all__ = ["read_published"]

# Bits of the published files that do not tell them by "nf8" in their name.
_BITS = {
    "RGB_16x": 8,
    "RGB_4x": 8,
    "stereo_5x": 8,
    "stereo_20x": 8,
    "v0.6.3_ext": 5,
    "v0.8.0": 5,
    "v0.12.0": 3,
}
_KNOWN = re.compile(r"(encoder\.0|encoders\.\d+|decoder\.[01]|decoders\.\d+|post|wt|iwt)\.")


def read_published(file: str | os.PathLike[str], settings: str | os.PathLike[str] | None = None) -> Codec:
    """Read a checkpoint of the reference implementation. A decoder network is read when something is decoded.

    Args:
        file: The ``.pth`` file.
        settings: Its JSON file. Default: the one of the same name beside it, if there is one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no such codec, is damaged, or needs code to be read; tensors do not fit together; or
            nothing tells the number of bits or levels.
        ImportError: The encoder is a network, and diffusers is not installed.
    """
    file = Path(file)
    content = read_checkpoint(file)
    settings = file.with_suffix(".json") if settings is None else Path(settings)
    fields = _read_fields(content, settings)
    state = content.get("model_state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(value, LazyTensor) for value in state.values()):
        raise ValueError(f"{file} holds no model_state_dict: expected a checkpoint of a WaLLoC codec")
    unknown = sorted(name for name in state if not _KNOWN.match(name))
    if unknown:
        raise ValueError(f"{file} is no WaLLoC codec: unexpected tensors {unknown[:8]}")
    try:
        parts = _take_apart(state)
        config = _find_config(parts, fields, file.stem)
        _check_wavelet(state, config)
        tensors, source = _convert(parts)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    unit = {"latent_mean": torch.zeros(config.channels), "latent_std": torch.ones(config.channels)}
    return Codec.from_tensors(config, {**tensors, **unit}, {} if source is None else {"decoder": source}, str(file))


class _Part(NamedTuple):
    """The encoder or decoder of a checkpoint."""

    prefix: str
    kind: Network
    tensors: dict[str, LazyTensor]  # without the prefix of their names

    def size(self, name: str, axis: int) -> int:
        if name not in self.tensors or len(self.tensors[name].shape) <= axis:
            raise ValueError(f"there is no tensor {self.prefix}{name}, or it has too few dimensions")
        return self.tensors[name].shape[axis]

    def width(self, hidden: str) -> int:
        """Return the number of hidden channels; in an Oobleck network, that of the tensor ``hidden``."""
        names = {"linear": "", "autoencoder_kl": "conv_in.weight", "oobleck": hidden}
        return 0 if self.kind == "linear" else self.size(names[self.kind], 0)


class _Parts(NamedTuple):
    dims: int
    encoders: list[_Part]
    decoders: list[_Part]
    post: dict[str, LazyTensor]


def _take_apart(state: Mapping[str, LazyTensor]) -> _Parts:
    dims = 2 if "wt.h0_col" in state else 1
    stages = sum(re.fullmatch(r"encoders\.\d+\.weight", name) is not None for name in state)
    if stages:
        encoders, decoders = ([_part(state, f"{e}.{i}.") for i in range(stages)] for e in ("encoders", "decoders"))
        return _Parts(dims, encoders, decoders, {})
    old = any(name.startswith("decoder.0.") for name in state)
    post = {name: value for name, value in state.items() if name.startswith("post.")}
    return _Parts(dims, [_part(state, "encoder.0.")], [_part(state, "decoder.0." if old else "decoder.1.")], post)


def _part(state: Mapping[str, LazyTensor], prefix: str) -> _Part:
    tensors = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    marks: dict[str, Network] = {"weight": "linear", "conv_in.weight": "autoencoder_kl", "conv1.weight_v": "oobleck"}
    for mark, kind in marks.items():
        if mark in tensors:
            return _Part(prefix, kind, tensors)
    raise ValueError(f"there is no encoder or decoder under the name {prefix}*")


def _find_config(parts: _Parts, fields: Mapping[str, Any], stem: str) -> CodecConfig:
    encoder, decoder, stages = parts.encoders[0], parts.decoders[0], len(parts.encoders)
    first = {"linear": "weight", "autoencoder_kl": "conv_in.weight", "oobleck": "conv1.weight_v"}[encoder.kind]
    last = {"linear": "weight", "autoencoder_kl": "conv_out.weight", "oobleck": "conv2.weight_v"}[encoder.kind]
    channels, packets = encoder.size(last, 0) * stages, encoder.size(first, 1)
    signals = fields.get("channels")
    if signals is None:  # photographs have three; the post filter of audio knows
        signals = 3 if parts.dims == 2 else parts.post["post.weight"].shape[0] if "post.weight" in parts.post else 1
    levels = fields.get("J", round(math.log2(max(packets / signals, 2)) / parts.dims))
    guessed = parts.dims == 1 and "channels" not in fields and "post.weight" not in parts.post
    if guessed or levels > 16 or signals * 2 ** (parts.dims * levels) != packets:
        raise ValueError(
            f"{encoder.prefix}{first} reads {packets} packets: that they are {levels} levels of {signals} "
            f"signal channels {'is not said' if guessed else 'is not so'}. {_ADVICE} such as "
            '{"channels": 3, "J": 3}'
        )
    bits = fields.get("latent_bits", fields.get("n_bits", _BITS.get(stem)))
    if bits is None and (match := re.search(r"_nf(\d+)", stem)):
        bits = int(match[1])
    if bits is None:
        raise ValueError(f'nothing tells the number of bits. {_ADVICE} such as {{"latent_bits": 8}}')
    widths = encoder.width("block.1.conv1.weight_v"), decoder.width("conv1.weight_v")
    told: list[tuple[str, tuple[int, ...], str]] = [
        ("latent_dim", (channels, channels // stages), encoder.prefix + last),
        ("num_stages", (stages,), encoder.prefix + last),
        ("Nd", (widths[1],), decoder.prefix + "conv_in.weight"),
        ("Ne", (widths[0],), encoder.prefix + "conv_in.weight"),
    ]
    for name, found, tensor in told:  # an Oobleck network rounds its width
        oobleck = name in ("Nd", "Ne") and (decoder if name == "Nd" else encoder).kind != "autoencoder_kl"
        if not oobleck and fields.get(name) is not None and fields[name] not in found:
            raise ValueError(f"its settings say {name} = {_shown(fields[name])}, {tensor} says {found[0]}")
    resnets = {name.split(".")[3] for name in decoder.tensors if name.startswith("up_blocks.0.resnets.")}
    return CodecConfig(
        stem,
        "image" if parts.dims == 2 else "audio",
        signals,
        channels,
        levels,
        latent_bits=bits,
        source=f"converted from {stem}.pth",
        encoder=encoder.kind,
        decoder=decoder.kind,
        encoder_width=widths[0],
        decoder_width=widths[1],
        decoder_layers=max(len(resnets) - 1, 1) if resnets else 2,
        stages=stages,
        companding="clip" if decoder.prefix == "decoder.0." else "gaussian",
        pad=0 if parts.dims == 2 else 1,
        post_filter=bool(parts.post),
        statistics=False,
    )


_ADVICE = "Put its settings into a JSON file of the same name beside it,"


def _read_fields(content: Mapping[str, Any], settings: Path) -> dict[str, Any]:
    """Gather the settings of a checkpoint: those pickled in it, and over them those of its JSON file."""
    fields: dict[str, Any] = {}
    for name in ("args", "config"):
        record = content.get(name)
        if isinstance(record, InertRecord):
            fields |= record.fields
        elif isinstance(record, dict):
            fields |= record
    if settings.is_file():
        try:
            told = json.loads(settings.read_text("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{settings} is no JSON file: {error}") from error
        if not isinstance(told, dict):
            raise ValueError(f"{settings} must hold a JSON object")
        fields |= told
    for name in ("channels", "J", "latent_dim", "latent_bits", "n_bits"):
        if name in fields and (type(fields[name]) is not int or not 1 <= fields[name] < 2**20):
            raise ValueError(
                f"the settings of this codec say {name} = {_shown(fields[name])}: expected a positive integer"
            )
    return fields


def _shown(value: Any) -> str:
    """Show a value from a file in a message: containers may share and nest without end, so only their type."""
    return repr(value)[:100] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _check_wavelet(state: Mapping[str, LazyTensor], config: CodecConfig) -> None:
    low, high, *synthesis = torch.from_numpy(library_taps(config.wavelet))
    taps = dict(zip(("wt.h0", "wt.h1", "iwt.g0", "iwt.g1"), (low.flip(0), high.flip(0), *synthesis), strict=True))
    axes = ["_col", "_row"] if config.dims == 2 else [""]
    expected = {f"{name}{axis}": values for name, values in taps.items() for axis in axes}
    found = {name for name in state if name.startswith(("wt.", "iwt."))}
    if found != expected.keys():
        raise ValueError(f"expected the wavelet's tensors {sorted(expected)}, got {sorted(found)}")
    for name, values in expected.items():
        lazy = state[name]
        if math.prod(lazy.shape) != len(values) or not torch.allclose(lazy.read().flatten().double(), values, 0, 1e-6):
            raise ValueError(f"{name} does not hold the taps of the wavelet {config.wavelet}")


def _convert(parts: _Parts) -> tuple[dict[str, Tensor], "_NetworkSource | None"]:
    """Give the tensors our names; a decoder network is left in the file."""
    tensors: dict[str, Tensor] = {}
    source, decoders = None, []
    if parts.encoders[0].kind != "linear":
        tensors |= {f"encoder.{name}": value for name, value in _network(parts.encoders[0]).items()}
    if parts.decoders[0].kind != "linear":
        source = _NetworkSource(parts.decoders[0], parts.post)
    else:
        decoders = [_linear(part) for part in parts.decoders]
        tensors["decoder.weight"] = torch.cat([weight for weight, _ in decoders], 1)
        tensors["decoder.bias"] = torch.stack([bias for _, bias in decoders]).sum(0)
    if parts.encoders[0].kind == "linear":
        encoders = [_linear(part) for part in parts.encoders]
        tensors["weight"] = torch.cat([weight for weight, _ in encoders])
        tensors["bias"] = torch.cat([bias for _, bias in encoders])
        if len(encoders) > 1:
            # A stage encodes the error of the stages before it, biases included: put these into its own bias.
            before = torch.stack([bias for _, bias in decoders]).cumsum(0)
            taken = [weight @ bias for (weight, _), bias in zip(encoders[1:], before, strict=False)]
            tensors["bias"] -= torch.cat([torch.zeros(len(encoders[0][1])), *taken])
    return tensors, source


def _linear(part: _Part) -> tuple[Tensor, Tensor]:
    unexpected = part.tensors.keys() - {"weight", "bias"}
    if unexpected or "bias" not in part.tensors:
        raise ValueError(f"{part.prefix}* must be a weight and a bias, got {sorted(part.tensors)}")
    return part.tensors["weight"].read().flatten(1), part.tensors["bias"].read()


@dataclasses.dataclass(frozen=True)
class _NetworkSource:
    """A decoder network that has not been read yet; a call reads it from its checkpoint."""

    network: _Part
    post: dict[str, LazyTensor]

    def __call__(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": value for name, value in _network(self.network).items()}
        return tensors | {name: value.read() for name, value in self.post.items()}


def _network(part: _Part) -> dict[str, Tensor]:
    """Read the tensors of a network, with weight normalization multiplied out: ``g * v / |v|`` per output."""
    state = {name: value.read() for name, value in part.tensors.items()}
    for name in [name for name in state if name.endswith("weight_v")]:
        v, g = state.pop(name), state.pop(name.removesuffix("_v") + "_g", None)
        if g is None or g.shape != (len(v), *[1] * (v.ndim - 1)):
            raise ValueError(f"{part.prefix}{name} comes without its norms")
        state[name.removesuffix("_v")] = v * (g / v.norm(dim=tuple(range(1, v.ndim)), keepdim=True))
    return state

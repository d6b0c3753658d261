"""Read checkpoints of the reference implementation (``.pth``) as codecs.

The names and shapes of their tensors tell the geometry. The rest, above all the number of bits, comes from the JSON
file beside the checkpoint, from the configuration pickled in it, or from the name of a known file.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..codec import Codec, CodecConfig
from ..safe import shown
from .checkpoints import InertRecord, read_checkpoint
from .lazy import LazyTensor
from .parts import Parts, check_parts, convert, take_apart

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
MAX_SETTINGS = 2**20  # bytes of a JSON file, beside a checkpoint or on the hub


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
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, LazyTensor) for name, value in state.items()
    ):
        raise ValueError(f"{file} holds no model_state_dict: expected a checkpoint of a WaLLoC codec")
    cost, size = sum(value.cost for value in state.values()), os.path.getsize(file)
    if cost > size:  # many tensors of one storage would multiply it
        raise ValueError(f"{file} has {size} bytes, and its tensors {cost}: they overlap")
    try:
        parts = take_apart(state)
        config = _find_config(parts, fields, file.stem)
        check_parts(parts, config)
        tensors, source = convert(parts, config)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    unit = {"latent_mean": torch.zeros(config.channels), "latent_std": torch.ones(config.channels)}
    return Codec.from_tensors(config, {**tensors, **unit}, {} if source is None else {"decoder": source}, str(file))


def _find_config(parts: Parts, fields: Mapping[str, Any], stem: str) -> CodecConfig:
    encoder, decoder, stages = parts.encoders[0], parts.decoders[0], len(parts.encoders)
    first = {"linear": "weight", "autoencoder_kl": "conv_in.weight", "oobleck": "conv1.weight_v"}[encoder.kind]
    last = {"linear": "weight", "autoencoder_kl": "conv_out.weight", "oobleck": "conv2.weight_v"}[encoder.kind]
    channels, packets = encoder.size(last, 0) * stages, encoder.size(first, 1)
    signals = fields.get("channels")
    if signals is None:  # photographs have three; the post filter of audio knows
        signals = 3 if parts.dims == 2 else 1 if parts.post is None else parts.post.size("weight", 0)
    levels = fields.get("J", round(math.log2(max(packets / max(signals, 1), 2)) / parts.dims))
    guessed = parts.dims == 1 and "channels" not in fields and parts.post is None
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
            raise ValueError(f"its settings say {name} = {shown(fields[name])}, {tensor} says {found[0]}")
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
        post_filter=parts.post is not None,
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
        with settings.open("rb") as stream:
            text = stream.read(MAX_SETTINGS + 1)
        if len(text) > MAX_SETTINGS:
            raise ValueError(f"{settings} has more than {MAX_SETTINGS} bytes")
        try:
            told = json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{settings} is no JSON file: {error}") from error
        if not isinstance(told, dict):
            raise ValueError(f"{settings} must hold a JSON object")
        fields |= told
    for name in ("channels", "J", "latent_dim", "latent_bits", "n_bits"):
        if name in fields and (type(fields[name]) is not int or not 1 <= fields[name] < 2**20):
            raise ValueError(
                f"the settings of this codec say {name} = {shown(fields[name])}: expected a positive integer"
            )
    return fields

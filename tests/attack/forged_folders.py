"""Forged folders of codecs and models, whose files fit their hashes, and small valid ones to mutate."""

import json
import struct
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

import walloc_transforms as wt
from tests.attack.forged import Forged
from walloc_transforms import sealed

CONFIG = "config.json"
_CODEC: dict[str, Any] = {
    "format": "walloc_transforms.codec",
    "version": 2,
    "name": "forged",
    "modality": "audio",
    "signal_channels": 1,
    "channels": 1,
    "levels": 3,
    "wavelet": "bior4.4",
    "latent_bits": 8,
    "source": "",
}


def config_seeds() -> list[bytes]:
    """List valid configs of codecs."""
    embedded = [Path(wt.__file__).parent / "weights" / name / CONFIG for name in wt.available_codecs()]
    return [file.read_bytes() for file in embedded]


def codec_folder(folder: Path) -> Path:
    """Write a small valid folder of a codec with a refiner."""
    torch.manual_seed(0)
    codec = wt.Codec(wt.CodecConfig("small", "image", 3, 4, 2, refiner_width=4, refiner_blocks=1))
    codec.save_pretrained(folder)
    return folder


def model_folder(folder: Path) -> Path:
    """Write a small valid folder of a model."""
    for name, content in _model().items():
        (folder / name).write_bytes(content)
    return folder


@lru_cache
def _model() -> dict[str, bytes]:
    torch.manual_seed(0)
    model = wt.replace_stem(timm.create_model("test_resnet", num_classes=3), wt.load_codec("rgb_16x"))
    with tempfile.TemporaryDirectory() as folder:
        wt.save_model(model, folder)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def write_codec(folder: Path, weights: bytes | None = None, **changes: Any) -> Path:
    """Write a folder whose config, which may be impossible, is sealed.

    Args:
        folder: The folder.
        weights: Its ``weights.safetensors``. Default: tensors of a linear codec of this geometry.
        changes: Fields of the config.
    """
    fields = {**_CODEC, **changes}
    content = _linear(fields) if weights is None else weights
    (folder / "weights.safetensors").write_bytes(content)
    sealed.write_config(folder / CONFIG, {**fields, "sha256": sha256(content).hexdigest()})
    return folder


def _linear(fields: dict[str, Any]) -> bytes:
    d, packets = 1, fields["signal_channels"] * 2 ** (fields["levels"] * (2 if fields["modality"] == "image" else 1))
    state = {"weight": torch.ones(d, packets), "bias": torch.zeros(d), "decoder.weight": torch.ones(packets, d)}
    state |= {"decoder.bias": torch.zeros(packets), "latent_mean": torch.zeros(d), "latent_std": torch.ones(d)}
    return safetensors.torch.save(state)


def _header(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    """Make a safetensors file of any header."""
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + data


def _config(content: bytes, folder: Path) -> Path:
    write_codec(folder)
    (folder / CONFIG).write_bytes(content)
    return folder


def _network(state: dict[str, Tensor], folder: Path, **changes: Any) -> Path:
    content = safetensors.torch.save({"latent_mean": torch.zeros(8), "latent_std": torch.ones(8), **state})
    return write_codec(folder, content, modality="image", signal_channels=3, channels=8, **changes)


def _network_encoder(folder: Path) -> Path:
    state = {"decoder.weight": torch.ones(192, 8), "decoder.bias": torch.zeros(192), "encoder.x": torch.zeros(1)}
    return _network(state, folder, encoder="autoencoder_kl", encoder_width=8192)


def _network_decoder(folder: Path) -> Path:
    state = {"weight": torch.ones(8, 192), "bias": torch.zeros(8)}
    content = safetensors.torch.save({"post": torch.zeros(1)})
    (folder / "decoder.safetensors").write_bytes(content)
    network = {"decoder": "autoencoder_kl", "decoder_width": 8192, "decoder_layers": 64}
    return _network(state, folder, decoder_sha256=sha256(content).hexdigest(), **network)


def _forge_model(change: Callable[[dict[str, Any]], Any], folder: Path) -> Path:
    model_folder(folder)
    fields = json.loads((folder / CONFIG).read_text())
    change(fields)
    sealed.write_config(folder / CONFIG, fields)
    return folder


def _arguments(**arguments: Any) -> Callable[[Path], Path]:
    return partial(_forge_model, lambda fields: fields["model_args"].update(arguments))


def _adapter(**shape: int) -> Callable[[Path], Path]:
    return partial(_forge_model, lambda fields: fields["stem"].update(adapter=shape))


def read_codec(folder: Path) -> str:
    """Load a codec, encode and decode."""
    codec = wt.load_codec(folder)
    signal = torch.zeros(codec.config.signal_channels, *[2 * codec.config.stride] * codec.config.dims)
    return str(codec.decode(codec.encode(signal)).shape)


def read_model(folder: Path) -> str:
    """Load a model and call it."""
    model: Any = wt.load_model(folder)
    return str(model(torch.zeros(1, *model.walloc.input_shape)).shape)


def _codec(name: str, make: Callable[[Path], Path], accepted: bool = False) -> Forged:
    return Forged(f"codec: {name}", make, read_codec, accepted)


def _levels(levels: int, wavelet: str = "bior4.4", modality: str = "audio", accepted: bool = False) -> Forged:
    make = partial(write_codec, levels=levels, wavelet=wavelet, modality=modality)
    return _codec(f"{levels} levels of {wavelet}, {modality}", make, accepted)


_ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

FORGED: list[Forged] = [
    _levels(8, "db38", accepted=True),
    _levels(9, "db38"),
    _levels(10),
    _levels(16),
    _levels(5, "db38", "image", accepted=True),
    _levels(7, modality="image", accepted=True),
    _levels(8, modality="image", accepted=True),
    _levels(9, modality="image"),
    _codec("10**9 channels", partial(write_codec, channels=10**9)),
    _codec("levels of 4,000 digits", partial(write_codec, weights=b"", levels=10**4000)),
    _codec("a name of 60,000 characters", partial(write_codec, name="\x1b]0;" * 15_000)),
    _codec("a wavelet of 60,000 characters", partial(write_codec, wavelet="x" * 60_000)),
    _codec("a field of 60,000 characters", partial(write_codec, **{"\u202e" * 9_000: 1})),
    _codec("an encoder network that is not there", _network_encoder),
    _codec("a decoder network that is not there", _network_decoder),
    _codec("a config of 1 MB", partial(_config, b"[" + b"{}," * 350_000 + b"{}]")),
    _codec("a deep config", partial(_config, b'{"a":' * 10_000 + b"1" + b"}" * 10_000)),
    _codec("tensors that overlap", partial(write_codec, weights=_header({"weight": _ONE, "bias": _ONE}, bytes(4)))),
    _codec(
        "20,000 tensors of no values",
        partial(
            write_codec,
            weights=_header({f"\x07{i}": {**_ONE, "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}),
        ),
    ),
    _codec(
        "a tensor of 9,000 axes",
        partial(write_codec, weights=_header({"weight": {**_ONE, "shape": [1] * 9_000}}, bytes(4))),
    ),
    _codec(
        "a tensor of unknown type", partial(write_codec, weights=_header({"weight": {**_ONE, "dtype": "F4"}}, bytes(4)))
    ),
    Forged("model: 10**6 classes", _arguments(num_classes=10**6), read_model),
    Forged("model: depths of 10**12", _arguments(layers=[10**12] * 4), read_model),
    Forged("model: 2,000 blocks", _arguments(layers=[500] * 4), read_model),
    Forged("model: wide layers", _arguments(channels=[9000] * 4), read_model),
    Forged("model: act_layer", _arguments(act_layer="os.system"), read_model),
    Forged("model: a large adapter", _adapter(width=1024, blocks=32, expansion=16, kernel=31), read_model),
    Forged("model: 10**9 blocks", _adapter(width=16, blocks=10**9), read_model),
    Forged("model: 11 levels", partial(_forge_model, lambda fields: fields["codec"].update(levels=11)), read_model),
    Forged(
        "model: of the hub", partial(_forge_model, lambda fields: fields.update(architecture="hf-hub:a/b")), read_model
    ),
    Forged("model: pretrained", _arguments(pretrained=True), read_model),
]

"""Codecs of the reference implementation with weights that anybody can make again, for tests/test_parity.py and the
golden arrays.

The weights follow from the names and shapes of the tensors, by a generator whose numbers never change. A golden file
holds what the reference made of them, and of a signal, and the shapes: so the tests need no weights and no reference.
"""

import json
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from walloc_transforms.wavelets.filters import library_taps

GOLDEN = Path(__file__).parent / "golden"


class Case(NamedTuple):
    """A codec of the reference: its class, constructor arguments, and the settings its checkpoint would hold."""

    kind: str
    arguments: dict[str, Any]
    settings: dict[str, Any]
    size: tuple[int, ...]


def make_case(kind: str, size: tuple[int, ...], **arguments: Any) -> Case:
    settings = {name: value for name, value in arguments.items() if name != "latent_dim"}
    return Case(kind, arguments, settings, size)


_TWO = {"channels": 3, "J": 3, "latent_dim": 12}
_OLD = {"channels": 3, "J": 3, "latent_dim": 16}
# The golden cases: small, every class of the reference, and by the version of the package that has it.
CASES = {
    "codec2d": make_case("Codec2D", (48, 64), **_TWO, Ne=None, Nd=32, latent_bits=8, lightweight_encode=True),
    "codec2d_deep": make_case("Codec2D", (48, 64), **_TWO, Ne=64, Nd=32, latent_bits=4, lightweight_encode=False),
    "codec1d": make_case(
        "Codec1D",
        (2048,),
        channels=2,
        J=6,
        latent_dim=27,
        Ne=None,
        Nd=64,
        latent_bits=8,
        lightweight_encode=True,
        post_filter=True,
    ),
    "codec1d_deep": make_case(
        "Codec1D",
        (1024,),
        channels=2,
        J=4,
        latent_dim=8,
        Ne=16,
        Nd=16,
        latent_bits=8,
        lightweight_encode=False,
        post_filter=False,
    ),
    "linear": make_case("LinearCodec2D", (48, 64), **_TWO, latent_bits=8),
    "residual": make_case("ResidualCodec2D", (48, 64), **_TWO, latent_bits=8, num_stages=4),
    "walloc_0.3.7": make_case("Walloc", (48, 64), **_OLD, N=32, latent_bits=5),
    "walloc_0.4.0": make_case("Walloc", (48, 64), **_OLD, Ne=32, Nd=64, n_bits=5),
    "walloc_0.6.0": make_case("Walloc", (48, 64), **_OLD, Ne=None, Nd=32, latent_bits=3, lightweight_encode=True),
}


def make_state(shapes: Mapping[str, tuple[int, ...]], volume: float = 0.002) -> dict[str, Tensor]:
    """Weights for the tensors of these names, such that latents fill their range and signals stay in theirs.

    ``volume`` is the gain of the last convolution of an Oobleck decoder.
    """
    state = {}
    for name, shape in shapes.items():
        values = _normal(name, shape)
        if name.endswith("weight_g"):
            values = (1 + 0.1 * np.abs(values)) * (volume if name == "decoder.1.conv2.weight_g" else 1)
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        elif len(shape) > 1 and "snake" not in name:
            linear = name.startswith(("encoder.0.weight", "encoders."))
            gain = 100.0 if linear else 40.0 if name.startswith("encoder.0.conv_out") else 1.0
            gain = 0.01 if name.startswith(("decoders.", "decoder.1.weight")) else gain
            values *= gain / np.sqrt(np.prod(shape[1:]))
        else:
            values *= 0.1
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def make_signal(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(7).uniform(-0.5, 0.5, shape).astype(np.float32))


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def run_reference(model: Any, x: Tensor, levels: int) -> dict[str, Tensor]:
    """What the reference makes of a signal: latents, rounded latents, and the signal decoded from these."""
    with torch.no_grad():
        if hasattr(model, "encoders"):
            decoded, latents = model.rae_encode(x)
            return {"rounded": latents, "decoded": decoded}
        packets = model.wavelet_analysis(x, J=levels)
        rounded = model.encoder(packets)
        decoded = model.wavelet_synthesis(model.decoder(rounded), J=levels)
        if getattr(model, "post", None) is not None and "post.weight" in model.state_dict():
            decoded = model.post(decoded)
        return {"latents": model.encoder[:2](packets), "rounded": rounded, "decoded": decoded}


def save_golden(name: str, arrays: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    values = {key: value.to(torch.int8 if key == "rounded" else torch.float32) for key, value in arrays.items()}
    metadata = {"shapes": json.dumps(shapes, separators=(",", ":"))}
    safetensors.torch.save_file(values, GOLDEN / f"{name}.safetensors", metadata)


def load_golden(name: str) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    with safetensors.safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        shapes = {key: tuple(shape) for key, shape in json.loads(file.metadata()["shapes"]).items()}
        return {key: file.get_tensor(key) for key in file.keys()}, shapes  # noqa: SIM118 (no mapping)


class Config:
    """Stands for the notebook class that old checkpoints hold an instance of."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


def taps(dims: int) -> dict[str, Tensor]:
    low, high, g0, g1 = torch.from_numpy(library_taps("bior4.4")).float()
    values = {"wt.h0": low.flip(0), "wt.h1": high.flip(0), "iwt.g0": g0, "iwt.g1": g1}
    if dims == 1:
        return {name: value.view(1, 1, -1).clone() for name, value in values.items()}
    shapes = {"_col": (1, 1, -1, 1), "_row": (1, 1, 1, -1)}
    return {name + axis: value.view(shape).clone() for name, value in values.items() for axis, shape in shapes.items()}


def save_checkpoint(
    folder: Path, name: str, form: str = "record", edit: Callable[[dict[str, Tensor]], object] | None = None
) -> Path:
    """Write a golden case as a checkpoint of one of the generations that are about."""
    case, (_, shapes) = CASES[name], load_golden(name)
    state = {**make_state(shapes), **taps(len(case.size))}
    if edit:
        edit(state)
    content: dict[str, Any] = {"model_state_dict": state}
    main, own = sys.modules["__main__"], "tests.reference"
    file = folder / f"{name}.pth"
    if form == "json":
        file.with_suffix(".json").write_text(json.dumps({**case.settings, "epochs": 150, "ϕ": 0}))
    elif form == "record":
        content |= {"config": Config(**case.settings), "i_epoch": 3, "dist_losses": [-1.5, -2.0]}
    elif form == "args":
        content["args"] = Config(**case.settings)
    Config.__module__, vars(main)["Config"] = "__main__", Config  # as a notebook has it
    try:
        torch.save(content, file)
    finally:
        Config.__module__ = own
        del vars(main)["Config"]
    return file

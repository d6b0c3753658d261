"""Tensors computed from a codec's weights when they are first needed, and kept until these change."""

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from .codec import Codec
from .decoders import LinearDecoder
from .folding import stamp_of

__all__ = ["check_linear", "derived"]

_KEPT: "weakref.WeakKeyDictionary[Codec, tuple[object, dict[Hashable, tuple[Tensor, ...]]]]" = (
    weakref.WeakKeyDictionary()
)


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
    """Return what ``make`` computes from the codec's weights, computed once for every name and device.

    Args:
        codec: The codec.
        name: What is computed.
        device: Where the tensors are needed.
        make: Computes them of the encoder and a linear decoder, on the CPU, without gradients.
    """
    decoder = codec.decoder
    weights = codec.fingerprint(), stamp_of([*decoder.parameters()] if isinstance(decoder, LinearDecoder) else [])
    of, known = _KEPT.get(codec, (None, {}))
    if of != weights:
        known = {}
        _KEPT[codec] = weights, known
    if (name, device) not in known:
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
            known[name, device] = tuple(tensor.to(device) for tensor in make())
    return known[name, device]

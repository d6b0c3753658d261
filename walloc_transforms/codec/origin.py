"""What latents say of themselves, compared with the codec that is to use them.

``wt.Latents`` live in a room above; here they are known by what they carry. A plain tensor says nothing, and is
believed.
"""

import hashlib
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .folding import stamp_of

__all__ = ["CheckedLatents", "as_plain", "check_latents", "statistics_fingerprint"]


class CheckedLatents(NamedTuple):
    """What :func:`check_latents` returns.

    Attributes:
        tensor: The latents as a plain tensor.
        normalized: Whether they are normalized.
        size: Size of the signal; None for a plain tensor, which does not tell.
    """

    tensor: Tensor
    normalized: bool
    size: tuple[int, ...] | None


def check_latents(latents: Tensor, codec: Any, normalized: bool = False) -> CheckedLatents:
    """Look at latents before they are used by a codec: are they its own, and are they normalized?

    Args:
        latents: ``wt.Latents``, or a plain tensor, which is believed.
        codec: The ``Codec`` that is to decode or read them; its file imports this one.
        normalized: What the caller was told; ``wt.Latents`` know it themselves.

    Raises:
        ValueError: They are another codec's, normalized by statistics that are not the codec's, integers that are
            said to be normalized, or not normalized though the caller was told so.
        TypeError: Not a tensor.
    """
    given: Any = latents
    if not isinstance(latents, Tensor):
        raise TypeError(f"expected a tensor of latents, got {type(latents).__name__}")
    if (normalized or getattr(given, "normalized", False)) and not given.is_floating_point():
        raise ValueError(f"latents of dtype {given.dtype} are rounded, and cannot be normalized ones")
    if getattr(given, "fingerprint", None) is None:
        return CheckedLatents(latents, normalized, None)
    if not torch.compiler.is_compiling():  # which cannot trace a fingerprint
        if given.fingerprint != codec.fingerprint():
            raise ValueError(
                f"these latents were encoded by codec {given.codec!r} (fingerprint {given.fingerprint[:8]}), not "
                f"by {codec.config.name!r} of {codec.config.channels} channels ({codec.fingerprint()[:8]}): decode "
                "them with the codec that encoded them"
            )
        if normalized and not given.normalized:
            raise ValueError(f"these latents of codec {given.codec!r} are not normalized: expected normalized ones")
        if given.normalized and given.statistics not in ("", statistics_fingerprint(codec)):
            raise ValueError(
                f"these latents were normalized by other statistics than those of the codec {codec.config.name!r} at "
                "hand: expected the codec that normalized them, as fit_statistics gave it"
            )
    return CheckedLatents(as_plain(latents), given.normalized, given.signal_size)


def as_plain(tensor: Tensor) -> Tensor:
    """Make a plain tensor of a tv_tensor, in the same memory."""
    # The compiler does not know as_subclass of such a class; indexing takes 5 us where as_subclass takes 1.
    return tensor[...] if torch.compiler.is_compiling() else tensor.as_subclass(Tensor)


_STATISTICS: "weakref.WeakKeyDictionary[Any, tuple[object, str]]" = weakref.WeakKeyDictionary()


def statistics_fingerprint(codec: Any) -> str:
    """Hash the mean and spread that latents are normalized by: SHA-256, kept until they change."""
    parts = [codec.latent_mean, codec.latent_std]
    stamp, digest = _STATISTICS.get(codec, (None, ""))
    if stamp != stamp_of(parts):
        values = (part.detach().cpu().numpy().tobytes() for part in parts)
        stamp, digest = _STATISTICS[codec] = stamp_of(parts), hashlib.sha256(b"".join(values)).hexdigest()
    return digest

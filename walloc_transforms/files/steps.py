"""Steps of channels, as ``.wlc`` files store them: powers of ``2**(1/16)``, a byte each."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["ONE", "PER_OCTAVE", "factors", "scaled", "step_bytes", "step_values"]

PER_OCTAVE = 16
ONE = 128
"""The byte of step 1."""

_FRACTIONS = np.array([2 ** (i / PER_OCTAVE) for i in range(PER_OCTAVE)], np.float32)
_NEARLY_HALF = 0.45  # what lies about halfway goes to the smaller code, which saves 1 % of the bits at equal PSNR


def step_values(steps: bytes) -> Tensor:
    """Return the steps that bytes stand for, ``2**((byte - 128) / 16)``, alike on all machines."""
    codes = np.frombuffer(steps, np.uint8).astype(np.int32) - ONE
    return torch.from_numpy(np.ldexp(_FRACTIONS[codes % PER_OCTAVE], codes // PER_OCTAVE))


def step_bytes(steps: Tensor | Sequence[float], channels: int) -> bytes:
    """Return the bytes of the nearest steps that can be stored.

    Raises:
        ValueError: There are not as many steps as channels, or one is out of range.
    """
    values = np.asarray(steps.cpu() if isinstance(steps, Tensor) else steps, np.float64)
    if values.shape != (channels,):
        raise ValueError(f"expected a step for each of {channels} channels, got shape {values.shape}")
    with np.errstate(invalid="ignore", divide="ignore"):
        codes = np.rint(np.log2(values) * PER_OCTAVE) + ONE
    if not ((codes >= 0) & (codes <= 255)).all():
        raise ValueError(f"steps must be from 1/256 to 245, got some from {values.min():g} to {values.max():g}")
    return codes.astype(np.uint8).tobytes()


def factors(latents: Tensor, steps: Tensor) -> Tensor:
    """Divide latents ``(D, ...)`` by the steps of their channels ``(D,)``, and round them, halves towards 0."""
    quotients = latents / _along(steps, latents)
    return torch.trunc(quotients + torch.full_like(quotients, _NEARLY_HALF).copysign(quotients))


def scaled(factors: Tensor, steps: Tensor) -> Tensor:
    """Multiply what :func:`factors` gives by the steps, ``(D,)`` or of further channels, float32."""
    return factors * _along(steps[: len(factors)], factors)


def _along(steps: Tensor, latents: Tensor) -> Tensor:
    return steps.view(-1, *[1] * (latents.ndim - 1))

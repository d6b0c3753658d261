"""Bounds of the latents of all signals in range, by which values that no image or waveform has are noticed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .filters import analysis_bank
from .polyphase import by_bands

__all__ = ["projection_bounds"]


@torch.inference_mode(False)
@torch.no_grad()
def projection_bounds(weight: Tensor, bias: Tensor, wavelet: str, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Bound ``weight @ WPT(x) + bias`` for every signal ``-0.5 <= x <= 0.5``.

    A latent is a sum of samples times the taps of a composed filter, so its distance from the bias is at most half the
    sum of their absolute values. Reflection and periodic continuation only choose which samples those are, so the
    bounds hold for any size. They are exact but for a margin for rounding: a thousandth of the distance.

    Args:
        weight: ``(D, C * bands)`` on the CPU.
        bias: ``(D,)``.
        wavelet: Name of the wavelet.
        levels: Number of levels along each axis.

    Returns:
        Lowest and highest value of each channel, each float32 ``(D,)``.
    """
    banks = [torch.from_numpy(analysis_bank(wavelet, level).filters) for level in levels]
    bands = by_bands(weight.double().unflatten(1, (-1, 2 ** sum(levels))), levels)
    taps = bands.shape[1]
    for bank in banks:
        taps *= bank.shape[1]
    rows = max(1, (1 << 22) // taps)  # 32 MB of taps at a time
    sums = torch.cat([_response(part, banks).abs().flatten(1).sum(1) for part in bands.split(rows)])
    bias = bias.double()
    reach = 1.001 * 0.5 * sums + 1e-6 * bias.abs()
    return (bias - reach).float(), (bias + reach).float()


def _response(bands: Tensor, banks: Sequence[Tensor]) -> Tensor:
    """Compose rows of the projection with the filters: the taps of each latent channel, ``(D, C, taps, ...)``."""
    for bank in banks:  # each turn moves one axis behind the others and filters it
        bands = bands.movedim(2, -1) @ bank
    return bands

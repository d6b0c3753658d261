"""Flip an image or a video in its latents: decode linearly, flip, encode, as one convolution along the flipped axis.

    latents --expand--> z --reverse the cells--> --taps, D x D--> z of the flipped image --compand--> latents

Wavelet packets of the flipped image are not the packets in reverse order: the filters of most wavelets lie off the
middle of a cell. But the linear decoder, the flip and the linear encoder are linear maps, so the taps of their product
are read off impulses, from the codec's own weights and without data. Along the other axes synthesis and analysis
cancel, which leaves one. What the latents do not hold of the image cannot be flipped; that is the error. A flip with
CDF 9/7 looks at three cells to either side; wavelets that are far from symmetric look farther.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..wavelets import (
    WaveletPacketAnalysis,
    WaveletPacketSynthesis,
    analysis_bank,
    band_positions,
    in_full_precision,
    synthesis_bank,
)
from .codec import Codec
from .decoders import LinearDecoder
from .derived import check_linear, derived

__all__ = ["check_flips", "flip"]

_NEGLIGIBLE = 2e-5  # of the energy that all bands are moved with: the part that cells farther away hold, at most


def check_flips(codec: Codec) -> None:
    """Refuse a codec whose latents cannot be flipped.

    Raises:
        ValueError: Its encoder is a network, it codes in stages, or it is for audio.
    """
    c = codec.config
    if c.modality == "audio":
        raise ValueError(f"only images and volumes are flipped: codec {c.name!r} is for {c.modality}")
    check_linear(codec, "flipped")


def flip(latents: Tensor, codec: Codec, axis: int, *, wraps: bool = True) -> Tensor:
    """Approximate the latents of the flipped image.

    Args:
        latents: ``(..., D, h, w)`` of images or ``(..., D, t, h, w)`` of volumes, float or int8, not normalized. The
            side of the images along ``axis`` is a multiple of the codec's stride.
        codec: The codec that encoded them.
        axis: -1 flips left and right, -2 upside down.
        wraps: Whether the first cell and the last are neighbors, as encoding makes them. Otherwise, after a crop, the
            outer cell is repeated beyond the border.

    Returns:
        Float32 latents of the same shape, not rounded.

    Raises:
        ValueError: The codec's latents cannot be flipped; see :func:`check_flips`.
    """
    check_flips(codec)
    device = latents.device
    kernel, constant = derived(codec, ("flip", axis), device, functools.partial(_impulse_responses, codec, axis))
    cells, reach = latents.shape[axis], kernel.shape[axis] // 2
    before, after = torch.arange(-reach, 0, device=device), torch.arange(cells, cells + reach, device=device)
    before, after = (i % cells if wraps else i.clamp(0, cells - 1) for i in (before, after))
    x, convolve = latents.reshape(-1, *latents.shape[-codec.config.dims - 1 :]), (F.conv2d, F.conv3d)
    # Expanded last, as int8 is cheaper to lay out.
    x = torch.cat([x.index_select(axis, before), x, x.index_select(axis, after)], axis).flip(axis)
    with in_full_precision(latents):
        convolved = convolve[codec.config.dims - 2](codec.expand(x), kernel, constant)
        return codec.compand(convolved).view(latents.shape)


def _impulse_responses(codec: Codec, axis: int) -> tuple[Tensor, Tensor]:
    """Return the weight of a convolution and its bias, float32 on the CPU."""
    c = codec.config
    as_double = functools.partial(torch.Tensor.to, device="cpu", dtype=torch.float64)
    weight, bias = as_double(codec.weight.detach()), as_double(codec.bias.detach())
    if isinstance(codec.decoder, LinearDecoder):
        back, start = as_double(codec.decoder.weight.detach()), as_double(codec.decoder.bias.detach())
    else:  # the decoder is a network: invert the projection
        back = torch.linalg.pinv(weight)
        start = -back @ bias
    moved, order = moved_bands(c.wavelet, c.axis_levels[axis]), _order(c.axis_levels, axis)
    bands = len(moved)
    rows = weight.view(c.channels, c.signal_channels, -1)[..., order].view(c.channels, -1, bands)
    back, start = (
        of.view(c.signal_channels, len(order), -1)[:, order].view(-1, bands, of[0].numel()) for of in (back, start)
    )
    # A convolution of torch is a correlation: its last tap is for the cell that the impulse is moved away from.
    taps = torch.einsum("drb,abk,rae->dek", rows, near_cells(moved).flip(-1), back)
    constant = torch.einsum("drb,ab,rae->d", rows, moved.sum(-1), start) + bias
    kernel = taps.float().contiguous().view(*taps.shape[:2], *[1] * (c.dims + axis), -1, *[1] * (-1 - axis))
    return kernel, constant.float()


def moved_bands(wavelet: str, levels: int) -> Tensor:
    """Flip an impulse in each band of a signal: ``(band, band it goes to, cells from the middle)``, float64."""
    bands = 2**levels
    if not levels:
        return torch.ones(1, 1, 1, dtype=torch.float64)
    taps = sum(bank(wavelet, levels).filters.shape[1] for bank in (analysis_bank, synthesis_bank))
    farthest = -(-taps // bands)  # cells: no impulse comes farther
    impulses = torch.zeros(bands, bands, 2 * farthest + 1, dtype=torch.float64)
    impulses[..., farthest] = torch.eye(bands)
    signals = WaveletPacketSynthesis(wavelet, levels, 1)(impulses)
    return WaveletPacketAnalysis(wavelet, levels, 1)(signals.flip(-1))


def near_cells(moved: Tensor) -> Tensor:
    """Cut moved bands down to the cells that matter, the same number to either side."""
    energy, middle = moved.square().sum((0, 1)), moved.shape[2] // 2
    farther = (energy + energy.flip(0))[middle + 1 :].flip(0).cumsum(0).flip(0)  # at least 1, 2, ... cells away
    reach = int((farther > _NEGLIGIBLE * energy.sum()).sum())
    return moved[..., middle - reach : middle + reach + 1]


def _order(levels: Sequence[int], axis: int) -> Tensor:
    """Sort the packets so that those lie together which differ in their band along the axis alone."""
    positions = [*torch.from_numpy(band_positions(levels))]
    place, along = torch.zeros_like(positions[0]), positions.pop(axis)
    for others in positions:
        place = place * 2 ** max(levels) + others
    return (place * 2 ** max(levels) + along).argsort()

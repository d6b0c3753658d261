"""Flip an image in its latents: decode linearly, flip, encode, as one convolution along the flipped axis.

    latents --expand--> z --reverse the cells--> --7 taps, D x D--> z of the flipped image --compand--> latents

Wavelet packets of the flipped image are not the packets in reverse order: the filters of most wavelets lie off the
middle of a cell. But the linear decoder, the flip and the linear encoder are linear maps, so the taps of their product
are read off impulses, from the codec's own weights and without data. Across the flipped axis synthesis and analysis
cancel, which leaves one axis. What the latents do not hold of the image cannot be flipped; that is the error.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..wavelets import WaveletPacketAnalysis, WaveletPacketSynthesis, in_full_precision
from .codec import Codec
from .decoders import LinearDecoder
from .derived import check_linear, derived

__all__ = ["check_flips", "flip"]

REACH = 3  # cells to either side; more changes nothing that can be measured


def check_flips(codec: Codec) -> None:
    """Refuse a codec whose latents cannot be flipped.

    Raises:
        ValueError: Its encoder is a network, it codes in stages, or it is for audio.
    """
    c = codec.config
    if c.modality != "image":
        raise ValueError(f"only images are flipped: codec {c.name!r} is for {c.modality}")
    check_linear(codec, "flipped")


def flip(latents: Tensor, codec: Codec, axis: int, *, wraps: bool = True) -> Tensor:
    """Approximate the latents of the flipped image.

    Args:
        latents: ``(..., D, h, w)`` of images, float or int8, not normalized. The side of the images along ``axis`` is a
            multiple of the codec's stride.
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
    cells = latents.shape[axis]
    before, after = torch.arange(-REACH, 0, device=device), torch.arange(cells, cells + REACH, device=device)
    before, after = (i % cells if wraps else i.clamp(0, cells - 1) for i in (before, after))
    x = latents.reshape(-1, *latents.shape[-3:])
    # Expanded last, as int8 is cheaper to lay out.
    x = torch.cat([x.index_select(axis, before), x, x.index_select(axis, after)], axis).flip(axis)
    with in_full_precision(latents):
        return codec.compand(F.conv2d(codec.expand(x), kernel, constant)).view(latents.shape)


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
    analysis = WaveletPacketAnalysis(c.wavelet, c.levels, c.dims)
    synthesis = WaveletPacketSynthesis(c.wavelet, c.levels, c.dims)
    cells, middle = 8 * REACH, 4 * REACH
    z = torch.zeros(c.channels + 1, c.channels, cells, dtype=torch.float64)  # the last is the response to nothing
    z[: c.channels, :, cells - 1 - middle] = torch.eye(c.channels, dtype=torch.float64)
    z = z.unsqueeze(-2 if axis == -1 else -1)
    packets = torch.einsum("pd,nd...->np...", back, z) + start.view(-1, 1, 1)
    flipped = torch.einsum("dp,np...->nd...", weight, analysis(synthesis(packets).flip(axis)))
    flipped = (flipped + bias.view(-1, 1, 1)).flatten(2)
    responses, constant = flipped[:-1] - flipped[-1], flipped[-1].mean(-1)
    # A convolution of torch is a correlation: its last tap is for the cell that the impulse is moved away from.
    taps = responses[..., middle - REACH : middle + REACH + 1].flip(-1).transpose(0, 1)
    return taps.unsqueeze(-2 if axis == -1 else -1).float().contiguous(), constant.float()

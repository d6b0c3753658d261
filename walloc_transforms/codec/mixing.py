"""Change the channels of a signal in its latents: ``C x + c`` for every sample x, a matrix and a constant per record.

    latents --expand--> z --M z + m, cell by cell--> z of the changed signal --compand--> latents

Contrast, gain and polarity are a multiple of the unit matrix. The projection is linear, so they are exact: ``M = a``,
and what the projection adds, its bias, is added once. Brightness is a constant, whose response is known. Colors and
stereo channels are mixed by decoding the packets linearly, mixing and projecting again, which is one matrix for a cell;
what the latents do not hold of the signal cannot be mixed, and that is the error.
"""

import functools

import torch
from torch import Tensor

from ..wavelets import WaveletPacketAnalysis, in_full_precision
from .codec import Codec
from .decoders import LinearDecoder
from .derived import check_linear, derived

__all__ = ["mean_signal", "mix", "packet_noise"]


def mix(z: Tensor, codec: Codec, matrices: Tensor, constants: Tensor) -> Tensor:
    """Approximate the projection of the mixed signals.

    Args:
        z: Expanded latents ``(N, D, ...)`` of the codec.
        codec: The codec that encoded them.
        matrices: C of every record, ``(N, channels, channels)`` of the signal's channels.
        constants: c of every record, ``(N, channels)``, in the codec's own range, [-0.5, 0.5].

    Returns:
        The expanded latents, float32, of the same shape.

    Raises:
        ValueError: The codec's encoder is not one linear projection.
    """
    turn, response, _, bias = _parts(codec, z.device)
    with in_full_precision(z):
        m = torch.einsum("dcek,nce->ndk", turn, matrices.to(turn))
        shift = bias - m @ bias + constants.to(turn) @ response.T
        return torch.baddbmm(shift.unsqueeze(-1), m, z.flatten(2)).view(z.shape)


def mean_signal(z: Tensor, codec: Codec) -> Tensor:
    """Tell the means of the signals' channels, ``(N, channels)``, in the codec's own range, from expanded latents.

    Raises:
        ValueError: The codec's encoder is not one linear projection.
    """
    _, _, level, bias = _parts(codec, z.device)
    with in_full_precision(z):
        return (z.flatten(2).mean(-1) - bias) @ level.T


def packet_noise(z: Tensor, codec: Codec, sigma: float) -> Tensor:
    """Draw what white noise on a signal gives in its expanded latents, of the shape of ``z``.

    It has the covariance of the channels within a cell; from cell to cell it is independent, which noise of signals is
    nearly.

    Args:
        z: Expanded latents ``(N, D, ...)``, of which shape and device are used.
        codec: The codec that encoded them.
        sigma: Standard deviation of the noise in the codec's own range.

    Raises:
        ValueError: The codec's encoder is not one linear projection.
    """
    check_linear(codec, "given noise of a signal")
    (root,) = derived(codec, "noise", z.device, functools.partial(_noise_root, codec))
    with in_full_precision(z):
        return (root @ torch.randn_like(z.flatten(2)) * sigma).view(z.shape)


def _noise_root(codec: Codec) -> tuple[Tensor]:
    """Return the root of the covariance of white noise, measured on a million samples of it, or two."""
    c = codec.config
    noise = torch.randn(1, 1, *[2 ** -(-20 // c.dims)] * c.dims, generator=torch.Generator().manual_seed(0))
    packets = WaveletPacketAnalysis(c.wavelet, c.levels, c.dims)(noise).flatten(2)[0].double()
    rows = codec.weight.detach().double().cpu().view(c.channels, c.signal_channels, -1)
    covariance = torch.einsum("dcp,pq,ecq->de", rows, torch.cov(packets), rows)
    values, vectors = torch.linalg.eigh(covariance)  # also of projections that do not use all their channels
    return ((vectors * values.clamp(min=0).sqrt()).float(),)


def _parts(codec: Codec, device: torch.device) -> tuple[Tensor, ...]:
    check_linear(codec, "mixed")
    return derived(codec, "mixing", device, functools.partial(_make_parts, codec))


def _make_parts(codec: Codec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what of M every entry of C brings ``(D, C, C, D)``, responses ``(D, C)``, means ``(C, D)`` and bias."""
    c = codec.config
    weight, bias = codec.weight.detach().double().cpu(), codec.bias.detach().double().cpu()
    if isinstance(codec.decoder, LinearDecoder):
        back = codec.decoder.weight.detach().double().cpu()
        back = back @ torch.linalg.pinv(weight @ back)  # projecting what it decodes gives the same latents, exactly
    else:  # the decoder is a network
        back = torch.linalg.pinv(weight)
    rows, columns = weight.view(c.channels, c.signal_channels, -1), back.view(c.signal_channels, -1, c.channels)
    ones = torch.ones(1, 1, *[8 * stride for stride in c.strides], dtype=torch.float64)
    constant = (
        WaveletPacketAnalysis(c.wavelet, c.levels, c.dims)(ones).flatten(2).mean(-1)[0]
    )  # only its first is not 0
    level = torch.einsum("cpk,p->ck", columns, constant / constant.square().sum())
    turn = torch.einsum("dcp,epk->dcek", rows, columns)
    return turn.float(), (rows @ constant).float(), level.float(), bias.float()

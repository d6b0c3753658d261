"""What the tests of the folded transforms share: geometries, random projections, and the same in float64."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from walloc_transforms.codec.decoders import LinearDecoder
from walloc_transforms.wavelets import (
    FoldedAnalysis,
    FoldedSynthesis,
    WaveletPacketAnalysis,
    WaveletPacketSynthesis,
    analysis_bank,
    conv1x1,
)

# latent channels, levels, signal channels, size
CASES = [
    (12, 3, 3, (8, 8)),
    (12, 3, 3, (16, 24)),
    (12, 3, 3, (40, 72)),
    (48, 3, 3, (16, 24)),
    (192, 3, 3, (16, 24)),
    (1, 3, 3, (8, 16)),
    (4, 1, 1, (2, 6)),
    (3, 1, 3, (10, 4)),
    (5, 2, 2, (4, 12)),
    (12, 4, 3, (16, 16)),
    (96, 4, 1, (48, 32)),
    (3, 1, 2, (2,)),
    (6, 3, 2, (40,)),
    (16, 4, 1, (48,)),
    (10, 8, 2, (256,)),
    (10, 8, 1, (768,)),
    (108, 8, 2, (256,)),
    (108, 8, 2, (1280,)),
    (30, 5, 1, (288,)),
    (4, 2, 1, (4,)),
]

Reference = Callable[[Tensor], Tensor]


def terms(latents: int, levels: int, signals: int, dims: int, wavelet: str = "bior4.4") -> int:
    """Products in one value: of an encoder's taps with samples, or of a decoder's with latents; whichever are more."""
    taps = analysis_bank(wavelet, levels).filters.shape[1] + 2**levels
    return max(signals * taps**dims, latents * taps**dims // 2 ** (levels * dims))


def projection(latents: int, levels: int, signals: int, dims: int) -> tuple[Tensor, Tensor]:
    packets = signals * 2 ** (levels * dims)
    return torch.randn(latents, packets) / packets**0.5, torch.randn(latents)


def analysis_and_reference(
    latents: int,
    levels: int,
    signals: int,
    dims: int,
    wavelet: str = "bior4.4",
    convolutions: Callable[..., Any] | None = None,
    **options: Any,
) -> tuple[FoldedAnalysis, Reference]:
    weight, bias = projection(latents, levels, signals, dims)
    plain = WaveletPacketAnalysis(wavelet, levels, dims)
    fast = FoldedAnalysis(weight, bias, wavelet=wavelet, levels=(levels,) * dims, **options)
    if convolutions is not None:
        fast.convolutions = convolutions(weight.double(), wavelet, [levels] * dims if dims == 2 else levels)
    return fast, lambda x: conv1x1(plain(x.double()), weight.double(), bias.double()).float()


def synthesis_and_reference(
    latents: int,
    levels: int,
    signals: int,
    dims: int,
    wavelet: str = "bior4.4",
    convolutions: Callable[..., Any] | None = None,
    **options: Any,
) -> tuple[FoldedSynthesis, Reference]:
    decoder = LinearDecoder(latents, signals * 2 ** (levels * dims))
    decoder.bias.normal_()
    plain = WaveletPacketSynthesis(wavelet, levels, dims)
    fast = FoldedSynthesis(decoder.weight, decoder.bias, wavelet=wavelet, levels=(levels,) * dims, **options)
    if convolutions is not None:
        fast.convolutions = convolutions(decoder.weight.double(), wavelet, [levels] * dims if dims == 2 else levels)
    decoder = copy.deepcopy(decoder).double()
    return fast, lambda z: plain(decoder(z.double())).float()

"""What the tests of the codec share: random codecs, and the definition of encoding and decoding in float64."""

import math

import torch
from torch import Tensor

from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.packets import WaveletPacketAnalysis, WaveletPacketSynthesis

LIMIT, SCALE = 127.499, 127 / 1.85  # of 8-bit companding


def make_codec(
    channels: int = 12, levels: int = 3, signals: int = 3, dims: int = 2, gain: float = 150.0, **options
) -> Codec:
    """A random codec whose latents for uniform noise use the 8 bits, and whose decoder is the pseudo-inverse."""
    modality = "image" if dims == 2 else "audio"
    codec = Codec(CodecConfig("random", modality, signals, channels, levels, **options))
    with torch.no_grad():
        codec.weight.mul_(gain)
        codec.bias.normal_(0, 5)
        if codec.decoder is not None:
            codec.decoder.weight.copy_(codec.weight.T / gain**2)
            codec.decoder.bias.copy_(codec.decoder.weight @ -codec.bias)
        codec.latent_mean.normal_(0, 5)
        codec.latent_std.uniform_(1, 50)
    return codec


def signal(*shape: int) -> Tensor:
    return torch.rand(shape) - 0.5


def reference_encode(codec: Codec, x: Tensor) -> Tensor:
    """``(N, C, ...)`` by the definition, in float64: packets, matrix, Gaussian distribution function."""
    c = codec.config
    packets = WaveletPacketAnalysis(c.wavelet, c.levels, c.dims)(x.double())
    z = torch.einsum("dc,nc...->nd...", codec.weight.double(), packets) + codec.bias.double().view(-1, *[1] * c.dims)
    q = 2 ** (c.latent_bits - 1) - 1
    return ((q + 0.499) * torch.erf(z * 1.85 / q / math.sqrt(2))).float()


def reference_decode(codec: Codec, latents: Tensor) -> Tensor:
    c = codec.config
    share = (latents.double() / (2 * LIMIT) + 0.5).clamp(1e-4, 1 - 1e-4)
    z = SCALE * torch.special.ndtri(share)
    packets = torch.einsum("cd,nd...->nc...", codec.decoder.weight.double(), z)
    packets += codec.decoder.bias.double().view(-1, *[1] * c.dims)
    return WaveletPacketSynthesis(c.wavelet, c.levels, c.dims)(packets).float()


def stem_codec() -> Codec:
    """A codec of 12 channels whose statistics are not those of a fresh one."""
    torch.manual_seed(1)
    codec = Codec(CodecConfig("test", "image", 3, 12, 3))
    codec.latent_mean.normal_(0, 3)
    codec.latent_std.uniform_(1, 5)
    return codec


def pixels(side: int = 64, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, side, side) - 0.5

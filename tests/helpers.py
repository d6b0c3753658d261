"""What the tests of the codec share: random codecs, and the definition of encoding and decoding in float64."""

import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision import tv_tensors

from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.codec.refiner import Refiner
from walloc_transforms.files import pack_latents
from walloc_transforms.wavelets import FoldedAnalysis
from walloc_transforms.wavelets.packets import WaveletPacketAnalysis, WaveletPacketSynthesis


def numba_is_missing() -> bool:
    try:
        FoldedAnalysis(torch.eye(2), torch.zeros(2), wavelet="bior4.4", levels=(1,), backend="lifting")
    except ImportError:
        return True
    return False


# Type checkers hold the arguments of these against those of Tensor.
bounding_boxes: Any = tv_tensors.BoundingBoxes
key_points: Any = tv_tensors.KeyPoints

needs_numba = pytest.mark.skipif(numba_is_missing(), reason="lifting needs numba")
# How workers can be started on this system. New interpreters import torch again, which takes seconds.
STARTS = [
    start if start == "fork" else pytest.param(start, marks=pytest.mark.slow)
    for start in multiprocessing.get_all_start_methods()
]
BACKENDS = ["convolutions", pytest.param("lifting", marks=needs_numba)]


def assert_close_float32(actual: Any, expected: Any, *, terms: int, factor: float = 2.0) -> None:
    """Compare a float32 result with the same result in float64, or computed in another order.

    Rounding errors of a sum of products behave as a random walk: they grow with the square root of the number of terms
    and with the size of what is summed. So a value v may be off by ``factor * eps * sqrt(terms) * (rms + |v|)``, where
    rms is the root mean square of all expected values. A wrong tap or a shift by one is wrong by a thousand times that.

    Args:
        actual: Tensor or array, float32.
        expected: Tensor or array, float32.
        terms: Number of products in one result.
        factor: Larger where intermediate results are larger than the final ones.
    """
    actual, expected = torch.as_tensor(actual).detach(), torch.as_tensor(expected).detach()
    assert actual.dtype == expected.dtype == torch.float32
    tolerance = factor * torch.finfo(torch.float32).eps * math.sqrt(terms)
    rms = float(expected.double().square().mean().sqrt()) if expected.numel() else 0.0
    assert_close(actual, expected, rtol=tolerance, atol=tolerance * rms)


PRODUCTS = 12 * 192  # in one packet or sample of the codecs that the tests make, about

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


def make_refiner(channels: int, packets: int, dims: int = 2, width: int = 8, blocks: int = 1) -> Refiner:
    """One with random weights, none of them zero; but for ``scale``, half precision holds them exactly."""
    refiner = Refiner(channels, packets, width, blocks, dims)
    with torch.no_grad():
        for name, p in refiner.named_parameters():
            p.normal_(
                1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.5 if p.ndim == 1 else p[0].numel() ** -0.5
            )
            p.copy_(p.half())
        refiner.scale.uniform_(0.05, 0.2)
    return refiner


def give_refiner(codec: Codec, width: int = 8, blocks: int = 1) -> Codec:
    """Give a codec a random refiner."""
    c = codec.config
    codec.set_refiner(make_refiner(c.channels, c.packets, c.dims, width, blocks))
    return codec


def loaded_refiner(codec: Codec) -> Refiner:
    assert codec.refiner is not None
    return codec.refiner


def write_latents(file: Path, latents: Tensor, **options: Any) -> int:
    """Write a ``.wlc`` file of any codec's name and fingerprint, as ``pack_latents`` takes them; returns its bytes."""
    return file.write_bytes(pack_latents(latents, **options))


def signal(*shape: int) -> Tensor:
    """Noise within the range of images and of waveforms."""
    return torch.rand(shape)


def reference_encode(codec: Codec, x: Tensor) -> Tensor:
    """``(N, C, ...)`` by the definition, in float64: packets, matrix, Gaussian distribution function."""
    c = codec.config
    centered = x.double() - 0.5 if c.dims == 2 else x.double() / 2
    packets = WaveletPacketAnalysis(c.wavelet, c.levels, c.dims)(centered)
    z = torch.einsum("dc,nc...->nd...", codec.weight.double(), packets) + codec.bias.double().view(-1, *[1] * c.dims)
    q = 2 ** (c.latent_bits - 1) - 1
    return ((q + 0.499) * torch.erf(z * 1.85 / q / math.sqrt(2))).float()


def reference_features(refiner: Refiner, x: Tensor) -> Tensor:
    """Features of normalized latents ``(N, D, ...)`` by the definition, in float64."""
    state = {name: value.double() for name, value in refiner.state_dict().items()}
    sides = (1, 1, 1, 1) if refiner.dims == 2 else (1, 1)

    def conv(x: Tensor, name: str) -> Tensor:
        weight, bias, padded = state[f"{name}.weight"], state[f"{name}.bias"], F.pad(x, sides)
        return F.conv2d(padded, weight, bias) if refiner.dims == 2 else F.conv1d(padded, weight[:, :, 0], bias)

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        shape = (-1, *[1] * refiner.dims)
        return x * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)

    x = conv(x.double(), "stem")
    for i in range(len(refiner.blocks)):
        inner = conv(norm(x, f"blocks.{i}.norm"), f"blocks.{i}.conv1")
        x = x + conv(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, f"blocks.{i}.conv2")
    return norm(x, "norm")


def reference_decode(codec: Codec, latents: Tensor, refined: bool = False, clamp: bool = True) -> Tensor:
    c = codec.config
    share = (latents.double() / (2 * LIMIT) + 0.5).clamp(1e-4, 1 - 1e-4)
    z = SCALE * torch.special.ndtri(share)
    packets = torch.einsum("cd,nd...->nc...", codec.decoder.weight.double(), z)
    packets += codec.decoder.bias.double().view(-1, *[1] * c.dims)
    if refined:
        refiner, shape = loaded_refiner(codec), (-1, *[1] * c.dims)
        normal = (latents.double() - codec.latent_mean.view(shape)) / codec.latent_std.view(shape)
        estimate = torch.einsum("pw,nw...->np...", refiner.head.double(), reference_features(refiner, normal))
        packets += estimate * refiner.scale.view(shape)
    centered = WaveletPacketSynthesis(c.wavelet, c.levels, c.dims)(packets)
    signal = (centered + 0.5 if c.dims == 2 else centered * 2).float()
    return signal.clamp(0 if c.dims == 2 else -1, 1) if clamp else signal


def stem_codec() -> Codec:
    """A codec of 12 channels whose statistics are not those of a fresh one."""
    torch.manual_seed(1)
    codec = Codec(CodecConfig("test", "image", 3, 12, 3))
    codec.latent_mean.normal_(0, 3)
    codec.latent_std.uniform_(1, 5)
    return codec


def pixels(side: int = 64, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, side, side)

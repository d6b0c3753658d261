"""The same codecs by other libraries, level by level, and checks that they and ours give the same."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import walloc_transforms as wt
from recipes.bench.library import PytorchWaveletsAnalysis
from walloc_transforms.codec.companding import compand, expand
from walloc_transforms.wavelets import conv1x1

Transform = Callable[[Tensor], Tensor]


def reference_encoder(codec: wt.Codec) -> Transform:
    """Encode float images in [0, 1] or waveforms in [-1, 1] with ``pytorch_wavelets``, a 1x1 convolution, companding.

    The wavelet transform is periodized; every band is split again at every level.
    """
    c = codec.config
    analysis = PytorchWaveletsAnalysis(c.wavelet, c.axis_levels[0], c.dims).to(codec.weight.device)

    @torch.no_grad()
    def encode(signal: Tensor) -> Tensor:
        signal = signal - 0.5 if c.modality == "image" else signal * 0.5
        return compand(conv1x1(analysis(signal), codec.weight, codec.bias), c.latent_bits)

    return encode


def reference_decoder(codec: wt.Codec, refined: bool = False) -> Transform:
    """Decode by the plain path, level by level, to images in [0, 1] or waveforms in [-1, 1].

    Args:
        codec: The codec.
        refined: With its refiner.
    """
    c = codec.config

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        packets = codec.decoder(expand(latents, c.latent_bits))
        if refined:
            refiner = codec.load_refiner()
            packets = packets + refiner.packets(refiner(codec.normalize(latents)))
        signal = codec.synthesis(packets)
        return (signal + 0.5).clamp(0, 1) if c.modality == "image" else (signal * 2).clamp(-1, 1)

    return decode


def published_network(codec: wt.Codec) -> wt.Codec | None:
    """Give a codec a decoder of the shape of the paper's, to time it: 57 million parameters, random; or None.

    It is None where diffusers, which builds it, is not installed.
    """
    if importlib.util.find_spec("diffusers") is None:
        return None
    c = codec.config
    made = wt.Codec(
        dataclasses.replace(
            c,
            name=f"network for {c.name}",
            decoder="autoencoder_kl",
            decoder_width=768,
            refiner_width=0,
            refiner_blocks=0,
        )
    ).to(codec.weight.device)
    made.load_decoder()
    return made


def ptwt_encoder(codec: wt.Codec) -> Transform | None:
    """Encode float images as :func:`reference_encoder` does, but with ``ptwt``; None where that is not installed.

    ``ptwt`` has no periodized mode. Its ``periodic`` one gives the same coefficients and a few of the next period on
    either side, which are cut off after every level; so this is not its own ``WaveletPacket2D``, which keeps them.
    """
    if importlib.util.find_spec("ptwt") is None:
        return None
    ptwt: Any = importlib.import_module("ptwt")
    pywt: Any = importlib.import_module("pywt")
    c = codec.config
    wavelet = pywt.Wavelet(c.wavelet)
    before = (wavelet.dec_len // 2 - 1) // 2  # coefficients of the period before

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        x = images - 0.5
        for _ in range(c.axis_levels[0]):
            h, w = x.shape[-2] // 2, x.shape[-1] // 2
            low, high = ptwt.wavedec2(x, wavelet, mode="periodic", level=1)
            bands = [band[..., before : before + h, before : before + w] for band in (low, *high)]
            x = torch.stack(bands, 2).flatten(1, 2)
        return compand(conv1x1(x, codec.weight, codec.bias), c.latent_bits)

    return encode


def check_latents(encode: Callable[..., Tensor], signal: Tensor, expected: Tensor) -> None:
    """Compare latents with the reference's, as they are and rounded.

    Rounding may go the other way where a latent lies halfway between two integers, but hardly anywhere else.

    Raises:
        AssertionError: Latents differ by more than 1e-3; rounded, by more than one, or more than 0.1 % of them.
    """
    torch.testing.assert_close(encode(signal), expected, atol=1e-3, rtol=0)
    difference = (encode(signal, quantize=True) - expected.round()).abs()
    count, most = int(difference.count_nonzero()), float(difference.max())
    if count > max(1, difference.numel() / 1000) or most > 1:
        raise AssertionError(f"{count} of {difference.numel()} rounded latents differ, by up to {most:g}")


def check_decoded(decode: Transform, latents: Tensor, expected: Tensor) -> None:
    """Compare decoded signals with the reference's.

    Raises:
        AssertionError: They differ by more than 1e-4.
    """
    torch.testing.assert_close(decode(latents), expected, atol=1e-4, rtol=0)

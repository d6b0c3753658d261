"""Volumes and video: parity with PyWavelets, reconstruction, and the folded path beside the plain one."""

import numpy as np
import pytest
import pywt
import torch
from torch.testing import assert_close

from tests.helpers import BACKENDS, assert_close_float32
from walloc_transforms.wavelets import (
    Backend,
    FoldedAnalysis,
    FoldedSynthesis,
    FoldedVolumeAnalysis,
    FoldedVolumeSynthesis,
    WaveletPacketAnalysis,
    WaveletPacketSynthesis,
    conv1x1,
    pad_to_multiple,
)

# levels of time, height and width; size
CASES = [
    ((3, 3, 3), (8, 8, 8)),
    ((2, 3, 3), (13, 41, 50)),
    ((1, 3, 3), (6, 16, 24)),
    ((0, 3, 3), (5, 24, 17)),
    ((3, 2, 1), (17, 12, 7)),
]
PRODUCTS = 57**3  # taps of three levels along three axes


def split(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """One level of PyWavelets; the last axis gives the highest bit of a channel's lowest digit."""
    bands = pywt.dwtn(x, "bior4.4", mode="periodization", axes=axes)
    names = sorted(bands, key=lambda name: name[::-1])  # 'a' is low-pass and comes first, the last axis decides
    return np.stack([bands[name] for name in names], 2).reshape(x.shape[0], -1, *bands[names[0]].shape[2:])


@pytest.mark.parametrize(
    ("levels", "size"), [((2, 2, 2), (8, 12, 16)), ((1, 2, 3), (4, 8, 16)), ((0, 2, 2), (3, 8, 8))]
)
def test_analysis_equals_pywavelets(levels: tuple[int, int, int], size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = x.numpy()
    for done in range(max(levels)):
        expected = split(expected, tuple(2 + axis for axis in range(3) if done < levels[axis]))
    assert_close(WaveletPacketAnalysis(levels=levels, dims=3)(x).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wavelet", ["bior4.4", "haar", "db3"])
@pytest.mark.parametrize(("levels", "size"), CASES)
def test_perfect_reconstruction(levels: tuple[int, int, int], size: tuple[int, ...], wavelet: str) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64) - 0.5
    packets = WaveletPacketAnalysis(wavelet, levels, 3)(x)
    assert packets.shape == (2, 3 * 2 ** sum(levels), *(-(-side // 2**j) for side, j in zip(size, levels, strict=True)))
    assert_close(WaveletPacketSynthesis(wavelet, levels, 3)(packets, size), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize(("levels", "size"), CASES)
def test_folded_equals_plain(
    levels: tuple[int, int, int], size: tuple[int, ...], wanted: bool, backend: Backend
) -> None:
    if backend == "lifting" and (wanted or levels[1] != levels[2]):
        pytest.skip("lifting gives no gradients and needs equal levels along height and width")
    packets = 2 * 2 ** sum(levels)
    weight, bias = torch.randn(5, packets) / packets**0.5, torch.randn(5)
    x = torch.rand(2, 2, *size, requires_grad=wanted)
    fast = FoldedVolumeAnalysis(weight, bias, wavelet="bior4.4", levels=levels, backend=backend)
    plain = WaveletPacketAnalysis(levels=levels, dims=3)(3 * x.detach().double() - 0.7)
    latents = fast(x, 3.0, -0.7)
    assert_close_float32(latents, conv1x1(plain, weight.double(), bias.double()).float(), terms=PRODUCTS)
    low, high = (bound.view(-1, 1, 1, 1) for bound in fast.projection_bounds())
    inside = fast(x.detach().round(), 1.0, -0.5)
    assert bool((inside >= low).all() & (inside <= high).all())
    weight, bias = torch.randn(packets, 5) / 5**0.5, torch.randn(packets)
    back = FoldedVolumeSynthesis(weight, bias, wavelet="bior4.4", levels=levels, backend=backend)
    expected = WaveletPacketSynthesis(levels=levels, dims=3)(conv1x1(latents.double(), weight.double(), bias.double()))
    signal = back(latents, 2.0, 0.3)
    assert_close_float32(signal, (2 * expected + 0.3).float().detach(), terms=PRODUCTS)
    if wanted:
        (gradient,) = torch.autograd.grad(signal.square().sum(), x)
        assert gradient.shape == x.shape
        assert bool(gradient.any())


def test_parts_join() -> None:
    weight, bias, x = torch.randn(6, 128), torch.randn(6), torch.rand(1, 2, 40, 9, 24)
    analysis = FoldedVolumeAnalysis(weight, bias, wavelet="bior4.4", levels=(2, 2, 2))
    synthesis = FoldedVolumeSynthesis(weight.T, weight[0], wavelet="bior4.4", levels=(2, 2, 2))
    latents = analysis(x)
    signal = synthesis(latents)
    for module in (analysis, synthesis):
        module.chunk = 1  # a cell of time at once
    assert_close_float32(analysis(x), latents, terms=PRODUCTS)
    assert_close_float32(synthesis(latents), signal, terms=PRODUCTS)


@pytest.mark.parametrize("levels", [(1, 3), (3, 1), (0, 2), (3, 2)])
def test_images_may_have_levels_of_each_axis(levels: tuple[int, int]) -> None:
    packets, size = 3 * 2 ** sum(levels), (17, 42)
    weight, bias, x = torch.randn(5, packets) / packets**0.5, torch.randn(5), torch.rand(2, 3, *size)
    plain = WaveletPacketAnalysis(levels=levels)(x.double())
    latents = FoldedAnalysis(weight, bias, wavelet="bior4.4", levels=levels)(x)
    assert_close_float32(latents, conv1x1(plain, weight.double(), bias.double()).float(), terms=PRODUCTS)
    assert_close(WaveletPacketSynthesis(levels=levels)(plain, size), x.double(), rtol=0, atol=1e-9)
    weight, bias = torch.randn(packets, 5) / 5**0.5, torch.randn(packets)
    signal = FoldedSynthesis(weight, bias, wavelet="bior4.4", levels=levels)(latents)
    expected = WaveletPacketSynthesis(levels=levels)(conv1x1(latents.double(), weight.double(), bias.double()))
    assert_close_float32(signal, expected.float(), terms=PRODUCTS)
    with pytest.raises(ValueError, match="levels, and lifting needs equal ones"):
        FoldedAnalysis(weight.T, bias[:5], wavelet="bior4.4", levels=levels, backend="lifting")(x)


def test_compiles_whole() -> None:
    weight, bias, x = torch.randn(6, 128), torch.randn(6), torch.rand(1, 2, 12, 9, 24)
    analysis = FoldedVolumeAnalysis(weight, bias, wavelet="bior4.4", levels=(2, 2, 2))
    compiled = torch.compile(analysis, fullgraph=True, backend="aot_eager")
    assert_close_float32(compiled(x), analysis(x), terms=PRODUCTS)


@pytest.mark.parametrize(
    ("levels", "match"),
    [
        ((0, 0, 0), "0 leaves an axis as it is, but not all"),
        ((1, 2), "a number, or one for each of 3 axes"),
        ((-1, 3, 3), "from 1 to 16"),
        ((17, 3, 3), "from 1 to 16"),
    ],
)
def test_wrong_levels(levels: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        WaveletPacketAnalysis(levels=levels, dims=3)


def test_too_small() -> None:
    with pytest.raises(ValueError, match="got 3x8x9 samples, expected at least 4x8x8"):
        pad_to_multiple(torch.rand(1, 1, 3, 8, 9), (4, 8, 8))

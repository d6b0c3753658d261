import copy
import pickle

import numpy as np
import pytest
import pywt
import torch
from torch import Tensor
from torch.testing import assert_close

from recipes.bench.library import PytorchWaveletsAnalysis
from tests.helpers import assert_close_float32
from tests.wavelets.cases import terms
from walloc_transforms.wavelets.packets import (
    WaveletPacketAnalysis,
    WaveletPacketSynthesis,
    conv1x1,
    crop,
    pad_to_multiple,
    periodic_pad,
)

uses_pytorch_wavelets = pytest.mark.filterwarnings("ignore:pkg_resources is deprecated")  # it imports that


def pywt_packets(x: np.ndarray, wavelet: str, levels: int) -> np.ndarray:
    """Third opinion: ``(N, C, *size)`` level by level, the band of a channel being its lowest digit."""
    for _ in range(levels):
        if x.ndim == 3:
            bands = pywt.dwt(x, wavelet, mode="periodization", axis=-1)
        else:
            low, high = pywt.dwt2(x, wavelet, mode="periodization", axes=(-2, -1))
            bands = (low, *high)
        x = np.stack(bands, 2).reshape(x.shape[0], -1, *bands[0].shape[2:])
    return x


def round_trip(x: Tensor, levels: int, wavelet: str = "bior4.4") -> Tensor:
    dims = x.ndim - 2
    packets = WaveletPacketAnalysis(wavelet, levels, dims)(x)
    return WaveletPacketSynthesis(wavelet, levels, dims)(packets, x.shape[2:])


@pytest.mark.parametrize("wavelet", ["bior4.4", "haar", "db2", "bior2.2", "sym4"])
@pytest.mark.parametrize(
    ("levels", "size"),
    [
        (1, (2, 4)),
        (2, (12, 8)),
        (3, (8, 8)),
        (3, (16, 24)),
        (3, (40, 72)),
        (4, (16, 80)),
        (1, (2,)),
        (3, (40,)),
        (8, (256,)),
        (8, (2560,)),
    ],
)
def test_analysis_equals_pywavelets(wavelet: str, levels: int, size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    packets = WaveletPacketAnalysis(wavelet, levels, len(size))(x)
    assert_close(packets.numpy(), pywt_packets(x.numpy(), wavelet, levels), rtol=0, atol=1e-6)


@uses_pytorch_wavelets
@pytest.mark.parametrize(
    ("levels", "size"),
    [(1, (10, 12)), (3, (40, 48)), (4, (80, 96)), (1, (10,)), (3, (48,)), (8, (1280,)), (8, (1500,))],
)
def test_analysis_equals_pytorch_wavelets(levels: int, size: tuple[int, ...]) -> None:
    x = torch.rand(2, 3, *size) - 0.5
    ours, theirs = (
        analysis("bior4.4", levels, len(size))(x) for analysis in (WaveletPacketAnalysis, PytorchWaveletsAnalysis)
    )
    assert_close_float32(ours, theirs, terms=terms(1, levels, 1, len(size)))


@uses_pytorch_wavelets
@pytest.mark.parametrize(
    ("wavelet", "levels", "size"),
    [
        ("bior4.4", 3, (32, 40)),
        ("bior4.4", 4, (64, 80)),
        ("bior4.4", 1, (8,)),
        ("sym8", 3, (40, 40)),
        ("db10", 3, (48, 48)),
    ],
)
def test_pytorch_wavelets_refuses_sides_it_gets_wrong(wavelet: str, levels: int, size: tuple[int, ...]) -> None:
    analysis = PytorchWaveletsAnalysis(wavelet, levels, len(size))
    with pytest.raises(ValueError, match="pytorch_wavelets is wrong below"):
        analysis(torch.rand(1, 1, *size))


@uses_pytorch_wavelets
def test_pytorch_wavelets_takes_float64() -> None:
    x = torch.rand(1, 1, 40, 40, dtype=torch.float64)
    theirs = PytorchWaveletsAnalysis()(x)
    assert theirs.dtype == torch.float64
    assert_close(theirs, WaveletPacketAnalysis()(x), rtol=0, atol=1e-5)  # whose own filters are float32


@pytest.mark.parametrize(
    ("levels", "size"),
    [
        *((levels, (side, side)) for levels in (1, 2, 3) for side in range(8, 81, 12)),
        *((3, (side, side)) for side in (8, 11, 16, 17, 24, 40, 72)),
        (4, (16, 16)),
        (4, (17, 40)),
        (3, (8, 80)),
        (3, (17, 11)),
        (1, (17, 11)),
        (2, (5, 4)),
        (4, (31, 16)),
        (8, (256,)),
        (8, (300,)),
        (8, (2560,)),
        (3, (17,)),
        (1, (2,)),
    ],
)
def test_perfect_reconstruction(levels: int, size: tuple[int, ...]) -> None:
    x = torch.rand(2, 3, *size) - 0.5
    assert_close_float32(round_trip(x, levels), x, terms=2 * terms(1, levels, 1, len(size)))


@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2", "sym4", "db10"])
@pytest.mark.parametrize("size", [(8, 8), (17, 11), (24, 40), (300,)])
def test_perfect_reconstruction_with_other_wavelets(wavelet: str, size: tuple[int, ...]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64) - 0.5
    assert_close(round_trip(x, 3, wavelet), x, rtol=0, atol=1e-9)


def test_constant_goes_to_the_first_band() -> None:
    packets = WaveletPacketAnalysis()(torch.ones(1, 1, 16, 24))
    expected = torch.zeros_like(packets)
    expected[:, 0] = 8
    assert_close_float32(packets, expected, terms=terms(1, 3, 1, 2))


@pytest.mark.parametrize(("rows", "band"), [(True, 1), (False, 2)])
def test_stripes_go_to_the_band_of_their_axis(rows: bool, band: int) -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(8)
    image = (stripes[:, None] if rows else stripes).expand(1, 1, 16, 16)
    energy = WaveletPacketAnalysis(levels=1)(image).square().sum((0, 2, 3))
    assert energy.argmax() == band
    assert energy[band] > 0.99 * energy.sum()


@pytest.mark.parametrize("size", [(8, 8), (17, 11), (9,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtype(size: tuple[int, ...], dtype: torch.dtype) -> None:
    analysis = WaveletPacketAnalysis(levels=2, dims=len(size))
    packets = analysis(torch.rand(2, 3, *size, dtype=dtype))
    assert packets.dtype == dtype
    assert packets.shape == (2, 3 * analysis.bands, *[-(-side // 4) for side in size])
    signal = WaveletPacketSynthesis(levels=2, dims=len(size))(packets)
    assert signal.dtype == dtype
    assert signal.shape == (2, 3, *[-(-side // 4) * 4 for side in size])


@pytest.mark.parametrize("shape", [(0, 3, 16, 24), (0, 1, 17, 11), (0, 2, 40)])
def test_empty_batch(shape: tuple[int, ...]) -> None:
    assert round_trip(torch.rand(shape), 2).shape == shape


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (5,)])
def test_gradients(size: tuple[int, ...]) -> None:
    dims = len(size)
    x = torch.rand(1, 2, *size, dtype=torch.float64, requires_grad=True)
    analysis, synthesis = WaveletPacketAnalysis(levels=2, dims=dims), WaveletPacketSynthesis(levels=2, dims=dims)
    assert torch.autograd.gradcheck(analysis, x)
    assert torch.autograd.gradcheck(synthesis, analysis(x).detach().requires_grad_())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("module", [WaveletPacketAnalysis(levels=1), WaveletPacketSynthesis(levels=1)])
def test_copies_and_pickles(clone, module: torch.nn.Module) -> None:
    x = torch.rand(1, 4, 8, 8)
    assert torch.equal(clone(module)(x), module(x))
    assert not module.state_dict()  # taps follow from the name


def test_compiles_whole() -> None:
    x = torch.rand(2, 3, 17, 24)
    both = torch.nn.Sequential(WaveletPacketAnalysis(), WaveletPacketSynthesis())
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    assert_close_float32(compiled(x)[..., :17, :], x, terms=2 * terms(1, 3, 1, 2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"wavelet": "nope"}, "unknown wavelet 'nope'"),
        ({"levels": 0}, "from 1 to 16, got 0"),
        ({"levels": 10**9}, "from 1 to 16, got 1000000000"),
        ({"dims": 4}, "1, 2 or 3, got 4"),
    ],
)
def test_wrong_arguments(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        WaveletPacketAnalysis(**options)
    if "backend" not in options:
        with pytest.raises(ValueError, match=match):
            WaveletPacketSynthesis(**options)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.rand(3, 16, 16), ValueError, r"\(N, C, H, W\), got \(3, 16, 16\)"),
        (torch.rand(1, 1, 3, 16, 16), ValueError, r"got \(1, 1, 3, 16, 16\)"),
        (torch.ones(1, 3, 16, 16, dtype=torch.int64), TypeError, "float32 or float64, got torch.int64"),
        (torch.ones(1, 3, 16, 16, dtype=torch.bfloat16), TypeError, "got torch.bfloat16"),
        (torch.rand(1, 3, 7, 16), ValueError, "got 7x16 samples, expected at least 8"),
        (torch.rand(1, 3, 16, 0), ValueError, "got 16x0 samples, expected at least 8"),
    ],
)
def test_analysis_refuses(x: Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        WaveletPacketAnalysis()(x)


@pytest.mark.parametrize(
    ("shape", "size", "match"),
    [
        ((1, 64, 4), None, r"packets of shape \(N, C, H, W\), got \(1, 64, 4\)"),
        ((1, 65, 4, 4), None, "multiple of 64 channels, got 65"),
        ((1, 64, 0, 4), None, "without samples: shape \\(1, 64, 0, 4\\)"),
        ((1, 64, 4, 4), (33, 32), "size 33x32 .* hold 32x32 samples, at most 7"),
        ((1, 64, 4, 4), (32, 24), "size 32x24 does not belong"),
        ((1, 64, 4, 4), (30,), "size"),
        ((1, 64, 4, 4), (1, 30, 30), "size"),
    ],
)
def test_synthesis_refuses(shape: tuple[int, ...], size: tuple[int, ...] | None, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        WaveletPacketSynthesis()(torch.rand(shape), size)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (2, 1), (5, 5), (6, 0), (0, 6), (12, 13), (28, 100)])
@pytest.mark.parametrize("dim", [2, 3])
def test_periodic_pad_equals_numpy(left: int, right: int, dim: int) -> None:
    x = torch.rand(2, 3, 5, 5)
    widths = [(0, 0)] * 4
    widths[dim] = (left, right)
    np.testing.assert_array_equal(periodic_pad(x, left, right, dim).numpy(), np.pad(x.numpy(), widths, mode="wrap"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize(("size", "stride"), [((8, 8), 8), ((9, 15), 8), ((17, 11), 8), ((17, 31), 16), ((300,), 256)])
def test_pad_to_multiple_equals_numpy(size: tuple[int, ...], stride: int, dtype: torch.dtype) -> None:
    x = torch.randint(0, 256, (2, 3, *size)).to(dtype)
    padded = pad_to_multiple(x, [stride] * len(size))
    widths = [(0, 0), (0, 0), *((0, -side % stride) for side in size)]
    assert padded.dtype == dtype
    np.testing.assert_array_equal(padded.float().numpy(), np.pad(x.float().numpy(), widths, mode="reflect"))


def test_crop() -> None:
    x = torch.rand(2, 3, 16, 24)
    assert crop(x, None, [8, 8]) is x
    assert torch.equal(crop(x, (9, 24), [8, 8]), x[..., :9, :])


@pytest.mark.parametrize("size", [(4, 5), (6,)])
def test_conv1x1_is_a_matrix_per_cell(size: tuple[int, ...]) -> None:
    x, weight, bias = torch.rand(2, 3, *size), torch.rand(5, 3), torch.rand(5)
    expected = torch.einsum("oi,ni...->no...", weight, x) + bias.view(-1, *[1] * len(size))
    assert_close(conv1x1(x, weight, bias), expected)

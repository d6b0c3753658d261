import itertools

import numpy as np
import pytest
import pywt
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from walloc_transforms.wavelets import Extension, Wavelet, join_bands, library_taps, split_bands
from walloc_transforms.wavelets.packets import WaveletPacketAnalysis

WAVELETS: list[Wavelet] = ["haar", "bior2.2", "bior4.4"]
EXTENSIONS: list[Extension] = ["symmetric", "periodic"]
KINDS = list(itertools.product(WAVELETS, EXTENSIONS))
SIZES = [*itertools.product(range(1, 10), range(1, 10)), (17, 31), (63, 65)]


def round_trip(x: Tensor, wavelet: Wavelet, extension: Extension) -> Tensor:
    bands = split_bands(x, wavelet, extension)
    assert bands.shape == (x.shape[0], 4 * x.shape[1], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    assert bands.dtype == x.dtype
    return join_bands(bands, x.shape[2:], wavelet, extension)


@pytest.mark.parametrize(("wavelet", "extension"), KINDS)
def test_reconstruction_is_perfect(wavelet: Wavelet, extension: Extension) -> None:
    for size in SIZES:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        assert_close(round_trip(x, wavelet, extension), x, rtol=0, atol=1e-13)
    assert round_trip(torch.empty(0, 3, 5, 4), wavelet, extension).shape == (0, 3, 5, 4)


@pytest.mark.parametrize(("wavelet", "extension"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(wavelet: Wavelet, extension: Extension, dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 9, 12).to(dtype)
    allowed = 8 * torch.finfo(dtype).eps
    assert_close(round_trip(x, wavelet, extension), x, rtol=0, atol=allowed)
    exact = split_bands(x.double(), wavelet, extension)
    assert_close(split_bands(x, wavelet, extension).double(), exact, rtol=0, atol=allowed)


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("size", [(2, 4), (8, 6), (9, 7), (2, 3), (16, 31)])
def test_periodic_bands_are_packets(wavelet: Wavelet, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    packets = WaveletPacketAnalysis(wavelet, 1)(x).unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)
    assert_close(split_bands(x, wavelet, "periodic"), packets, rtol=0, atol=1e-11)


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("size", [(2, 4), (8, 6), (10, 32), (9, 7)])
def test_bands_equal_pywavelets(wavelet: Wavelet, size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, *size))
    modes: list[tuple[Extension, str]] = [("symmetric", "symmetric" if wavelet == "haar" else "reflect")]
    if size[0] % 2 == 0:  # PyWavelets repeats the last sample of odd periods
        modes.append(("periodic", "periodization"))
    for extension, mode in modes:
        y = x
        if size[0] % 2 and wavelet != "haar":  # PyWavelets reflects odd sides where they end, we one sample later
            y = np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1)], mode="reflect")
        low, high = pywt.dwt2(y, wavelet, mode=mode, axes=(-2, -1))
        first = 0 if mode == "periodization" else len(library_taps(wavelet)[0]) // 4  # bands begin before the image
        expected = np.stack([low, *high], 1)[..., first:, first:][..., : (size[0] + 1) // 2, : (size[1] + 1) // 2]
        bands = split_bands(torch.from_numpy(x), wavelet, extension)
        assert_close(bands.numpy(), expected.reshape(2, 12, *expected.shape[-2:]), rtol=0, atol=1e-11)


def test_haar_is_orthonormal() -> None:
    x = torch.randn(1, 2, 8, 6, dtype=torch.float64)
    bands = split_bands(x)
    assert_close(bands.square().sum(), x.square().sum())
    assert_close(bands[:, :2], 2 * nn.functional.avg_pool2d(x, 2))
    assert_close(bands[:, 2:4], x.unfold(2, 2, 2).unfold(3, 2, 2).mean(-1).diff().squeeze(-1).neg())  # LH: rows


@pytest.mark.parametrize(("wavelet", "extension"), KINDS)
def test_gradients(wavelet: Wavelet, extension: Extension) -> None:
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: split_bands(x, wavelet, extension), x)
    bands = torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda bands: join_bands(bands, (5, 4), wavelet, extension), bands)


class RoundTrip(nn.Module):
    def __init__(self, wavelet: Wavelet, extension: Extension) -> None:
        super().__init__()
        self.wavelet: Wavelet = wavelet
        self.extension: Extension = extension

    def forward(self, x: Tensor) -> Tensor:
        bands = split_bands(x, self.wavelet, self.extension)
        return join_bands(bands.relu(), x.shape[2:], self.wavelet, self.extension)


@pytest.mark.slow
def test_compile_and_export() -> None:
    module = RoundTrip("bior4.4", "symmetric")
    torch.compiler.reset()  # or every test counts towards the limit of recompilations
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for size in ((7, 10), (8, 3)):
        x = torch.randn(2, 3, *size)
        assert_close(compiled(x), module(x))
    batch, half = torch.export.Dim("batch"), torch.export.Dim("half", min=2)
    dynamic = {"x": {0: batch, 2: 2 * half, 3: torch.export.Dim.STATIC}}
    program = torch.export.export(module, (torch.randn(2, 3, 8, 7),), dynamic_shapes=dynamic)
    x = torch.randn(5, 3, 12, 7)
    assert_close(program.module()(x), module(x))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown wavelet 'db2': expected one of 'haar', 'bior2.2', 'bior4.4'"):
        split_bands(torch.rand(1, 1, 4, 4), "db2")  # pyright: ignore[reportArgumentType]  # what is tested
    with pytest.raises(ValueError, match="unknown extension 'zero'"):
        join_bands(torch.rand(1, 4, 4, 4), (8, 8), "haar", "zero")  # pyright: ignore[reportArgumentType]  # the same
    with pytest.raises(ValueError, match=r"shape \(N, C, H, W\), got \(1, 4, 4\)"):
        split_bands(torch.rand(1, 4, 4))
    with pytest.raises(ValueError, match="at least one sample"):
        split_bands(torch.rand(1, 1, 0, 4))
    with pytest.raises(TypeError, match=r"floating dtype, got torch.uint8"):
        split_bands(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="multiple of 4 channels, got 6"):
        join_bands(torch.rand(1, 6, 2, 2), (4, 4))
    for size in ((5, 4), (4, 2), (4,)):
        with pytest.raises(ValueError, match=r"expected size to be \(4 or 3, 4 or 3\)"):
            join_bands(torch.rand(1, 4, 2, 2), size)

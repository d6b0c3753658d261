import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from walloc_transforms import folded
from walloc_transforms.decoders import LinearDecoder
from walloc_transforms.folded import FoldedAnalysis, FoldedSynthesis
from walloc_transforms.packets import WaveletPacketAnalysis, WaveletPacketSynthesis, conv1x1

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
]


def projection(latents: int, levels: int, signals: int, dims: int) -> tuple[Tensor, Tensor]:
    packets = signals * 2 ** (levels * dims)
    return torch.randn(latents, packets) / packets**0.5, torch.randn(latents)


def analysis_and_reference(latents: int, levels: int, signals: int, dims: int, wavelet: str = "bior4.4"):
    weight, bias = projection(latents, levels, signals, dims)
    plain = WaveletPacketAnalysis(wavelet, levels, dims)
    fast = FoldedAnalysis(weight, bias, wavelet=wavelet, levels=levels, dims=dims)
    return fast, lambda x: conv1x1(plain(x.double()), weight.double(), bias.double()).float()


def synthesis_and_reference(latents: int, levels: int, signals: int, dims: int, wavelet: str = "bior4.4"):
    decoder = LinearDecoder(latents, signals * 2 ** (levels * dims))
    decoder.bias.normal_()
    plain = WaveletPacketSynthesis(wavelet, levels, dims)
    fast = FoldedSynthesis(decoder.weight, decoder.bias, wavelet=wavelet, levels=levels, dims=dims)
    decoder = copy.deepcopy(decoder).double()
    return fast, lambda z: plain(decoder(z.double())).float()


@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
def test_analysis_equals_the_plain_path(latents: int, levels: int, signals: int, size: tuple[int, ...]) -> None:
    fast, reference = analysis_and_reference(latents, levels, signals, len(size))
    x = torch.rand(2, signals, *size) - 0.5
    assert_close(fast(x), reference(x), rtol=0, atol=1e-5)
    assert_close(fast(x, 3.0, -0.7), reference(3 * x - 0.7), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
def test_synthesis_equals_the_plain_path(latents: int, levels: int, signals: int, size: tuple[int, ...]) -> None:
    fast, reference = synthesis_and_reference(latents, levels, signals, len(size))
    z = torch.randn(2, latents, *[side // 2**levels for side in size])
    result = fast(z)
    assert result.shape == (2, signals, *size)
    assert_close(result, reference(z), rtol=0, atol=3e-5)


@pytest.mark.parametrize(("latents", "fused"), [(12, True), (48, False), (192, False)])
def test_both_orders_are_covered(latents: int, fused: bool) -> None:
    fast, _ = analysis_and_reference(latents, 3, 3, 2)
    assert fast.fused is fused
    assert (fast.project is None) is fused


@pytest.mark.parametrize("latents", [12, 192])
@pytest.mark.parametrize("fused", [True, False])
def test_orders_agree(latents: int, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "_GROUPED_COST", 1e9 if fused else 0.0)
    fast, reference = analysis_and_reference(latents if fused else 192, 3, 3, 2)
    assert fast.fused is fused
    x = torch.rand(2, 3, 24, 16) - 0.5
    assert_close(fast(x), reference(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2", "sym4", "db10"])
@pytest.mark.parametrize("size", [(8, 8), (16, 40), (8,), (48,)])
@pytest.mark.parametrize("latents", [6, 192])
def test_other_wavelets(wavelet: str, size: tuple[int, ...], latents: int) -> None:
    dims, latents = len(size), min(latents, 3 * 8 ** len(size))
    fast, reference = analysis_and_reference(latents, 3, 3, dims, wavelet)
    x = torch.rand(2, 3, *size) - 0.5
    assert_close(fast(x), reference(x), rtol=0, atol=1e-5)
    fast, reference = synthesis_and_reference(latents, 3, 3, dims, wavelet)
    z = torch.randn(2, latents, *[side // 8 for side in size])
    assert_close(fast(z), reference(z), rtol=0, atol=3e-5)


@pytest.mark.parametrize("chunk", [1, 2 * 3 * 16 * 24, 3 * 3 * 16 * 24 + 1])
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("latents", [12, 192])
def test_chunks(chunk: int, batch: int, latents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "_CHUNK", chunk)
    x = torch.rand(batch, 3, 16, 24) - 0.5
    fast, reference = analysis_and_reference(latents, 3, 3, 2)
    assert_close(fast(x), reference(x), rtol=0, atol=1e-5)
    fast, reference = synthesis_and_reference(latents, 3, 3, 2)
    z = torch.randn(batch, latents, 2, 3)
    assert_close(fast(z), reference(z), rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.repeat_interleave(2, 3)[..., ::2],
        lambda x: x.flip(1).contiguous().flip(1),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    ],
)
@pytest.mark.parametrize("latents", [12, 192])
def test_memory_layout_does_not_matter(layout, latents: int) -> None:
    x, z = torch.rand(2, 3, 16, 24), torch.randn(2, latents, 2, 3)
    for fast, signal in (
        (analysis_and_reference(latents, 3, 3, 2)[0], x),
        (synthesis_and_reference(latents, 3, 3, 2)[0], z),
    ):
        before = signal.clone()
        assert_close(fast(layout(signal)), fast(signal), rtol=0, atol=1e-5)
        assert torch.equal(signal, before)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.int32, torch.float16, torch.bfloat16, torch.float64]
)
@pytest.mark.parametrize("size", [(16, 24), (24,)])
def test_dtypes_with_scale_and_shift(dtype: torch.dtype, size: tuple[int, ...]) -> None:
    fast, reference = analysis_and_reference(12, 3, 3, len(size))
    x = torch.randint(0, 256, (2, 3, *size)).to(dtype)
    result = fast(x, 1 / 255, -0.5)
    assert result.dtype == torch.float32
    assert_close(result, reference(x.double() / 255 - 0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 24), (24,)])
def test_gradients_reach_the_input(size: tuple[int, ...]) -> None:
    fast, reference = analysis_and_reference(12, 3, 3, len(size))
    x = torch.rand(2, 3, *size, requires_grad=True)
    cotangent = torch.randn_like(reference(x))
    (ours,), (theirs,) = (torch.autograd.grad(f(x), x, cotangent) for f in (fast, reference))
    assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(16, 24), (24,)])
def test_copies_pickles_and_holds_no_parameters(size: tuple[int, ...]) -> None:
    for build, shape in (
        (analysis_and_reference, (2, 3, *size)),
        (synthesis_and_reference, (2, 12, *[side // 8 for side in size])),
    ):
        fast, _ = build(12, 3, 3, len(size))
        x = torch.rand(shape)
        assert not list(fast.parameters())
        assert not fast.state_dict()
        assert all(buffer.dtype == torch.float32 for buffer in fast.buffers())
        for clone in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(clone(x), fast(x))

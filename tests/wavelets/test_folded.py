"""The fast encoder and decoder on both their paths, by convolution and by lifting, against the plain one."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from skimage import data
from torch import Tensor
from torch.testing import assert_close
from torchvision import tv_tensors

import walloc_transforms as wt
from tests.helpers import BACKENDS, needs_numba
from walloc_transforms.codec.decoders import LinearDecoder
from walloc_transforms.wavelets import folded
from walloc_transforms.wavelets.filters import analysis_bank
from walloc_transforms.wavelets.folded import Backend, FoldedAnalysis, FoldedSynthesis
from walloc_transforms.wavelets.packets import WaveletPacketAnalysis, WaveletPacketSynthesis, conv1x1, pad_to_multiple

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


backends = pytest.mark.parametrize("backend", BACKENDS)


def projection(latents: int, levels: int, signals: int, dims: int) -> tuple[Tensor, Tensor]:
    packets = signals * 2 ** (levels * dims)
    return torch.randn(latents, packets) / packets**0.5, torch.randn(latents)


def analysis_and_reference(
    latents: int, levels: int, signals: int, dims: int, wavelet: str = "bior4.4", backend: Backend = "auto"
):
    weight, bias = projection(latents, levels, signals, dims)
    plain = WaveletPacketAnalysis(wavelet, levels, dims)
    fast = FoldedAnalysis(weight, bias, wavelet=wavelet, levels=levels, dims=dims, backend=backend)
    return fast, lambda x: conv1x1(plain(x.double()), weight.double(), bias.double()).float()


def synthesis_and_reference(
    latents: int, levels: int, signals: int, dims: int, wavelet: str = "bior4.4", backend: Backend = "auto"
):
    decoder = LinearDecoder(latents, signals * 2 ** (levels * dims))
    decoder.bias.normal_()
    plain = WaveletPacketSynthesis(wavelet, levels, dims)
    fast = FoldedSynthesis(decoder.weight, decoder.bias, wavelet=wavelet, levels=levels, dims=dims, backend=backend)
    decoder = copy.deepcopy(decoder).double()
    return fast, lambda z: plain(decoder(z.double())).float()


@needs_numba
@pytest.mark.parametrize("size", [(16, 24), (24,)])
def test_automatic_is_lifting_where_that_is_possible(size: tuple[int, ...]) -> None:
    x, z = torch.rand(2, 3, *size), torch.randn(2, 12, *[side // 8 for side in size])
    for build, signal in ((analysis_and_reference, x), (synthesis_and_reference, z)):
        results = []
        for backend in ("auto", "lifting", "convolutions"):
            torch.manual_seed(0)
            results.append(build(12, 3, 3, len(size), backend=backend)[0](signal))
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("build", [analysis_and_reference, synthesis_and_reference])
def test_backends_that_cannot_be(build: Callable) -> None:
    with pytest.raises(ValueError, match="must be 'auto', 'convolutions' or 'lifting', got 'numba'"):
        build(12, 3, 3, 2, backend="numba")
    with pytest.raises(ValueError, match="backend='lifting' cannot be used: the wavelet is 'haar'"):
        build(12, 3, 3, 2, "haar", backend="lifting")


@needs_numba
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x.clone().requires_grad_(), "its gradient is wanted"),
        (lambda x: x.as_subclass(tv_tensors.Image), "it got a Image"),
        (lambda x: torch.complex(x, -x).conj().imag, "negated view"),
    ],
)
@pytest.mark.parametrize("build", [analysis_and_reference, synthesis_and_reference])
def test_calls_that_lifting_refuses(build: Callable, change: Callable[[Tensor], Tensor], match: str) -> None:
    channels = 3 if build is analysis_and_reference else 12
    with pytest.raises(ValueError, match=f"backend='lifting' cannot take this call: .*{match}.*backend='auto'"):
        build(12, 3, 3, 2, backend="lifting")[0](change(torch.rand(1, channels, 16, 16)))


@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
@pytest.mark.parametrize("wavelet", ["bior4.4", "haar", "db2"])
def test_bounds_are_attained_and_never_passed(
    latents: int, levels: int, signals: int, size: tuple[int, ...], wavelet: str
) -> None:
    dims = len(size)
    weight, bias = projection(latents, levels, signals, dims)
    fast = FoldedAnalysis(weight, bias, wavelet=wavelet, levels=levels, dims=dims)
    lo, hi = fast.projection_bounds()
    assert lo.shape == hi.shape == (latents,)
    assert lo.dtype == hi.dtype == torch.float32
    assert fast.projection_bounds()[0] is lo  # computed once
    # The sign pattern of a channel's own taps is the worst signal there is. It is found without the bound's
    # arithmetic: as the gradient of a latent in the middle of a signal that is longer than the filters.
    reach = analysis_bank(wavelet, levels).reach
    cells = max(-(-side // 2**levels) for side in reach)
    middle = (0, slice(None), *[cells] * dims)
    x = torch.zeros(1, signals, *[(2 * cells + 1) * 2**levels] * dims, dtype=torch.float64, requires_grad=True)
    z = conv1x1(WaveletPacketAnalysis(wavelet, levels, dims)(x), weight.double(), bias.double())[middle]
    for channel in {0, latents // 2, latents - 1}:
        (taps,) = torch.autograd.grad(z[channel], x, retain_graph=True)
        worst = (0.5 * taps.sign()).float()
        for signal, bound in ((worst, hi), (-worst, lo)):
            latent = fast(signal)[middle][channel]
            assert lo[channel] <= latent <= hi[channel]
            assert (latent - bound[channel]).abs() <= 1e-3 * (hi - lo)[channel]
    for signal in (torch.rand(2, signals, *size) - 0.5, torch.randint(0, 2, (2, signals, *size)) - 0.5):
        z = fast(signal).movedim(1, -1)
        assert (z >= lo).all()
        assert (z <= hi).all()


@pytest.mark.parametrize("name", ["rgb_16x", "rgb_4x"])
def test_bounds_of_codecs_tell_wrong_ranges(name: str) -> None:
    codec = wt.load_codec(name)
    c = codec.config
    analysis = FoldedAnalysis(codec.weight, codec.bias, wavelet=c.wavelet, levels=c.levels, dims=c.dims)
    lo, hi = (bound.view(-1, 1, 1) for bound in analysis.projection_bounds())
    image = torch.from_numpy(data.astronaut()).movedim(-1, 0)[None].float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def outside(x: Tensor) -> bool:
        z = analysis(x, 1.0, -0.5)
        return bool(((z < lo) | (z > hi)).any())

    assert not outside(image)
    assert not outside(1 - image)
    assert not outside((image > 0.5).float())
    assert outside(image * 255)
    assert outside(normalized)


@backends
@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
def test_analysis_equals_the_plain_path(
    backend: Backend, latents: int, levels: int, signals: int, size: tuple[int, ...]
) -> None:
    fast, reference = analysis_and_reference(latents, levels, signals, len(size), backend=backend)
    x = torch.rand(2, signals, *size) - 0.5
    assert_close(fast(x), reference(x), rtol=0, atol=1e-5)
    assert_close(fast(x, 3.0, -0.7), reference(3 * x - 0.7), rtol=0, atol=5e-5)


@backends
@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
def test_synthesis_equals_the_plain_path(
    backend: Backend, latents: int, levels: int, signals: int, size: tuple[int, ...]
) -> None:
    fast, reference = synthesis_and_reference(latents, levels, signals, len(size), backend=backend)
    z = torch.randn(2, latents, *[side // 2**levels for side in size])
    result = fast(z)
    assert result.shape == (2, signals, *size)
    assert_close(result, reference(z), rtol=0, atol=3e-5)


@backends
@pytest.mark.parametrize("size", [(17, 11), (11, 29), (29, 17), (24, 29), (17, 8), (17,), (11,), (29,)])
@pytest.mark.parametrize("latents", [12, 24])
def test_sides_that_are_no_multiple_of_the_stride(backend: Backend, size: tuple[int, ...], latents: int) -> None:
    fast, reference = analysis_and_reference(latents, 3, 3, len(size), backend=backend)
    x = torch.rand(2, 3, *size) - 0.5
    padded = pad_to_multiple(x, 8, len(size))
    assert torch.equal(fast(x), fast(padded))
    assert_close(fast(x), reference(padded), rtol=0, atol=1e-5)
    bytes_ = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    assert_close(fast(bytes_, 1 / 255), reference(pad_to_multiple(bytes_, 8, len(size)) / 255), rtol=0, atol=1e-5)


@backends
@pytest.mark.parametrize("size", [(7, 16), (16, 7), (7, 7), (7,), (1,)])
def test_sides_that_are_too_small(backend: Backend, size: tuple[int, ...]) -> None:
    fast, _ = analysis_and_reference(12, 3, 3, len(size), backend=backend)
    with pytest.raises(ValueError, match=f"too small: got {'x'.join(map(str, size))} samples, expected at least 8"):
        fast(torch.rand(2, 3, *size))


@pytest.mark.parametrize("wavelet", ["bior4.4", "haar", "db2", "bior2.2", "db10"])
@pytest.mark.parametrize(("latents", "levels", "length"), [(12, 8, 256), (12, 8, 1280), (7, 5, 96), (3, 2, 12)])
@pytest.mark.parametrize("chunk", [1 << 20, 100])
def test_waveforms_in_two_stages(
    latents: int, levels: int, length: int, wavelet: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded, "_GROUPED_COST", 0.0)
    monkeypatch.setattr(folded, "_SPLIT_COST", 0.0)
    monkeypatch.setattr(folded, "_CHUNK", chunk)
    fast, reference = analysis_and_reference(latents, levels, 2, 1, wavelet, backend="convolutions")
    x = torch.rand(3, 2, length) - 0.5
    assert fast.fused is (wavelet == "haar")  # whose long filters overlap nothing
    assert_close(fast(x, 3.0, -0.7), reference(3 * x - 0.7), rtol=0, atol=5e-5)
    fast, reference = synthesis_and_reference(latents, levels, 2, 1, wavelet, backend="convolutions")
    z = torch.randn(3, latents, length // 2**levels)
    assert fast.fused is (wavelet == "haar")
    assert_close(fast(z, 2.0, 0.3), 2 * reference(z) + 0.3, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("latents", "fused"), [(27, True), (108, False)])
def test_stages_by_the_count(latents: int, fused: bool) -> None:
    assert analysis_and_reference(latents, 8, 2, 1, backend="convolutions")[0].fused is fused
    assert synthesis_and_reference(latents, 8, 2, 1, backend="convolutions")[0].fused is fused


@pytest.mark.parametrize(("latents", "fused"), [(12, True), (48, False), (192, False)])
def test_both_orders_are_covered(latents: int, fused: bool) -> None:
    fast, _ = analysis_and_reference(latents, 3, 3, 2, backend="convolutions")
    assert fast.fused is fused
    assert (fast.project is None) is fused


@pytest.mark.parametrize("latents", [12, 192])
@pytest.mark.parametrize("fused", [True, False])
def test_orders_agree(latents: int, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "_GROUPED_COST", 1e9 if fused else 0.0)
    fast, reference = analysis_and_reference(latents if fused else 192, 3, 3, 2, backend="convolutions")
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
@backends
def test_chunks(backend: Backend, chunk: int, batch: int, latents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "_CHUNK", chunk)
    x = torch.rand(batch, 3, 16, 24) - 0.5
    fast, reference = analysis_and_reference(latents, 3, 3, 2, backend=backend)
    assert_close(fast(x), reference(x), rtol=0, atol=1e-5)
    fast, reference = synthesis_and_reference(latents, 3, 3, 2, backend=backend)
    z = torch.randn(batch, latents, 2, 3)
    assert_close(fast(z), reference(z), rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("batch", "cells", "pieces"), [(3, 4, 1), (3, 4, 2), (3, 4, 3), (1, 7, 3), (2, 7, 14), (2, 1, 2)]
)
@pytest.mark.parametrize("tail", [(), (5,)])
@pytest.mark.parametrize("grain", [1, 3])
def test_chunks_cover_everything_once(
    batch: int, cells: int, pieces: int, tail: tuple[int, ...], grain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, calls = torch.rand(batch, 2, cells * 4, *tail), []

    def work(part: Tensor, first: int, last: int) -> Tensor:
        calls.append((last - first) * 4 * part.numel() // part.shape[2])
        return part[:, :, first * 4 : last * 4]

    most = -(-batch // pieces) * x[0].numel() if pieces <= batch else -(-x[0].numel() * batch // pieces)
    monkeypatch.setattr(folded, "_CHUNK", most * grain)
    assert torch.equal(folded._in_chunks(x, 4, grain, work), x)
    assert len(calls) == pieces
    assert sum(calls) == x.numel()


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("latents", [12, 24])
@pytest.mark.parametrize("pieces", [2, 3, 100])
def test_a_signal_cut_along_its_length(
    cells: int, dims: int, latents: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    along, across = 8 * cells, 16 if dims == 2 else 1
    x, z = torch.rand(2, 3, along, across), torch.randn(2, latents, cells, max(1, across // 8))
    for (fast, _), signal, grain in (
        (analysis_and_reference(latents, 3, 3, dims, backend="convolutions"), x, 1),
        (synthesis_and_reference(latents, 3, 3, dims, backend="convolutions"), z, -(-3 * 8**dims // latents)),
    ):
        signal = (signal if dims == 2 else signal[..., 0]).requires_grad_()
        results, gradients = [], []
        for chunk in (1 << 20, grain * max(1, signal[0].numel() // pieces)):
            monkeypatch.setattr(folded, "_CHUNK", chunk)
            results.append(fast(signal))
            torch.manual_seed(1)
            gradients += torch.autograd.grad(results[-1], signal, torch.randn_like(results[-1]))
        assert_close(*results, rtol=0, atol=1e-5)
        assert_close(*gradients, rtol=0, atol=2e-5)


@backends
@pytest.mark.parametrize("size", [(88, 80), (440,)])
@pytest.mark.parametrize("chunk", [100, 1 << 20])
def test_finish_sees_every_latent_once(
    backend: Backend, size: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded, "_CHUNK", chunk)
    fast, _ = analysis_and_reference(12, 3, 3, len(size), backend=backend)
    x, seen = torch.rand(3, 3, *size), []
    factors = torch.arange(1.0, 13.0).view(-1, *[1] * len(size))

    def finish(part: Tensor, first_channel: int) -> Tensor:
        seen.append(part.clone())
        return part * factors[first_channel : first_channel + part.shape[1]]

    latents = fast(x)
    assert torch.equal(fast(x, finish=finish), latents * factors)
    assert torch.equal(torch.cat([part.flatten() for part in seen]).sort()[0], latents.flatten().sort()[0])


@backends
@pytest.mark.parametrize("size", [(5, 3), (7,)])
def test_prepare_and_limits(backend: Backend, size: tuple[int, ...]) -> None:
    fast, reference = synthesis_and_reference(12, 3, 3, len(size), backend=backend)
    z = torch.randn(2, 12, *size)
    assert_close(fast(z, prepare=torch.tanh), reference(z.tanh()), rtol=0, atol=3e-5)
    codes = torch.randint(-127, 128, z.shape, dtype=torch.int8)
    prepared = fast(codes, prepare=lambda part: part.to(torch.float32) / 50)
    assert_close(prepared, reference(codes / 50), rtol=0, atol=3e-5)
    signal = fast(z, 3.0, -0.7)
    assert_close(signal, 3 * reference(z) - 0.7, rtol=0, atol=1e-4)
    assert signal.min() < -0.5
    assert signal.max() > 0.25
    for limits in ((-0.5, 0.25), (-math.inf, 0.25), (-0.5, math.inf)):
        assert torch.equal(fast(z, 3.0, -0.7, limits=limits), signal.clamp(*limits))


@backends
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_stays_and_stays_near(backend: Backend, dims: int, value: float) -> None:
    x, z = torch.rand(2, 3, *[88] * dims), torch.randn(2, 12, *[11] * dims)
    analysis, synthesis = (
        analysis_and_reference(12, 3, 3, dims, backend=backend)[0],
        synthesis_and_reference(12, 3, 3, dims, backend=backend)[0],
    )
    x[(1, 2, *[44] * dims)] = value
    z[(1, 2, *[5] * dims)] = value
    limited = synthesis(z, limits=(-0.1, 0.1))
    assert torch.equal(limited.isnan(), synthesis(z).isnan())
    for result, cell in ((analysis(x), 1), (synthesis(z), 8), (limited, 8)):
        middle, far = (..., *[slice(5 * cell, 6 * cell)] * dims), slice(-cell, None)
        assert not result[1][middle].isfinite().all() or (result is limited and math.isinf(value))
        assert result[..., far].isfinite().all()
        assert result[0].isfinite().all()


@backends
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
def test_memory_layout_does_not_matter(backend: Backend, layout, latents: int) -> None:
    x, z = torch.rand(2, 3, 16, 24), torch.randn(2, latents, 2, 3)
    for fast, signal in (
        (analysis_and_reference(latents, 3, 3, 2, backend=backend)[0], x),
        (synthesis_and_reference(latents, 3, 3, 2, backend=backend)[0], z),
    ):
        before = signal.clone()
        assert_close(fast(layout(signal)), fast(signal), rtol=0, atol=1e-5)
        assert torch.equal(signal, before)


@backends
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.int32, torch.float16, torch.bfloat16, torch.float64]
)
@pytest.mark.parametrize("size", [(16, 24), (24,)])
def test_dtypes_with_scale_and_shift(backend: Backend, dtype: torch.dtype, size: tuple[int, ...]) -> None:
    fast, reference = analysis_and_reference(12, 3, 3, len(size), backend=backend)
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


@backends
@pytest.mark.parametrize("size", [(16, 24), (24,)])
def test_copies_pickles_and_holds_no_parameters(backend: Backend, size: tuple[int, ...]) -> None:
    for build, shape in (
        (analysis_and_reference, (2, 3, *size)),
        (synthesis_and_reference, (2, 12, *[side // 8 for side in size])),
    ):
        fast, _ = build(12, 3, 3, len(size), backend=backend)
        x = torch.rand(shape)
        assert not list(fast.parameters())
        assert not fast.state_dict()
        assert all(buffer.dtype == torch.float32 for buffer in fast.buffers())
        for clone in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(clone(x), fast(x))

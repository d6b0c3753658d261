"""The fast encoder and decoder by both backends, by convolution and by lifting, against the plain one."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import BACKENDS, assert_close_float32
from tests.wavelets.cases import CASES, analysis_and_reference, synthesis_and_reference, terms
from walloc_transforms.wavelets import Backend, Finish, pad_to_multiple

backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
def test_analysis_equals_the_plain_path(
    backend: Backend, latents: int, levels: int, signals: int, size: tuple[int, ...]
) -> None:
    fast, reference = analysis_and_reference(latents, levels, signals, len(size), backend=backend)
    x = torch.rand(2, signals, *size) - 0.5
    own = terms(latents, levels, signals, len(size))
    assert_close_float32(fast(x), reference(x), terms=own)
    assert_close_float32(fast(x, 3.0, -0.7), reference(3 * x - 0.7), terms=own)


@backends
@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
def test_synthesis_equals_the_plain_path(
    backend: Backend, latents: int, levels: int, signals: int, size: tuple[int, ...]
) -> None:
    fast, reference = synthesis_and_reference(latents, levels, signals, len(size), backend=backend)
    z = torch.randn(2, latents, *[side // 2**levels for side in size])
    result = fast(z)
    assert result.shape == (2, signals, *size)
    assert_close_float32(result, reference(z), terms=terms(latents, levels, signals, len(size)))


@backends
@pytest.mark.parametrize("size", [(17, 11), (11, 29), (29, 17), (24, 29), (17, 8), (17,), (11,), (29,)])
@pytest.mark.parametrize("latents", [12, 24])
def test_sides_that_are_no_multiple_of_the_stride(backend: Backend, size: tuple[int, ...], latents: int) -> None:
    fast, reference = analysis_and_reference(latents, 3, 3, len(size), backend=backend)
    x = torch.rand(2, 3, *size) - 0.5
    padded = pad_to_multiple(x, [8] * len(size))
    assert torch.equal(fast(x), fast(padded))
    own = terms(latents, 3, 3, len(size))
    assert_close_float32(fast(x), reference(padded), terms=own)
    bytes_ = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    assert_close_float32(fast(bytes_, 1 / 255), reference(pad_to_multiple(bytes_, [8] * len(size)) / 255), terms=own)


@backends
@pytest.mark.parametrize("size", [(7, 16), (16, 7), (7, 7), (7,), (1,)])
def test_sides_that_are_too_small(backend: Backend, size: tuple[int, ...]) -> None:
    fast, _ = analysis_and_reference(12, 3, 3, len(size), backend=backend)
    with pytest.raises(ValueError, match=f"too small: got {'x'.join(map(str, size))} samples, expected at least 8"):
        fast(torch.rand(2, 3, *size))


@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2", "sym4", "db10"])
@pytest.mark.parametrize("size", [(8, 8), (16, 40), (8,), (48,)])
@pytest.mark.parametrize("latents", [6, 192])
def test_other_wavelets(wavelet: str, size: tuple[int, ...], latents: int) -> None:
    dims, latents = len(size), min(latents, 3 * 8 ** len(size))
    fast, reference = analysis_and_reference(latents, 3, 3, dims, wavelet)
    x = torch.rand(2, 3, *size) - 0.5
    own = terms(latents, 3, 3, dims, wavelet)
    assert_close_float32(fast(x), reference(x), terms=own)
    fast, reference = synthesis_and_reference(latents, 3, 3, dims, wavelet)
    z = torch.randn(2, latents, *[side // 8 for side in size])
    assert_close_float32(fast(z), reference(z), terms=own)


class Extremes:
    """Find the least and the greatest value of every channel."""

    channels = 7

    def __init__(self) -> None:
        self.least, self.greatest = torch.full((7,), math.inf), torch.full((7,), -math.inf)

    def __call__(self, z: Tensor, first_channel: int) -> None:
        for channel in range(first_channel, min(first_channel + z.shape[1], self.channels)):
            own = z[:, channel - first_channel]
            self.least[channel] = min(self.least[channel], own.min())
            self.greatest[channel] = max(self.greatest[channel], own.max())

    def compare(self, least: np.ndarray, greatest: np.ndarray) -> None:
        self.least = torch.minimum(self.least, torch.from_numpy(least))
        self.greatest = torch.maximum(self.greatest, torch.from_numpy(greatest))


@backends
@pytest.mark.parametrize("size", [(88, 80), (440,)])
@pytest.mark.parametrize("chunk", [100, None])
def test_finish_looks_and_squeezes(backend: Backend, size: tuple[int, ...], chunk: int | None) -> None:
    fast, _ = analysis_and_reference(12, 3, 3, len(size), backend=backend)
    fast.chunk = chunk
    x, look = torch.rand(3, 3, *size), Extremes()
    latents = fast(x)
    assert torch.equal(fast(x, finish=Finish(look=look)), latents)
    channels = latents.movedim(1, 0).flatten(1)[: Extremes.channels]
    assert torch.equal(look.least, channels.amin(1))
    assert torch.equal(look.greatest, channels.amax(1))
    for scale in (1.0, 10.0):  # to where the curve is flat
        squeezed = fast(x, finish=Finish(0.7 * scale, 127.0))
        torch.testing.assert_close(squeezed, 127 * torch.erf(0.7 * scale * latents), atol=2e-4, rtol=0)


@backends
@pytest.mark.parametrize("size", [(5, 3), (7,)])
def test_prepare_and_limits(backend: Backend, size: tuple[int, ...]) -> None:
    fast, reference = synthesis_and_reference(12, 3, 3, len(size), backend=backend)
    z = torch.randn(2, 12, *size)
    own = terms(12, 3, 3, len(size))
    assert_close_float32(fast(z, prepare=torch.tanh), reference(z.tanh()), terms=own)
    codes = torch.randint(-127, 128, z.shape, dtype=torch.int8)
    prepared = fast(codes, prepare=lambda part: part.to(torch.float32) / 50)
    assert_close_float32(prepared, reference(codes / 50), terms=own)
    signal = fast(z, 3.0, -0.7)
    assert_close_float32(signal, 3 * reference(z) - 0.7, terms=own)
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
        assert_close_float32(fast(layout(signal)), fast(signal), terms=terms(latents, 3, 3, 2))
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
    assert_close_float32(result, reference(x.double() / 255 - 0.5), terms=terms(12, 3, 3, len(size)))


@pytest.mark.parametrize("size", [(16, 24), (24,)])
def test_gradients_reach_the_input(size: tuple[int, ...]) -> None:
    fast, reference = analysis_and_reference(12, 3, 3, len(size))
    x = torch.rand(2, 3, *size, requires_grad=True)
    cotangent = torch.randn_like(reference(x))
    (ours,), (theirs,) = (torch.autograd.grad(f(x), x, cotangent) for f in (fast, reference))
    assert_close_float32(ours, theirs, terms=terms(12, 3, 3, len(size)))


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

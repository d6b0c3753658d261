"""The convolutions of images and waveforms in all their forms, whole and in chunks."""

from functools import partial

import pytest
import torch
from torch import Tensor

from tests.helpers import assert_close_float32
from tests.wavelets.cases import analysis_and_reference, synthesis_and_reference, terms
from walloc_transforms.wavelets.folded import in_chunks
from walloc_transforms.wavelets.images import ImageAnalysis
from walloc_transforms.wavelets.waveforms import DenseAnalysis, DenseSynthesis, TwoStageAnalysis, TwoStageSynthesis


@pytest.mark.parametrize("wavelet", ["bior4.4", "haar", "db2", "bior2.2", "db10"])
@pytest.mark.parametrize(("latents", "levels", "length"), [(12, 8, 256), (12, 8, 1280), (7, 5, 96), (3, 2, 12)])
@pytest.mark.parametrize("chunk", [None, 100])
@pytest.mark.parametrize("forms", [(DenseAnalysis, DenseSynthesis), (TwoStageAnalysis, TwoStageSynthesis)])
def test_forms_of_waveforms(
    latents: int, levels: int, length: int, wavelet: str, chunk: int | None, forms: tuple
) -> None:
    own, options = terms(latents, levels, 2, 1, wavelet), {"backend": "convolutions"}
    fast, reference = analysis_and_reference(latents, levels, 2, 1, wavelet, forms[0], **options)
    fast.chunk = chunk
    x = torch.rand(3, 2, length) - 0.5
    assert_close_float32(fast(x, 3.0, -0.7), reference(3 * x - 0.7), terms=own)
    fast, reference = synthesis_and_reference(latents, levels, 2, 1, wavelet, forms[1], **options)
    fast.chunk = chunk
    z = torch.randn(3, latents, length // 2**levels)
    assert_close_float32(fast(z, 2.0, 0.3), 2 * reference(z) + 0.3, terms=own)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("latents", [12, 192])
def test_forms_of_images(latents: int, fused: bool) -> None:
    form = partial(ImageAnalysis, fused=fused)
    fast, reference = analysis_and_reference(latents, 3, 3, 2, convolutions=form, backend="convolutions")
    assert (fast.convolutions.project is None) is fused
    x = torch.rand(2, 3, 24, 16) - 0.5
    assert_close_float32(fast(x), reference(x), terms=terms(latents, 3, 3, 2))


@pytest.mark.parametrize(("latents", "fused"), [(12, True), (18, True), (19, False), (192, False)])
def test_images_take_the_form_of_fewer_operations(latents: int, fused: bool) -> None:
    convolutions = analysis_and_reference(latents, 3, 3, 2)[0].convolutions
    assert isinstance(convolutions, ImageAnalysis)
    assert (convolutions.project is None) is fused


@pytest.mark.parametrize(
    ("latents", "levels", "analysis", "synthesis"),
    [
        (27, 8, DenseAnalysis, DenseSynthesis),
        (108, 8, TwoStageAnalysis, TwoStageSynthesis),
        (2, 1, DenseAnalysis, DenseSynthesis),
    ],
)
def test_waveforms_take_the_form_of_fewer_operations(
    latents: int, levels: int, analysis: type, synthesis: type
) -> None:
    assert type(analysis_and_reference(latents, levels, 2, 1)[0].convolutions) is analysis
    assert type(synthesis_and_reference(latents, levels, 2, 1)[0].convolutions) is synthesis


@pytest.mark.parametrize("chunk", [1, 2 * 3 * 16 * 24, 3 * 3 * 16 * 24 + 1])
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("latents", [12, 192])
def test_chunks_of_batches(chunk: int, batch: int, latents: int) -> None:
    x, z = torch.rand(batch, 3, 16, 24) - 0.5, torch.randn(batch, latents, 2, 3)
    for build, signal in ((analysis_and_reference, x), (synthesis_and_reference, z)):
        fast, reference = build(latents, 3, 3, 2, backend="convolutions")
        fast.chunk = chunk
        assert_close_float32(fast(signal), reference(signal), terms=terms(latents, 3, 3, 2))


@pytest.mark.parametrize(
    ("batch", "cells", "pieces"), [(3, 4, 1), (3, 4, 2), (3, 4, 3), (1, 7, 3), (2, 7, 14), (2, 1, 2)]
)
@pytest.mark.parametrize("tail", [(), (5,)])
def test_chunks_cover_everything_once(batch: int, cells: int, pieces: int, tail: tuple[int, ...]) -> None:
    x, calls = torch.rand(batch, 2, cells * 4, *tail), []

    def work(part: Tensor, start: int, stop: int) -> Tensor:
        calls.append((stop - start) * 4 * part.numel() // part.shape[2])
        return part[:, :, start * 4 : stop * 4]

    most = -(-batch // pieces) * x[0].numel() if pieces <= batch else -(-x[0].numel() * batch // pieces)
    assert torch.equal(in_chunks(x, 4, most, work), x)
    assert len(calls) == pieces
    assert sum(calls) == x.numel()


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("latents", [12, 24])
@pytest.mark.parametrize("pieces", [2, 3, 100])
def test_a_signal_cut_along_its_length(cells: int, dims: int, latents: int, pieces: int) -> None:
    along, across = 8 * cells, 16 if dims == 2 else 1
    x, z = torch.rand(2, 3, along, across), torch.randn(2, latents, cells, max(1, across // 8))
    for build, signal, grain in (
        (analysis_and_reference, x, 1),
        (synthesis_and_reference, z, -(-3 * 8**dims // latents)),
    ):
        fast, _ = build(latents, 3, 3, dims, backend="convolutions")
        signal = (signal if dims == 2 else signal[..., 0]).requires_grad_()
        results, gradients = [], []
        for chunk in (None, grain * max(1, signal[0].numel() // pieces)):
            fast.chunk = chunk
            results.append(fast(signal))
            torch.manual_seed(1)
            gradients += torch.autograd.grad(results[-1], signal, torch.randn_like(results[-1]))
        assert_close_float32(*results, terms=terms(latents, 3, 3, dims))
        assert_close_float32(*gradients, terms=terms(latents, 3, 3, dims))

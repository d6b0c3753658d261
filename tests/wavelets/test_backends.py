"""Which backend a folded transform takes, and what it says where that is impossible."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from tests.helpers import needs_numba
from tests.wavelets.cases import analysis_and_reference, synthesis_and_reference


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

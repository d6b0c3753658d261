"""When the codec may lift, and when it must convolve; with right results either way."""

import copy

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.testing import assert_close
from torchvision import tv_tensors

from tests.helpers import make_codec, needs_numba, reference_decode, reference_encode, signal
from walloc_transforms.codec import Codec
from walloc_transforms.wavelets import Backend


@pytest.fixture(scope="module")
def frozen() -> Codec:
    """One codec for all tests that do not change it."""
    return make_codec()


# torch itself calls what it deprecates, and so for its first forward derivative
may_use_jit = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


@may_use_jit
@pytest.mark.parametrize("size", [(17, 24), (100,)])
def test_derivatives_of_the_whole(size: tuple[int, ...]) -> None:
    codec, x = make_codec(dims=len(size)), signal(1, 3, *size)
    tangent, z = signal(*x.shape), 40 * torch.randn(1, 12, *[-(-side // 8) for side in size])
    cases = (
        (codec.encode, lambda x: reference_encode(codec, x), x, tangent),
        (codec.decode, lambda z: reference_decode(codec, z), z, torch.randn_like(z)),
    )
    for ours, reference, value, direction in cases:
        forward, expected = (torch.func.jvp(f, (value,), (direction,))[1] for f in (ours, reference))
        assert_close(forward, expected, rtol=1e-3, atol=2e-2)
        backward, expected = (torch.func.grad(lambda v, f=f: f(v).square().mean())(value) for f in (ours, reference))
        assert_close(backward, expected, rtol=1e-3, atol=2e-3)
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(ours(forward_ad.make_dual(value, direction))).tangent
            assert_close(dual, forward, rtol=0, atol=1e-4)


def test_fake_tensors_have_shapes_alone(frozen: Codec) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(torch.ones(2, 3, 17, 24, dtype=torch.uint8))  # floats are looked at
        assert frozen.encode(x).shape == (2, 12, 3, 3)
        decoded = frozen.decode(mode.from_tensor(torch.ones(2, 12, 3, 3)), size=(17, 24))
    assert decoded.shape == (2, 3, 17, 24)


class Tagged(Tensor):
    """A tensor that stays of its type."""


@pytest.mark.parametrize("kind", [tv_tensors.Image, Tagged])
def test_subclasses(kind: type[Tensor], frozen: Codec) -> None:
    x = torch.randint(0, 256, (3, 40, 24), dtype=torch.uint8)
    latents = frozen.encode(x.as_subclass(kind))
    assert isinstance(latents, Tagged) is (kind is Tagged)
    assert_close(latents.as_subclass(Tensor), frozen.encode(x), rtol=0, atol=1e-3)


def test_negated_views_hold_other_values_than_their_memory(frozen: Codec) -> None:
    x = signal(1, 3, 40, 24)
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    assert_close(frozen.encode(negated), frozen.encode(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
def test_other_wavelets(wavelet: str) -> None:
    codec, x = make_codec(wavelet=wavelet), signal(1, 3, 40, 24)
    latents = codec.encode(x)
    assert_close(latents, reference_encode(codec, x), rtol=0, atol=1e-3)
    assert_close(codec.decode(latents), reference_decode(codec, latents), rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match=f"the wavelet is '{wavelet}'"):
        codec.backend = "lifting"
    assert codec.backend == "auto"
    assert torch.equal(codec.encode(x), latents)


@needs_numba
def test_backends_of_a_codec(frozen: Codec) -> None:
    x, codec = signal(2, 3, 40, 24), copy.deepcopy(frozen)
    latents, decoded = [], []
    backends: list[Backend] = ["auto", "lifting", "convolutions", "auto"]
    for codec.backend in backends:
        latents.append(codec.encode(x))
        decoded.append(codec.decode(latents[0]))
    for first, second, third, fourth in (latents, decoded):
        assert torch.equal(first, second)
        assert torch.equal(first, fourth)
        assert not torch.equal(first, third)
        assert_close(first, third, rtol=0, atol=1e-3)

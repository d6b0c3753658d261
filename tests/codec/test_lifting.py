"""When the codec may lift, and when it must convolve; with right results either way."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors

from tests.helpers import make_codec, reference_decode, reference_encode, signal
from walloc_transforms.codec import Codec
from walloc_transforms.wavelets import folded


@pytest.fixture(scope="module")
def frozen() -> Codec:
    """One codec for all tests that do not change it."""
    return make_codec()


@pytest.fixture
def lifts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Holds True for every time that all was well for lifting, and False where only numba was missing."""
    seen, original = [], folded._lifting

    def spy() -> Any:
        module = original()
        seen.append(module is not None)
        return module

    monkeypatch.setattr(folded, "_lifting", spy)
    return seen


# torch itself calls what it deprecates, and so for its first forward derivative
may_use_jit = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


def traced_by_jit(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    traced: Any = torch.jit.trace(lambda x: call(x), torch.ones_like(x), check_trace=False)
    return traced(x)


def with_tangent(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        result = forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x))))
        assert result.tangent is not None
        return result.primal.clone()


def counted(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with FlopCounterMode(display=False) as counter:
        result = call(x)
    assert counter.get_total_flops() > 1000
    return result


TRACES = {
    "autograd": lambda call, x: call(x.clone().requires_grad_()).detach(),
    "vjp": lambda call, x: torch.func.vjp(call, x)[0],
    "jvp": lambda call, x: torch.func.jvp(call, (x,), (x,))[0],
    "dual": with_tangent,
    "functionalize": lambda call, x: torch.func.functionalize(lambda x: call(x))(x),
    "make_fx": lambda call, x: make_fx(lambda x: call(x))(torch.ones_like(x))(x),
    "jit": traced_by_jit,
    "flops": counted,
    "parameter": lambda call, x: call(torch.nn.Parameter(x, requires_grad=False)),
}
PLAIN = {
    "as it is": lambda call, x: call(x),
    "no_grad": lambda call, x: torch.no_grad()(call)(x.clone().requires_grad_()),
    "inference_mode": lambda call, x: torch.inference_mode()(call)(x),
    "made in inference_mode": lambda call, x: call(torch.inference_mode()(x.clone)()),
    "detached": lambda call, x: call(x.clone().requires_grad_().detach()),
    "tv_tensor": lambda call, x: call(tv_tensors.Image(x[0])[None]),
    "autocast": lambda call, x: torch.autocast("cpu", torch.bfloat16)(call)(x),
}


@may_use_jit
@pytest.mark.parametrize("decode", [False, True], ids=["encode", "decode"])
@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES)
def test_traced_calls_do_not_lift(trace: Callable, decode: bool, frozen: Codec, lifts: list[bool]) -> None:
    x = signal(1, 3, 40, 24)
    z = frozen._folded_analysis(x)
    call, x = (frozen._folded_synthesis, z) if decode else (frozen._folded_analysis, x)  # nothing looks for NaN there
    expected = call(x)
    assert any(lifts)
    lifts.clear()
    assert_close(trace(call, x), expected, rtol=0, atol=1e-3)
    assert not lifts


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("change", PLAIN.values(), ids=PLAIN)
def test_plain_calls_lift(change: Callable, threads: int, frozen: Codec, lifts: list[bool]) -> None:
    x = signal(1, 3, 400, 24)  # more than one tile for two threads
    latents = frozen.encode(x)
    decoded = frozen.decode(latents)
    lifts.clear()
    try:
        torch.set_num_threads(threads)
        results = change(frozen.encode, x), change(frozen.decode, latents)
    finally:
        torch.set_num_threads(1)
    assert len(lifts) >= 2
    assert all(lifts)
    for result, expected in zip(results, (latents, decoded), strict=True):
        assert type(result) is Tensor
        assert not result.requires_grad
        assert torch.equal(result, expected)


@may_use_jit
@pytest.mark.parametrize("size", [(17, 24), (100,)])
def test_derivatives_of_the_whole(size: tuple[int, ...], lifts: list[bool]) -> None:
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
    assert not lifts


def test_fake_tensors_have_shapes_alone(frozen: Codec, lifts: list[bool]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for dtype in (torch.float32, torch.uint8):
            x = mode.from_tensor(torch.ones(2, 3, 17, 24, dtype=dtype))
            assert frozen._folded_analysis(x).shape == (2, 12, 3, 3)
        decoded = frozen.decode(mode.from_tensor(torch.ones(2, 12, 3, 3)), (17, 24))
    assert decoded.shape == (2, 3, 17, 24)
    assert not lifts


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
def test_other_wavelets_do_not_lift(wavelet: str, lifts: list[bool]) -> None:
    codec, x = make_codec(wavelet=wavelet), signal(1, 3, 40, 24)
    latents = codec.encode(x)
    assert_close(latents, reference_encode(codec, x), rtol=0, atol=1e-3)
    assert_close(codec.decode(latents), reference_decode(codec, latents), rtol=0, atol=1e-3)
    assert not lifts


@pytest.fixture(params=["missing", "disabled"])
def no_numba(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    find = folded._lifting
    find.cache_clear()
    if request.param == "missing":
        monkeypatch.setitem(sys.modules, "numba", None)
    else:
        monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    yield
    find.cache_clear()


@pytest.mark.usefixtures("no_numba")
def test_without_numba(lifts: list[bool]) -> None:
    codec, x = make_codec(), signal(1, 3, 17, 24)
    latents = codec.encode(x)
    assert_close(latents, reference_encode(codec, x), rtol=0, atol=1e-3)
    assert_close(codec.decode(latents), reference_decode(codec, latents), rtol=0, atol=1e-3)
    assert lifts == [False, False]


ELSEWHERE = """
import pickle, sys, torch
from walloc_transforms.wavelets import folded
codec, x, latents, decoded = pickle.load(sys.stdin.buffer)
for numba in ("disabled", "missing"):
    torch.testing.assert_close(codec.encode(x), latents, rtol=0, atol=1e-3)
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=0, atol=1e-4)
    assert folded._lifting() is None
    folded._lifting.cache_clear()
    sys.modules["numba"] = None
"""


def test_pickled_after_it_lifted_for_a_process_that_cannot(frozen: Codec) -> None:
    x = signal(1, 3, 40, 24)
    latents = frozen.encode(x)
    decoded = frozen.decode(latents)
    assert frozen._folded_analysis._lifted is not None
    assert frozen._folded_synthesis._lifted is not None
    pickled = pickle.dumps((frozen, x, latents, decoded))
    assert b"walloc_transforms.wavelets.lifting" not in pickled
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", ELSEWHERE], input=pickled, env=environment, check=True, timeout=120)
    assert frozen._folded_analysis._lifted is not None

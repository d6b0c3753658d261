"""When the codec may take its folded path, and that one lift: surroundings, copies, compilation, training."""

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import make_codec, reference_decode, reference_encode, signal
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors

from walloc_transforms import folded
from walloc_transforms.codec import Codec


@pytest.fixture(scope="module")
def frozen() -> Codec:
    """One codec for all tests that do not change it."""
    return make_codec()


def compile_whole(function: Callable, backend: str = "eager") -> Callable:
    torch.compiler.reset()  # or every test counts towards the limit of recompilations
    return torch.compile(function, fullgraph=True, backend=backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
def test_autocast_changes_no_bit(dtype: torch.dtype, plain: bool) -> None:
    codec, x = make_codec().requires_grad_(plain), signal(2, 3, 16, 24)
    latents, decoded = codec.encode(x), codec.decode(codec.encode(x))
    with torch.autocast("cpu", dtype):
        assert torch.equal(codec.encode(x), latents)
        assert torch.equal(codec.decode(codec.encode(x)), decoded)


@pytest.mark.parametrize(
    "convert",
    [lambda c: c.half(), lambda c: c.bfloat16(), lambda c: c.double(), lambda c: c.to(torch.float64),
     lambda c: c.to("cpu", torch.bfloat16), lambda c: torch.nn.Sequential(c).half()[0], lambda c: c.float()],
    ids=["half", "bfloat16", "double", "to", "to device", "parent", "float"],
)  # fmt: skip
def test_conversion_changes_no_bit(convert: Callable[[Codec], Codec]) -> None:
    codec, x = make_codec(), signal(2, 3, 16, 24)
    state, latents, decoded = copy.deepcopy(codec.state_dict()), codec.encode(x), codec.decode(codec.encode(x))
    converted = convert(codec)
    assert all(torch.equal(converted.state_dict()[k], v) for k, v in state.items())
    assert torch.equal(converted.encode(x), latents)
    assert torch.equal(converted.decode(latents), decoded)
    assert_close(converted.requires_grad_().encode(x).detach(), latents, rtol=0, atol=1e-3)


COPIES = {
    "itself": lambda codec: codec,
    "deepcopy": copy.deepcopy,
    "pickle": lambda codec: pickle.loads(pickle.dumps(codec)),
    "prefix": lambda codec: codec.prefix(12),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("encode_there", [False, True])
def test_made_in_inference_mode(make: Callable[[Codec], Codec], encode_there: bool) -> None:
    x = signal(2, 3, 16, 24)
    with torch.inference_mode():
        codec = make(make_codec())
        if encode_there:
            codec.decode(codec.encode(x))
    x.requires_grad_()
    codec.decode(codec.encode(x)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert_close(codec.encode(x).detach(), reference_encode(codec, x.detach()), rtol=0, atol=1e-3)


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_copies_encode_alike_and_apart(make: Callable[[Codec], Codec], requires_grad: bool) -> None:
    original, x = make_codec().requires_grad_(requires_grad), signal(2, 3, 16, 24)
    latents, decoded = original.encode(x), original.decode(original.encode(x))
    copied = make(original)
    assert copied.config == original.config
    assert_close(copied.encode(x), latents, rtol=0, atol=1e-3 if requires_grad else 0)
    assert_close(copied.decode(latents), decoded, rtol=0, atol=1e-3 if requires_grad else 0)
    if copied is not original:
        with torch.no_grad():
            copied.weight.zero_()
        assert torch.equal(original.encode(x), latents)
        assert not torch.allclose(copied.encode(x), latents)


@pytest.mark.parametrize("size", [(17, 24), (100,)])
@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
def test_compiles_whole(size: tuple[int, ...], plain: bool) -> None:
    codec = make_codec(12, 3, 3, len(size)).requires_grad_(plain)
    x = signal(2, 3, *size)
    latents = codec.encode(x).detach()
    decoded = codec.decode(latents, size)
    compiled = compile_whole(codec.encode, "aot_eager")
    assert_close(compiled(x), latents, rtol=0, atol=1e-3)
    assert_close(compiled(x, "round"), latents.round(), rtol=0, atol=1)
    compiled = compile_whole(codec.decode, "aot_eager")
    assert_close(compiled(latents, size), decoded, rtol=0, atol=1e-4)


def test_compiles_to_machine_code(frozen: Codec) -> None:
    x = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    latents = frozen.encode(x, input_range=(0, 255))
    compiled = compile_whole(frozen.encode, "inductor")
    assert_close(compiled(x, input_range=(0, 255)), latents, rtol=0, atol=1e-3)


def test_frozen_at_first(frozen: Codec) -> None:
    for codec in (frozen, Codec(frozen.config).train()):
        assert not any(p.requires_grad for p in codec.parameters())
        latents = codec.encode(signal(1, 3, 8, 8))
        assert not latents.requires_grad
        assert not codec.decode(latents).requires_grad


def test_gradients_reach_every_parameter() -> None:
    codec, x = make_codec().requires_grad_(), signal(2, 3, 16, 24)
    latents = codec.encode(x, "noise")
    codec.decode(latents, output_range=(0, 1)).square().mean().backward()
    for name, p in codec.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
def test_gradient_of_the_input(plain: bool) -> None:
    codec, x = make_codec().requires_grad_(plain), signal(2, 3, 17, 24).requires_grad_()
    (ours,) = torch.autograd.grad(codec.encode(x).sum(), x)
    (expected,) = torch.autograd.grad(reference_encode(codec, x).sum(), x)
    assert_close(ours, expected, rtol=1e-4, atol=2e-2)  # of gradients up to several hundred


def train_a_step(codec: Codec) -> None:
    optimizer = torch.optim.SGD(codec.requires_grad_().parameters(), lr=1e-2)
    codec.decode(codec.encode(signal(2, 3, 16, 24))).square().sum().backward()
    optimizer.step()
    codec.requires_grad_(False)


def in_place(codec: Codec) -> None:
    with torch.no_grad():
        codec.bias.add_(3)
        codec.decoder.bias.add_(0.1)


def assign_again(codec: Codec) -> None:
    for _ in range(3):  # parameters may come to lie where earlier ones were
        codec.load_state_dict(make_codec().state_dict(), assign=True)


CHANGES = {
    "train": train_a_step,
    "in place": in_place,
    "in inference mode": torch.inference_mode()(in_place),
    "load": lambda codec: codec.load_state_dict(make_codec().state_dict()),
    "assign": lambda codec: codec.load_state_dict(make_codec().state_dict(), assign=True),
    "assign again": assign_again,
    "new parameter": lambda codec: setattr(codec, "weight", torch.nn.Parameter(codec.weight * 0.5, False)),
    "new decoder": lambda codec: setattr(codec, "decoder", make_codec().decoder),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_folded_path_follows_the_weights(change: Callable[[Codec], object], compiled: bool) -> None:
    codec, x = make_codec(), signal(2, 3, 16, 24)
    before, decoded = codec.encode(x), codec.decode(codec.encode(x))
    change(codec)
    encode, decode = codec.encode, codec.decode
    if compiled:
        encode, decode = compile_whole(encode), compile_whole(decode)
    assert_close(encode(x), reference_encode(codec, x), rtol=0, atol=1e-3)
    assert_close(decode(before), reference_decode(codec, before), rtol=0, atol=1e-3)
    assert not torch.allclose(codec.encode(x), before) or not torch.allclose(codec.decode(before), decoded)


@pytest.mark.parametrize("make", [COPIES["pickle"], COPIES["prefix"]], ids=["pickle", "prefix"])
def test_compiled_before_any_eager_call(make: Callable[[Codec], Codec]) -> None:
    codec, x = make(make_codec()), signal(2, 3, 16, 24)
    latents = compile_whole(codec.encode)(x)
    assert_close(latents, reference_encode(codec, x), rtol=0, atol=1e-3)


# when to lift


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
    cases = ((codec.encode, lambda x: reference_encode(codec, x), x, tangent),
             (codec.decode, lambda z: reference_decode(codec, z), z, torch.randn_like(z)))  # fmt: skip
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
    latents = frozen.encode(x.as_subclass(kind), input_range=(0, 255))
    assert isinstance(latents, Tagged) is (kind is Tagged)
    assert_close(latents.as_subclass(Tensor), frozen.encode(x, input_range=(0, 255)), rtol=0, atol=1e-3)


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
from walloc_transforms import folded
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
    assert b"walloc_transforms.lifting" not in pickled
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", ELSEWHERE], input=pickled, env=environment, check=True, timeout=120)
    assert frozen._folded_analysis._lifted is not None

"""Which backend a folded transform takes, and what it says where that is impossible."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors

from tests.helpers import assert_close_float32, needs_numba
from tests.wavelets.cases import analysis_and_reference, synthesis_and_reference, terms
from walloc_transforms.wavelets import backends


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


def of_all_backends(build: Callable) -> list[torch.nn.Module]:
    """The same transform, which lifts where it can, only convolves and only lifts."""
    made = []
    for backend in ("auto", "convolutions", "lifting"):
        torch.manual_seed(0)
        made.append(build(12, 3, 3, 2, backend=backend)[0])
    return made


BUILD = pytest.mark.parametrize(
    ("build", "channels"), [(analysis_and_reference, 3), (synthesis_and_reference, 12)], ids=["encode", "decode"]
)


@needs_numba
@may_use_jit
@BUILD
@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES)
def test_traced_calls_convolve(trace: Callable, build: Callable, channels: int) -> None:
    automatic, convolved, lifted = of_all_backends(build)
    x = torch.rand(1, channels, 40, 24)
    assert_close_float32(trace(automatic, x), convolved(x), terms=terms(12, 3, 3, 2))
    with pytest.raises(ValueError, match="backend='lifting' cannot take this call"):
        trace(lifted, x)


@needs_numba
@BUILD
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("change", PLAIN.values(), ids=PLAIN)
def test_plain_calls_lift(change: Callable, threads: int, build: Callable, channels: int) -> None:
    automatic, _, lifted = of_all_backends(build)
    x = torch.rand(1, channels, 400, 24)  # more than one tile for two threads
    expected = lifted(x)
    torch.set_num_threads(threads)
    result = change(automatic, x)
    assert type(result) is Tensor
    assert not result.requires_grad
    assert torch.equal(result, expected)


@pytest.fixture(params=["missing", "disabled"])
def no_numba(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    backends.lifting.cache_clear()
    if request.param == "missing":
        monkeypatch.setitem(sys.modules, "numba", None)
    else:
        numba = pytest.importorskip("numba")
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    yield
    backends.lifting.cache_clear()


@pytest.mark.usefixtures("no_numba")
@BUILD
def test_without_numba(build: Callable, channels: int) -> None:
    x = torch.rand(1, channels, 40, 24)
    results = []
    for backend in ("auto", "convolutions"):
        torch.manual_seed(0)
        results.append(build(12, 3, 3, 2, backend=backend)[0](x))
    assert torch.equal(*results)
    with pytest.raises(ImportError, match="backend='lifting' cannot be used: numba is not installed"):
        build(12, 3, 3, 2, backend="lifting")


ELSEWHERE = """
import pickle, sys, torch
from walloc_transforms.wavelets import backends
automatic, lifted, x, expected = pickle.load(sys.stdin.buffer)
for numba in ("disabled", "missing"):
    assert backends.lifting() is None
    assert torch.equal(automatic(x), expected)
    try:
        lifted(x)
    except ValueError as error:
        assert "numba" in str(error)
    else:
        raise AssertionError("lifted without numba")
    backends.lifting.cache_clear()
    sys.modules["numba"] = None
"""


@pytest.mark.slow
@needs_numba
@BUILD
def test_pickled_after_it_lifted_for_a_process_that_cannot(build: Callable, channels: int) -> None:
    automatic, convolved, lifted = of_all_backends(build)
    x = torch.rand(1, channels, 40, 24)
    result = automatic(x)
    assert torch.equal(result, lifted(x))
    pickled = pickle.dumps((automatic, lifted, x, convolved(x)))
    assert b"walloc_transforms.wavelets.lifting" not in pickled
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", ELSEWHERE], input=pickled, env=environment, check=True, timeout=120)
    assert torch.equal(automatic(x), result)


COMPILE = """
from walloc_transforms.wavelets.strips import Image, memory_of
memory_of(Image(3, 64, 64, 8, (12288, 4096, 64), 1), 2, 8, 0)
"""

CONVOLVE = """
import sys, warnings, torch
if sys.argv[1] == "full":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
import walloc_transforms as wt
x = torch.rand(2, 3, 64, 64)
codec = wt.load_codec("rgb_16x")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    first, second = codec.encode(x), codec.encode(x)
    signal = codec.decode(first)
assert [warning.category for warning in caught] == [RuntimeWarning], caught
assert "NUMBA_CACHE_DIR" in str(caught[0].message), caught[0].message
codec.backend = "convolutions"
assert torch.equal(first, codec.encode(x)) and torch.equal(second, first)
assert torch.equal(signal, codec.decode(first))
try:
    codec.backend = "lifting"
except ImportError as error:
    assert "numba failed" in str(error), error
else:
    raise AssertionError("lifted")
"""


@needs_numba
@pytest.mark.slow
@pytest.mark.parametrize("cache", ["full", "damaged"])
def test_cache_of_machine_code_that_cannot_be_used(tmp_path: Path, cache: str) -> None:
    """One warning, and convolutions."""
    pytest.importorskip("resource")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    if cache == "damaged":
        subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)
        indexes = list(tmp_path.rglob("*.nbi"))
        assert indexes
        for index in indexes:
            index.write_bytes(index.read_bytes()[:100])
    subprocess.run([sys.executable, "-c", CONVOLVE, cache], env=environment, check=True)

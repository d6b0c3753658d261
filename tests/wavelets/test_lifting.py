"""Lifting against PyWavelets; and no cut, thread or layout of memory may change a bit."""

import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue

import numpy as np
import pytest
import pywt
import torch
from torch import Tensor

from tests.helpers import assert_close_float32
from tests.wavelets.cases import analysis_and_reference, synthesis_and_reference, terms
from walloc_transforms.wavelets import Finish, FoldedAnalysis
from walloc_transforms.wavelets.lifting import LiftedAnalysis, LiftedSynthesis

Transform = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def analysis(latents: int = 12, dims: int = 2) -> tuple[LiftedAnalysis, Transform]:
    """Make one of three levels and three channels."""
    weight, bias = torch.randn(latents, 3 * 8**dims), torch.randn(latents)
    lifted = LiftedAnalysis(weight, 3, dims)
    return lifted, lambda x: lifted(x, 1.5, bias)


def synthesis(latents: int = 12, dims: int = 2) -> tuple[LiftedSynthesis, Transform]:
    """Make the way back."""
    lifted = LiftedSynthesis(torch.randn(3 * 8**dims, latents), torch.randn(3 * 8**dims), 3, dims)
    return lifted, lambda z: lifted(z, 1.5, 0.25)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape) - 0.5


def both(*size: int, batch: int = 1, latents: int = 12) -> Iterator[tuple[Transform, Tensor]]:
    """Analysis and synthesis, and what to call them with."""
    yield analysis(latents, len(size))[1], noise(batch, 3, *size)
    yield synthesis(latents, len(size))[1], noise(batch, latents, *[-(-side // 8) for side in size])


# against PyWavelets


def pywt_packets(x: np.ndarray, levels: int) -> np.ndarray:
    """``(N, C, *size)`` to packets in natural order, as PyWavelets names its nodes."""
    if x.ndim == 3:
        tree, letters = pywt.WaveletPacket(x, "bior4.4", "periodization", levels, axis=-1), "ad"
    else:
        tree, letters = pywt.WaveletPacket2D(x, "bior4.4", "periodization", levels, axes=(-2, -1)), "ahvd"
    nodes = [tree["".join(path)].data for path in itertools.product(letters, repeat=levels)]
    return np.stack(nodes, 2).reshape(x.shape[0], -1, *nodes[0].shape[2:])


@pytest.mark.parametrize(
    ("levels", "size"),
    [
        (1, (2, 2)),
        (1, (10, 6)),
        (2, (4, 12)),
        (2, (12, 20)),
        (3, (8, 8)),
        (3, (16, 24)),
        (3, (72, 40)),
        (4, (16, 16)),
        (4, (48, 80)),
        (1, (2,)),
        (1, (34,)),
        (3, (40,)),
        (5, (96,)),
        (8, (256,)),
        (8, (768,)),
        (8, (5120,)),
    ],
)
def test_packets_are_those_of_pywavelets_and_invert(levels: int, size: tuple[int, ...]) -> None:
    dims = len(size)
    eye = torch.eye(2 * 2 ** (levels * dims))
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    packets = LiftedAnalysis(eye, levels, dims)(x.float(), 1.0, torch.zeros(len(eye)))
    expected = torch.from_numpy(pywt_packets(x.numpy(), levels)).float()
    own = terms(1, levels, 1, dims)
    assert_close_float32(packets, expected, terms=own)
    back = LiftedSynthesis(eye, torch.zeros(len(eye)), levels, dims)
    assert_close_float32(back(packets, 1.0, 0.0), x.float(), terms=2 * own)
    limited = back(expected, 2.0, 1.0, limits=(-1.0, 2.0))
    assert_close_float32(limited, (2 * x + 1).clamp(-1, 2).float(), terms=2 * own)


@pytest.mark.parametrize("latents", [1, 2, 3, 4, 5, 7, 8, 13, 27, 33])
@pytest.mark.parametrize(("levels", "size"), [(1, (6, 10)), (3, (40, 24)), (1, (10,)), (2, (44,)), (8, (1024,))])
def test_any_number_of_latents(latents: int, levels: int, size: tuple[int, ...]) -> None:
    own = terms(latents, levels, 3, len(size))
    lifted, reference = analysis_and_reference(latents, levels, 3, len(size), backend="lifting")
    x = noise(2, 3, *size)
    assert_close_float32(lifted(x), reference(x), terms=own)
    lifted, reference = synthesis_and_reference(latents, levels, 3, len(size), backend="lifting")
    z = torch.randn(2, latents, *[side // 2**levels for side in size])
    assert_close_float32(lifted(z), reference(z), terms=own)


@pytest.mark.parametrize("size", [(8, 4000), (4000, 8), (8, 8), (9, 1003), (1003, 9), (8,), (40003,)])
@pytest.mark.parametrize("threads", [1, 3])
def test_wide_tall_and_single_cells(size: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    own = terms(12, 3, 3, len(size))
    lifted, reference = analysis_and_reference(12, 3, 3, len(size), backend="lifting")
    x = noise(1, 3, *size)
    latents = lifted(x)
    assert_close_float32(latents, reference(x), terms=own)
    lifted, reference = synthesis_and_reference(12, 3, 3, len(size), backend="lifting")
    assert_close_float32(lifted(latents), reference(latents), terms=own)


# no cut changes a bit

SIZES = [(200, 24), (33, 17), (8, 160), (8, 8), (65, 300), (2000,), (264,), (41,)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_threads_change_no_bit(size: tuple[int, ...], batch: int) -> None:
    for transform, x in both(*size, batch=batch):
        expected = transform(x)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(transform(x), expected)
        torch.set_num_threads(1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("least", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("latents", [5, 24])
def test_tiles_change_no_bit(size: tuple[int, ...], least: int, latents: int) -> None:
    x, z = noise(2, 3, *size), noise(2, latents, *[-(-side // 8) for side in size])
    for (lifted, transform), signal in ((analysis(latents, len(size)), x), (synthesis(latents, len(size)), z)):
        expected = transform(signal)
        lifted.tile, lifted.least = 1, least
        assert torch.equal(transform(signal), expected)
        torch.set_num_threads(3)
        assert torch.equal(transform(signal), expected)
        torch.set_num_threads(1)


@pytest.mark.parametrize("size", [*SIZES, (24, 16), (72, 40)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_batch_changes_no_bit(size: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    for transform, x in both(*size, batch=5):
        assert torch.equal(transform(x), torch.cat([transform(one) for one in x.split(1)]))
        assert torch.equal(transform(x[2:]), transform(x)[2:])


LAYOUTS = {
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "every second": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "every second row": lambda x: x.repeat_interleave(2, -2)[..., ::2, :],
    "reversed channels": lambda x: torch.cat([x, x[:, :1]], 1)[:, :-1],
    "middle": lambda x: (
        torch.nn.functional.pad(x, (3, 5, 7, 1, 2, 1))[:, 2:-1, 7:-1, 3:-5]
        if x.ndim == 4
        else torch.nn.functional.pad(x, (3, 5, 2, 1))[:, 2:-1, 3:-5]
    ),
    "unaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "unaligned by 3": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("size", [(16, 24), (33, 17), (400,), (41,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_memory_layout_changes_no_bit(
    layout: Callable[[Tensor], Tensor], size: tuple[int, ...], dtype: torch.dtype
) -> None:
    for transform, x in list(both(*size, batch=3))[: 1 if dtype == torch.uint8 else 2]:
        x = x if dtype == torch.float32 else (x * 255 + 128).to(dtype)
        other, before = layout(x), x.clone()
        assert torch.equal(other, x)
        memory = x.new_empty(0).set_(other.untyped_storage())
        whole = memory.clone()
        assert torch.equal(transform(other), transform(x))
        assert torch.equal(x, before)
        assert torch.equal(memory, whole)


@pytest.mark.parametrize("size", [(16, 24), (33, 17), (41,)])
def test_expanded_batches_and_channels(size: tuple[int, ...]) -> None:
    for transform, x in both(*size, batch=3):
        for expanded in (x[:1].expand_as(x), x[:, :1].expand_as(x), x[..., :1].expand_as(x), x[:1, :1].expand_as(x)):
            assert torch.equal(transform(expanded), transform(expanded.contiguous()))


@pytest.mark.parametrize("size", [(16, 24), (33, 17), (400,)])
def test_bytes_are_their_values(size: tuple[int, ...]) -> None:
    x = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    transform = analysis(dims=len(size))[1]
    assert torch.equal(transform(x), transform(x.float()))


# threads


@pytest.mark.parametrize("threads", [1, 2])
def test_two_callers_at_once(threads: int) -> None:
    torch.set_num_threads(threads)
    (_, encode), (_, decode) = analysis(), synthesis()
    signals = [noise(2, 3, 8 * (i % 5 + 1), 40 + i) for i in range(24)]
    latents = [encode(x) for x in signals]
    decoded = [decode(z) for z in latents]
    start = threading.Barrier(2)

    def caller(order: int) -> list[tuple[Tensor, Tensor]]:
        start.wait()
        return [(encode(x), decode(z)) for x, z in list(zip(signals, latents, strict=True))[::order]]

    with ThreadPoolExecutor(2) as pool:
        forwards, backwards = pool.map(caller, (1, -1))
    for results in (forwards, backwards[::-1]):
        for ours, expected in zip(results, zip(latents, decoded, strict=True), strict=True):
            assert torch.equal(ours[0], expected[0])
            assert torch.equal(ours[1], expected[1])


class RefuseNaN:
    channels = 3

    def __call__(self, z: Tensor, first_channel: int) -> None:
        raise NotImplementedError

    def compare(self, least: np.ndarray, greatest: np.ndarray) -> None:
        if np.isnan(least).any():
            raise ValueError("the signal holds NaN")


def test_errors_come_out_of_the_threads() -> None:
    lifted, x = analysis_and_reference(12, 3, 3, 2, backend="lifting")[0], noise(6, 3, 64, 200)
    latents = lifted(x)

    finish = Finish(look=RefuseNaN())
    torch.set_num_threads(2)
    for place in ((0, 0, 0, 0), (2, 1, 33, 70), (5, 2, 63, 199)):
        spoilt = x.clone()
        spoilt[place] = float("nan")
        with pytest.raises(ValueError, match="holds NaN"):
            lifted(spoilt, finish=finish)
        assert torch.equal(lifted(x, finish=finish), latents)


def encode_there(lifted: FoldedAnalysis, x: Tensor, latents: Tensor, result: "SimpleQueue[bool]") -> None:
    result.put(torch.equal(lifted(x), latents) and torch.equal(lifted(x), latents))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_its_own_threads() -> None:
    lifted, x = analysis_and_reference(12, 3, 3, 2, backend="lifting")[0], noise(4, 3, 64, 64)
    torch.set_num_threads(2)
    latents = lifted(x)
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=encode_there, args=(lifted, x, latents, result))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0
    assert result.get() is True
    assert torch.equal(lifted(x), latents)

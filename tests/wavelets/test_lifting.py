"""Lifting against PyWavelets, and how signals are cut into tiles: no cut may change a bit."""

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
from torch.testing import assert_close

from tests.helpers import make_codec, reference_decode, reference_encode, signal
from walloc_transforms.codec import Codec
from walloc_transforms.wavelets import lifting
from walloc_transforms.wavelets.kernels import Grid
from walloc_transforms.wavelets.lifting import LiftedAnalysis, LiftedSynthesis
from walloc_transforms.wavelets.packets import WaveletPacketAnalysis, WaveletPacketSynthesis

NO_LIMITS = (-float("inf"), float("inf"))


def itself(part: Tensor, first_channel: int = 0) -> Tensor:
    return part


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def analysis(latents: int = 12, levels: int = 3, channels: int = 3, dims: int = 2) -> Callable[[Tensor], Tensor]:
    weight, bias = torch.randn(latents, channels * 2 ** (levels * dims)), torch.randn(latents)
    lifted = LiftedAnalysis(weight, levels, dims)
    return lambda x: lifted(x, 1.5, bias, itself)


def synthesis(latents: int = 12, levels: int = 3, channels: int = 3, dims: int = 2) -> Callable[[Tensor], Tensor]:
    packets = channels * 2 ** (levels * dims)
    lifted = LiftedSynthesis(torch.randn(packets, latents), torch.randn(packets), levels, dims)
    return lambda z: lifted(z, 1.5, 0.25, itself, NO_LIMITS)


def both(*size: int, batch: int = 1, latents: int = 12) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Analysis and synthesis at three levels, and what to call them with."""
    yield analysis(latents, dims=len(size)), signal(batch, 3, *size)
    yield synthesis(latents, dims=len(size)), signal(batch, latents, *[-(-side // 8) for side in size])


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
    packets = LiftedAnalysis(eye, levels, dims)(x.float(), 1.0, torch.zeros(len(eye)), itself)
    expected = torch.from_numpy(pywt_packets(x.numpy(), levels)).float()
    assert_close(packets, expected, rtol=0, atol=2e-5)
    back = LiftedSynthesis(eye, torch.zeros(len(eye)), levels, dims)
    assert_close(back(packets, 1.0, 0.0, itself, NO_LIMITS), x.float(), rtol=0, atol=2e-5)
    assert_close(back(expected, 2.0, 1.0, itself, (-1.0, 2.0)), (2 * x + 1).clamp(-1, 2).float(), rtol=0, atol=4e-5)


@pytest.mark.parametrize("latents", [1, 2, 3, 4, 5, 7, 8, 13, 27, 33])
@pytest.mark.parametrize(("levels", "size"), [(1, (6, 10)), (3, (40, 24)), (1, (10,)), (2, (44,)), (8, (1024,))])
def test_any_number_of_latents(latents: int, levels: int, size: tuple[int, ...]) -> None:
    dims, packets = len(size), 3 * 2 ** (levels * len(size))
    weight, bias = torch.randn(latents, packets) / packets**0.5, torch.randn(latents)
    x = signal(2, 3, *size)
    expected = torch.einsum(
        "dp,np...->nd...", weight.double(), WaveletPacketAnalysis("bior4.4", levels, dims)(x.double())
    )
    expected = (expected + bias.view(-1, *[1] * dims)).float()
    assert_close(LiftedAnalysis(weight, levels, dims)(x, 1.0, bias, itself), expected, rtol=0, atol=1e-5)

    z, bias = torch.randn(2, latents, *[side // 2**levels for side in size]), torch.randn(packets)
    expected = torch.einsum("dp,nd...->np...", weight.double(), z.double()) + bias.view(-1, *[1] * dims)
    expected = WaveletPacketSynthesis("bior4.4", levels, dims)(expected).float()
    decoded = LiftedSynthesis(weight.T, bias, levels, dims)(z, 1.0, 0.0, itself, NO_LIMITS)
    assert_close(decoded, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("size", [(8, 4000), (4000, 8), (8, 8), (9, 1003), (1003, 9), (8,), (40003,)])
@pytest.mark.parametrize("threads", [1, 3])
def test_wide_tall_and_single_cells(size: tuple[int, ...], threads: int) -> None:
    codec, x = make_codec(dims=len(size)), signal(1, 3, *size)
    torch.set_num_threads(threads)
    latents = codec.encode(x)
    assert_close(latents, reference_encode(codec, x), rtol=0, atol=1e-3)
    assert_close(codec.decode(latents), reference_decode(codec, latents), rtol=0, atol=1e-4)


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
def test_tiles_change_no_bit(size: tuple[int, ...], least: int, latents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for transform, x in both(*size, batch=2, latents=latents):
        expected = transform(x)
        with monkeypatch.context() as patch:
            patch.setattr(lifting, "_TILE", 1)
            patch.setattr(lifting, "_LEAST", least)
            assert torch.equal(transform(x), expected)
            torch.set_num_threads(3)
            assert torch.equal(transform(x), expected)
        torch.set_num_threads(1)


@pytest.mark.parametrize("size", [*SIZES, (24, 16), (72, 40)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_batch_changes_no_bit(size: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    for transform, x in both(*size, batch=5):
        assert torch.equal(transform(x), torch.cat([transform(one) for one in x.split(1)]))
        assert torch.equal(transform(x[2:]), transform(x)[2:])


def test_small_images_share_a_tile() -> None:
    lifted = LiftedAnalysis(torch.randn(12, 192), 3, 2)
    assert [tile.signals for tile in lifted._tiles(5, 2, 3)] == [5]
    assert len(lifted._tiles(1000, 2, 3)) > 1
    torch.set_num_threads(2)
    assert [tile.signals for tile in lifted._tiles(5, 2, 3)] == [3, 2]


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
    transform = analysis(dims=len(size))
    assert torch.equal(transform(x), transform(x.float()))


@pytest.mark.parametrize("threads", [1, 2])
def test_codecs_do_not_depend_on_cuts_either(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, x = make_codec(), signal(2, 3, 150, 90)
    latents = codec.encode(x)
    decoded = codec.decode(latents)
    torch.set_num_threads(threads)
    monkeypatch.setattr(lifting, "_TILE", 1)
    monkeypatch.setattr(lifting, "_LEAST", 2)
    assert torch.equal(codec.encode(x), latents)
    assert torch.equal(codec.decode(latents), decoded)
    assert codec.encode(x[None, None]).shape == (1, 1, *latents.shape)
    assert torch.equal(codec.encode(x[0]), latents[0])


# tiles, memory, threads


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("levels", "channels", "dims"), [(1, 1, 2), (3, 3, 2), (4, 3, 2), (3, 1, 1), (8, 2, 1)])
def test_tiles_cover_every_cell_once(threads: int, levels: int, channels: int, dims: int) -> None:
    torch.set_num_threads(threads)
    lifted = LiftedAnalysis(torch.randn(4, channels * 2 ** (levels * dims)), levels, dims)
    values = channels * 2 ** (levels * dims)
    for signals, cells in itertools.product((1, 2, 3, 40), (1, 15, 16, 33, 100, 1000, 5000)):
        for across in (1, 28, 700) if dims == 2 else (1,):
            tiles = lifted._tiles(signals, cells, across)
            count = np.zeros((signals, cells), int)
            for tile in tiles:
                count[tile.first : tile.first + tile.signals, tile.start : tile.start + tile.cells] += 1
                assert tile.cells == cells or (tile.signals, tile.halo) == (1, 4)
                size = (tile.cells + 2 * tile.halo) * (across + 2 if dims == 2 else 1) * values
                assert size <= lifting._TILE or tile.cells <= 2 * lifting._LEAST
                assert tile.signals == 1 or tile.signals * size <= lifting.LANES * values
            assert (count == 1).all()
            assert len(tiles) >= min(threads, signals * max(1, cells // lifting._LEAST))


def test_scratch_is_aligned_and_kept_only_if_small() -> None:
    def in_a_new_thread() -> list[tuple[int, bool]]:
        seen = []
        for rows, planes in ((1, 1), (5, 12), (3, 12), (5, 12), (99, 192), (700, 192), (5, 12)):
            grid = Grid(2, rows, 90, 1)
            array, again = lifting._scratch("planes", grid, planes), lifting._scratch("planes", grid, planes)
            assert array.ctypes.data % 64 == 0
            origin, pitch = lifting.layout(grid)
            assert origin % 16 == pitch % 16 == 0
            assert array.size == 2 * origin + planes * pitch
            assert lifting._kept.planes.size <= 2 * lifting._TILE
            seen.append((array.size, array.ctypes.data == again.ctypes.data))
        return seen

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(in_a_new_thread).result()
    assert [kept for _, kept in seen] == [size <= 2 * lifting._TILE for size, _ in seen]
    assert {kept for _, kept in seen} == {True, False}


@pytest.mark.parametrize("threads", [1, 2])
def test_two_callers_at_once(threads: int) -> None:
    torch.set_num_threads(threads)
    codec = make_codec()
    signals = [signal(2, 3, 8 * (i % 5 + 1), 40 + i) for i in range(24)]
    latents = [codec.encode(x) for x in signals]
    decoded = [codec.decode(z) for z in latents]
    start = threading.Barrier(2)

    def caller(order: int) -> list[tuple[Tensor, Tensor]]:
        start.wait()
        return [(codec.encode(x), codec.decode(z)) for x, z in list(zip(signals, latents, strict=True))[::order]]

    with ThreadPoolExecutor(2) as pool:
        forwards, backwards = pool.map(caller, (1, -1))
    for results in (forwards, backwards[::-1]):
        for ours, expected in zip(results, zip(latents, decoded, strict=True), strict=True):
            assert torch.equal(ours[0], expected[0])
            assert torch.equal(ours[1], expected[1])


def test_errors_come_out_of_the_threads() -> None:
    codec, x = make_codec(), signal(6, 3, 64, 200)
    latents = codec.encode(x)
    torch.set_num_threads(2)
    for place in ((0, 0, 0, 0), (2, 1, 33, 70), (5, 2, 63, 199)):
        spoilt = x.clone()
        spoilt[place] = float("nan")
        with pytest.raises(ValueError, match="NaN or infinite"):
            codec.encode(spoilt)
        assert torch.equal(codec.encode(x), latents)


def encode_there(codec: Codec, x: Tensor, latents: Tensor, result: "SimpleQueue[bool]") -> None:
    result.put(torch.equal(codec.encode(x), latents) and torch.equal(codec.encode(x), latents))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_its_own_threads() -> None:
    codec, x = make_codec(), signal(4, 3, 64, 64)
    torch.set_num_threads(2)
    latents = codec.encode(x)
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=encode_there, args=(codec, x, latents, result))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0
    assert result.get() is True
    assert torch.equal(codec.encode(x), latents)

"""Forks of a process that has computed with several threads, none of which come along."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue

import pytest
import torch
from torch import Tensor

import walloc_transforms as wt
from tests.helpers import signal

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

CODEC, IMAGES = wt.load_codec("rgb_16x"), signal(4, 3, 256, 256)
WORKS: dict[str, Callable[[], Tensor]] = {
    "encode": lambda: CODEC.encode(IMAGES),
    "decode": lambda: CODEC.decode(torch.zeros(4, 12, 32, 32)),
    "refiner": lambda: CODEC.decode(torch.zeros(1, 12, 32, 32), decoder="refiner"),
    "load": lambda: wt.load_codec("rgb_4x").encode(IMAGES),
    "fit": lambda: wt.fit_codec(IMAGES, levels=2, channels=6, progress=False).weight,
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.rand(1 << 20).erf()  # which wakes them
    yield
    torch.set_num_threads(threads)


def work_there(name: str, right: Tensor, result: "SimpleQueue[bool]") -> None:
    result.put(torch.allclose(WORKS[name](), right, rtol=0, atol=1e-3))


@pytest.mark.parametrize("name", WORKS)
def test_a_forked_process_waits_for_no_thread_of_its_parent(name: str, two_threads: None) -> None:
    right = WORKS[name]()
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=work_there, args=(name, right, result))
    process.start()
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0
    assert result.get() is True
    assert torch.get_num_threads() == 2  # here as before

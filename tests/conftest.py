"""Every test starts from the same seed, on one thread or on ``WALLOC_TEST_THREADS`` of them."""

import os

import pytest
import torch

THREADS = int(os.environ.get("WALLOC_TEST_THREADS", "1"))

torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def seed_and_threads() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)

"""How much memory encoding and decoding take, on both paths."""

import ctypes
import sys
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from recipes.common.timing import in_fresh_process, memory_rise
from tests.helpers import make_codec, needs_numba, signal
from walloc_transforms.codec import Codec
from walloc_transforms.wavelets import Backend
from walloc_transforms.wavelets.backends import stop_threads


def memory_ratios() -> dict[str, float]:
    """How many times the size of the signal in float32 the memory rises at most, result included."""
    torch.set_num_threads(2)
    image, ratios = signal(1, 3, 2341, 3453), {}
    for name, x, channels in (
        ("image", image, 12),
        ("bytes", (image * 255).to(torch.uint8), 12),
        ("sound", signal(1, 2, 4_000_001), 50),
    ):
        codec = make_codec(channels, 3, 3) if x.ndim == 4 else make_codec(channels, 8, 2, 1)
        backends: list[Backend] = ["convolutions", "lifting"]
        for codec.backend in backends:
            rises = memory_rises(codec, x)
            ratios |= {f"{name} {call} {codec.backend}": rise / x.numel() / 4 for call, rise in rises.items()}
    return ratios


def memory_rises(codec: Codec, x: Tensor) -> dict[str, int]:
    size = x.shape[-codec.config.dims :]
    latents = codec.encode(x[..., :512])
    codec.decode(latents)

    def encode() -> None:
        nonlocal latents
        latents = codec.encode(x)

    rises = {}
    for call, work in {"encode": encode, "decode": lambda: codec.decode(latents, size=size)}.items():
        stop_threads()  # and free what they keep
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # or memory freed before hides the rise
        rises[call] = memory_rise(work)
    return rises


@pytest.mark.slow
@needs_numba
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of a process cannot be reset")
def test_large_signals_take_little_memory() -> None:
    ratios = in_fresh_process(memory_ratios)
    assert len(ratios) == 12
    assert min(ratios.values()) > 0.06  # the size of the latents
    assert max(ratios.values()) < 4, ratios

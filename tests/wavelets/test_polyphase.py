"""Against the definitions, sample by sample."""

import pytest
import torch
from torch.testing import assert_close

from tests.helpers import assert_close_float32
from walloc_transforms.wavelets.filters import analysis_bank, synthesis_bank
from walloc_transforms.wavelets.polyphase import merge, split, to_blocks, to_phases


@pytest.mark.parametrize(
    ("start", "stride", "taps"), [(-4, 2, 9), (-60, 16, 121), (0, 4, 4), (0, 8, 3), (-1, 4, 2), (-5, 4, 5), (-8, 4, 4)]
)
@pytest.mark.parametrize("signals", [1, 3])
def test_blocks(start: int, stride: int, taps: int, signals: int) -> None:
    """``c[b, k] = sum_s sum_t filters[b, s, t] x[s, k * stride + start + t]``."""
    filters, x = torch.randn(5, signals, taps), torch.randn(2, signals, 40 * stride)
    kernel, (left, right) = to_blocks(filters, start, stride)
    assert kernel.shape == (5, signals * stride, 1, left + 1 + right)
    blocks = x.unflatten(2, (-1, stride)).transpose(1, 2).flatten(2)
    c = split(blocks, kernel, torch.arange(5.0))
    assert c.shape == (2, 40 - left - right, 5)
    for k in range(left, 40 - right):
        window = x[..., k * stride + start : k * stride + start + taps]
        expected = (torch.einsum("bst,nst->nb", filters.double(), window.double()) + torch.arange(5.0)).float()
        assert_close_float32(c[:, k - left], expected, terms=signals * taps + 1)


def test_blocks_read_no_more_than_they_must() -> None:
    bank = analysis_bank("bior4.4", 4)
    assert to_blocks(torch.from_numpy(bank.filters)[:, None], bank.start, bank.stride)[1] == (4, 3)
    assert to_blocks(torch.ones(1, 1, 4), 0, 4)[1] == (0, 0)


@pytest.mark.parametrize("levels", [1, 3])
def test_phases(levels: int) -> None:
    """``y[k * stride + start + t] += filters[b, t] c[b, k]``."""
    bank = synthesis_bank("bior4.4", levels)
    filters, stride = torch.from_numpy(bank.filters), bank.stride
    phases, (left, right) = to_phases(bank)
    c = torch.randn(2, stride, 30, dtype=torch.float64)
    y = merge(c, phases, stride)[:, 0]
    expected = torch.zeros(2, 60 * stride + 200, dtype=torch.float64)
    for k in range(30):
        first = 100 + k * stride + bank.start
        expected[:, first : first + filters.shape[1]] += c[..., k] @ filters
    inner = slice(100 + left * stride, 100 + (30 - right) * stride)
    assert_close(y, expected[:, inner])

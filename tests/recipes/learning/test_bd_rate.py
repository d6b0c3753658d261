"""BD-rates worked out by hand, and one against published points."""

import math

import pytest

from recipes.learning.bd_rate import bd_rate
from recipes.learning.published import KODAK, are_kodak

ANCHOR = [(0.1, 28.0), (0.2, 30.5), (0.5, 33.0), (1.0, 36.0)]


def test_values_worked_out_by_hand() -> None:
    """A curve of k times the rate differs by k - 1 wherever it lies; lines by the mean of the difference."""
    assert bd_rate(ANCHOR, ANCHOR) == pytest.approx(0)
    assert bd_rate(ANCHOR, [(0.8 * rate, quality) for rate, quality in reversed(ANCHOR)]) == pytest.approx(-20)
    assert bd_rate([(1, 30.0), (2, 31.0), (4, 32.0)], [(1, 30.0), (4, 31.0), (16, 32.0)]) == pytest.approx(100)
    # From 31 to 32 dB only: there the logarithms to base 2 are 1 to 2 and 0 to 1.
    assert bd_rate([(1, 30.0), (2, 31.0), (4, 32.0)], [(1, 31.0), (2, 32.0), (4, 33.0)]) == pytest.approx(-50)


def test_what_has_no_difference() -> None:
    assert math.isnan(bd_rate(ANCHOR, [(0.1, 40.0), (0.2, 41.0)]))
    assert math.isnan(bd_rate(ANCHOR, [(0.1, 30.0), (0.2, 30.0)]))
    assert math.isnan(bd_rate(ANCHOR, [(0.1, 30.0), (0.2, math.inf)]))
    assert math.isnan(bd_rate(ANCHOR, []))


def test_published_points() -> None:
    """WeConvene's README says -9.11 % of a VTM of unstated version; of CompressAI's VTM its points give -8.35."""
    theirs, vtm = KODAK.values()
    assert bd_rate(vtm, theirs) == pytest.approx(-8.35, abs=0.02)
    assert are_kodak(f"a/kodim{i:02}.png" for i in range(1, 25))
    assert not are_kodak(["kodim01.png"])

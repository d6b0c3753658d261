"""Forged files cost little: they are refused by a short message, or read within bounds."""

from pathlib import Path

import pytest

from tests.attack.forged import Forged, all_forged
from tests.attack.measure import measured

MEGABYTES = 300  # any hostile file of 1 MB


@pytest.mark.parametrize("forged", all_forged(), ids=lambda forged: forged.name)
def test_costs_little(forged: Forged, tmp_path: Path) -> None:
    cost = measured(forged.read, forged.make(tmp_path))
    assert cost.error == ("" if forged.accepted else "ValueError"), cost
    assert cost.megabytes <= MEGABYTES, cost
    assert len(cost.message) <= 1000
    assert cost.message.isprintable()

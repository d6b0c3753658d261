"""A few hundred mutated files for every parser; ``tests/attack/fuzz.py`` tries them for hours."""

import functools
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.attack.fuzz import attack, mutate
from tests.attack.parsers import PARSERS, Parts


@functools.cache
def _seeds(name: str) -> list[Parts]:
    return PARSERS[name].seeds()


@pytest.mark.parametrize("name", PARSERS)
def test_reads_what_is_valid(name: str, tmp_path: Path) -> None:
    for i, parts in enumerate(_seeds(name)):
        folder = tmp_path / str(i)
        folder.mkdir()
        assert attack(PARSERS[name], parts, folder, random.Random(0)) == "read"


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_refuses_in_good_order(name: str, chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        attack(PARSERS[name], mutate(_seeds(name), chance), Path(folder), chance)

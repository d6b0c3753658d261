"""The yardstick itself: memory, errors and runaways are seen."""

import time

import torch

from tests.attack.measure import measured


def _allocate(megabytes: int) -> float:
    return float(torch.ones(megabytes * 2**18).sum())


def _fail() -> None:
    raise ValueError("as expected")


def test_sees_memory() -> None:
    cost = measured(_allocate, 200)
    assert 190 <= cost.megabytes <= 260, cost
    assert (cost.error, cost.message) == ("", str(float(200 * 2**18)))


def test_sees_errors() -> None:
    cost = measured(_fail)
    assert (cost.error, cost.message) == ("ValueError", "as expected")


def test_kills_what_runs_away() -> None:
    assert measured(time.sleep, 60, timeout=0.5).error == "killed"

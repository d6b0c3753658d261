"""Checks of settings."""

import math
from collections.abc import Sequence
from typing import Any

from recipes.common.ranks import Ranks


def check_at_least(config: Any, least: int, names: Sequence[str]) -> None:
    """Raise a ValueError for a setting below a number, or for one of several in a setting."""
    for name in names:
        given = getattr(config, name)
        if any(value < least for value in (given if isinstance(given, tuple) else (given,))):
            raise ValueError(f"{name} must be at least {least}, got {given}")


def check_above_zero(config: Any, names: Sequence[str]) -> None:
    """Raise a ValueError for a setting that is not above 0, such as a learning rate."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {getattr(config, name)}")


def check_batch(batch_size: int, ranks: Ranks) -> None:
    """Raise a ValueError for batches that the processes cannot share evenly."""
    if batch_size % ranks.world:
        raise ValueError(f"batch_size {batch_size} must be a multiple of the {ranks.world} processes")

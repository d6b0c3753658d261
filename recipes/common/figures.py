"""What figures of several recipes share."""

from collections.abc import Iterable
from typing import Any


def mark_values(axes: Any, values: Iterable[int]) -> None:
    """Mark the values on a logarithmic axis, but of close ones only the first, whose labels would touch."""
    ticks: list[int] = []
    for value in sorted(set(values)):
        if not ticks or value > 1.2 * ticks[-1]:
            ticks.append(value)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)

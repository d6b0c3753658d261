"""The loop over arms and seeds of a comparison.

    runs = compare(config, ranks, train_and_score, headline)

calls ``train_and_score(arm, seed, run)`` for every arm with every seed. What it returns goes to ``result.json`` in the
run's folder, from which a finished run is read when the comparison is resumed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from tqdm import tqdm

from recipes.common.ranks import Ranks
from recipes.common.runs import Run, finished_or_new
from recipes.common.tables import Record


class Comparison(Protocol):
    """The settings of a comparison: a dataclass with these fields and any others."""

    arms: tuple[str, ...]
    seeds: int
    resume: bool
    output_dir: Path


def check_comparison(config: Any, at_least_one: Sequence[str]) -> None:
    """Raise a ValueError for a comparison of nothing, or for a setting of these below 1."""
    if config.seeds < 1 or not config.arms:
        raise ValueError("there is nothing to run: expected at least one arm and one seed")
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def compare(
    config: Comparison,
    ranks: Ranks,
    train_and_score: Callable[[str, int, Run], Record],
    headline: Callable[[Record], str],
    config_of: Callable[[str, int, Path], Any] | None = None,
) -> list[Record]:
    """Train and score every arm with every seed.

    Args:
        config: The settings, a dataclass.
        ranks: This process among others.
        train_and_score: Does one run, for an arm and a seed; gives what JSON can hold.
        headline: Says in a few words what came out.
        config_of: Makes the settings that are kept with a run, from its arm, seed and folder. Default: those of the
            comparison, with this arm alone.

    Returns:
        What ``train_and_score`` gave, with ``arm`` and ``seed``, seed by seed.
    """
    results: list[Record] = []
    jobs = [(seed, arm) for seed in range(config.seeds) for arm in config.arms]
    bar = tqdm(jobs, desc="runs", unit="run", leave=False, disable=not ranks.first)
    for seed, arm in bar:
        run = Run(config.output_dir / f"{arm}_seed{seed}", ranks, config.resume, f"{arm}, seed {seed}")
        bar.set_postfix_str(run.name)
        own = config_of(arm, seed, run.folder) if config_of else dataclasses.replace(cast(Any, config), arms=(arm,))
        result = finished_or_new(run, own, lambda arm=arm, seed=seed, run=run: train_and_score(arm, seed, run))
        results.append({"arm": arm, "seed": seed, **result})
        if ranks.first:
            tqdm.write(f"{run.name}: {headline(result)}")
    return results


def first_runs(results: Sequence[Record], names: Sequence[str]) -> dict[str, Record]:
    """Take some figures from the first run of every arm: those that do not depend on the seed."""
    return {r["arm"]: {name: r[name] for name in names} for r in reversed(results)}

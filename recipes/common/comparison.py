"""The loop over arms and seeds of a comparison.

    runs = compare(config, ranks, train_and_score, headline)

calls ``train_and_score(arm, seed, run)`` for every arm with every seed. What it returns goes to ``result.json`` in the
run's folder, from which a finished run is read when the comparison is resumed.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from recipes.common.checks import check_at_least
from recipes.common.ranks import Ranks
from recipes.common.runs import Run, finished_or_new
from recipes.common.tables import Record


class Comparison(Protocol):
    """The settings of a comparison: these and any others."""

    arms: tuple[str, ...]
    seeds: int
    resume: bool
    output_dir: Path


def files_of_arms(arms: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """Make patterns of the files that runs of arms leave in the output folder of a comparison."""
    files = tuple(files)
    return tuple(f"{arm}_seed[0-9]*/{file}" for arm in arms for file in files)


def check_comparison(config: Any, at_least_one: Sequence[str]) -> None:
    """Raise a ValueError for a comparison of nothing, or for a setting of these below 1."""
    if config.seeds < 1 or not config.arms:
        raise ValueError("there is nothing to run: expected at least one arm and one seed")
    check_at_least(config, 1, at_least_one)


def compare(
    config: Comparison,
    ranks: Ranks,
    train_and_score: Callable[[str, int, Run], Record],
    headline: Callable[[Record], str],
) -> list[Record]:
    """Train and score every arm with every seed.

    Args:
        config: The settings.
        ranks: This process among others.
        train_and_score: Does one run, for an arm and a seed; gives what JSON can hold.
        headline: Says in a few words what came out.

    Returns:
        What ``train_and_score`` gave, with ``arm`` and ``seed``, seed by seed.
    """
    results: list[Record] = []
    jobs = [(seed, arm) for seed in range(config.seeds) for arm in config.arms]
    bar = tqdm(jobs, desc="runs", unit="run", leave=False, disable=not ranks.first)
    for seed, arm in bar:
        run = Run(config.output_dir / f"{arm}_seed{seed}", ranks, config.resume, f"{arm}, seed {seed}")
        bar.set_postfix_str(run.name)
        result = finished_or_new(run, lambda arm=arm, seed=seed, run=run: train_and_score(arm, seed, run))
        results.append({"arm": arm, "seed": seed, **result})
        if ranks.first:
            tqdm.write(f"{run.name}: {headline(result)}")
    return results


def first_runs(results: Sequence[Record], names: Sequence[str]) -> dict[str, Record]:
    """Take some figures from the first run of every arm: those that do not depend on the seed."""
    return {r["arm"]: {name: r[name] for name in names} for r in reversed(results)}

"""Rows of the table that recipes/resolution_scaling.py writes, from what the recipes of the tasks return."""

import statistics
from collections.abc import Mapping, Sequence

from recipes.common.tables import Record, mean_and_sd
from recipes.documents.report import SCORES, family


def mean_of_runs(runs: list[Record]) -> Record:
    """Average the runs of one arm of classification over the seeds; rates are medians."""
    accuracy, spread = mean_and_sd([run["accuracy"] for run in runs])
    return {
        "task": "classification",
        **{name: runs[0][name] for name in ("arm", "values", "tokens", "macs")},
        "accuracy": accuracy,
        "spread": spread,
        "seeds": len(runs),
        "pipeline_rate": statistics.median(run["pipeline_rate"] for run in runs),
        "step_rate": statistics.median(run["step_rate"] for run in runs),
    }


def trained_row(
    task: str, row: Record, measures: Mapping[str, str], *, tokens: int, macs_of: float, batch: float
) -> Record:
    """Make a row of the common table from one of a recipe that trains, or compares trained networks with estimates.

    Args:
        task: Its name.
        row: A row; if it was trained, with ``values`` per token, ``trunk_macs`` and ``step_rate``.
        measures: The names of measures in that table, by their names in the common one.
        tokens: Per sample.
        macs_of: Multiply-adds per sample for one of ``trunk_macs``.
        batch: Samples per step and process.
    """
    made: Record = {"task": task, "arm": row["arm"], "seeds": row["seeds"]}
    made |= {name: row[own_name] for name, own_name in measures.items()}
    made |= {f"{name}_sd": row[f"{own_name} sd"] for name, own_name in measures.items()}
    if row["seeds"]:
        made |= {
            "values": row["values"] * tokens,
            "tokens": tokens,
            "macs": row["trunk_macs"] * macs_of,
            "step_rate": row["step_rate"] * batch,
        }
    return made


def without_bounds(rows: list[Record]) -> list[Record]:
    """Leave out the bounds of arms, what they could reach at best: they are no results."""
    return [row for row in rows if " through " not in row["arm"]]


def documents_row(row: Record) -> Record:
    """Make a row of the common table from one of recipes/reading.py."""
    return {
        **{"task": "documents", "arm": row["arm"], "seeds": 0, "family": family(row["arm"]), "values": row["values"]},
        **_with_errors(row, tuple(SCORES)),
    }


def pretrained_row(row: Record) -> Record:
    """Make a row of the common table from one of recipes/pretrained.py."""
    measures = [name for name in ("top1", "agreement") if name in row]
    return {
        **{"task": "pretrained", "arm": row["arm"], "seeds": row["seeds"], "family": row["kind"]},
        **{"values": row["values"], "macs": row["macs"], **_with_errors(row, measures)},
    }


def _with_errors(row: Record, measures: Sequence[str]) -> Record:
    """Take measures, and their standard errors."""
    return {name: row[name] for name in measures} | {f"{name}_se": row[f"{name} se"] for name in measures}

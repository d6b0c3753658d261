"""Tables of records: grouped, averaged over seeds, written as Markdown and as CSV.

A record is a row: figures and words by the name of their column. A figure that is not known is NaN or left out.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Record = dict[str, Any]

Mean = Callable[[Iterable[float]], float]


def group(records: Iterable[Record], by: Sequence[str]) -> dict[tuple[Any, ...], list[Record]]:
    """Group records by the values of some columns, in the order in which these first appear."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in by), []).append(record)
    return groups


def mean_known(values: Iterable[float]) -> float:
    """Average the values that are not NaN; NaN if there is none."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def means(records: Sequence[Record], names: Iterable[str], mean: Mean = mean_known) -> Record:
    """Average columns of records, each over the records that have it; NaN where none has."""
    columns = {name: [record[name] for record in records if name in record] for name in names}
    return {name: mean(values) if values else math.nan for name, values in columns.items()}


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Average, and standard deviation, which is NaN for fewer than two values or with one that is not finite."""
    known = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.fmean(values) if values else math.nan, statistics.stdev(values) if known else math.nan


def mean_over_seeds(records: Iterable[Record], scores: Sequence[str], mean: Mean = mean_known) -> list[Record]:
    """Average scores within each seed, then over seeds: a row per arm.

    Args:
        records: With ``arm`` and ``seed``, which is ``""`` where nothing was trained.
        scores: The columns to average.
        mean: Averages within a seed. Default: over what is known.

    Returns:
        Rows of ``arm``, ``seeds`` (their number, 0 where nothing was trained), and for each score its mean and, as
        ``"SCORE sd"``, its standard deviation over seeds.
    """
    table: list[Record] = []
    for (arm,), own in group(records, ("arm",)).items():
        seeds = group(own, ("seed",))
        row: Record = {"arm": arm, "seeds": len(seeds) if [*seeds] != [("",)] else 0}
        for name in scores:
            of_seeds = [means(part, (name,), mean)[name] for part in seeds.values() if any(name in r for r in part)]
            row[name], row[f"{name} sd"] = mean_and_sd(of_seeds)
        table.append(row)
    return table


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Write cells as a Markdown table; all columns but the first ``text_columns`` are flush right."""
    rules = ["---" if column < text_columns else "---:" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))


def figure(value: float | None, digits: int, sd: float = math.nan) -> str:
    """Write a figure, with its standard deviation if that is known: ``1,234.5 ± 0.6``; ``-`` if it is not known."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.{digits}f}" + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}")


def number(value: float) -> str:
    """Write a number with one decimal below 100 and none above; ``-`` if it is not known."""
    return figure(value, 1 if value < 100 else 0)


def as_csv(records: Sequence[Record], columns: Sequence[str] | None = None) -> bytes:
    """Write records as CSV, unrounded. What a record does not have is left empty.

    Args:
        records: The rows.
        columns: Which columns, in this order. Default: those of all records.
    """
    text = io.StringIO()
    columns = columns or list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()

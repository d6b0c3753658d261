"""How near estimates of sources come to the truth: scores per segment, and the table over arms, seeds and segments.

* sdr: ``10 log10(sum s^2 / sum (s - s')^2)`` over both channels, as in the Music Demixing Challenge; silence has 0 dB.
* si_sdr: the same after scaling ``s`` to fit ``s'`` best; blind to loudness, and undefined for silence.
* psnr: ``-10 log10 mean((s - s')^2 / 4)``, against a peak-to-peak of 1 as in the WaLLoC paper. It rewards silence,
  since voices are far below full scale.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

SCORES = ("sdr", "si_sdr", "psnr")
SILENT = 1e-3
"""Root mean square below which a source counts as silent in a segment: -60 dB of full scale."""
_WORST = 1e-12  # mean squared error below which none is told: -120 dB

Row = dict[str, Any]


def score(estimate: Tensor, truth: Tensor) -> dict[str, float]:
    """Compare an estimate with the truth, both ``(channels, time)`` in [-1, 1]; in dB, NaN where undefined.

    Raises:
        ValueError: The shapes differ, or the truth is silent, for which no ratio is defined.
    """
    if estimate.shape != truth.shape:
        raise ValueError(f"the estimate has shape {tuple(estimate.shape)}, the truth {tuple(truth.shape)}")
    if is_silent(truth):
        raise ValueError("the truth is silent")
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio  # takes seconds to import

    estimate, truth = estimate.double(), truth.double()
    error = max(float((truth - estimate).square().mean()), _WORST)
    # The ratio's guard against division by zero would give silence 0 dB.
    undefined = not bool(estimate.any())
    ratio = scale_invariant_signal_distortion_ratio(estimate.flatten(), truth.flatten())
    si_sdr = math.nan if undefined else float(ratio)
    return {
        "sdr": 10 * math.log10(float(truth.square().mean()) / error),
        "si_sdr": si_sdr,
        "psnr": -10 * math.log10(error / 4),
    }


def is_silent(source: Tensor) -> bool:
    """Whether a source is below -60 dB of full scale, in root mean square."""
    return float(source.double().square().mean().sqrt()) < SILENT


def score_all(estimates: Tensor, truth: Tensor, sources: Sequence[str], about: Row) -> list[Row]:
    """Score the sources ``(sources, 2, time)`` of a segment that are not silent; ``about`` goes into every row."""
    return [
        {**about, "source": source, **score(estimate, true)}
        for source, estimate, true in zip(sources, estimates, truth, strict=True)
        if not is_silent(true)
    ]


def best_gains(stems: Tensor) -> list[float]:
    """Gains by which the mixture fits every source best over crops ``(batch, sources, 2, time)``."""
    mixture = stems.sum(1, keepdim=True)
    gains = (stems * mixture).sum((0, 2, 3)) / mixture.square().sum((0, 2, 3)).clamp(min=1e-12)
    return gains.tolist()


def summarize(rows: Iterable[Row], sources: Sequence[str]) -> list[Row]:
    """Average over segments, then over seeds: a row per arm with ``"SCORE SOURCE"`` and ``"SCORE SOURCE sd"``.

    The standard deviation is over seeds. What is undefined is NaN.
    """
    rows = list(rows)
    table: list[Row] = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        seeds = sorted({row["seed"] for row in own}, key=str)
        line: Row = {"arm": arm, "seeds": len(seeds) if seeds != [""] else 0}
        for source in sources:
            for name in SCORES:
                by_seed = [[r[name] for r in own if (r["seed"], r["source"]) == (seed, source)] for seed in seeds]
                means = [statistics.fmean(values) for values in by_seed if values]
                line[f"{name} {source}"] = statistics.fmean(means) if means else math.nan
                line[f"{name} {source} sd"] = statistics.stdev(means) if len(means) > 1 else math.nan
        table.append(line)
    return table


def markdown(table: Sequence[Row], sources: Sequence[str]) -> str:
    """Lay the table out as Markdown; arms carry ``values``, ``trunk_macs``, ``macs`` and ``step_rate`` as well."""
    heads = [
        "arm",
        "values per frame",
        "trunk, MMAC/s",
        "in all, MMAC/s",
        "training steps/s",
        "seeds",
        *(f"{source}: {label}, dB" for source in sources for label in ("SDR", "SI-SDR", "PSNR")),
    ]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in table:
        figures = (("values", 1, 0), ("trunk_macs", 1e6, 0), ("macs", 1e6, 0), ("step_rate", 1, 1))
        cells = [row["arm"], *(_number(row.get(key), unit, digits) for key, unit, digits in figures)]
        cells.append(str(row["seeds"] or "-"))
        for source in sources:
            for name in SCORES:
                sd = row[f"{name} {source} sd"]
                cells.append(_number(row[f"{name} {source}"], 1, 1) + ("" if math.isnan(sd) else f" ± {sd:.1f}"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value / unit:,.{digits}f}"


def as_csv(rows: Sequence[Row]) -> str:
    """Lay rows out as CSV, unrounded, with the columns of all of them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""How near estimates of sources come to the truth: scores per segment, and the table over arms, seeds and segments.

* sdr: ``10 log10(sum s^2 / sum (s - s')^2)`` over both channels, as in the Music Demixing Challenge; silence has 0 dB.
* si_sdr: the same after scaling ``s`` to fit ``s'`` best; blind to loudness, and undefined for silence.
* psnr: ``-10 log10 mean((s - s')^2 / 4)``, against the peak-to-peak of full scale, 2, as in the WaLLoC paper. It
  rewards silence, since voices are far below full scale.
"""

import math
import statistics
from collections.abc import Iterable, Sequence

from torch import Tensor

from recipes.common.quality import psnr_of_error
from recipes.common.tables import Record, figure, markdown_table, mean_over_seeds

SCORES = ("sdr", "si_sdr", "psnr")
SILENT = 1e-3
"""Root mean square below which a source counts as silent in a segment: -60 dB of full scale."""
_WORST = 1e-12  # mean squared error below which none is told: -120 dB


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
        "psnr": psnr_of_error(error, 2),
    }


def is_silent(source: Tensor) -> bool:
    """Whether a source is below -60 dB of full scale, in root mean square."""
    return float(source.double().square().mean().sqrt()) < SILENT


def score_all(estimates: Tensor, truth: Tensor, sources: Sequence[str], about: Record) -> list[Record]:
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


def mean_by_source(rows: Iterable[Record], sources: Sequence[str]) -> list[Record]:
    """Average over segments, then over seeds: a row per arm with ``"SCORE SOURCE"`` and ``"SCORE SOURCE sd"``.

    The standard deviation is over seeds. A mean is NaN where the score of any segment is undefined.
    """
    wide = [{"arm": r["arm"], "seed": r["seed"], **{f"{name} {r['source']}": r[name] for name in SCORES}} for r in rows]
    return mean_over_seeds(wide, [f"{name} {source}" for source in sources for name in SCORES], statistics.fmean)


def markdown(table: Sequence[Record], sources: Sequence[str]) -> str:
    """Write the table as Markdown; rows of arms have ``values``, ``trunk_macs``, ``macs`` and ``step_rate`` as well."""
    heads = [
        "arm",
        "values per frame",
        "trunk, MMAC/s",
        "in all, MMAC/s",
        "training steps/s",
        "seeds",
        *(f"{source}: {label}, dB" for source in sources for label in ("SDR", "SI-SDR", "PSNR")),
    ]
    rows: list[list[str]] = []
    for row in table:
        costs = (("values", 1, 0), ("trunk_macs", 1e6, 0), ("macs", 1e6, 0), ("step_rate", 1, 1))
        cells = [row["arm"], *(figure(row.get(name, math.nan) / unit, digits) for name, unit, digits in costs)]
        cells.append(str(row["seeds"] or "-"))
        cells += [
            figure(row[f"{name} {source}"], 1, row[f"{name} {source} sd"]) for source in sources for name in SCORES
        ]
        rows.append(cells)
    return markdown_table(heads, rows) + "\n"

"""Table and figure of recipes/resolution_scaling.py, over several tasks, with published figures apart from ours."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from recipes.answers.report import COLORS
from recipes.common.figures import mark_values
from recipes.common.tables import Record, as_csv, figure, markdown_table
from recipes.documents.report import STYLES
from recipes.scaling import published_results as published

MEASURES = {
    "accuracy": ("spread", "accuracy, %", 1),
    "psnr": ("psnr_sd", "PSNR, dB", 2),
    "ms_ssim": ("ms_ssim_sd", "MS-SSIM", 4),
    "lpips_db": ("lpips_db_sd", "LPIPS, dB", 2),
    "sdr": ("sdr_sd", "SDR, dB", 1),
    "si_sdr": ("si_sdr_sd", "SI-SDR, dB", 1),
    "anls": ("anls_se", "ANLS, %", 1),
    "exact": ("exact_se", "lines read exactly, %", 1),
    "cer": ("cer_se", "character error rate, %", 1),
    "top1": ("top1_se", "top-1, %", 1),
    "agreement": ("agreement_se", "agreement, %", 1),
}
"""Key of the spread, label and digits of every measure: the standard deviation over seeds, or the standard error."""

_FAMILIES = {
    **{"resize": "C0", "resample": "C0", "patch": "C1", "conv": "C1", "dct": "C2", "stft": "C2", "walloc": "C3"},
    **COLORS,
    **{kind: color for kind, (_, color) in STYLES.items()},
}
_NOTES = {
    "separation": "Separation is scored on the first source.",
    "pretrained": "Agreement is with what the same network answers on all pixels.",
}
_DASHES = ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
_TRIVIAL = "0.35"  # gray of the lines of what takes no training
_PUBLISHED = {
    "pixels": ("o", "pixels"),
    "waveform": ("o", "waveform"),
    "patch": ("s", "pixels, larger patches"),
    "latents": ("D", "latents"),
}


@dataclass
class Part:
    """What one task has for table and figure.

    Attributes:
        task: Its name.
        rows: One per arm, with ``values``, ``tokens``, ``macs``, measures and rates; what takes no training has
            ``seeds`` 0 and no rates. Trivial estimates have no values either; arms may have a ``family``, their line in
            the figure, which otherwise is told by their name.
        data: What was trained on and scored.
        measure: The one that is drawn.
        axis: Its label.
        sample: What values are counted per.
        about: What is the same for all arms. Default: their tokens and seeds.
    """

    task: str
    rows: list[Record]
    data: str
    measure: str
    axis: str
    sample: str
    about: str = ""


def markdown(rows: Sequence[Record]) -> str:
    """Write the rows of one or more tasks as one Markdown table, with the columns that any of them fills."""
    several = _several(rows)
    used = {key for row in rows for key in row}
    heads = ["task"] * several + ["arm", "values per sample", "tokens", "trunk MMACs"]
    heads += [f"{label} (mean ± {_spread_of(spread)})" for key, (spread, label, _) in MEASURES.items() if key in used]
    heads += ["seeds"]
    heads += ["input pipeline, samples/s"] * ("pipeline_rate" in used) + ["training step, samples/s"]
    lines: list[list[str]] = []
    for row in rows:
        cells = [row["task"]] * several + [row["arm"], figure(row.get("values"), 0), str(row.get("tokens", "-"))]
        cells.append(f"{row['macs'] / 1e6:.1f}" if "macs" in row else "-")
        for key, (sd, _, digits) in MEASURES.items():
            if key in used:
                cells.append(figure(row.get(key), digits, row.get(sd, math.nan)))
        cells.append(str(row["seeds"] or "-"))
        cells += [figure(row.get("pipeline_rate"), 0)] * ("pipeline_rate" in used)
        cells.append(figure(row.get("step_rate"), 0))
        lines.append(cells)
    return markdown_table(heads, lines, text_columns=1 + several) + "\n"


def _spread_of(key: str) -> str:
    return "se" if key.endswith("_se") else "sd"


def _several(rows: Sequence[Record]) -> bool:
    return len({row["task"] for row in rows}) > 1


def csv_of(rows: Sequence[Record]) -> bytes:
    """Write the rows as CSV, unrounded; what a row does not have is left empty."""
    used = {key for row in rows for key in row}
    columns = ["task"] * _several(rows) + ["arm", "values", "tokens", "macs"]
    columns += [column for key, (sd, _, _) in MEASURES.items() if key in used for column in (key, sd)]
    columns += ["seeds"] + ["pipeline_rate"] * ("pipeline_rate" in used) + ["step_rate"]
    return as_csv(rows, columns)


def caption(parts: Sequence[Part]) -> str:
    """Say what the figures of the table are."""
    samples = "; ".join(f"{part.task}, {part.data}: {part.sample}" for part in parts)
    notes = "".join(f"{_NOTES[part.task]} " for part in parts if part.task in _NOTES)
    return (
        "Means over seeds; after ± sd: standard deviation, se: standard error over pages or images. Rows without "
        f"seeds take no training. A sample is, of {samples}. {notes}The folders of tasks other than classification "
        "hold tables of their own, with further scores and what each arm could reach at best.\n\n"
    )


def markdown_published(tasks: Iterable[str]) -> str:
    """Write the published figures of those tasks that there are any of, as a section that says whose they are."""
    tasks = [task for task in tasks if task in published.HEADLINE]
    if not tasks:
        return ""
    rows = [
        [r.task, r.reads, f"{r.values:,}", str(r.tokens), _figures(r.paper), _figures(r.notebooks)]
        for r in published.RESULTS
        if r.task in tasks
    ]
    heads = ["task", "what their network read", "values per sample", "tokens", published.PAPER, published.NOTEBOOKS]
    data = "; ".join(f"{task}: {published.DATA[task]}" for task in tasks)
    notes = "\n".join(f"* {task}: {note}" for task in tasks for note in published.DEFECTS[task])
    table = markdown_table(heads, rows, text_columns=2)
    return (
        f"\n## Theirs: {published.PAPER}\n\nNot our figures, and not to be compared with those above: other data "
        f"({data}), networks, training and scoring. LPIPS is -10 log10.\n\n{table}"
        f"\n\nWhat is known to be wrong with them:\n\n{notes}\n"
    )


def _figures(figures: Mapping[str, float]) -> str:
    measures = {key: published.MEASURES[key] for key in figures}
    return (
        ", ".join(f"{name} {figures[key]:.{digits}f} {unit}".rstrip() for key, (name, unit, digits) in measures.items())
        or "-"
    )


def draw(parts: Sequence[Part], *, with_published: bool) -> Figure:
    """Draw a panel per task, the measure over the values a network reads.

    Args:
        parts: What to draw.
        with_published: Draw published figures below, in a row of panels with axes of their own, if there are any.
    """
    with_published = with_published and any(part.task in published.HEADLINE for part in parts)
    size = (5.2 * len(parts), 9.8) if with_published else (6.0 * len(parts), 4.0)
    layout = ConstrainedLayoutEngine(w_pad=0.12) if with_published else "constrained"
    picture = Figure(size, layout=layout)
    rows: list[Any] = [picture]
    if with_published:
        rows = list(picture.subfigures(2, 1, squeeze=False, height_ratios=(1.12, 1), hspace=0.04)[:, 0])
    for axes, part in zip(rows[0].subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        _draw_part(axes, part, f"{part.task}\n" * with_published)
        _legend(axes, 2 * with_published)
    if with_published:
        rows[0].suptitle("Ours", fontsize=10)
        rows[1].set_facecolor("0.95")
        rows[1].suptitle(
            f"Theirs: {published.PAPER}\nother data and protocols, not comparable with ours; more is better",
            fontsize=10,
        )
        for axes, part in zip(rows[1].subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            if part.task in published.HEADLINE:
                _draw_published(axes, part.task)
                _legend(axes, 1)
            else:
                axes.set_axis_off()
    return picture


def _draw_part(axes: Any, part: Part, heading: str) -> None:
    arms = [{"family": row["arm"].split("_")[0], **row} for row in part.rows if "values" in row]
    for kind in dict.fromkeys(row["family"] for row in arms):
        own = sorted((r for r in arms if r["family"] == kind), key=lambda r: r["values"])
        spreads = [r[MEASURES[part.measure][0]] for r in own]
        axes.errorbar(
            [r["values"] for r in own],
            [r[part.measure] for r in own],
            [0 if math.isnan(spread) else spread for spread in spreads],
            marker="o",
            capsize=3,
            color=_FAMILIES[kind],
            label=kind,
        )
    trivial = [row for row in part.rows if "values" not in row]
    for row, dashes in zip(trivial, _DASHES, strict=False):
        axes.axhline(row[part.measure], color=_TRIVIAL, lw=1.2, ls=dashes, label=row["arm"])
    first, seeds = arms[0], arms[0]["seeds"]
    about = part.about or f"{first['tokens']} tokens, same trunk, {seeds} seed{'s' * (seeds > 1)}"
    axes.set(xscale="log", xlabel="values per sample", ylabel=part.axis, title=f"{heading}{part.data}: {about}")
    mark_values(axes, [row["values"] for row in arms])


def _draw_published(axes: Any, task: str) -> None:
    measure = published.HEADLINE[task]
    name, unit, _ = published.MEASURES[measure]
    results = [r for r in published.RESULTS if r.task == task]
    named: set[str] = set()
    for r in results:
        edge, source = ("0.25", published.PAPER) if r.paper else ("0.6", published.NOTEBOOKS)
        marker, label = _PUBLISHED[r.family]
        figure = (r.paper or r.notebooks)[measure]
        label = f"{label} ({source})"
        axes.plot(
            r.values, figure, ls="", marker=marker, ms=8, mfc="none", mec=edge, label=None if label in named else label
        )
        named.add(label)
        if len({other.tokens for other in results}) > 1:
            axes.annotate(
                f"{r.tokens} tokens",
                (r.values, figure),
                (0, -9),
                textcoords="offset points",
                fontsize=7,
                color="0.3",
                ha="center",
                va="top",
            )
    axes.set(
        xscale="log", xlabel="values per sample", ylabel=f"{name} ({unit})", title=f"{task}, {published.DATA[task]}"
    )
    axes.margins(0.14, 0.14)
    mark_values(axes, [r.values for r in results])


def _legend(axes: Any, columns: int) -> None:
    """Name what is drawn: below the panel, in columns, or within it for none."""
    if columns:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, frameon=False, ncols=columns)
    else:
        axes.legend()

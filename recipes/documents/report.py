"""Tables and figure of recipes/reading.py, from a record per page and arm."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from recipes.common.figures import mark_values
from recipes.common.tables import Record, figure, group, markdown_table, mean_and_sd

SCORES = {"anls": "ANLS, %", "exact": "lines read exactly, %", "cer": "character error rate, %"}
_LINEAR, _REFINED = "latents, linear", "latents, refiner"
STYLES = {
    "pixels": ("s", "C1"),
    "resized": ("o", "C0"),
    "dct": ("v", "C2"),
    _LINEAR: ("D", "C3"),
    _REFINED: ("^", "C4"),
}
"""Marker and color of every line in the figure."""


def mean_over_pages(records: Sequence[Record]) -> list[Record]:
    """Average over pages, a row per arm; ``"SCORE se"`` is the standard error of the mean, NaN for a single page."""
    rows: list[Record] = []
    for (arm,), own in group(records, ("arm",)).items():
        row: Record = {"arm": arm, "pages": len(own), "values": round(mean_and_sd([r["values"] for r in own])[0])}
        for score in SCORES:
            row[score], sd = mean_and_sd([r[score] for r in own])
            row[f"{score} se"] = sd / math.sqrt(len(own))
        rows.append(row)
    return rows


def markdown(rows: Sequence[Record]) -> str:
    """Write the rows as a Markdown table."""
    heads = ["arm", "values per page", *(f"{title} (mean ± se)" for title in SCORES.values())]
    cells = [
        [r["arm"], figure(r["values"], 0), *(figure(r[score], 1, r[f"{score} se"]) for score in SCORES)] for r in rows
    ]
    return markdown_table(heads, cells) + "\n"


def caption(reader: str, records: Sequence[Record], data: str, skipped: int) -> str:
    """Say what the table's figures are."""
    pages = {r["page"]: r["annotated"] for r in records}
    source = "drawn in small type, without noise, skew or folds" if data == "demo" else Path(data).name
    left_out = f" Left out, since they are no readable images: {skipped}." if skipped else ""
    return (
        f"{len(pages)} pages ({source}) with {sum(pages.values()):,} lines, read by {reader}.{left_out} Every arm "
        "shows it pages of the same size. Means over pages; after ±: standard error. Case and spaces are not compared. "
        "ANLS: the similarity of each line to the nearest of those read, 1 minus the edit distance over the longer "
        "length, and 0 unless above one half. Lines read besides cost nothing.\n\n"
    )


def family(arm: str) -> str:
    """Return the line of the figure that an arm belongs to."""
    kind = arm.split("_")[0]
    return kind if kind in STYLES else _REFINED if arm.endswith("+refiner") else _LINEAR


def draw(rows: Sequence[Record], file: Path) -> None:
    """Draw two scores over the values that are left of a page."""
    scores = ("anls", "exact")
    picture = Figure((6.4, 8), layout="constrained")  # one above the other, for phones
    panels = picture.subplots(len(scores), 1)
    for axes, score in zip(panels, scores, strict=True):
        for (kind,), own in group([{**r, "family": family(r["arm"])} for r in rows], ("family",)).items():
            marker, color = STYLES[kind]
            own = sorted(own, key=lambda r: r["values"])
            axes.errorbar(
                [r["values"] for r in own],
                [r[score] for r in own],
                [0 if math.isnan(r[f"{score} se"]) else r[f"{score} se"] for r in own],
                marker=marker,
                color=color,
                capsize=3,
                label=kind,
            )
        axes.set(xscale="log", xlabel="values per page", ylabel=SCORES[score], ylim=(0, 102))
        mark_values(axes, [r["values"] for r in rows])
    panels[-1].legend(loc="lower right")
    picture.savefig(file, dpi=130)

"""Table, figure and sheet of recipes/pretrained.py."""

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from recipes.answers.scores import MEASURES
from recipes.common.figures import mark_values
from recipes.common.tables import Record, figure, markdown_table

COLORS = {
    "pixels": "black",
    "larger_patch": "C7",
    "resized": "C0",
    "dct": "C2",
    "decoded latents": "C3",
    "refined latents": "C4",
    "fitted stem": "C1",
    "distilled stem": "C6",
}
"""Of each kind of arm."""
_COLUMNS = {"values": ("values per image", 0), "bytes": ("bytes per image", 0), "rate": ("images/s from file", 0)}


def headline(rows: Sequence[Record]) -> str:
    """Name the measure that is drawn: top-1 where labels are known, else the agreement."""
    return "top1" if any("top1" in row for row in rows) else "agreement"


def markdown(rows: Sequence[Record], about: str) -> str:
    """Write the rows as a Markdown table, with what there is to know about them.

    Args:
        rows: One for each arm; one that was skipped has its reason as ``skipped``.
        about: Network and data.
    """
    used = [name for name in MEASURES if any(name in row for row in rows)]
    heads = ["arm", *(label for label, _ in _COLUMNS.values()), "million MACs", *(MEASURES[name][0] for name in used)]
    lines: list[list[str]] = []
    for row in rows:
        if "skipped" in row:
            continue
        cells = [row["arm"], *(figure(row.get(name), digits) for name, (_, digits) in _COLUMNS.items())]
        cells.append(figure(row["macs"] / 1e6, 1))
        cells += [figure(row[name], MEASURES[name][1], row[f"{name} se"]) for name in used]
        lines.append(cells)
    notes = [
        f"{about}. After ±: standard error over images, which are the same for all arms. Agreement is with the "
        "network's own answers on all pixels, and the divergence (Kullback-Leibler) is from them.",
        "MACs are the network's. Resized, DCT and decoded latents are full input: they save storage and transport, and "
        "decoding comes on top. Bytes and images/s are of PNG files (pixels of a folder: of its own files) and of "
        "`.wlc` files with the latents; block DCT has no format.",
        *(f"{row['arm']}: {row['note']}." for row in rows if row.get("note")),
        *(f"{row['arm']} was skipped: {row['skipped']}." for row in rows if "skipped" in row),
    ]
    return markdown_table(heads, lines) + "\n\n" + "\n".join(f"* {note}" for note in notes) + "\n"


_CODEC = re.compile(r"(rgb_)?\d+x(_viewing)?(:\d+)?")


def draw(rows: Sequence[Record], title: str) -> Figure:
    """Draw top-1 or agreement over values and over multiply-adds: a line for arms that differ in their codec alone."""
    rows = [row for row in rows if "skipped" not in row]
    measure = headline(rows)
    picture = Figure((6.4, 8.8), layout="constrained")  # one above the other, for phones
    panels = picture.subplots(2, 1, sharey=True)
    axes: Any
    lines: dict[tuple[str, str], list[Record]] = {}
    for row in sorted(rows, key=lambda row: row["values"]):
        lines.setdefault((row["kind"], _CODEC.sub("", row["arm"])), []).append(row)
    markers: dict[str, Iterator[str]] = {}
    for (kind, way), own in sorted(lines.items(), key=lambda line: rows.index(line[1][0])):
        scores = [row[measure] for row in own]
        marker = "*" if kind == "pixels" else next(markers.setdefault(kind, itertools.cycle("os^Dv")))
        label = kind if sum(other == kind for other, _ in lines) == 1 else f"{kind}: {way.strip('_')}"
        look: dict[str, Any] = {"color": COLORS[kind], "marker": marker, "lw": 1.4}
        errors = [row[f"{measure} se"] for row in own]
        panels[0].errorbar([row["values"] for row in own], scores, errors, capsize=2, elinewidth=0.7, **look)
        if len({row["macs"] for row in own}) == 1:
            look["ls"] = ""
        panels[1].plot([row["macs"] / 1e6 for row in own], scores, label=label, **look)
        for row in own:
            ratio = max(other["values"] for other in rows) / row["values"]
            if ratio > 1:
                where = (row["macs"] / 1e6, row[measure])
                panels[1].annotate(f"{ratio:g}x", where, (5, -3), textcoords="offset points", fontsize=7)
    for axes in panels:
        axes.axhline(next(row[measure] for row in rows if row["kind"] == "pixels"), color="0.7", lw=0.8, zorder=0)
        axes.grid(alpha=0.3)
    panels[0].set(xscale="log", xlabel="values per image", ylabel=MEASURES[measure][0])
    panels[1].set_ylabel(MEASURES[measure][0])
    mark_values(panels[0], [row["values"] for row in rows])
    panels[1].set(xlabel="million multiply-adds per image", xlim=(0, 1.08 * max(row["macs"] for row in rows) / 1e6))
    panels[1].legend(fontsize=8, loc="lower left")
    picture.suptitle(textwrap.fill(title, 80), fontsize=9)
    return picture


def draw_sheet(rows: Sequence[Record], folders: Sequence[Path]) -> Figure:
    """Draw what the network was shown in every arm, a row each, and what it said.

    Args:
        rows: With ``said``: for each image the answer, its probability, and whether it is right or that of all pixels.
        folders: Of each row, with a ``shown_0.png`` and so on.
    """
    count = len(rows[0]["said"])
    picture = Figure((2.0 * count + 1.4, 2.35 * len(rows) + 0.2), layout="constrained")
    panels = picture.subplots(len(rows), count, squeeze=False)
    for line, row, folder in zip(panels, rows, folders, strict=True):
        for i, axes in enumerate(line):
            with Image.open(folder / f"shown_{i}.png") as image:
                axes.imshow(np.asarray(image), interpolation="antialiased")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
            answer, probability, good = row["said"][i]
            axes.set_title(f"{_short(answer)} {100 * probability:.0f} %", fontsize=7.5, color="C2" if good else "C3")
        note = "\n(read as latents, decoded here)" if row["kind"].endswith("stem") else ""
        line[0].set_ylabel(f"{row['arm']}\n{row['values']:,} values{note}", fontsize=7.5)
    return picture


def _short(answer: str) -> str:
    name = answer.split(",")[0]
    return name if len(name) <= 20 else f"{name[:18]}..."

"""Table and figure of recipes/transfer.py."""

import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from recipes.common.comparison import first_runs
from recipes.common.figures import mark_values
from recipes.common.tables import Record, as_csv, figure, markdown_table, mean_over_seeds

_KINDS = {
    "pixels": ("all pixels", "black"),
    "resized": ("resized, and back", "C0"),
    "small": ("resized, read as it is", "C9"),
    "dct": ("block DCT, decoded", "C2"),
    "rgb": ("latents, decoded", "C1"),
    "fitted_rgb": ("latents, fitted stem", "C4"),
    "distilled_rgb": ("latents, distilled adapter", "C3"),
    "distilled_resolution_rgb": ("latents, distilled stem", "C6"),
}


def mean_rows(runs: Sequence[Record]) -> list[Record]:
    """Average accuracy and losses over seeds: a row per arm, with its values and multiply-adds."""
    rows = mean_over_seeds(runs, ("accuracy", "train_loss", "validation_loss"))
    own = first_runs(runs, ("values", "macs"))
    return [{**row, **own[row["arm"]]} for row in rows]


def markdown(rows: Sequence[Record]) -> str:
    """Write the rows as a Markdown table."""
    heads = ["arm", "values", "MMACs", "accuracy, % (mean ± sd)", "cross-entropy", "in training", "seeds"]
    cells = [
        [
            r["arm"],
            f"{r['values']:,}",
            f"{r['macs'] / 1e6:.1f}",
            figure(r["accuracy"], 1, r["accuracy sd"]),
            figure(r["validation_loss"], 2),
            figure(r["train_loss"], 2),
            str(r["seeds"]),
        ]
        for r in rows
    ]
    return markdown_table(heads, cells) + "\n"


def csv_of(rows: Sequence[Record]) -> bytes:
    """Write the rows as CSV, unrounded."""
    scores = [name for score in ("accuracy", "validation_loss", "train_loss") for name in (score, f"{score} sd")]
    return as_csv(rows, ["arm", "values", "macs", *scores, "seeds"])


def draw(tables: Mapping[str, Sequence[Record]]) -> Figure:
    """Draw accuracy over multiply-adds and over values, a row of panels for each table, by its title."""
    picture = Figure(figsize=(8, 0.6 + 3.2 * len(tables)), layout="constrained")
    panels = picture.subplots(len(tables), 2, sharey="row", squeeze=False)
    for (title, rows), (left, right) in zip(tables.items(), panels, strict=True):
        for axes, key, unit in ((left, "macs", 1e6), (right, "values", 1)):
            kinds: dict[str, list[Record]] = {}
            for row in rows:
                kinds.setdefault(_kind(row["arm"]), []).append(row)
            for kind, own in kinds.items():
                own = sorted(own, key=lambda r: r["values"])
                label, color = _KINDS.get(kind, (kind, None))
                x = [r[key] / unit for r in own]
                spread = [r["accuracy sd"] if r["seeds"] > 1 else 0 for r in own]
                accuracy = [r["accuracy"] for r in own]
                axes.errorbar(x, accuracy, spread, marker="o", ms=4, capsize=3, lw=1.2, color=color, label=label)
                if kind == "pixels":
                    axes.axhline(own[-1]["accuracy"], color="black", lw=0.8, ls=":")
            axes.set(xscale="log", title=title)
            mark_values(axes, [round(row[key] / unit) for row in rows])
        left.set(xlabel="million multiply-adds", ylabel="validation accuracy (%)")
        right.set(xlabel="values per image")
    handles, labels = panels[0][0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return picture


def _kind(arm: str) -> str:
    """Name the arms that differ in their number of values alone."""
    return re.sub(r"_\d+x", "", arm)

"""Compare what a network may read instead of a full image: equal compute, several seeds, one table and one figure.

    python -m recipes.resolution_scaling
    python -m recipes.resolution_scaling --data PHOTOS --image-size 256 --epochs 40 --output-dir runs/photos

Every arm of recipes/common/arms.py trains the same network on the same crops for the same number of steps
(recipes/classification.py), with every seed. The table gives the mean accuracy and its standard deviation over seeds,
and the rates at which samples are loaded, decoded and encoded, and trained on.
"""

import csv
import io
import statistics
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from tqdm import tqdm

from recipes import classification
from recipes.common.arms import ARMS, make_arm
from recipes.common.training import Ranks, save_config, write_atomically

COLUMNS: list[str] = ["arm", "values", "tokens", "macs", "accuracy", "spread", "seeds", "pipeline_rate", "step_rate"]


@dataclass
class Config(classification.Settings):
    """Compare the arms over seeds."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Which arms to compare."""
    seeds: int = 3
    """Seeds 0 to seeds - 1; each draws its own crops, initialisation and order."""
    output_dir: Path = Path("runs/resolution_scaling")
    """Gets table.md, table.csv, figure.png and a folder per run. With --resume, finished runs are kept."""


def main(config: Config) -> list[dict[str, Any]]:
    """Run every arm with every seed and write table and figure; returns the table's rows."""
    for arm in config.arms:
        make_arm(arm)  # a misspelt name fails now, not after an hour
    if config.seeds < 1 or not config.arms:
        raise ValueError("there is nothing to run: expected at least one arm and one seed")
    ranks = Ranks.start()
    if ranks.first:
        save_config(config.output_dir, config)
    shared = {f.name: getattr(config, f.name) for f in fields(classification.Settings)}
    runs: list[dict[str, Any]] = []
    jobs = [(seed, arm) for seed in range(config.seeds) for arm in config.arms]
    bar = tqdm(jobs, desc="runs", unit="run", disable=not ranks.first)
    for seed, arm in bar:
        bar.set_postfix_str(f"{arm}, seed {seed}")
        folder = config.output_dir / f"{arm}_seed{seed}"
        result = classification.main(classification.Config(**shared, arm=arm, seed=seed, output_dir=folder))
        runs.append(result)
        if ranks.first:
            tqdm.write(f"{arm}, seed {seed}: {result['accuracy']:.1f} %")
    rows = [summarise([r for r in runs if r["arm"] == arm]) for arm in config.arms]
    if ranks.first:
        write_atomically(config.output_dir / "table.md", markdown(rows))
        write_atomically(config.output_dir / "table.csv", as_csv(rows))
        draw(rows, config.output_dir / "figure.png", config.data)
    return rows


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one arm; rates are medians."""
    accuracies = [r["accuracy"] for r in runs]
    return {
        **{key: runs[0][key] for key in ("arm", "values", "tokens", "macs")},
        "accuracy": statistics.fmean(accuracies),
        "spread": statistics.stdev(accuracies) if len(runs) > 1 else float("nan"),
        "seeds": len(runs),
        "pipeline_rate": statistics.median(r["pipeline_rate"] for r in runs),
        "step_rate": statistics.median(r["step_rate"] for r in runs),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out as a Markdown table."""
    lines = ["| arm | values per sample | tokens | trunk MMACs | accuracy, % (mean ± sd) | seeds "
             "| input pipeline, samples/s | training step, samples/s |", "|---|" + "---:|" * 7]  # fmt: skip
    for r in rows:
        lines.append(f"| {r['arm']} | {r['values']:,} | {r['tokens']} | {r['macs'] / 1e6:.1f} "
                     f"| {r['accuracy']:.1f} ± {r['spread']:.1f} | {r['seeds']} "
                     f"| {r['pipeline_rate']:,.0f} | {r['step_rate']:,.0f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out as CSV, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw(rows: list[dict[str, Any]], file: Path, data: str) -> None:
    """Draw accuracy against the values a network reads per sample."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind in dict.fromkeys(r["arm"].split("_")[0] for r in rows):
        own = sorted((r for r in rows if r["arm"].split("_")[0] == kind), key=lambda r: r["values"])
        spreads = [0 if r["seeds"] == 1 else r["spread"] for r in own]
        axes.errorbar([r["values"] for r in own], [r["accuracy"] for r in own], spreads,
                      marker="o", capsize=3, label=kind)  # fmt: skip
    axes.set(xscale="log", xlabel="values per sample", ylabel="validation accuracy (%)",
             title=f"{Path(data).name}: {rows[0]['tokens']} tokens, same trunk, {rows[0]['seeds']} seeds")  # fmt: skip
    ticks = sorted({r["values"] for r in rows})
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    rows = main(config)
    if Ranks.start().first:
        print(markdown(rows))
        print(f"written to {config.output_dir}: table.md, table.csv, figure.png")

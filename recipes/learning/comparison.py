"""The report of the comparison of arms: BD-rates over seeds, costs, times, table, CSV and figure."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from recipes.common.tables import Record, figure, group, markdown_table, mean_and_sd, mean_over_seeds, number
from recipes.learning.bd_rate import bd_rate
from recipes.learning.published import CLAIMS
from recipes.learning.report import curve_of, draw_curve

_KEPT = ("parameters", "kmacs", "step_rate")


def summarize(runs: Sequence[Record], anchor: str) -> list[Record]:
    """Make a row per arm: BD-rate against the arm ``anchor`` of the same seed, mean and spread over seeds, and costs.

    Args:
        runs: With ``arm``, ``seed``, ``lmbda``, ``bpp_estimated``, ``psnr``, and figures of cost.
        anchor: The arm that the others are compared with. NaN where there is no such run.
    """
    curves = {key: curve_of(own, rate="bpp_estimated") for key, own in group(runs, ("arm", "seed")).items()}
    table: list[Record] = []
    for (arm,), own in group(runs, ("arm",)).items():
        seeds = [seed for name, seed in curves if name == arm]
        rates = [bd_rate(curves.get((anchor, seed), []), curves[arm, seed]) for seed in seeds]
        mean, spread = mean_and_sd(rates)
        row: Record = {"arm": arm, "seeds": len(seeds), "bd_rate": mean, "bd_rate sd": spread}
        row |= {name: mean_over_seeds(own, (name,))[0][name] for name in _KEPT}
        table.append({**row, "bd_rates": rates, "claim": CLAIMS.get(arm)})
    return table


def caption(runs: Sequence[Record], anchor: str, images: int, repeats: int) -> str:
    """Say what the figures are."""
    files = [100 * (r["bpp"] / r["bpp_estimated_of_files"] - 1) for r in runs if r["files"]]
    count = sum(r["files"] for r in runs)
    real = (
        f" {count} files that were written are longer than their estimates by {mean_and_sd(files)[0]:.1f} %."
        if files
        else ""
    )
    return (
        f"All arms have the same steps, crops and settings. Rates are estimates; means over {images} test images."
        f"{real} The BD-rate is how much more rate an arm needs than `{anchor}` with the same seed, for the same PSNR "
        "(pchip); after ±: standard deviation over seeds. "
        f"Coding is timed on one image by the middle lambda's first seed: medians of {repeats} rounds in which the "
        "arms take turns, on the CPU. The last column is what the abstract of WeConvene's paper says of its own "
        "networks: theirs, not measured here, and against another anchor."
    )


def markdown(table: Sequence[Record], runs: Sequence[Record], anchor: str, text: str) -> str:
    """Write the table of arms, and that of all rate points."""
    heads = ["arm", "seeds", f"BD-rate against {anchor}, %", "parameters", "kMAC per pixel", "steps/s", "encode, MP/s"]
    heads += ["decode, MP/s", "the paper's, large and trained long, against VTM, %"]
    rows = [
        [
            f"`{r['arm']}`",
            str(r["seeds"]),
            figure(r["bd_rate"], 1, r["bd_rate sd"]),
            figure(r["parameters"], 0),
            figure(r["kmacs"], 1),
            *(number(r.get(name, math.nan)) for name in ("step_rate", "encode_mps", "decode_mps")),
            figure(r["claim"], 1),
        ]
        for r in table
    ]
    points = []
    for (lmbda, arm), own in group(sorted(runs, key=lambda r: r["lmbda"]), ("lmbda", "arm")).items():
        rate, quality = (mean_and_sd([r[name] for r in own]) for name in ("bpp_estimated", "psnr"))
        points.append([f"{lmbda:g}", f"`{arm}`", figure(rate[0], 4, rate[1]), figure(quality[0], 2, quality[1])])
    return (
        f"{text}\n\n{markdown_table(heads, rows)}\n\nAll rate points, means and standard deviations over seeds:\n\n"
        f"{markdown_table(['lambda', 'arm', 'bpp, estimated', 'PSNR, dB'], points, text_columns=2)}\n"
    )


def draw(table: Sequence[Record], runs: Sequence[Record], anchor: str, file: Path) -> None:
    """Draw the curves, a line per arm and seed, and the BD-rates, a dot per seed."""
    picture = Figure((11, 4.4), layout="constrained")
    curves, bars = picture.subplots(1, 2)
    for index, row in enumerate(table):
        own = [r for r in runs if r["arm"] == row["arm"]]
        for seed, part in enumerate(group(own, ("seed",)).values()):
            draw_curve(curves, curve_of(part, rate="bpp_estimated"), "" if seed else row["arm"], f"C{index}", ".-")
        bars.plot(row["bd_rates"], [index] * len(row["bd_rates"]), "o", color=f"C{index}", alpha=0.6)
        bars.plot([row["bd_rate"]], [index], "|", color=f"C{index}", ms=18)
    curves.set(xlabel="bits per pixel, estimated", ylabel="PSNR, dB", xscale="log")
    bars.set(xlabel=f"BD-rate against {anchor}, %: a dot per seed, a line for the mean")
    bars.set_yticks(range(len(table)), [row["arm"] for row in table])
    bars.invert_yaxis()
    bars.axvline(0, color="0.5", lw=0.8)
    for axes in (curves, bars):
        axes.grid(alpha=0.3)
    curves.legend(fontsize=8)
    picture.savefig(file, dpi=130)

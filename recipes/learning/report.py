"""Tables and rate-distortion figure of the evaluation of learned codecs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recipes.common.tables import Record, figure, markdown_table, number
from recipes.learning.bd_rate import Curve, bd_rate

_COLUMNS = {
    "bpp, estimated": ("bpp_estimated", 4),
    "PSNR, dB": ("psnr", 2),
    "MS-SSIM": ("ms_ssim", 4),
    "files": ("files", 0),
    "their bpp": ("bpp", 4),
    "estimated": ("bpp_estimated_of_files", 4),
    "their PSNR, dB": ("psnr_file", 2),
    "kMAC per pixel": ("kmacs", 1),
    "parameters": ("parameters", 0),
}
_SPEEDS = {"encode, MP/s": "encode_mps", "decode, MP/s": "decode_mps"}


def markdown(summary: Sequence[Record], anchors: Mapping[str, Curve], text: str) -> str:
    """Write a row per checkpoint, and the BD-rates of all of them together.

    Args:
        summary: A row per checkpoint, with ``checkpoint``.
        anchors: Curves to compare with, by name.
        text: What the figures were measured on.
    """
    rows = [
        [
            f"`{r['checkpoint']}`",
            *(figure(r.get(key), digits) for key, digits in _COLUMNS.values()),
            *(number(r.get(key, math.nan)) for key in _SPEEDS.values()),
        ]
        for r in summary
    ]
    parts = [text, markdown_table(["checkpoint", *_COLUMNS, *_SPEEDS], rows)]
    if len(summary) > 1:
        own = curve_of(summary)
        compared = [[name, figure(bd_rate(anchor, own), 1)] for name, anchor in anchors.items()]
        parts.append(
            "BD-rate of the checkpoints together: how much more rate they need for the same PSNR, over the range of "
            "PSNR that both have (pchip); negative is less.\n\n" + markdown_table(["against", "BD-rate, %"], compared)
        )
    return "\n\n".join(parts) + "\n"


def curve_of(records: Sequence[Record], quality: str = "psnr", rate: str = "rate") -> list[tuple[float, float]]:
    """Make a curve of records, in the order of rate."""
    return sorted((record[rate], record[quality]) for record in records)


def draw_rates(
    summary: Sequence[Record], formats: Mapping[str, Sequence[Record]], published: Mapping[str, Curve], file: Path
) -> None:
    """Draw PSNR and MS-SSIM over bits per pixel.

    Args:
        summary: A row per checkpoint.
        formats: The mean curve of every lossy format.
        published: Points of others, which have PSNR only.
        file: The PNG file.
    """
    keys = ["psnr", *["ms_ssim"] * any(not math.isnan(r["ms_ssim"]) for r in summary)]
    picture = Figure((5.6 * len(keys), 4.4), layout="constrained")
    panels = picture.subplots(1, len(keys), squeeze=False)[0]
    for axes, key in zip(panels, keys, strict=True):
        decibels = key == "ms_ssim"
        for index, (name, rows) in enumerate(formats.items()):
            draw_curve(axes, curve_of(rows, key), name, f"C{7 + index}", ".-", decibels=decibels)
        if key == "psnr":
            for index, (name, points) in enumerate(published.items()):
                draw_curve(axes, points, name, f"C{4 + index}", "--")
        draw_curve(axes, curve_of(summary, key), "WeConvene, trained here", "C0", "*-", decibels=decibels)
        axes.set(xlabel="bits per pixel", ylabel="MS-SSIM, dB" if decibels else "PSNR, dB")
        axes.set_xscale("log")
        axes.grid(alpha=0.3, which="both")
    names = panels[0].get_legend_handles_labels()
    picture.legend(*names, loc="outside lower center", ncols=3, fontsize=8)
    picture.savefig(file, dpi=130)


def draw_curve(axes: Any, curve: Curve, name: str, color: str, style: str, *, decibels: bool = False) -> None:
    """Draw a curve, whose quality is a similarity below 1 if it is to be shown in decibels."""
    qualities = [-10 * math.log10(max(1e-9, 1 - q)) if decibels else q for _, q in curve]
    axes.plot([rate for rate, _ in curve], qualities, style, color=color, lw=1, ms=5, label=name)


def caption(images: int, real: int | None) -> str:
    """Say what the figures were measured on, and how."""
    files = "every image" if real is None else f"the first {min(real, images)}"
    return (
        f"Means over {images} test images at native size, in 8 bits. Rates are bits per pixel of the image: estimates "
        f"from the likelihoods, padding included, and of whole files, which were written of {files} and decoded. "
        "Curves and BD-rates are those of "
        + ("the files." if real is None else "the estimates.")
        + " Speeds are from pixels in memory to the file and back, on the CPU, one call each."
    )

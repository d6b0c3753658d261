"""Tables, rate-distortion figure and picture sheet of the evaluation of image codecs, from its records."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from recipes.common.tables import Record, figure, markdown_table, number
from recipes.evaluation.image_formats import FORMATS
from recipes.evaluation.image_measures import MOSAIC

_ACROSS = 4  # images of a sheet side by side
_COLUMNS = {
    "DR": ("reduction", 4),
    "CR": ("compression_ratio", 1),
    "bpp": ("bpp", 3),
    "PSNR, dB": ("psnr", 2),
    "MS-SSIM": ("ms_ssim", 4),
    "LPIPS, dB": ("lpips_db", 2),
    "DISTS, dB": ("dists_db", 2),
    "encode, MP/s": ("encode_mps", None),
    "decode, MP/s": ("decode_mps", None),
}


def markdown(
    summary: Sequence[Record],
    curve: Sequence[Record],
    *,
    coder: str,
    threads: int,
    missing: Mapping[str, str],
    remark: str,
) -> str:
    """Write the summary and the prefix curve as Markdown.

    Args:
        summary: A row per codec, method and decoder.
        curve: The mean prefix curve; may be empty.
        coder: Of the latents.
        threads: Of PyTorch, while times were taken.
        missing: Why ``lpips`` or ``dists`` could not be had.
        remark: What there is to say about the images.
    """
    stored = "lossless WebP mosaics of the latents" if coder == MOSAIC else f"`.wlc` files by coder {coder}"
    caption = (
        f"Means over images, dB as dB; {remark}. All figures are those of 8-bit images at their own size. Rates are "
        f"those of whole files, the codec's of {stored}; CR is 24 over the mean bpp. LPIPS and DISTS, by VGG16, are "
        "-10 log10. Lossy formats are at the quality whose file is nearest to the codec's, JPEG and AVIF 4:2:0 as "
        "Pillow's defaults are; resizing is bicubic, to as many values and back, and has no file. Speeds are from "
        f"8-bit pixels to the file and back, {threads} thread{'s' * (threads > 1)}, one call each after one to warm up."
    )
    if any(r["decoder"] == "refiner" for r in summary):
        caption += " A refiner decodes the same files as the linear decoder, which were encoded once."
    parts = [caption]
    if missing:
        reasons = dict.fromkeys(missing.values())
        named = (" and ".join(k.upper() for k in missing if missing[k] == reason) for reason in reasons)
        parts.append("\n".join(f"No weights for {names}: {why}" for names, why in zip(named, reasons, strict=True)))
    heads = ["method", "decoder", "images", *_COLUMNS, "note"]
    for codec in dict.fromkeys(r["codec"] for r in summary):
        rows = [
            [
                f"`{codec}`" if r["method"] == codec else r["method"],
                r["decoder"] or "-",
                str(r["images"]),
                *(_cell(r, key, digits, missing) for key, digits in _COLUMNS.values()),
                r["note"],
            ]
            for r in summary
            if r["codec"] == codec
        ]
        parts.append(f"## `{codec}`\n\n{markdown_table(heads, rows, text_columns=2)}")
    if curve:
        columns = {"channels": ("channels", 0), **{k: _COLUMNS[k] for k in ("DR", "bpp", "PSNR, dB", "MS-SSIM")}}
        if any("refiner_psnr" in r for r in curve):
            columns |= {"refiner: PSNR, dB": ("refiner_psnr", 2), "refiner: MS-SSIM": ("refiner_ms_ssim", 4)}
        columns["resize: PSNR, dB"] = ("resize_psnr", 2)
        rows = [[f"`{r['codec']}`", *(_cell(r, key, digits, {}) for key, digits in columns.values())] for r in curve]
        parts.append(f"## The first latent channels alone\n\n{markdown_table(['codec', *columns], rows)}")
    return "\n\n".join(parts) + "\n"


def _cell(row: Record, key: str, digits: int | None, missing: Mapping[str, str]) -> str:
    if key.removesuffix("_db") in missing:
        return "no weights"
    value = row.get(key, math.nan)
    if math.isnan(value):
        return "-"
    if key == "reduction":
        return f"{value:.{digits}g}"
    return number(value) if digits is None else figure(value, digits)


def draw_rates(summary: Sequence[Record], curve: Sequence[Record], rates: Sequence[Record], file: Path) -> None:
    """Draw PSNR and MS-SSIM over bits per pixel: codecs, their first channels, and lossy formats.

    Args:
        summary: A row per codec, method and decoder.
        curve: The mean prefix curve; may be empty.
        rates: The mean curves of lossy formats; may be empty.
        file: The PNG file.
    """
    points = [r for r in summary if r["method"] == r["codec"]]
    figures = {
        key: title
        for key, title in (("psnr", "PSNR, dB"), ("ms_ssim", "MS-SSIM"))
        if any(not math.isnan(r[key]) for r in points)
    }
    picture = Figure((5.6 * len(figures), 4.4), layout="constrained")
    panels = picture.subplots(1, len(figures), squeeze=False)
    for axes, (key, title) in zip(panels[0], figures.items(), strict=True):
        for index, name in enumerate(FORMATS):
            rows = [r for r in rates if r["format"] == name]
            if rows:
                axes.plot(
                    [r["bpp"] for r in rows],
                    [r[key] for r in rows],
                    ".-",
                    color=f"C{7 + index}",
                    lw=1,
                    ms=4,
                    label=name,
                )
        for index, codec in enumerate(dict.fromkeys(r["codec"] for r in points)):
            rows = [r for r in curve if r["codec"] == codec]
            for figure_key, style, name in ((key, "o--", codec), (f"refiner_{key}", "^-", f"{codec}, refiner")):
                if any(figure_key in r for r in rows):
                    axes.plot(
                        [r["bpp"] for r in rows],
                        [r[figure_key] for r in rows],
                        style,
                        color=f"C{index}",
                        lw=1,
                        ms=4,
                        label=f"{name}, first channels",
                    )
            for r in (r for r in points if r["codec"] == codec):
                label = codec if r["decoder"] == "linear" else f"{codec}, {r['decoder']}"
                marker, size = ("^", 10) if r["decoder"] == "refiner" else ("*", 13)
                axes.plot([r["bpp"]], [r[key]], marker, color=f"C{index}", ms=size, label=label)
        axes.set(xscale="log", xlabel="bits per pixel", ylabel=title)
        _label(axes.xaxis, axes.get_xlim(), (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10))
        if key == "ms_ssim":
            axes.set_yscale("logit")  # the differences are all close to 1
            _label(axes.yaxis, axes.get_ylim(), (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999))
        axes.grid(alpha=0.3)
    names = panels[0, 0].get_legend_handles_labels()
    picture.legend(*names, loc="outside lower center", ncols=min(4, len(names[0])), fontsize=8)
    picture.savefig(file, dpi=130)


def _label(axis: Any, limits: tuple[float, float], places: Sequence[float]) -> None:
    """Mark the places within the limits, and no others, by plain numbers."""
    ticks = [t for t in places if limits[0] <= t <= limits[1]]
    axis.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    axis.set_ticks([], minor=True)


def _crop(image: Tensor, side: int = 128) -> Tensor:
    h, w = image.shape[-2:]
    top, left = max(0, (h - side) // 2), max(0, (w - side) // 2)
    return image[:, top : top + side, left : left + side].permute(1, 2, 0)


def draw_sheet(sheet: Sequence[Sequence[tuple[str, Tensor]]], file: Path) -> None:
    """Draw rows of titled images ``(3, H, W)``, uint8, of which the middle 128 pixels are shown.

    A row of more than four images goes on in the next, so that titles can be read where the sheet is small.
    """
    lines = [row[start : start + _ACROSS] for row in sheet for start in range(0, len(row), _ACROSS)]
    columns = max(map(len, lines))
    picture = Figure((2 * columns, 2.7 * len(lines)), layout="constrained")
    axes = picture.subplots(len(lines), columns, squeeze=False)
    for panels, line in zip(axes, lines, strict=True):
        for panel in panels:
            panel.axis("off")
        for panel, (title, image) in zip(panels, line, strict=False):
            panel.imshow(_crop(image).numpy(), interpolation="nearest")
            panel.set_title(title, fontsize=13)
    picture.savefig(file, dpi=130, bbox_inches="tight", pad_inches=0.05)

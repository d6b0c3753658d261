"""Tables and the prefix curve of the evaluation of audio codecs, from its records."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from recipes.common.tables import Record, figure, markdown_table, number
from recipes.evaluation.means import ending


def markdown(
    summary: Sequence[Record], less: Sequence[Record], curve: Sequence[Record], *, coder: str, threads: int, remark: str
) -> str:
    """Write the summary, the differences and the prefix curve as Markdown.

    Args:
        summary: A row per codec, method and decoder.
        less: Differences to resampling, a row per codec, decoder and piece.
        curve: The mean prefix curve; may be empty.
        coder: Of the latent files.
        threads: Of PyTorch, while times were taken.
        remark: What there is to say about the files.
    """
    caption = (
        f"Means over pieces; {remark}. PSNR is against a peak-to-peak of 2. Rates are those of whole files, the "
        f"codec's by coder {coder}; CR is against 16-bit PCM. Resampling keeps its values in float32. Lossy formats "
        "are at the setting whose file is nearest to the codec's, freed of their delay, in samples. Speeds are "
        f"megasamples of both channels per second, {threads} thread{'s' * (threads > 1)}, one call each; for "
        "resampling, encoding is there and back."
    )
    heads = [
        "method",
        "pieces",
        "reduction",
        "CR",
        "bits per sample",
        "PSNR unrounded, dB",
        "PSNR, dB",
        "SI-SDR, dB",
        "encode, MS/s",
        "decode, MS/s",
        "delay",
        "note",
    ]
    refined = any(ending(r) for r in summary)
    if refined:
        caption += " A refiner decodes the same files as the linear decoder, which were encoded once."
    parts = [caption]
    for codec in dict.fromkeys(r["codec"] for r in summary):
        rows = [
            [
                f"`{codec}`{ending(r)}" if r["method"] == codec else r["method"],
                str(r["pieces"]),
                figure(r["reduction"], 2),
                figure(r["compression_ratio"], 1),
                figure(r["bits_per_sample"], 3),
                *(figure(r[key], 2) for key in ("psnr_unrounded", "psnr", "si_sdr")),
                *(number(r[key]) for key in ("encode_msps", "decode_msps")),
                r["delay"] or "-",
                r["note"],
            ]
            for r in summary
            if r["codec"] == codec
        ]
        parts.append(f"## `{codec}`\n\n{markdown_table(heads, rows)}")
    parts.append(_differences(less, refined))
    if curve:
        parts.append(_prefixes(curve, refined))
    return "\n\n".join(parts) + "\n"


def _differences(less: Sequence[Record], refined: bool) -> str:
    """Write how codecs differ from resampling and, if some are ``refined``, refiners from linear decoders."""
    signed = {"unrounded - resampling": "unrounded_less", "rounded - resampling": "rounded_less"}
    if refined:
        signed |= {"unrounded - linear": "unrounded_gain", "rounded - linear": "rounded_gain"}
    heads = ["codec", "piece", "resampling, dB", "unrounded, dB", "rounded, dB", *signed]
    rows = [
        [
            f"`{r['codec']}`{ending(r)}",
            r["piece"].replace("|", "\\|"),
            *(figure(r[key], 2) for key in ("resampling", "psnr_unrounded", "psnr")),
            *(_signed(r.get(key, math.nan)) for key in signed.values()),
        ]
        for r in less
    ]
    return f"## PSNR beside the better resampling to as many values\n\n{markdown_table(heads, rows, text_columns=2)}"


def _prefixes(curve: Sequence[Record], refined: bool) -> str:
    """Write the mean prefix curve, with columns of refiners if some codecs are ``refined``."""
    heads = ["codec", "channels", "reduction", "PSNR, dB", "resampling, dB", "difference"]
    rows = [
        [
            f"`{r['codec']}`",
            str(r["channels"]),
            figure(r["reduction"], 2),
            figure(r["psnr"], 2),
            figure(r["resampling_psnr"], 2),
            _signed(r["difference"]),
        ]
        for r in curve
    ]
    if refined:
        heads += ["refiner: PSNR, dB", "refiner: difference"]
        for cells, r in zip(rows, curve, strict=True):
            cells += [figure(r.get("refiner_psnr", math.nan), 2), _signed(r.get("refiner_difference", math.nan))]
    return f"## Prefixes of the latent channels, unrounded\n\n{markdown_table(heads, rows)}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def draw_prefixes(curve: Sequence[Record], file: Path) -> None:
    """Draw the mean prefix curve, PSNR by the share of the values kept, beside resampling to as many values."""
    picture = Figure((6.4, 4.2), layout="constrained")
    axes = picture.subplots()
    for index, codec in enumerate(dict.fromkeys(r["codec"] for r in curve)):
        rows = [r for r in curve if r["codec"] == codec]
        places = [100 / r["reduction"] for r in rows]
        for key, style, name in (("psnr", "o-", codec), ("refiner_psnr", "^:", f"{codec}, refiner")):
            if key in rows[0]:
                axes.plot(
                    places, [r[key] for r in rows], style, ms=4, color=f"C{index}", label=f"{name}, first channels"
                )
        axes.plot(
            places,
            [r["resampling_psnr"] for r in rows],
            "x--",
            ms=4,
            color=f"C{index}",
            alpha=0.6,
            label="resampling to as many values",
        )
    axes.set(xlabel="values kept, % of the samples", ylabel="PSNR, dB", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    picture.savefig(file, dpi=130)

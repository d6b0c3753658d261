"""Tables and figure of the benchmark, from its records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from recipes.bench.augmentation import augmentation_report
from recipes.bench.data_report import data_report
from recipes.bench.volumes import volume_report
from recipes.common.tables import Record, markdown_table, number

INPUTS = ("uint8, channels last", "uint8, contiguous", "float32, channels last", "float32, contiguous")

Records = list[Record]


def report(results: dict[str, Any]) -> str:
    """Write what was measured as Markdown tables, each with a heading and a caption."""
    write: dict[str, Any] = {
        "image": _image,
        "decoders": _decoders,
        "audio": _audio,
        "loader": _loader,
        "memory": _memory,
        "augmentation": augmentation_report,
        "data": data_report,
        "volume": volume_report,
    }
    return "\n\n".join(write[part](results[part]) for part in write if results.get(part))


def _size(batch: Sequence[int]) -> str:
    return "x".join(map(str, batch))


def _image(records: Records) -> str:
    on_cpu = [r for r in records if r["device"] == "cpu"]
    on_gpu = [r for r in records if r["device"] == "cuda"]
    parts = []
    if on_cpu:
        parts += ["## Images: megapixels per second", _encoding(on_cpu), _decoding(on_cpu)]
    if on_gpu:
        parts.append(_gpu(on_gpu))
    return "\n\n".join(parts)


def _encoding(records: Records) -> str:
    has_ptwt = "ptwt encode" in records[0]["rates"]
    lifts = f"convolve {INPUTS[0]}" in records[0]["rates"]
    heads = [
        "codec",
        "batch",
        "input",
        "threads",
        "encode",
        *["by convolutions", "encode / convolutions"] * lifts,
        "reference encode",
        "encode / reference",
        *["ptwt encode"] * has_ptwt,
        "resize",
        "patch convolution",
    ]
    rows = []
    for r in records:
        rates, ptwt = r["rates"], ["ptwt encode"] * has_ptwt
        for kind in INPUTS:
            mine, reference = rates[f"encode {kind}"], rates["reference encode"]
            convolved = [rates[f"convolve {kind}"], mine / rates[f"convolve {kind}"]] if lifts else []
            others = [*(rates[name] for name in ptwt), rates[f"resize {kind}"], rates["patch convolution"]]
            rows.append(
                [
                    f"`{r['codec']}`",
                    _size(r["batch"]),
                    kind,
                    str(r["threads"]),
                    number(mine),
                    *map(number, convolved),
                    number(reference),
                    number(mine / reference),
                    *map(number, others),
                ]
            )
    caption = (
        "The reference, ptwt and the strided 8x8 patch convolution to as many channels read contiguous float32, "
        "converted beforehand, whatever the input; they were measured once for every four rows. "
    )
    if lifts:
        caption += "Convolutions encode where numba is missing. "
    caption += (
        "ptwt gives the same latents: its periodic mode, cut to one period after every level."
        if has_ptwt
        else "ptwt is not installed and left out (`pip install ptwt`)."
    )
    return f"{caption}\n\n{markdown_table(heads, rows, text_columns=3)}"


def _decoding(records: Records) -> str:
    heads = ["codec", "batch", "threads", "decode", "reference decode", "decode / reference"]
    rows = [
        [
            f"`{r['codec']}`",
            _size(r["batch"]),
            str(r["threads"]),
            number(r["rates"]["decode"]),
            number(r["rates"]["reference decode"]),
            number(r["rates"]["decode"] / r["rates"]["reference decode"]),
        ]
        for r in records
    ]
    return markdown_table(heads, rows, text_columns=2)


def _decoders(records: Records) -> str:
    calls = ["linear", "refiner", "published network"]
    rows = []
    for r in records:
        rates = [r["rates"].get(call) for call in calls]
        ratio = "" if None in rates else number(rates[1] / rates[2])
        rows.append(
            [f"`{r['codec']}`", str(r["threads"]), *("" if rate is None else _rate(rate) for rate in rates), ratio]
        )
    caption = "One image of 768x512 pixels, from rounded latents. " + (
        "The published network has the shape of the paper's decoders, and random weights."
        if any("published network" in r["rates"] for r in records)
        else "The paper's decoders are built by diffusers, which is not installed (`pip install diffusers`)."
    )
    heads = ["codec", "threads", *calls, "refiner / published network"]
    return f"## Decoders: megapixels per second\n\n{caption}\n\n{markdown_table(heads, rows)}"


def _rate(value: float) -> str:
    return number(value) if value >= 1 else f"{value:.2g}"


def _gpu(records: Records) -> str:
    rows = [
        [
            f"`{r['codec']}`",
            _size(r["batch"]),
            call,
            "on" if r["tf32"] else "off",
            number(rate),
            number(r["bytes_per_second"][call] / 1e9),
        ]
        for r in records
        for call, rate in r["rates"].items()
    ]
    heads = ["codec", "batch", "call", "TF32", "MP/s", "GB/s"]
    caption = (
        "One call at a time, its launch included; GB/s counts the bytes of the input and of the output, once each."
    )
    return f"## Images on the GPU\n\n{caption}\n\n{markdown_table(heads, rows, text_columns=4)}"


def _audio(records: Records) -> str:
    heads = [
        "codec",
        "batch",
        "threads",
        "encode",
        "reference encode",
        "encode / reference",
        "decode",
        "reference decode",
        "decode / reference",
    ]
    rows = []
    for r in records:
        cells = [f"`{r['codec']}`", _size(r["batch"]), str(r["threads"])]
        for call in ("encode", "decode"):
            mine, reference = r["rates"][call], r["rates"][f"reference {call}"]
            cells += [number(mine), number(reference), number(mine / reference)]
        rows.append(cells)
    return f"## Stereo sound: megasamples of both channels per second\n\n{markdown_table(heads, rows, text_columns=2)}"


def _loader(records: Records) -> str:
    heads = [
        "codec",
        "workers",
        "crop of 256, encoded one by one",
        "encoded by batch",
        "crop of as many values",
        "one by one / as many values",
        "by batch / as many values",
        "crop of 256, pixels",
    ]
    rows = []
    for r in records:
        for name, side in r["sides"].items():
            keys = (f"latents {name}", f"batches of latents {name}", f"crop {side}", "crop 256")
            latents, batches, small, pixels = (r["rates"][key] for key in keys)
            rows.append(
                [
                    f"`{name}`",
                    str(r["workers"]),
                    number(latents),
                    number(batches),
                    f"{number(small)} ({side} px)",
                    f"{latents / small:.2f}",
                    f"{batches / small:.2f}",
                    number(pixels),
                ]
            )
    caption = "JPEG files of 500x375 pixels, decoded, RandomResizedCrop, batches of 32; one thread per worker."
    return f"## Loading: samples per second\n\n{caption}\n\n{markdown_table(heads, rows)}"


def _memory(records: Records) -> str:
    rows = [
        [
            f"`{r['codec']}`",
            r["call"],
            r["dtype"],
            _size(r["size"]),
            number(r["signal_bytes"] / 1e6),
            number(r["rise_bytes"] / 1e6),
            f"{r['ratio']:.2f}",
        ]
        for r in records
    ]
    heads = ["codec", "call", "input", "signal", "signal in float32, MB", "rise, MB", "rise / signal"]
    caption = (
        "How much higher the resident memory of a process is at most during one call than before, result included."
    )
    return f"## Memory\n\n{caption}\n\n{markdown_table(heads, rows, text_columns=4)}"


def draw(records: Records, file: Path) -> None:
    """Draw grouped bars on a logarithmic scale: uint8 images as files decode to them, most threads; a panel a device.

    Args:
        records: Those of the image part.
        file: The PNG file.
    """
    bars = {
        "reference encode": "reference encode",
        "encode": f"encode {INPUTS[0]}",
        "resize to as many values": f"resize {INPUTS[0]}",
        "reference decode": "reference decode",
        "decode": "decode",
    }
    colors = ["#9ecae1", "#2171b5", "#bdbdbd", "#fdae6b", "#d94801"]
    devices = sorted({r["device"] for r in records})
    groups = [[r for r in records if r["device"] == device and not r["tf32"]] for device in devices]
    most = [max(r["threads"] for r in group) for group in groups]
    groups = [[r for r in group if r["threads"] == n] for group, n in zip(groups, most, strict=True)]
    size = (max(6.4, 1.9 * len(groups[0])), 4.2 * len(groups))
    figure = Figure(size, layout="constrained")
    panels = figure.subplots(len(groups), squeeze=False)
    for axes, device, group, threads in zip(panels[:, 0], devices, groups, most, strict=True):
        places = np.arange(len(group))
        for i, ((label, call), color) in enumerate(zip(bars.items(), colors, strict=True)):
            heights = [r["rates"][call] for r in group]
            drawn = axes.bar(places + (i - 2) * 0.17, heights, 0.16, label=label, color=color)
            axes.bar_label(drawn, [f"{height:,.0f}" for height in heights], fontsize=7)
        axes.set_xticks(places, [f"{r['codec']}\n{_size(r['batch'])}" for r in group], fontsize=8)
        where = "GPU" if device == "cuda" else f"CPU, {threads} thread{'s' * (threads > 1)}"
        axes.set(yscale="log", ylabel="megapixels per second", title=f"{where}; ours and resize from uint8")
        axes.set_ylim(bottom=min(r["rates"][call] for r in group for call in bars.values()) / 2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, ncols=len(bars), loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    figure.savefig(file, dpi=150)

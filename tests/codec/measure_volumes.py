"""Measure codecs of video and scans: ``python -m tests.codec.measure_volumes FOLDER --output-dir OUT``.

FOLDER holds a folder for each kind of clip or scan, with ``.npy`` files ``(C, T, H, W)``, uint8, such as those of
``tests.codec.public_volumes``. Within a kind, every second file in alphabetical order makes a half. Codecs are fitted
to one half and measured on the other, and the other way round: nothing is measured on what it was fitted to.

At every dimensionality reduction, with the same number of values:

volume   codecs of volumes, of several levels along time, height and width; rounded latents, decoded linearly
image    codecs fitted to the same frames, one frame at a time; ``rgb_16x`` too
resize   antialiased bicubic, down and up again; along time by a factor of 1, 2, 4 or 8, the best of these on average
DCT      blocks of 8x8 and of 4x8x8, the coefficients of the lowest frequencies; per color

A codec is fitted once, for the least reduction; larger ones take a prefix of its channels. PSNR is that of the mean
squared error over a whole clip, in 8 bits.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.figures import mark_values
from recipes.common.quality import psnr_of_error, to_8_bits
from recipes.common.tables import Record, as_csv, group, markdown_table
from walloc_transforms.safe import write_atomically

RATIOS = {1: (8, 16, 32, 64, 128, 512), 3: (16, 32, 64, 128, 256)}  # by the colors of a clip
VOLUMES = ((1, 3, 3), (2, 2, 2), (2, 3, 3), (3, 3, 3))
IMAGES = ((3, 3), (4, 4))
LABELS = {"volume": "latents of volumes", "image": "latents of frames", "resize": "resized", "DCT": "block DCT"}


def quality(clip: Tensor, decoded: Tensor) -> float:
    """Return the PSNR of a clip ``(C, T, H, W)``, uint8."""
    errors = [
        float((to_8_bits(decoded[:, t]).float() - clip[:, t].float()).square().mean()) for t in range(clip.shape[1])
    ]
    return psnr_of_error(statistics.fmean(errors), 255)


def resized(clip: Tensor, ratio: float, step: int) -> Tensor | None:
    """Resize to one ``ratio``-th of the values and back, along time by ``step``; None where space would grow."""
    channels, frames, height, width = clip.shape
    side = math.sqrt(ratio / step)
    if side < 1 or frames < step:
        return None
    small = round(height / side), round(width / side)
    x = F.interpolate(clip.transpose(0, 1).float(), small, mode="bicubic", antialias=True)
    if step > 1:  # time as the rows of an image
        rows = x.flatten(1)[None, None]
        rows = F.interpolate(rows, (frames // step, rows.shape[3]), mode="bicubic", antialias=True)
        x = F.interpolate(rows, (frames, rows.shape[3]), mode="bicubic")[0, 0].unflatten(1, (channels, *small))
    return F.interpolate(x, (height, width), mode="bicubic").transpose(0, 1) / 255


def cosines(clip: Tensor, ratio: float, sides: Sequence[int]) -> Tensor | None:
    """Keep the lowest frequencies of the DCT of blocks; None where they are no whole number."""
    kept, rest = divmod(math.prod(sides), ratio)
    if rest or not kept:
        return None
    bases, frequency = [], torch.zeros(())
    for side in sides:
        k = torch.arange(side)
        basis = torch.cos(torch.pi / side * (k + 0.5) * k[:, None]) * math.sqrt(2 / side)
        bases.append(torch.cat([basis[:1] / math.sqrt(2), basis[1:]]))
        frequency = frequency[..., None] + k / side
    mask = torch.zeros(frequency.numel())
    mask[frequency.flatten().argsort(stable=True)[: int(kept)]] = 1
    t, h, w = sides
    blocks = (clip.float() / 255 - 0.5).unflatten(3, (-1, w)).unflatten(2, (-1, h)).unflatten(1, (-1, t))
    there = torch.einsum("caibjdk,xi,yj,zk->cabdxyz", blocks, *bases) * mask.view(*sides)
    back = torch.einsum("cabdxyz,xi,yj,zk->caibjdk", there, *bases) + 0.5
    return back.reshape(clip.shape)


def fit(clips: Sequence[Tensor], levels: tuple[int, ...], ratio: int) -> wt.Codec:
    """Fit a codec of volumes or, with two levels, of their frames."""
    signals = [frame for clip in clips for frame in clip.unbind(1)] if len(levels) == 2 else clips
    channels = len(clips[0]) * 2 ** sum(levels) // ratio
    return wt.fit_codec(signals, levels=levels, channels=channels, progress=False)


def decoded(codec: wt.Codec, clip: Tensor, ratios: Sequence[int]) -> Iterator[tuple[int, bool, Tensor]]:
    """Yield reduction, whether latents were rounded, and what prefixes of the channels decode to."""
    image = codec.config.dims == 2
    z = codec.encode(clip.transpose(0, 1) if image else clip[None])
    for ratio in ratios:
        channels, rest = divmod(codec.config.packets, ratio)
        if rest or not channels or channels > codec.config.channels:
            continue
        prefix = codec.prefix(channels)
        for rounds in (True, False) if channels == codec.config.channels else (True,):
            kept = z[:, :channels].round() if rounds else z[:, :channels]
            back = prefix.decode(kept)
            yield ratio, rounds, back.transpose(0, 1) if image else back[0]


def measure(kind: str, clips: dict[str, Tensor], records: list[Record]) -> None:
    """Measure all methods on the clips of a kind."""
    names = sorted(clips)
    ratios = RATIOS[len(clips[names[0]])]
    halves = [(names[::2], names[1::2]), (names[1::2], names[::2])]

    def add(method: str, how: str, ratio: int, name: str, back: Tensor | None, rounded: bool = True) -> None:
        if back is not None:
            own = {"kind": kind, "method": method, "how": how, "ratio": ratio, "clip": name, "rounded": rounded}
            records.append({**own, "psnr": quality(clips[name], back)})

    for name, clip in tqdm(clips.items(), desc=f"{kind}, without codecs"):
        for ratio in ratios:
            for step in (1, 2, 4, 8):
                add("resize", f"time by {step}", ratio, name, resized(clip, ratio, step))
            for sides in ((1, 8, 8), (4, 8, 8)):
                add("DCT", "x".join(map(str, sides)), ratio, name, cosines(clip, ratio, sides))
    if len(clips[names[0]]) == 3:
        codec = wt.load_codec("rgb_16x")
        for name, clip in tqdm(clips.items(), desc=f"{kind}, rgb_16x"):
            for ratio, rounds, back in decoded(codec, clip, ratios):
                add("image", "`rgb_16x`", ratio, name, back, rounds)
    for levels in tqdm((*IMAGES, *VOLUMES), desc=f"{kind}, fitted codecs"):
        for fitted, measured in halves:
            codec = fit([clips[name] for name in fitted], levels, ratios[0])
            for name in measured:
                for ratio, rounds, back in decoded(codec, clips[name], ratios):
                    add("image" if len(levels) == 2 else "volume", str(levels), ratio, name, back, rounds)


def means(records: Sequence[Record], rounded: bool = True) -> dict[tuple[str, str], dict[int, float]]:
    """Average over clips: by method and how it was set, by reduction."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for (method, how, ratio), own in group(
        [r for r in records if r["rounded"] == rounded], ("method", "how", "ratio")
    ).items():
        found.setdefault((method, how), {})[ratio] = statistics.fmean(r["psnr"] for r in own)
    return found


def best(table: dict[tuple[str, str], dict[int, float]], method: str, ratio: int) -> tuple[float, str]:
    """Return the best mean of a method, and how it is set; NaN where no setting gives this reduction."""
    known = ((row[ratio], how) for (own, how), row in table.items() if own == method and ratio in row)
    return max(known, default=(math.nan, ""))


def report(records: Sequence[Record]) -> str:
    """Write a table of means for every kind, and one of the clips for the best of every method."""
    parts = []
    for (kind,), own in group(records, ("kind",)).items():
        table, exact = means(own), means(own, rounded=False)
        ratios = sorted({r["ratio"] for r in own})
        heads = ["", "", *(f"1/{ratio}" for ratio in ratios), f"1/{ratios[0]}, not rounded"]
        rows = []
        for (method, how), row in table.items():
            last = exact.get((method, how), {}).get(ratios[0], math.nan)
            cells = [row.get(ratio, math.nan) for ratio in ratios] + [last]
            rows.append([method, how, *("" if math.isnan(cell) else f"{cell:.2f}" for cell in cells)])
        parts.append(f"## {kind}, PSNR in dB\n\n{markdown_table(heads, rows, text_columns=2)}")
        clips = sorted({r["clip"] for r in own})
        rows = []
        for ratio in ratios:
            for method in LABELS:
                if not (how := best(table, method, ratio)[1]):
                    continue
                named = {
                    r["clip"]: r["psnr"]
                    for r in own
                    if (r["method"], r["how"], r["ratio"], r["rounded"]) == (method, how, ratio, True)
                }
                rows.append([f"1/{ratio}", f"{method}, {how}", *(f"{named[clip]:.2f}" for clip in clips)])
        parts.append(markdown_table(["", "", *clips], rows, text_columns=2))
    return "\n\n".join(parts)


def draw(records: Sequence[Record], file: Path) -> None:
    """Draw the best of every method over the reduction, a panel per kind."""
    kinds = group(records, ("kind",))
    figure = Figure((6.4, 2.9 * math.ceil(len(kinds) / 2)), layout="constrained")
    panels = figure.subplots(math.ceil(len(kinds) / 2), 2, squeeze=False).flat
    colors = {"volume": "#d94801", "image": "#2171b5", "resize": "#636363", "DCT": "#a1a1a1"}
    for axes, ((kind,), own) in zip(panels, kinds.items(), strict=False):
        table, ratios = means(own), sorted({r["ratio"] for r in own})
        for method, label in LABELS.items():
            style = "--" if method == "DCT" else "-"
            heights = [best(table, method, ratio)[0] for ratio in ratios]
            axes.plot(ratios, heights, style, marker="o", markersize=3, color=colors[method], label=label)
        axes.set_xscale("log")
        mark_values(axes, ratios)
        axes.set_title(kind.replace("_", " "), fontsize=10)
    for row in range(math.ceil(len(kinds) / 2)):
        figure.axes[2 * row].set_ylabel("PSNR, dB")
    figure.supxlabel("values of the signal for one of the latents", fontsize=10)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--kinds", nargs="*", help="names of folders; default: all")
    config = parser.parse_args()
    config.output_dir.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for folder in sorted(f for f in config.folder.iterdir() if f.is_dir()):
        if not config.kinds or folder.name in config.kinds:
            clips = {file.stem: torch.from_numpy(np.load(file)) for file in sorted(folder.glob("*.npy"))}
            measure(folder.name, clips, records)
            write_atomically(config.output_dir / "volumes.csv", as_csv(records))
    draw(records, config.output_dir / "volumes.png")
    print(report(records))


if __name__ == "__main__":
    main()

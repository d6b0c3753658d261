"""Measure codecs on a folder of images or of music: rate, quality and speed, beside resizing or resampling.

    python -m recipes.evaluate_codec --data KODAK --codecs rgb_16x rgb_4x
    python -m recipes.evaluate_codec --data MUSIC --codecs stereo_5x stereo_20x --include "test_*"

The codecs say whether it is images or music.

Protocol for images: every image at its own size. Latents are rounded and written as a lossless RGB WebP mosaic; the
rate is that file's bytes per pixel, and the image is decoded from that file. PSNR is that of the 8-bit result, in dB
per image, then averaged over images. ``resize`` is bicubic reduction to as many values and back, both in Pillow.

Protocol for music: ``recipes/common/sound_evaluation.py``; its rivals are resampling to as many values, and Opus,
Vorbis and MP3 files of as many bytes.
"""

import csv
import io
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.photographs import ImageFiles, demo_photographs, image_files
from recipes.common.sound_evaluation import (
    DemoMusic,
    differences,
    evaluate,
    mean_curve,
    sample_rate_of,
    summarise,
)
from recipes.common.sound_quality import FORMATS
from recipes.common.sound_report import draw_prefixes, markdown
from recipes.common.sounds import SoundFiles, sound_files
from walloc_transforms.coders import CODERS
from walloc_transforms.container import DEFAULT_CODER
from walloc_transforms.images import pil_to_tensor


@dataclass
class Config:
    """Measure codecs on images or music."""

    data: str = "demo"
    """A folder of images or sound, or `demo`: the photographs that scikit-image and scikit-learn install, or generated
    music."""
    codecs: tuple[str, ...] = ("rgb_16x", "rgb_4x")
    """Names, folders or hub repositories; all for images or all for stereo sound."""
    include: tuple[str, ...] = ()
    """Only files whose paths end so: patterns such as `kodim0*` or `musdb18*/mixture.*`."""
    output_dir: Path = Path("runs/evaluate_codec")
    """Gets table.md; for images images.csv (a row per image and codec) and sheet.png; for music pieces.csv (a row per
    piece, codec and method) and, of linear codecs, prefix.csv and prefix.png."""
    sheet_rows: int = 3
    """Images of which the sheet shows the middle 128 pixels."""
    coder: str = DEFAULT_CODER
    """For music: coder of the latent files."""
    formats: tuple[str, ...] = tuple(FORMATS)
    """For music: lossy file formats to compare with."""


def psnr(image: Tensor, decoded: Tensor) -> float:
    """PSNR in dB of two uint8 images."""
    return float(peak_signal_noise_ratio(decoded.float(), image.float(), data_range=255.0))


def code(image: Tensor, codec: wt.Codec) -> tuple[Tensor, dict[str, float]]:
    """Encode to a file in memory and decode from it."""
    start = time.perf_counter()
    latents = wt.functional.encode_image(image, codec, quantize=True)
    encoded = time.perf_counter()
    file = io.BytesIO()
    wt.functional.latents_to_pil(latents)[0].save(file, "WEBP", lossless=True)
    with Image.open(file) as mosaic:
        read = wt.functional.pil_to_latents([mosaic], codec.config.channels)[0]
    if not torch.equal(read.float(), latents):
        raise RuntimeError("the mosaic did not come back as it was written")
    decoding = time.perf_counter()
    decoded = wt.functional.decode_image(read, codec, size=image.shape[-2:])
    end = time.perf_counter()
    pixels = image.shape[-1] * image.shape[-2]
    figures = {"bpp": 8 * len(file.getvalue()) / pixels, "encode_mps": pixels / 1e6 / (encoded - start),
               "decode_mps": pixels / 1e6 / (end - decoding)}  # fmt: skip
    return (decoded * 255).round().to(torch.uint8), figures


def resize(image: Image.Image, reduction: float) -> Tensor:
    """Reduce to ``1 / reduction`` as many pixels and enlarge again."""
    small = [max(1, round(n / math.sqrt(reduction))) for n in image.size]
    bicubic = Image.Resampling.BICUBIC
    return pil_to_tensor(image.resize((small[0], small[1]), bicubic).resize(image.size, bicubic))


def chosen(files: Sequence[Path], include: Sequence[str]) -> list[Path]:
    """Keep the files that match a pattern; all if there is none.

    Raises:
        FileNotFoundError: A pattern matches no file.
    """
    for pattern in include:
        if not any(file.match(pattern) for file in files):
            raise FileNotFoundError(f"none of the {len(files)} files matches {pattern!r}")
    return [file for file in files if not include or any(file.match(pattern) for pattern in include)]


def main(config: Config) -> list[dict[str, Any]]:
    """Measure and write the files; returns a row per codec, for music per codec and method.

    Raises:
        FileNotFoundError: There is no such folder, or no file to measure in it.
        ValueError: The codecs are for images and for sound, or not for stereo; an option is unknown; or nothing could
            be read.
    """
    codecs = [wt.load_codec(c) for c in config.codecs]
    modalities = {codec.config.modality: codec.config.name for codec in codecs}
    if len(modalities) != 1:
        named = " and ".join(f"{name!r} ({modality})" for modality, name in modalities.items())
        raise ValueError(f"expected codecs of one modality, got {named or 'none'}")
    return images_main(config, codecs) if "image" in modalities else sound_main(config, codecs)


def sound_main(config: Config, codecs: Sequence[wt.Codec]) -> list[dict[str, Any]]:
    """Measure audio codecs, write the tables and the prefix curve; returns a row per codec and method."""
    for codec in codecs:
        if codec.config.signal_channels != 2:
            raise ValueError(f"codec {codec.config.name!r} has {codec.config.signal_channels} signal channels: "
                             "expected stereo")  # fmt: skip
    if len({codec.config.name for codec in codecs}) < len(codecs):
        raise ValueError("expected codecs of different names: the tables tell them apart by these")
    for given, known in (((config.coder,), CODERS), (config.formats, FORMATS)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"unknown coder or format {unknown[0]!r}: expected one of {', '.join(known)}")
    files = [] if config.data == "demo" else chosen(sound_files(config.data), config.include)
    records: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    skipped = clipped = 0
    for rate in dict.fromkeys(map(sample_rate_of, codecs)):
        sounds = DemoMusic(rate) if config.data == "demo" else SoundFiles(files, rate)
        own = [codec for codec in codecs if sample_rate_of(codec) == rate]
        for rows, new in zip((records, curve), evaluate(sounds, own, config.coder, config.formats), strict=True):
            rows += new
        skipped, clipped = max(skipped, sounds.skipped), max(clipped, sounds.clipped)
    if not records:
        raise ValueError(f"no piece in {config.data!r} could be measured")
    config.output_dir.mkdir(parents=True, exist_ok=True)
    summary, curve = summarise(records), mean_curve(curve)
    write_csv(records, config.output_dir / "pieces.csv")
    if curve:
        write_csv(curve, config.output_dir / "prefix.csv")
        draw_prefixes(curve, config.output_dir / "prefix.png")
    remark = f"{skipped} files skipped, {clipped} samples beyond full scale"
    text = markdown(summary, differences(records), curve, coder=config.coder, threads=torch.get_num_threads(),
                    remark=remark)  # fmt: skip
    (config.output_dir / "table.md").write_text(text, "utf-8")
    return summary


def images_main(config: Config, codecs: Sequence[wt.Codec]) -> list[dict[str, Any]]:
    """Measure image codecs, write the tables and a sheet of crops; returns a row per codec."""
    images = (
        demo_photographs() if config.data == "demo" else ImageFiles(chosen(image_files(config.data), config.include))
    )
    records: list[dict[str, Any]] = []
    sheet: list[list[tuple[str, Tensor]]] = []
    for number, image in enumerate(tqdm(images, desc="images", unit="image")):
        original = pil_to_tensor(image)
        crops = [("original", _crop(original))]
        for codec in codecs:
            wt.functional.encode_image(original, codec)  # the first call at a size sets up its kernels
            decoded, figures = code(original, codec)
            reduction = codec.config.dimensionality_reduction
            thumbnail = resize(image, reduction)
            record = {"image": number, "width": image.width, "height": image.height, "codec": codec.config.name,
                      "reduction": reduction, "psnr": psnr(original, decoded),
                      "resize_psnr": psnr(original, thumbnail), **figures}  # fmt: skip
            records.append(record)
            crops += [
                (f"resize, {reduction:g}x fewer values\n{record['resize_psnr']:.1f} dB", _crop(thumbnail)),
                (f"{codec.config.name}, {reduction:g}x fewer values\n{record['psnr']:.1f} dB", _crop(decoded)),
            ]
        if number < config.sheet_rows:
            sheet.append(crops)
    if isinstance(images, ImageFiles) and images.skipped:
        print(f"{images.skipped} unreadable images skipped")
    if not records:
        raise ValueError(f"no image in {config.data!r} could be read")
    config.output_dir.mkdir(parents=True, exist_ok=True)
    write_csv(records, config.output_dir / "images.csv")
    rows = [_mean([r for r in records if r["codec"] == codec.config.name]) for codec in codecs]
    (config.output_dir / "table.md").write_text(_markdown(rows), "utf-8")
    draw_sheet(sheet, config.output_dir / "sheet.png")
    return rows


def write_csv(records: Sequence[dict[str, Any]], file: Path) -> None:
    """Write rows with the columns of all of them."""
    with file.open("w", newline="", encoding="utf-8") as target:
        columns = dict.fromkeys(key for record in records for key in record)
        writer = csv.DictWriter(target, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def _mean(records: list[dict[str, Any]]) -> dict[str, Any]:
    means = {key: statistics.fmean(r[key] for r in records)
             for key in ("reduction", "psnr", "bpp", "resize_psnr", "encode_mps", "decode_mps")}  # fmt: skip
    return {"codec": records[0]["codec"], "images": len(records), **means}


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| codec | images | reduction | PSNR, dB | bpp | resize: PSNR, dB | encode, MP/s | decode, MP/s |",
             "|---|" + "---:|" * 7]  # fmt: skip
    for r in rows:
        lines.append(f"| `{r['codec']}` | {r['images']} | {r['reduction']:g} | {r['psnr']:.2f} | {r['bpp']:.3f} "
                     f"| {r['resize_psnr']:.2f} | {r['encode_mps']:.0f} | {r['decode_mps']:.0f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def _crop(image: Tensor, side: int = 128) -> Tensor:
    h, w = image.shape[-2:]
    top, left = max(0, (h - side) // 2), max(0, (w - side) // 2)
    return image[:, top : top + side, left : left + side].permute(1, 2, 0)


def draw_sheet(sheet: list[list[tuple[str, Tensor]]], file: Path) -> None:
    """Draw a row of titled centre crops per image."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, columns = len(sheet), len(sheet[0])
    figure, axes = plt.subplots(rows, columns, figsize=(2.3 * columns, 2.5 * rows), layout="constrained", squeeze=False)
    for i, row in enumerate(sheet):
        for j, (title, crop) in enumerate(row):
            axes[i, j].imshow(crop.numpy(), interpolation="nearest")
            axes[i, j].set_title(title, fontsize=9)
            axes[i, j].axis("off")
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    is_music = "method" in main(config)[0]
    print((config.output_dir / "table.md").read_text("utf-8"))
    written = "table.md, pieces.csv, prefix.csv and prefix.png of linear codecs"
    print(f"written to {config.output_dir}: {written if is_music else 'table.md, images.csv, sheet.png'}")

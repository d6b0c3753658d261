"""Measure image codecs on a folder of images: rate, quality and speed, beside bicubic resizing.

    python -m recipes.evaluate_codec --data KODAK --codecs rgb_16x rgb_4x

Protocol: every image at its own size. Latents are rounded and written as a lossless RGB WebP mosaic; the rate is that
file's bytes per pixel, and the image is decoded from that file. PSNR is that of the 8-bit result, in dB per image, then
averaged over images. ``resize`` is bicubic reduction to as many values and back, both in Pillow.
"""

import csv
import io
import math
import statistics
import time
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
from walloc_transforms.images import pil_to_tensor


@dataclass
class Config:
    """Measure codecs on images."""

    data: str = "demo"
    """A folder of images, or `demo`: the photographs that scikit-image and scikit-learn install."""
    codecs: tuple[str, ...] = ("rgb_16x", "rgb_4x")
    """Names, folders or hub repositories."""
    output_dir: Path = Path("runs/evaluate_codec")
    """Gets images.csv (a row per image and codec), table.md and sheet.png."""
    sheet_rows: int = 3
    """Images of which the sheet shows the middle 128 pixels."""


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


def main(config: Config) -> list[dict[str, Any]]:
    """Measure, write the tables and a sheet of crops; returns a row per codec."""
    codecs = [wt.load_codec(c) for c in config.codecs]
    images = demo_photographs() if config.data == "demo" else ImageFiles(image_files(config.data))
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
    with (config.output_dir / "images.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    rows = [_mean([r for r in records if r["codec"] == codec.config.name]) for codec in codecs]
    (config.output_dir / "table.md").write_text(_markdown(rows), "utf-8")
    draw_sheet(sheet, config.output_dir / "sheet.png")
    return rows


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
    print(_markdown(main(config)))
    print(f"written to {config.output_dir}: table.md, images.csv, sheet.png")

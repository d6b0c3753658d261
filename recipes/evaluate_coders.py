"""Measure the coders of latent files on a folder of images: rate of the whole file, and speed of coding alone.

    OMP_NUM_THREADS=1 python -m recipes.evaluate_coders --data KODAK
    OMP_NUM_THREADS=1 python -m recipes.evaluate_coders --data KODAK --learn PHOTOS

Protocol: every image at its own size, then its middle crop of 256 pixels. Latents are rounded, the rate is that of the
``.wlc`` file in bits per pixel of the image, averaged over images, and the file must give the latents back. Times are
medians over calls that take turns, one thread, in memory; speeds are all pixels of the image by all times, in
megapixels per second. ``prefix`` is decoding a quarter of the channels.

``--learn`` adds a bound: the estimated rate with densities that are learned from other images
(``recipes/evaluation/learned_density.py``), of the images at their own size.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.checks import check_at_least
from recipes.common.command import run_command
from recipes.common.outputs import claim
from recipes.common.photographs import ImageFiles, check_apart, demo_photographs, image_files
from recipes.common.ranks import Ranks
from recipes.common.tables import Record, group, markdown_table, number
from recipes.common.timing import machine, median_seconds
from recipes.evaluation.learned_density import LearnedDensity
from walloc_transforms.files import CODERS, get_coder, load_latents, save_latents
from walloc_transforms.safe import write_atomically
from walloc_transforms.signals import pil_to_tensor


@dataclass
class Config:
    """Measure coders on images."""

    data: str = "demo"
    """A folder of images, or `demo`: the photographs that scikit-image and scikit-learn install."""
    codecs: tuple[str, ...] = ("rgb_16x", "rgb_4x")
    """Names, folders or hub repositories."""
    coders: tuple[str, ...] = tuple(CODERS)
    """Which coders."""
    crop: int = 256
    """Pixels per side of the small images; 0 leaves them out."""
    repeats: int = 5
    """Timed rounds per image."""
    learn: str | None = None
    """Other images, a folder: also fit densities to their latents, and estimate what these would save."""
    learn_crops: int = 500
    """Crops of 32x32 cells to learn from."""
    seed: int = 0
    """Of these crops."""
    overwrite: bool = False
    """Put this measurement in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/evaluate_coders/TIME")
    """A new or empty folder, which gets results.json and table.md. TIME stands for date and time."""


def main(config: Config) -> dict[str, Any]:
    """Measure and write both files; returns what results.json holds."""
    check_at_least(config, 1, ("repeats", "learn_crops"))
    check_at_least(config, 0, ("crop",))
    for name in config.coders:
        get_coder(name)
    for name in config.codecs:
        wt.load_codec(name)
    with claim("evaluate_coders", config, Ranks.start(), ("results.json", "table.md")) as begin:
        images = demo_photographs() if config.data == "demo" else ImageFiles(image_files(config.data))
        others = None if config.learn is None else ImageFiles(image_files(config.learn))
        if config.learn is not None and config.data != "demo":
            check_apart(config.learn, config.data)
        results = measure_all(config, images)
        if others is not None:
            results["learned"] = [estimate(wt.load_codec(name), config, images, others) for name in config.codecs]
        begin()
        content = json.dumps(results, indent=1).encode()
        write_atomically(config.output_dir / "results.json", content, durable=True)
        content = markdown(results, config.crop).encode()
        write_atomically(config.output_dir / "table.md", content, durable=True)
    return results


def measure_all(config: Config, images: Iterable[Image.Image]) -> dict[str, Any]:
    """Measure; returns what results.json holds."""
    sizes = ("whole", *(["crop"] if config.crop else []))
    records: list[Record] = []
    torch.set_num_threads(1)
    for codec in map(wt.load_codec, config.codecs):
        for index, image in enumerate(tqdm(images, desc=codec.config.name, unit="image")):
            for size in sizes:
                pixels = pil_to_tensor(image if size == "whole" else _middle(image, config.crop))
                latents = wt.functional.encode_image(pixels, codec, quantize=True, dtype=torch.int8)
                for record in measure(latents, codec, tuple(pixels.shape[-2:]), config):
                    records.append({"codec": codec.config.name, "image": index, "size": size, **record})
    if not records:
        raise ValueError(f"no image in {config.data!r} could be read")
    settings = {**asdict(config), "output_dir": str(config.output_dir)}
    return {"config": settings, "machine": machine(), "summary": mean_over_images(records), "records": records}


def estimate(codec: wt.Codec, config: Config, images: Iterable[Image.Image], others: Iterable[Image.Image]) -> Record:
    """Learn densities from other images, and estimate the rate of latents of whole images."""

    def encode(image: Image.Image) -> Tensor:
        latents = wt.functional.encode_image(pil_to_tensor(image), codec, quantize=True, dtype=torch.int8)
        return latents.as_subclass(Tensor)

    known = [encode(image) for image in tqdm(others, desc="read", unit="image")]
    densities = LearnedDensity(known, config.learn_crops, config.seed)
    found = [(image.width * image.height, densities.bits(encode(image))) for image in images]
    return {
        "codec": codec.config.name,
        "images": len(found),
        "bpp": statistics.fmean(bits / pixels for pixels, bits in found),
        "weights": densities.weights(),
    }


def _middle(image: Image.Image, side: int) -> Image.Image:
    left, top = max(0, (image.width - side) // 2), max(0, (image.height - side) // 2)
    return image.crop((left, top, min(image.width, left + side), min(image.height, top + side)))


def measure(latents: Tensor, codec: wt.Codec, size: tuple[int, ...], config: Config) -> Iterator[Record]:
    """Store a codec's latents ``(D, h, w)`` by every coder."""
    codes = latents.numpy()
    quarter = max(1, len(codes) // 4)
    calls: dict[str, Callable[[], object]] = {}
    lengths: dict[str, int] = {}
    coded: dict[str, int] = {}
    for name in config.coders:
        coder = CODERS[name]
        with TemporaryDirectory() as folder:
            file = Path(folder) / "latents.wlc"
            lengths[name] = save_latents(file, latents, codec, size=size, coder=name)
            if not torch.equal(load_latents(file).latents, latents):
                raise RuntimeError(f"{name} did not give the latents back")
        streams = coder.encode(codes)
        coded[name] = sum(map(len, streams))
        calls[f"{name} encode"] = partial(coder.encode, codes)
        calls[f"{name} decode"] = partial(coder.decode, streams, codes.shape, codes.dtype, len(codes))
        calls[f"{name} prefix"] = partial(coder.decode, streams, codes.shape, codes.dtype, quarter)
    seconds = median_seconds(calls, config.repeats, 60.0)
    for name in config.coders:
        times = {call: seconds[f"{name} {call}"] for call in ("encode", "decode", "prefix")}
        sizes = {"pixels": size[0] * size[1], "bytes": lengths[name], "coded": coded[name]}
        yield {"coder": name, **sizes, "seconds": times}


def mean_over_images(records: list[Record]) -> list[Record]:
    """Average over images, a row per codec, size and coder; speeds are all pixels by all seconds."""
    rows: list[Record] = []
    for (codec, size, coder), own in group(records, ("codec", "size", "coder")).items():
        pixels = sum(r["pixels"] for r in own)
        speeds = {call: pixels / 1e6 / sum(r["seconds"][call] for r in own) for call in own[0]["seconds"]}
        rows.append(
            {
                "codec": codec,
                "size": size,
                "coder": coder,
                "images": len(own),
                "bpp": statistics.fmean(8 * r["bytes"] / r["pixels"] for r in own),
                "bytes": statistics.fmean(r["bytes"] for r in own),
                "coded bpp": statistics.fmean(8 * r["coded"] / r["pixels"] for r in own),  # without the file's header
                **speeds,
            }
        )
    return rows


def markdown(results: dict[str, Any], crop: int) -> str:
    """Write a Markdown table for each codec and size, and one of learned densities."""
    parts = []
    for (codec, size), rows in group(results["summary"], ("codec", "size")).items():
        where = "whole images" if size == "whole" else f"crops of {crop} pixels"
        heads = ["coder", "bpp", "bytes per file", "encode, MP/s", "decode, MP/s", "prefix, MP/s"]
        cells = [
            [
                f"`{r['coder']}`",
                f"{r['bpp']:.4f}",
                f"{r['bytes']:,.0f}",
                *(number(r[call]) for call in ("encode", "decode", "prefix")),
            ]
            for r in rows
        ]
        parts.append(f"`{codec}`, {rows[0]['images']} {where}:\n\n{markdown_table(heads, cells)}\n")
    if learned := results.get("learned"):
        heads = ["codec", "bpp, estimated", "smallest coder, without header", "difference", "weights"]
        cells = []
        for r in learned:
            whole = [row for row in results["summary"] if (row["codec"], row["size"]) == (r["codec"], "whole")]
            least = min(whole, key=lambda row: row["coded bpp"])
            both = [f"{r['bpp']:.4f}", f"`{least['coder']}`, {least['coded bpp']:.4f}"]
            cells.append([f"`{r['codec']}`", *both, f"{r['bpp'] / least['coded bpp'] - 1:+.2%}", f"{r['weights']:,}"])
        parts.append(f"Learned densities, whole images:\n\n{markdown_table(heads, cells)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    config, results = run_command(Config, main, __doc__)
    print(markdown(results, config.crop))
    print(f"written to {config.output_dir}: table.md, results.json")

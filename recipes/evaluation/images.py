"""Evaluation of image codecs on images, beside resizing and lossy formats; for recipes.evaluate_codec.

Protocol, after the WaLLoC paper: every image at its own size, as ``image_measures.py`` measures it; the rate is that of
the whole file per pixel of the image, and figures are averaged over images as they are, dB as dB.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.quality import METRICS, Networks
from recipes.common.tables import Record, group, means
from recipes.evaluation.image_measures import (
    NO_NETWORKS,
    Photo,
    measure,
    measure_format,
    measure_prefixes,
    measure_rates,
    measure_resizing,
)
from recipes.evaluation.means import BY, ending, notes_of
from walloc_transforms.signals import pil_to_tensor

RESIZING = "resize"


@dataclass
class Results:
    """What an evaluation gave.

    Attributes:
        records: A row per image, codec and method, two if the codec has a refiner. ``decoder`` says by which decoder
            of the codec a row came about.
        prefixes: A row per image, linear codec and prefix.
        rates: A row per image, format and quality.
        sheet: Of the first images, a row per codec: titles and images ``(3, H, W)``, uint8.
        skipped: Images too small for a codec; each is named.
    """

    records: list[Record] = field(default_factory=list)
    prefixes: list[Record] = field(default_factory=list)
    rates: list[Record] = field(default_factory=list)
    sheet: list[list[tuple[str, Tensor]]] = field(default_factory=list)
    skipped: int = 0


@torch.no_grad()
def evaluate(
    images: Iterable[tuple[str, Image.Image]],
    codecs: Sequence[wt.Codec],
    coder: str,
    formats: Sequence[str],
    networks: Networks = NO_NETWORKS,
    sheet_images: int = 0,
) -> Results:
    """Measure codecs on all images.

    Args:
        images: Names and RGB images.
        codecs: For RGB images.
        coder: One of ``IMAGE_CODERS``.
        formats: Names of ``FORMATS`` to compare with.
        networks: Of LPIPS and DISTS.
        sheet_images: How many of the images to keep what was decoded of.
    """
    results, done = Results(), 0
    shortest = max(codec.config.stride for codec in codecs)
    for name, image in images:
        if min(image.size) < shortest:
            tqdm.write(f"skipped {name}: a side is shorter than {shortest} pixels")
            results.skipped += 1
            continue
        photo = Photo(name, pil_to_tensor(image), networks)
        for codec in codecs:
            rows = _compare(photo, codec, coder, formats, results)
            if done < sheet_images:
                results.sheet.append([("original", photo.image), *rows])
        for format in formats:
            results.rates += [{"image": name, **row} for row in measure_rates(photo, format)]
        done += 1
    return results


def _compare(
    photo: Photo, codec: wt.Codec, coder: str, formats: Sequence[str], results: Results
) -> list[tuple[str, Tensor]]:
    """Add all rows of an image and a codec to the results; returns titles and images."""
    c = codec.config
    own, latents = measure(photo, codec, coder)
    measured: list[tuple[str, str, Record, Tensor | None]] = [(c.name, *one) for one in own]
    size = measured[0][2]["bytes"]
    measured.append((RESIZING, "", *measure_resizing(photo, c.dimensionality_reduction)))
    measured += [(name, "", *measure_format(photo, name, size)) for name in formats]
    height, width = photo.size
    pictures: list[tuple[str, Tensor]] = []
    for method, decoder, record, picture in measured:
        row = {
            "image": photo.name,
            "width": width,
            "height": height,
            "codec": c.name,
            "method": method,
            "decoder": decoder,
            **record,
        }
        results.records.append(row)
        rate = f"{record['bpp']:.2f} bpp" if "bpp" in record else f"{c.dimensionality_reduction:.3g}x fewer values"
        if picture is not None:
            pictures.append((f"{method}{ending(row)}\n{record['psnr']:.1f} dB\n{rate}", picture))
    if c.is_linear:
        rows = measure_prefixes(photo, codec, latents, coder)
        results.prefixes += [{"image": photo.name, **row} for row in rows]
    return pictures


def mean_over_images(records: Sequence[Record]) -> list[Record]:
    """Average over images, a row per codec, method and decoder; dB are averaged as such, CR is that of the mean bpp.

    What a method has for some images only is averaged over those, and ``images`` or the note counts them.
    """
    rows: list[Record] = []
    for key, own in group(records, BY).items():
        measured = [r for r in own if "psnr" in r]
        row: Record = {**dict(zip(BY, key, strict=True)), "images": len(measured)}
        row |= means(measured, ("reduction", "bpp", *METRICS, "encode_mps", "decode_mps"))
        row["compression_ratio"] = 24 / row["bpp"]
        notes = notes_of(own)
        for figure, title in (("ms_ssim", "MS-SSIM"), ("lpips_db", "LPIPS"), ("dists_db", "DISTS")):
            known = sum(figure in r for r in measured)
            notes += [f"{title} of {known} of {len(measured)}"] * (0 < known < len(measured))
        rows.append({**row, "note": "; ".join(notes)})
    return rows

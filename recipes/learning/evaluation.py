"""Evaluation of trained models: tables, curves and pictures, beside lossy formats and published points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from recipes.common.crops import Photograph
from recipes.common.ranks import Ranks
from recipes.common.tables import Record, as_csv, means
from recipes.evaluation.image_measures import Photo, measure_format, measure_rates
from recipes.evaluation.image_report import draw_sheet
from recipes.evaluation.means import mean_curve
from recipes.learning import report
from recipes.learning.measuring import Decoded, costs, measure_all, rate_of, written
from recipes.learning.published import KODAK, are_kodak
from walloc_transforms.safe import write_atomically
from walloc_transforms.weconvene import WeConvene


@dataclass(frozen=True)
class Evaluation:
    """Settings of an evaluation.

    Attributes:
        real: Of how many of the images to write files. None: of all.
        formats: Lossy formats to compare with.
        shown: How many images the sheet shows.
    """

    real: int | None
    formats: Sequence[str]
    shown: int


def evaluate(
    models: Mapping[str, WeConvene],
    test: Sequence[Photograph],
    ranks: Ranks,
    folder: Path,
    settings: Evaluation,
    remark: str = "",
) -> list[Record]:
    """Measure models, and write tables and pictures.

    Args:
        models: By name; of one kind, so that together they make a curve.
        test: Photographs whose pixels can be read; the processes share them.
        ranks: This process among others; the first one writes.
        folder: Gets table.md, table.csv, images.csv, rates.csv, rd.png and sheet.png.
        settings: What to do.
        remark: What there is to say about the models.

    Returns:
        A row per model.
    """
    summary: list[Record] = []
    images: list[Record] = []
    sheets: list[list[Decoded]] = []
    for name, model in models.items():
        rows, sheet = measure_all(model.to(ranks.device), test, ranks, settings.real, settings.shown)
        own = means([{**row, "rate": rate_of(row)} for row in rows], ("rate", "bpp_estimated", "psnr", "ms_ssim"))
        if settings.real is not None:
            own["rate"] = own["bpp_estimated"]  # the same for all images
        summary.append({"checkpoint": name, "images": len(rows), **own, **written(rows), **costs(model)})
        images += [{"checkpoint": name, **row} for row in rows]
        sheets.append(sheet)
    if not ranks.first:
        return summary
    rates: list[Record] = []
    pictures: list[list[tuple[str, Tensor]]] = []
    shown = {decoded.record["image"]: i for i, decoded in enumerate(sheets[0])}
    for photograph in tqdm(test, desc="formats", unit="image", leave=False):
        image = photograph.pixels()
        assert image is not None, photograph.name
        photo = Photo(photograph.name, image)
        for name in settings.formats:
            rates += [{"image": photo.name, "rate": row["bpp"], **row} for row in measure_rates(photo, name)]
        if photo.name in shown:
            decoded = {name: sheet[shown[photo.name]] for name, sheet in zip(models, sheets, strict=True)}
            pictures.append(_pictures(photo, decoded, settings.formats))
    curves = mean_curve(rates, ("format", "quality"), "image")
    formats = {name: own for name in settings.formats if (own := [r for r in curves if r["format"] == name])}
    published = KODAK if are_kodak(photograph.name for photograph in test) else {}
    anchors = {**{name: report.curve_of(own) for name, own in formats.items()}, **published}
    for name, records in {"table.csv": summary, "images.csv": images, "rates.csv": curves}.items():
        write_atomically(folder / name, as_csv(records), durable=True)
    report.draw_rates(summary, formats, published, folder / "rd.png")
    if pictures:
        draw_sheet(pictures, folder / "sheet.png")
    text = report.markdown(summary, anchors, remark + report.caption(len(test), settings.real))
    write_atomically(folder / "table.md", text.encode(), durable=True)
    return summary


def _pictures(photo: Photo, decoded: Mapping[str, Decoded], formats: Sequence[str]) -> list[tuple[str, Tensor]]:
    """Return an image as it is, as every model gives it, and as formats do at the rate of the first model."""
    row = [("original", photo.image), *(own.row(name)[1] for name, own in decoded.items())]
    size = round(rate_of(next(iter(decoded.values())).record) * photo.pixels / 8)
    for name in formats:
        record, picture = measure_format(photo, name, size)
        if picture is not None:
            row.append((f"{name}\n{record['psnr']:.2f} dB, {record['bpp']:.3f} bpp", picture))
    return row

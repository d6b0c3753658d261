"""Measure codecs on a folder of images or of music: rate, quality and speed, beside resizing or resampling.

    python -m recipes.evaluate_codec --data KODAK
    python -m recipes.evaluate_codec --data MUSIC --codecs stereo_5x stereo_20x --include "test_*"

The codecs say whether images or music are measured. A codec with a refiner is measured with and without it, on the
same files.

Images are compared with bicubic resizing to as many values, and with JPEG, WebP and AVIF files of as many bytes; the
protocol is in ``recipes/evaluation/images.py``. Music is compared with resampling to as many values, and with Opus,
Vorbis and MP3 files of as many bytes; the protocol is in ``recipes/evaluation/sounds.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.command import run_command
from recipes.common.files import select_files
from recipes.common.outputs import claim
from recipes.common.photographs import ImageFiles, demo_photographs, image_files
from recipes.common.quality import load_networks
from recipes.common.ranks import Ranks
from recipes.common.sounds import SoundFiles, sound_files
from recipes.common.tables import Record, as_csv
from recipes.evaluation import image_formats, image_report, images, sound_formats, sound_report, sounds
from recipes.evaluation.image_measures import IMAGE_CODERS, MOSAIC, NO_NETWORKS
from recipes.evaluation.means import mean_curve
from walloc_transforms.files import CODERS, DEFAULT_CODER
from walloc_transforms.safe import write_atomically

WRITTEN = ("table.md", "images.csv", "pieces.csv", "prefix.csv", "rates.csv", "rd.png", "sheet.png", "prefix.png")


@dataclass
class Config:
    """Measure codecs on images or music."""

    data: str = "demo"
    """A folder of images or sound, or `demo`: the photographs that scikit-image and scikit-learn install, or generated
    music."""
    codecs: tuple[str, ...] = ("rgb_16x", "rgb_16x_viewing", "rgb_4x", "rgb_4x_viewing")
    """Names, folders or hub repositories; all for images or all for stereo sound."""
    include: tuple[str, ...] = ()
    """Only files whose paths end like one of these patterns, such as `kodim0*` or `musdb18*/mixture.*`."""
    overwrite: bool = False
    """Put this evaluation in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/evaluate_codec/TIME")
    """A new or empty folder, in whose name TIME stands for date and time. It gets table.md; for images images.csv (a
    row per image, codec, method and decoder), rates.csv of the lossy formats, rd.png and sheet.png; for music
    pieces.csv (a row per piece, codec, method and decoder) and prefix.png. Linear codecs give prefix.csv too."""
    sheet_rows: int = 3
    """Images of which the sheet shows the middle 128 pixels, anew for each codec."""
    coder: str | None = None
    """How latents are stored: in `.wlc` files by coder `zlib` (the default for music), `webp`, `jpegls` or `ans`, or,
    for images and their default, as a `mosaic`: a lossless WebP image, as in the paper."""
    formats: tuple[str, ...] | None = None
    """Lossy file formats to compare with. Default: all, which are JPEG, WebP and AVIF, for music Opus, Vorbis and
    MP3."""
    networks: bool = False
    """For images: measure LPIPS and DISTS too, whose weights (528 MB) are downloaded unless torch.hub has them; where
    they cannot be had, the table says so."""


def main(config: Config) -> list[Record]:
    """Measure and write the files; returns a row per codec and method.

    Raises:
        FileNotFoundError: There is no such folder, or no file to measure in it.
        ValueError: The codecs are for images and for sound, not for stereo or RGB, or of one name; an option is
            unknown; or nothing could be read.
    """
    codecs = [wt.load_codec(c) for c in config.codecs]
    modalities = {codec.config.modality: codec.config.name for codec in codecs}
    if len(modalities) != 1:
        named = " and ".join(f"{name!r} ({modality})" for modality, name in modalities.items())
        raise ValueError(f"expected codecs of one modality, got {named or 'none'}")
    is_image = "image" in modalities
    signals, kind = (3, "RGB") if is_image else (2, "stereo")
    for codec in codecs:
        if codec.config.signal_channels != signals:
            raise ValueError(
                f"codec {codec.config.name!r} has {codec.config.signal_channels} signal channels: expected {kind}"
            )
    if len({codec.config.name for codec in codecs}) < len(codecs):
        raise ValueError("expected codecs of different names: the tables tell them apart by these")
    coder = config.coder or (MOSAIC if is_image else DEFAULT_CODER)
    coders, all_formats = (IMAGE_CODERS, image_formats.FORMATS) if is_image else (tuple(CODERS), sound_formats.FORMATS)
    formats = tuple(all_formats) if config.formats is None else config.formats
    for given, known in (((coder,), coders), (formats, all_formats)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"unknown coder or format {unknown[0]!r}: expected one of {', '.join(known)}")
    evaluate = evaluate_images if is_image else evaluate_music
    with claim("evaluate_codec", config, Ranks.start(), WRITTEN) as begin:
        return evaluate(config, codecs, coder, formats, begin)


def evaluate_music(
    config: Config, codecs: Sequence[wt.Codec], coder: str, formats: Sequence[str], begin: Callable[[], None]
) -> list[Record]:
    """Measure audio codecs, write the tables and the prefix curve; returns a row per codec and method."""
    files = [] if config.data == "demo" else select_files(sound_files(config.data), config.include)
    records: list[Record] = []
    curve: list[Record] = []
    skipped = clipped = 0
    for rate in dict.fromkeys(map(sounds.sample_rate_of, codecs)):
        pieces = sounds.DemoMusic(rate) if config.data == "demo" else SoundFiles(files, rate)
        own = [codec for codec in codecs if sounds.sample_rate_of(codec) == rate]
        measured, prefixes = sounds.evaluate(pieces, own, coder, formats)
        records += measured
        curve += prefixes
        skipped, clipped = max(skipped, pieces.skipped), max(clipped, pieces.clipped)
    if not records:
        raise ValueError(f"no piece in {config.data!r} could be measured")
    summary, curve = sounds.mean_over_pieces(records), sounds.mean_prefixes(curve)
    begin()  # only now, so that older results stay until there are new ones
    write_tables(config.output_dir, {"pieces.csv": records, "prefix.csv": curve})
    if curve:
        sound_report.draw_prefixes(curve, config.output_dir / "prefix.png")
    remark = f"{skipped} files skipped, {clipped} samples beyond full scale"
    differences = sounds.differences(records)
    text = sound_report.markdown(
        summary, differences, curve, coder=coder, threads=torch.get_num_threads(), remark=remark
    )
    write_atomically(config.output_dir / "table.md", text.encode(), durable=True)
    return summary


def evaluate_images(
    config: Config, codecs: Sequence[wt.Codec], coder: str, formats: Sequence[str], begin: Callable[[], None]
) -> list[Record]:
    """Measure image codecs, write the tables, curves and a sheet of crops; returns a row per codec and method."""
    for codec in codecs:
        if coder == MOSAIC and codec.config.latent_bits > 8:
            raise ValueError(
                f"latents of codec {codec.config.name!r} have {codec.config.latent_bits} bits, which no "
                "mosaic holds: give another coder"
            )
    if config.data == "demo":
        pictures, files = [(f"demo {i}", image) for i, image in enumerate(demo_photographs())], None
    else:
        files = ImageFiles(select_files(image_files(config.data), config.include))
        pictures = files.named()
    networks = load_networks() if config.networks else NO_NETWORKS
    bar = tqdm(pictures, desc="images", unit="image", total=None if files is None else len(files))
    results = images.evaluate(bar, codecs, coder, formats, networks, config.sheet_rows)
    skipped = results.skipped + (files.skipped if files else 0)
    if skipped:
        print(f"{skipped} images skipped")
    if not results.records:
        raise ValueError(f"no image in {config.data!r} could be measured")
    summary = images.mean_over_images(results.records)
    curve = mean_curve(results.prefixes, ("codec", "channels"), "image")
    rates = mean_curve(results.rates, ("format", "quality"), "image")
    begin()  # only now, so that older results stay until there are new ones
    write_tables(config.output_dir, {"images.csv": results.records, "prefix.csv": curve, "rates.csv": rates})
    image_report.draw_rates(summary, curve, rates, config.output_dir / "rd.png")
    if results.sheet:
        image_report.draw_sheet(results.sheet, config.output_dir / "sheet.png")
    text = image_report.markdown(
        summary,
        curve,
        coder=coder,
        threads=torch.get_num_threads(),
        missing=networks.missing,
        remark=f"{skipped} images skipped",
    )
    write_atomically(config.output_dir / "table.md", text.encode(), durable=True)
    return summary


def write_tables(folder: Path, tables: Mapping[str, Sequence[Record]]) -> None:
    """Write tables of records as CSV files, those that have any rows."""
    for name, records in tables.items():
        if records:
            write_atomically(folder / name, as_csv(records), durable=True)


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    print((config.output_dir / "table.md").read_text("utf-8"))
    print(f"written to {config.output_dir}")

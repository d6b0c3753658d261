"""What evaluations of image codecs and of audio codecs share: files, decoders, means over records, CSV files."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import walloc_transforms as wt

Record = dict[str, Any]


def chosen(files: Sequence[Path], include: Sequence[str]) -> list[Path]:
    """Keep the files that match a pattern; all if there is none.

    Raises:
        FileNotFoundError: A pattern matches no file.
    """
    for pattern in include:
        if not any(file.match(pattern) for file in files):
            raise FileNotFoundError(f"none of the {len(files)} files matches {pattern!r}")
    return [file for file in files if not include or any(file.match(pattern) for pattern in include)]


def decoders_of(codec: wt.Codec) -> list[str]:
    """Names of a codec's decoders: its own, then ``"refiner"`` if it has one."""
    return [codec.config.decoder, *["refiner"] * (codec.config.refiner_width > 0)]


def ending(record: Record) -> str:
    """Return what tells the row of a refiner from that of the codec's own decoder, wherever a method is named."""
    return ", refiner" if record.get("decoder") == "refiner" else ""


def mean_known(values: Iterable[float]) -> float:
    """Average what is known; NaN if nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def write_csv(records: Sequence[Record], file: Path) -> None:
    """Write rows with the columns of all of them."""
    with file.open("w", newline="", encoding="utf-8") as target:
        columns = dict.fromkeys(key for record in records for key in record)
        writer = csv.DictWriter(target, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)

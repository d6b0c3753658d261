"""Means over the files of an evaluation, the same for images and for music.

Every record has ``codec``, ``method`` (the codec's name, or what it is compared with) and ``decoder``, which is empty
for methods that are no codec; it may have a ``note``.
"""

from collections.abc import Sequence

from recipes.common.tables import Record, group, means

BY = ("codec", "method", "decoder")
"""The columns that tell rows apart."""


def ending(record: Record) -> str:
    """Return what tells the row of a refiner from that of the codec's own decoder, wherever a method is named."""
    return ", refiner" if record["decoder"] == "refiner" else ""


def notes_of(records: Sequence[Record]) -> list[str]:
    """Count the notes of records: ``lowest rate (2 of 24)``."""
    notes = [record["note"] for record in records if record.get("note")]
    return [f"{note} ({notes.count(note)} of {len(records)})" for note in dict.fromkeys(notes)]


def mean_curve(curve: Sequence[Record], by: Sequence[str], file: str) -> list[Record]:
    """Average curves over files, a row for each combination of the values of some columns.

    Args:
        curve: A record per file and point.
        by: The columns that a point is known by.
        file: The column that names files; the row counts them in a column of its plural.
    """
    rows: list[Record] = []
    for key, own in group(curve, by).items():
        figures = [name for name in dict.fromkeys(name for r in own for name in r) if name not in (file, *by)]
        rows.append({**dict(zip(by, key, strict=True)), f"{file}s": len(own), **means(own, figures)})
    return rows

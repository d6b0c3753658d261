"""The picture of recipes/reading.py: the same lines as every arm shows them, and what was read there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from recipes.documents.reader import Line
from recipes.documents.scores import comparable

LONG = 12  # characters of a line worth showing
_MARGIN = 3  # pixels around its box


@dataclass(frozen=True)
class Excerpt:
    """A line of a page as an arm shows it.

    Attributes:
        image: ``(3, H, W)``, uint8.
        text: What was read there; empty for nothing.
        right: Whether that is what the page says.
    """

    image: Tensor
    text: str
    right: bool


def line_to_show(annotated: Sequence[str], read: Sequence[Line]) -> Line | None:
    """Choose the middle one among the longer lines that were read exactly; None if there is none."""
    known = set(map(comparable, annotated))
    right = [line for line in read if comparable(line.text) in known and len(comparable(line.text)) >= LONG]
    return right[len(right) // 2] if right else None


def excerpt(shown: Tensor, line: Line, read: Sequence[Line]) -> Excerpt:
    """Cut a line out of a page as an arm shows it, ``(3, H, W)``, and say what was read where the line is."""
    left, top, right, bottom = (round(edge) for edge in line.box)
    image = shown[:, max(0, top - _MARGIN) : bottom + _MARGIN, max(0, left - _MARGIN) : right + _MARGIN]
    here = sorted((other for other in read if _overlap(other, line) > 0.5), key=lambda other: other.box[0])
    text = " ".join(other.text for other in here)
    return Excerpt(image, text, comparable(text) == comparable(line.text))


def _overlap(a: Line, b: Line) -> float:
    """Return the part of a's box that lies in b's."""
    width, height = (min(a.box[i + 2], b.box[i + 2]) - max(a.box[i], b.box[i]) for i in (0, 1))
    area = (a.box[2] - a.box[0]) * (a.box[3] - a.box[1])
    return max(0.0, width) * max(0.0, height) / area if area else 0.0


def draw_sheet(labels: Sequence[str], columns: Sequence[Sequence[Excerpt]], file: Path) -> None:
    """Draw a row per arm and a column per line, what was read below each: green where it is right, red elsewhere.

    Args:
        labels: Of the arms.
        columns: For each line, how every arm shows it.
        file: To write the picture to.
    """
    widths = [max(e.image.shape[-1] / e.image.shape[-2] for e in column) for column in columns]
    height = 0.42
    picture = Figure((1.6 + height * sum(widths), 0.85 * len(labels)), layout="constrained")
    panels = picture.subplots(len(labels), len(columns), squeeze=False, width_ratios=widths)
    for j, column in enumerate(columns):
        for i, part in enumerate(column):
            axes = panels[i, j]
            axes.imshow(part.image.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            text = "".join(c if c.isascii() else "□" for c in part.text) or "(nothing)"
            axes.set_xlabel(text, fontsize=8, color="darkgreen" if part.right else "firebrick", parse_math=False)
            if j == 0:
                axes.set_ylabel(labels[i], rotation=0, ha="right", va="center", fontsize=8)
    picture.savefig(file, dpi=130)

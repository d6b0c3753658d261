"""The picture of a colorization: gray image, truth and what every arm made of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor


def draw_sheet(rows: Sequence[tuple[str, Mapping[str, Tensor]]], file: Path) -> None:
    """Draw a row of images under their names; all rows have the same names.

    Args:
        rows: The row's label, and images ``(3, H, W)`` in [0, 1] by name.
        file: The PNG file.
    """
    names = list(rows[0][1])
    # As high as its image is for its width.
    heights = [max(image.shape[-2] / image.shape[-1] for image in images.values()) for _, images in rows]
    width = 2.2
    figure = Figure((width * len(names), width * sum(heights) + 0.3 + 0.1 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(names), squeeze=False, height_ratios=heights)
    for i, (label, images) in enumerate(rows):
        for axes, name in zip(panels[i], names, strict=True):
            axes.imshow(images[name].permute(1, 2, 0).numpy(), interpolation="antialiased")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if i == 0:
                axes.set_title(name, fontsize=9)
        panels[i, 0].set_ylabel(label, fontsize=8)
    figure.savefig(file, dpi=130)

"""How near colored images come to the true ones: scores per image, trivial rivals, and the table over arms and seeds.

Every image is scored twice at its own size: as it is, and (``luma kept``) with its brightness replaced by that of the
gray image, which is known. That restores the detail an arm loses, so that only the colors are compared.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recipes.color.arms import gray, keep_luma, luma
from recipes.common.quality import NETWORK_SIDE, Networks, ms_ssim, psnr, to_8_bits
from recipes.common.tables import Record, figure, markdown_table

SCORES = ("psnr", "psnr_kept", "ms_ssim", "ms_ssim_kept", "lpips_db")
_LEVELS = 16  # of brightness


def score(image: Tensor, truth: Tensor, networks: Networks) -> dict[str, float]:
    """Score an image, both ``(3, H, W)`` in [0, 1], rounded to 8 bits; NaN where it is too small or a network missing.

    ``lpips_db`` is ``-10 log10`` of LPIPS, of the image as it is.
    """
    target, own = to_8_bits(truth), to_8_bits(image)
    kept = to_8_bits(keep_luma(image, gray(truth)))
    distance = networks.distances.get("lpips") if min(truth.shape[-2:]) >= NETWORK_SIDE else None
    lpips = math.nan
    if distance is not None:
        # Not below 1e-6: equal images have no finite figure.
        lpips = -10 * float(distance(own[None] / 255, target[None] / 255).clamp(min=1e-6).log10())
    return {
        "psnr": psnr(target, own),
        "psnr_kept": psnr(target, kept),
        "ms_ssim": ms_ssim(target, own),
        "ms_ssim_kept": ms_ssim(target, kept),
        "lpips_db": lpips,
    }


class ColorOfBrightness:
    """Color without a network: every pixel gets the mean color that pixels of its brightness have in training crops.

    Args:
        images: Color images ``(batch, 3, H, W)`` in [0, 1].
        levels: Number of levels of brightness, interpolated between; a single one gives all pixels the same tint.
    """

    def __init__(self, images: Tensor, levels: int = _LEVELS) -> None:
        brightness = luma(images)
        which = (brightness * levels).long().clamp(0, levels - 1).flatten()
        counts = torch.bincount(which, minlength=levels)
        seen = counts > 0
        self.places = ((torch.arange(levels) + 0.5) / levels)[seen].numpy()
        sums = [torch.bincount(which, plane.flatten(), levels) for plane in (images - brightness).unbind(1)]
        self.colors = [(total[seen] / counts[seen]).numpy() for total in sums]

    def __call__(self, gray_image: Tensor) -> Tensor:
        """Color a gray image ``(3, H, W)``."""
        brightness = gray_image[0].numpy()
        colors = [np.interp(brightness, self.places, color) for color in self.colors]
        return (gray_image + torch.from_numpy(np.stack(colors)).float()).clamp(0, 1)


def markdown(table: Sequence[Record], crop: int, missing: str = "") -> str:
    """Write the table as Markdown; rows of arms have ``values``, ``trunk_macs``, ``macs`` and ``step_rate`` as well.

    Args:
        table: A row per arm, with the mean of every score over seeds and its standard deviation.
        crop: Side in pixels of the crops that multiply-adds were counted for.
        missing: What the LPIPS column says where there is none.
    """
    labels = {
        "psnr": ("PSNR, dB", 2),
        "psnr_kept": ("PSNR, luma kept, dB", 2),
        "ms_ssim": ("MS-SSIM", 4),
        "ms_ssim_kept": ("MS-SSIM, luma kept", 4),
        "lpips_db": ("LPIPS, dB", 2),
    }
    heads = [
        "",
        "values per token",
        f"trunk, MMAC per {crop}² px",
        "in all",
        "training steps/s",
        "seeds",
        *(label for label, _ in labels.values()),
    ]
    rows: list[list[str]] = []
    for row in table:
        costs = (("values", 1, 0), ("trunk_macs", 1e6, 0), ("macs", 1e6, 0), ("step_rate", 1, 1))
        cells = [row["arm"], *(figure(row.get(name, math.nan) / unit, digits) for name, unit, digits in costs)]
        cells.append(str(row["seeds"] or "-"))
        cells += [figure(row[name], digits, row[f"{name} sd"]) for name, (_, digits) in labels.items()]
        if missing and cells[-1] == "-":
            cells[-1] = missing
        rows.append(cells)
    return markdown_table(heads, rows) + "\n"

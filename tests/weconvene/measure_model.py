"""Measure what exact networks cost, and where the time goes: ``python -m tests.weconvene.measure_model MODEL IMAGES``.

MODEL is a checkpoint, or a preset, whose weights are then random; IMAGES a folder of photographs. Set OMP_NUM_THREADS.
Rates are of likelihoods, by networks in floats and by exact ones, and of real streams. Time is split by a profile of
one call for each image, after one that warms up.
"""

import argparse
import cProfile
import math
import pstats
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import walloc_transforms as wt
from walloc_transforms.weconvene import PRESETS, WeConvene

STEPS = {"transforms": ("_latents", "_image"), "coder": ("put", "take", "finish"), "exact networks": ("run",)}


def read_images(folder: Path) -> list[Tensor]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg", ".webp"))
    return [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None] / 255 for file in files]


def seconds_of(call: Callable[[], Any]) -> dict[str, float]:
    """Run once, and tell the seconds by step."""
    with cProfile.Profile() as profile:
        call()
    seconds = dict.fromkeys(STEPS, 0.0)
    for (file, _, function), (*_, cumulative, _) in pstats.Stats(profile).stats.items():  # pyright: ignore[reportAttributeAccessIssue] (stubs lack it)
        for step, functions in STEPS.items():
            if function in functions and Path(file).parent.name == "weconvene":
                seconds[step] += cumulative
    seconds["exact networks"] -= seconds["coder"]  # which they call
    return seconds


def psnr(x: Tensor, decoded: Tensor) -> float:
    return -10 * math.log10((x - decoded).square().mean().item())


def main(model: WeConvene, images: Iterable[Tensor]) -> None:
    rows = []
    with torch.no_grad():
        for x in images:
            pixels = x.shape[-2] * x.shape[-1]
            found: dict[str, float] = {"MP": pixels / 1e6}
            for name, exact in (("floats", False), ("exact", True)):
                result = model(x, exact=exact)
                bits = sum(-values.double().log2().sum().item() for values in result["likelihoods"].values())
                found |= {f"{name}, bits per pixel": bits / pixels, f"{name}, PSNR": psnr(x, result["x_hat"])}
            (compressed,) = model.compress(x)
            found["real, bits per pixel"] = 8 * sum(map(len, compressed.streams)) / pixels
            for name, call in (
                ("encode", lambda x=x: model.compress(x)),
                ("decode", lambda compressed=compressed: model.decompress([compressed])),
            ):
                found |= {f"{name}, {step}, seconds": value for step, value in seconds_of(call).items()}
            rows.append(found)
            print(f"{len(rows)} images", end="\r", flush=True)
    for name in rows[0]:
        print(f"{name:40} {np.mean([row[name] for row in rows]):.5f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    made = WeConvene.preset(given.model) if given.model in PRESETS else wt.weconvene.load_checkpoint(given.model)
    main(made.eval(), read_images(given.images))

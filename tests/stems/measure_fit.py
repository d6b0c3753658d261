"""Measure how near ``fit_stem`` comes, with three folders of images.

    python -m tests.stems.measure_fit PHOTOS TRAINING HELD_OUT

The first table is of models with random weights, fitted to 24 of the photographs, whose sides should be at least 448
pixels. The second is of EfficientNet-Lite0 with its trained ones: how often
it says of held-out images, read as latents through the fitted stem, what it says of all their pixels.
"""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

import walloc_transforms as wt
from recipes.common.networks import load_network
from recipes.common.photographs import image_files

MODELS = (
    "vit_tiny_patch16_224",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "hiera_tiny_224",
    "mobilenetv3_small_050",
    "resnet18",
    "resnet18d",
    "eca_nfnet_l0",
)
CODECS = ("rgb_16x", "rgb_4x")
FITS = ((0, 300), (1, 300), (2, 300), (1, 100), (1, 30), (1, 10), (1, 3))
HELD_OUT = 300


def read(folder: Path, count: int) -> list[Tensor]:
    """Read images spread evenly over the sorted files."""
    files = image_files(folder)
    if len(files) < count:
        raise ValueError(f"{folder} has {len(files)} images: expected at least {count}")
    images = []
    for file in files[:: len(files) // count][:count]:
        with Image.open(file) as image:
            images.append(pil_to_tensor(image.convert("RGB")))
    return images


def missed(name: str, codec: str, match: Any, images: list[Tensor]) -> float:
    torch.manual_seed(0)
    model: Any = wt.fit_stem(timm.create_model(name), codec, images, match=match, progress=False)
    return 100 * model.walloc_fit.residual


@torch.no_grad()
def answers(model: torch.nn.Module, images: Tensor) -> Tensor:
    """Return the class that the model, which normalizes by itself or not, says of each image."""
    config: Any = model.pretrained_cfg
    normalize = v2.Normalize(config["mean"], config["std"])
    return torch.cat([model(normalize(batch / 255)).argmax(1) for batch in images.split(50)])


def main(photos: Path, training: Path, held_out: Path) -> None:
    some = read(photos, 24)
    print("| model | grid, rgb_16x | grid, rgb_4x | resolution, rgb_16x | resolution, rgb_4x |")
    print("|---|---:|---:|---:|---:|")
    for name in MODELS:
        cells = [missed(name, codec, match, some) for match in ("grid", "resolution") for codec in CODECS]
        print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)

    images = read(training, max(count for _, count in FITS))
    crop = v2.Compose([v2.Resize(224), v2.CenterCrop(224)])
    others = torch.stack([crop(image) for image in read(held_out, HELD_OUT)])
    expected = answers(load_network("lite0"), others)
    print("\n| neighbors | images | rgb_16x: agreement, % | variance missed, % | rgb_4x: agreement, % | missed, % |")
    print("|---:|---:|---:|---:|---:|---:|")
    for neighbors, count in FITS:
        cells = []
        for codec in CODECS:
            chosen = islice(images, 0, None, len(images) // count)
            model: Any = wt.fit_stem(
                load_network("lite0"), codec, chosen, match="resolution", neighbors=neighbors, progress=False
            )
            agreement = (answers(model.eval(), others) == expected).float().mean()
            cells += [f"{100 * agreement:.1f}", f"{100 * model.walloc_fit.residual:.1f}"]
        print(f"| {neighbors} | {count} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))

"""Measure how well refiners of other blocks learn: ``python -m tests.recipes.measure_blocks PHOTOS BLOCK SEED STEPS``.

Each is trained from nothing beside the frozen ``rgb_16x``, with the same crops in the same order, and has about 1.2
million parameters and 20 thousand multiply-adds per pixel. What is measured is its gain over the linear decoder on
photographs that are held out (the closed form of ``rgb_16x`` has seen them): the mean over them of the ratio of both
errors in packets, in dB. A fifth argument is the learning rate.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

import walloc_transforms as wt
from recipes.codec.crops import Crops
from recipes.codec.training import Trained, Training, parameter_groups
from recipes.common.loop import train_steps
from recipes.common.photographs import ImageFiles, image_files
from recipes.common.ranks import Ranks
from recipes.common.runs import Run
from recipes.train_codec import hold_out
from walloc_transforms.codec import Refiner

CROPS, SIDE = 4, 20  # per step, and cells per side
SHOWN = 48  # cells per side of what is measured


class ConvNeXtBlock(nn.Module):
    """As in ConvNeXt (Liu et al. 2022): a 7x7 depthwise convolution, then two layers for every cell alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        last = nn.Linear(4 * width, width)
        nn.init.zeros_(last.weight)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(self.depthwise(x).movedim(1, -1))).movedim(-1, 1)


class LinearAttentionBlock(nn.Module):
    """As in EfficientViT (Cai et al. 2023): ReLU attention over all cells at two scales, an inverted bottleneck."""

    def __init__(self, width: int, head: int = 16, expansion: int = 6) -> None:
        super().__init__()
        inner = expansion * width
        self.head = head
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.coarse = nn.Sequential(
            nn.Conv2d(3 * width, 3 * width, 5, padding=2, groups=3 * width, bias=False),
            nn.Conv2d(3 * width, 3 * width, 1, groups=3 * width // head, bias=False),
        )
        self.join = nn.Conv2d(2 * width, width, 1)
        last = nn.Conv2d(inner, width, 1)
        nn.init.zeros_(last.weight)
        self.bottleneck = nn.Sequential(
            nn.Conv2d(width, inner, 1),
            nn.GELU("tanh"),
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner),
            nn.GELU("tanh"),
            last,
        )
        nn.init.zeros_(self.join.weight)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x))
        scales = torch.cat([qkv, self.coarse(qkv)], 1).flatten(2).unflatten(1, (-1, 3, self.head))
        query, key, value = scales.unbind(2)  # (N, heads, head, cells)
        query, key = query.relu(), key.relu()
        seen = value @ key.mT @ query / (key.sum(-1, keepdim=True).mT @ query + 1e-6)
        x = x + self.join(seen.flatten(1, 2).unflatten(2, x.shape[2:]))
        return x + self.bottleneck(self.norm2(x))


BLOCKS: dict[str, tuple[int, Callable[[int], nn.Module] | None]] = {
    "refiner": (128, None),
    "convnext": (192, ConvNeXtBlock),
    "attention": (128, LinearAttentionBlock),
}


@torch.no_grad()
def gain(model: Trained, held: list[Tensor]) -> float:
    """Return how much less error the refiner leaves than the linear decoder, in dB."""
    model.eval()
    gains = []
    for x in held:
        latents, packets = model.prepare(x, 0)
        linear = (model.linear(model.codec.expand(latents)) - packets).square().mean()
        gains.append(10 * torch.log10(linear / model(x, 0, latents.shape[1])[0][-1]))
    return float(torch.stack(gains).mean())


@torch.no_grad()
def seconds_to_decode(refiner: Refiner) -> float:
    """Return the processor time of features of 64x96 cells, 512x768 pixels."""
    latents, seconds = torch.randn(1, refiner.stem.in_channels, 64, 96), []
    for _ in range(9):
        start = time.process_time()
        refiner(latents)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def middles(images: list[Tensor], side: int) -> list[Tensor]:
    starts = [[(n - side) // 2 for n in image.shape[1:]] for image in images]
    return [image[None, :, y : y + side, x : x + side] for image, (y, x) in zip(images, starts, strict=True)]


def learn(name: str, rate: float, seed: int, steps: int, images: list[Tensor], held: list[Tensor]) -> dict[str, object]:
    codec, (width, block) = wt.load_codec("rgb_16x"), BLOCKS[name]
    torch.manual_seed(seed)
    refiner = Refiner(codec.config.channels, codec.config.packets, width, 4, 2)
    if block is not None:
        refiner.blocks = nn.ModuleList(block(width) for _ in range(4))
    model = Trained(codec, refiner, projection=False, amp=False)
    crops = Crops(images, SIDE, codec, seed)
    model.measure_scale(crops, CROPS)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train_steps(
            model,
            torch.optim.AdamW(parameter_groups(model, Training(lr=rate), steps), rate, betas=(0.9, 0.99)),
            lambda first: (crops.batch(step, CROPS) for step in range(first, steps)),
            lambda model, x, step: 10 * model(x, crops.cut(step - 1), codec.config.channels)[0].log10().sum(),
            Run(Path(folder), Ranks.start(), False),
            steps=steps,
            checkpoint_every=steps,
            ema=0.999,
            clip=5.0,
        )
    seconds = time.process_time() - start
    millions = sum(p.numel() for p in refiner.parameters()) / 1e6
    return {
        "block": name,
        "rate": rate,
        "seed": seed,
        "steps": steps,
        "gain": round(gain(model, middles(held, SHOWN * 8)), 3),
        "gain on small crops": round(gain(model, middles(held, SIDE * 8)), 3),
        "million parameters": round(millions, 2),
        "seconds per step": round(seconds / steps, 3),
        "seconds to decode": round(seconds_to_decode(refiner.eval()), 3),
    }


def main(photos: str, block: str, seed: str, steps: str, rate: str = "2e-3") -> None:
    files = image_files(Path(photos))
    aside = hold_out(6, len(files))
    images = [pil_to_tensor(image.convert("RGB")) for image in ImageFiles(files)]
    seen, held = [x for i, x in enumerate(images) if i not in aside], [images[i] for i in sorted(aside)]
    print(json.dumps(learn(block, float(rate), int(seed), int(steps), seen, held)))


if __name__ == "__main__":
    main(*sys.argv[1:])

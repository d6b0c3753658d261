"""JPEG files and how they are loaded, for the benchmark of data loading."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.photographs import demo_photographs


class JPEGs(Dataset[Any]):
    """JPEG files, decoded and transformed."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


class EncodeBatch:
    """Collate PIL images of one size, and encode them in one call; for ``DataLoader(collate_fn=...)``."""

    def __init__(self, encode: wt.WallocEncode) -> None:
        self.encode = encode

    def __call__(self, images: list[Image.Image]) -> wt.Latents:
        """Return the latents ``(N, D, h, w)``."""
        return self.encode(torch.from_numpy(np.stack([np.asarray(image) for image in images])).movedim(-1, 1))


def write_jpegs(folder: Path, count: int) -> list[Path]:
    """Cut photographs of 500x375 pixels out of the demo's, in quality 90."""
    photographs, rng, files = demo_photographs(), random.Random(0), [folder / f"{i:05}.jpg" for i in range(count)]
    for i, file in enumerate(tqdm(files, desc="JPEG files", unit="file", leave=False)):
        image = photographs[i % len(photographs)]
        width = rng.uniform(0.6, 1) * min(image.width, image.height * 4 / 3)
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - width * 3 / 4)
        box = (left, top, left + width, top + width * 3 / 4)
        image.resize((500, 375), Image.Resampling.BICUBIC, box).save(file, quality=90)
    return files


def one_pass(loader: Iterable[object]) -> None:
    """Load everything once, with the same random crops each time."""
    torch.manual_seed(0)  # the crops, when there are no workers; workers start alike and draw alike
    for _ in loader:
        pass

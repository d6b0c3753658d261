"""Measure what flips of latents miss: ``python -m tests.measure_flips IMAGES PHOTOS``, two folders.

The first table is of the embedded codecs on the images. The second is of codecs fitted to 46 of the photographs and
their flips, by wavelets of which some make latents that flip exactly.
"""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.photographs import image_files, read_image
from recipes.common.quality import psnr, to_8_bits

WAVELETS = ("bior4.4", "bior3.9", "bior3.7", "bior3.5", "haar", "bior3.3", "bior1.3", "bior1.5")
FITTED_TO = 46


def read(folder: Path, count: int | None = None) -> Iterator[Tensor]:
    """Read images spread over the sorted files, cut to whole cells: what fills up a cell is never symmetric."""
    files = image_files(folder)
    files = files if count is None else files[:: len(files) // count][:count]
    images = (F.pil_to_tensor(image) for image in map(read_image, files) if image is not None)
    return (image[..., : image.shape[-2] // 8 * 8, : image.shape[-1] // 8 * 8] for image in images)


def missed(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Return the squared error, in percent of the variance of all channels over all images."""
    found, expected = (torch.cat([latents.flatten(1) for latents in side], 1) for side in zip(*pairs, strict=True))
    deviation = expected - expected.mean(1, keepdim=True)
    return 100 * float((found - expected).square().sum() / deviation.square().sum())


def quality(image: Tensor, latents: Tensor, codec: wt.Codec) -> float:
    return psnr(image, to_8_bits(codec.decode(latents, size=tuple(image.shape[-2:]))))


def flips_of(name: str, images: list[Tensor]) -> None:
    codec = wt.load_codec(name)
    encode = wt.WallocEncode(name)
    encode_int8 = wt.WallocEncode(name, quantize=True, dtype=torch.int8)
    for way, flip in (("horizontal", F.horizontal_flip), ("vertical", F.vertical_flip)):
        pairs, qualities = [], []
        for image in images:
            latents, expected, right = encode(image), encode(flip(image)).as_subclass(Tensor), flip(image)
            flipped = flip(latents)
            plain = latents.as_subclass(Tensor)
            three = ((flipped, expected), (flip(plain), expected), (flip(flipped), plain))
            pairs.append([(found.as_subclass(Tensor), wanted) for found, wanted in three])
            ways = (expected, flipped, encode_int8(right), flip(encode_int8(image)))
            qualities.append([quality(right, way.as_subclass(Tensor), codec) for way in ways])
        cells = [f"{missed([*each]):.2f} %" for each in zip(*pairs, strict=True)]
        cells += [f"{x:.2f}" for x in np.mean(qualities, 0)]
        print(f"| `{name}` | {way} | " + " | ".join(cells) + " |", flush=True)


def flip_error(codec: wt.Codec, images: list[Tensor]) -> float:
    """Return the largest difference of latents that are flipped from those of flipped images."""
    encode = wt.WallocEncode(codec)
    flips = (F.horizontal_flip, F.vertical_flip)
    errors = (flip(encode(image)) - encode(flip(image)) for image in images for flip in flips)
    return max(float(error.abs().max()) for error in errors)


def turn(image: Tensor) -> Tensor:
    return image.flip(-2, -1)


def fitted(wavelet: str, photographs: list[Tensor], images: list[Tensor], with_flips: bool) -> None:
    flips = (flip(image) for image in photographs for flip in (F.horizontal_flip, F.vertical_flip, turn))
    signals = chain(photographs, flips) if with_flips else photographs
    codec = wt.fit_codec(signals, levels=3, channels=48, wavelet=wavelet, progress=False)
    cells = []
    for channels in (12, 48):
        prefix = wt.load_codec(codec, channels=channels)
        cells.append(np.mean([quality(image, prefix.encode(image, rounding="round"), prefix) for image in images]))
    label = f"`{wavelet}`, images and flips" if with_flips else f"`{wavelet}`"
    print(f"| {label} | {cells[0]:.2f} | {cells[1]:.2f} | {flip_error(codec, images):.1g} |", flush=True)


@torch.no_grad()
def main(images_folder: Path, photos: Path) -> None:
    images = [*read(images_folder)]
    print("| codec | flip | missed | as if an image | twice | PSNR | flipped after | int8: PSNR | flipped after |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in tqdm(("rgb_16x", "rgb_16x_viewing", "rgb_4x", "rgb_4x_viewing"), unit="codec"):
        flips_of(name, images)
    photographs = [*read(photos, FITTED_TO)]
    print("\n| wavelet | 12 channels: PSNR, dB | 48 channels: PSNR, dB | largest error of a flip |")
    print("|---|---:|---:|---:|")
    fitted("bior4.4", photographs, images, with_flips=False)
    for wavelet in tqdm(WAVELETS, unit="wavelet"):
        fitted(wavelet, photographs, images, with_flips=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

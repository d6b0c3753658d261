"""Measure what would make files of latents smaller: ``python -m tests.files.measure_bits PHOTOGRAPHS TEST``.

Three ideas, each beside the same latents as they are stored now. What is fitted or chosen is fitted to PHOTOGRAPHS, a
folder; TEST is a folder of other images.

coarse   A few channels of larger cells, 16 or 32 pixels wide, below the existing ones. They are the principal
         components of the latents' means over these cells, rounded. From them and their neighbors the latents are
         predicted, by least squares. What is left is rounded as the latents would have been, so quality stays.
near     Near-lossless JPEG-LS, which codes no difference larger than ``near``, beside coarser latents without loss.
plain    Rounding in equal steps, beside rounding after companding.

Rates are bytes of the coders' streams, without file headers, in bits per pixel; quality is the linear decoder's PSNR.
"""

import argparse
import importlib
import statistics
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.photographs import ImageFiles, image_files
from recipes.common.quality import psnr, to_8_bits
from walloc_transforms.files import CODERS
from walloc_transforms.signals import pil_to_tensor

Latents = list[tuple[Tensor, Tensor]]  # the image, and its latents before rounding
Point = tuple[float, float]  # bits per pixel, PSNR
STEPS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)  # of the latents, for the rate at any quality


def latents_of(codec: wt.Codec, folder: Path, count: int) -> Latents:
    """Encode images of a folder, evenly spread."""
    files = image_files(folder)
    chosen = [files[i * len(files) // count] for i in range(min(count, len(files)))]
    images = [pil_to_tensor(image) for image in tqdm(ImageFiles(chosen), desc=folder.name)]
    return [(image, wt.functional.encode_image(image, codec).as_subclass(Tensor)) for image in images]


def bits(codes: Tensor, coder: str) -> int:
    """Count the bits of integer codes ``(D, h, w)``."""
    small = bool((codes.abs() <= 127).all())
    return 8 * sum(map(len, CODERS[coder].encode(codes.to(torch.int8 if small else torch.int16).numpy())))


def quality(codec: wt.Codec, image: Tensor, latents: Tensor) -> float:
    """Return the PSNR of what the linear decoder makes of latents."""
    decoded = codec.decode(latents[None], size=tuple(image.shape[1:]), decoder="linear")[0]
    return psnr(to_8_bits(decoded), image)


def round_and_code(codec: wt.Codec, data: Latents, coder: str, step: float, plain: bool = False) -> Point:
    """Round latents to multiples of a step, before or after companding; returns bits per pixel and PSNR."""
    rates, qualities = [], []
    for image, z in data:
        values = codec.expand(z) if plain else z
        codes = (values / step).round()
        rates.append(bits(codes, coder) / image[0].numel())
        back = codes * step
        qualities.append(quality(codec, image, codec.compand(back) if plain else back))
    return statistics.fmean(rates), statistics.fmean(qualities)


class Coarse:
    """Predict latents from a few channels of larger cells.

    Args:
        data: Latents to fit to.
        cells: Cells per side of a larger one.
        channels: How many coarse channels.
        step: What their values are rounded to, in units of the latents.
    """

    def __init__(self, data: Latents, cells: int, channels: int, step: float) -> None:
        self.cells, self.step = cells, step
        means = torch.cat([self._means(z).flatten(1) for _, z in data], 1)
        self.basis = torch.linalg.eigh(means @ means.T)[1][:, -channels:].T.flip(0)
        left, right = 0.0, 0.0
        for _, z in data:
            features, targets = self._features(self.code(z)), self._blocks(z)
            left, right = left + features @ features.T, right + features @ targets.T
        assert isinstance(left, Tensor)
        self.weights = torch.linalg.solve(left + 1e-3 * torch.eye(len(left)), right).T

    def _padded(self, z: Tensor) -> Tensor:
        h, w = z.shape[1:]
        return torch.nn.functional.pad(z[None], (0, -w % self.cells, 0, -h % self.cells), mode="replicate")[0]

    def _means(self, z: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(self._padded(z)[None], self.cells)[0]

    def _blocks(self, z: Tensor) -> Tensor:
        return torch.nn.functional.pixel_unshuffle(self._padded(z), self.cells).flatten(1)

    def code(self, z: Tensor) -> Tensor:
        """Return the coarse channels, rounded."""
        return (torch.einsum("kd,dhw->khw", self.basis, self._means(z)) / self.step).round()

    def _features(self, codes: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(codes[None] * self.step, (1, 1, 1, 1), mode="replicate")
        near = torch.nn.functional.unfold(padded, 3)[0]
        return torch.cat([near, torch.ones_like(near[:1])])

    def predict(self, codes: Tensor, size: torch.Size) -> Tensor:
        """Predict latents ``(D, h, w)`` from their coarse channels."""
        blocks = (self.weights @ self._features(codes)).unflatten(1, codes.shape[1:])
        return torch.nn.functional.pixel_shuffle(blocks, self.cells)[:, : size[1], : size[2]]

    def measure(self, codec: wt.Codec, data: Latents, coder: str) -> Point:
        """Return bits per pixel and PSNR."""
        rates, qualities = [], []
        for image, z in data:
            codes = self.code(z)
            predicted = self.predict(codes, z.shape)
            residual = (z - predicted).round()
            rates.append((bits(codes, coder) + bits(residual, coder)) / image[0].numel())
            qualities.append(quality(codec, image, predicted + residual))
        return statistics.fmean(rates), statistics.fmean(qualities)


def near_lossless(codec: wt.Codec, data: Latents, near: int) -> Point:
    """Code integer latents by JPEG-LS with an error of at most ``near``."""
    jpegls = importlib.import_module("imagecodecs")
    rates, qualities = [], []
    for image, z in data:
        planes = (z.round().to(torch.int16) + 128).to(torch.uint8).numpy()
        rate, parts = 0, []
        for start in range(0, len(planes), 16):
            content = jpegls.jpegls_encode(planes[start : start + 16].reshape(-1, planes.shape[2]), level=near)
            rate += 8 * len(content)
            parts.append(jpegls.jpegls_decode(content).reshape(-1, *planes.shape[1:]))
        rates.append(rate / image[0].numel())
        back = torch.from_numpy(np.concatenate(parts).astype(np.float32)) - 128
        qualities.append(quality(codec, image, back))
    return statistics.fmean(rates), statistics.fmean(qualities)


def ideas(codec: wt.Codec, fit: Latents, test: Latents, coder: str) -> Iterator[tuple[str, Point]]:
    """Yield the name of an idea, and what it gives."""
    if coder == "jpegls":
        for near in (1, 2):
            yield f"near {near}", near_lossless(codec, test, near)
    for step in (0.5, 0.7, 1.0, 1.4):
        yield f"plain, step {step}", round_and_code(codec, test, coder, step, plain=True)
    for cells, channels in product((2, 4), (2, 3, 4)) if coder == "ans" else ():
        tried = [Coarse(fit, cells, channels, step) for step in (1.0, 2.0, 4.0)]
        best = min(tried, key=lambda coarse: coarse.measure(codec, fit[::6], coder)[0])
        yield f"{channels} coarse channels of {8 * cells} pixels", best.measure(codec, test, coder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--images", type=int, default=24, help="how many of each folder")
    config = parser.parse_args()
    for name in ("rgb_16x", "rgb_4x"):
        codec = wt.load_codec(name)
        fit, test = (latents_of(codec, folder, config.images) for folder in (config.photographs, config.test))
        print(f"\n`{name}`\n\n| idea | coder | bpp | PSNR, dB | saved, % |\n|---|---|---:|---:|---:|", flush=True)
        for coder in ("jpegls", "ans"):
            curve = [round_and_code(codec, test, coder, step) for step in STEPS]
            rates, qualities = np.array(curve)[::-1].T  # from low quality to high, as np.interp asks
            for idea, (rate, found) in chain([("as it is", curve[STEPS.index(1.0)])], ideas(codec, fit, test, coder)):
                as_it_is = float(np.exp(np.interp(found, qualities, np.log(rates))))
                saved = 100 * (1 - rate / as_it_is)
                print(f"| {idea} | `{coder}` | {rate:.4f} | {found:.2f} | {saved:+.1f} |", flush=True)


if __name__ == "__main__":
    main()

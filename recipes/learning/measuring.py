"""Rate and quality of a learned codec on images: by its own estimate, and of files that it writes.

The estimate is the bits of all likelihoods, those of the padding too, which is coded like the rest, by the pixels of
the image without the padding. The real rate is that of the whole file. Quality is that of the 8-bit image.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from tqdm import tqdm

from recipes.common.crops import Photograph
from recipes.common.macs import count_macs
from recipes.common.quality import ms_ssim, psnr, to_8_bits
from recipes.common.ranks import Ranks
from recipes.common.tables import Record, means
from recipes.common.timing import median_seconds
from recipes.learning.training import bits_of
from walloc_transforms.weconvene import SUFFIX, WeConvene, fingerprint, read_compressed, write_compressed

_SIDE = 256  # of the image whose multiply-adds are counted


@dataclass(frozen=True)
class Decoded:
    """A measured image.

    Attributes:
        record: Its figures.
        original: Its pixels ``(3, H, W)``, uint8.
        image: What the model made of them.
    """

    record: Record
    original: Tensor
    image: Tensor

    def row(self, name: str = "decoded") -> list[tuple[str, Tensor]]:
        """Return both with titles, for a sheet."""
        r = self.record
        return [("original", self.original), (f"{name}\n{r['psnr']:.2f} dB, {rate_of(r):.3f} bpp", self.image)]


def rate_of(record: Record) -> float:
    """Return the rate of files where they were written, else the estimate."""
    rate = record.get("bpp", math.nan)
    return record["bpp_estimated"] if math.isnan(rate) else rate


def written(rows: Sequence[Record]) -> Record:
    """Average the figures of the images of which files were written, beside the estimate of their rate."""
    real = [row for row in rows if "bpp" in row]
    names = ("bpp", "psnr_file", "encode_mps", "decode_mps")
    return {
        "files": len(real),
        "bpp_estimated_of_files": means(real, ("bpp_estimated",))["bpp_estimated"],
        **means(real, names),
    }


@torch.no_grad()
def measure(model: WeConvene, image: Tensor, *, real: bool) -> tuple[Record, Tensor]:
    """Measure a model, in evaluation mode, on an image ``(3, H, W)``, uint8.

    Args:
        model: The model.
        image: The image.
        real: Write a file and decode it, too; by the CPU, where all machines agree.

    Returns:
        The figures, and the decoded image, uint8, from the file if there is one.
    """
    x = image[None] / 255
    given = model(x.to(next(model.parameters()).device))
    decoded = to_8_bits(given["x_hat"][0].cpu())
    pixels = image.shape[1] * image.shape[2]
    record: Record = {
        "bpp_estimated": float(bits_of(given["likelihoods"])) / pixels,
        "psnr": psnr(image, decoded),
        "ms_ssim": ms_ssim(image, decoded),
    }
    if real:
        length, decoded, encoding, decoding = through_file(model, x)
        record |= {
            "bpp": 8 * length / pixels,
            "psnr_file": psnr(image, decoded),
            "encode_seconds": encoding,
            "decode_seconds": decoding,
            "encode_mps": pixels / 1e6 / encoding,
            "decode_mps": pixels / 1e6 / decoding,
        }
    return record, decoded


@torch.no_grad()
def through_file(model: WeConvene, x: Tensor) -> tuple[int, Tensor, float, float]:
    """Write an image ``(1, 3, H, W)`` in [0, 1] to a file and decode it from there, on the CPU.

    Returns:
        The bytes of the file; the decoded image ``(3, H, W)``, uint8; the seconds of encoding and of decoding.
    """
    model = model.cpu()
    name = fingerprint(model)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"image{SUFFIX}"
        start = time.perf_counter()
        length = write_compressed(file, model.compress(x)[0], name)
        encoded = time.perf_counter()
        decoded = to_8_bits(model.decompress([read_compressed(file, name)])[0])
        return length, decoded, encoded - start, time.perf_counter() - encoded


def measure_all(
    model: WeConvene, photographs: Sequence[Photograph], ranks: Ranks, real: int | None, shown: int = 0
) -> tuple[list[Record], list[Decoded]]:
    """Measure a model on photographs; the processes share them.

    Args:
        model: The model; it is left in evaluation mode and on its device.
        photographs: Whose pixels can be read.
        ranks: This process among others.
        real: Of how many of the first photographs to write files. None: of all.
        shown: How many of the first to return.

    Returns:
        A record per photograph; those to be shown that this process measured.
    """
    model.eval()
    rows: list[Record] = []
    sheet: list[Decoded] = []
    own = [*enumerate(photographs)][ranks.rank :: ranks.world]
    if own and (real is None or own[0][0] < real):  # the first pass sets up tables and kernels
        through_file(model, torch.zeros(1, 3, 64, 64))
        model.to(ranks.device)
    for index, photograph in tqdm(own, desc="measure", unit="image", leave=False, disable=not ranks.first):
        image = photograph.pixels()
        assert image is not None, photograph.name
        record, decoded = measure(model, image, real=real is None or index < real)
        model.to(ranks.device)
        rows.append({"image": photograph.name, **record})
        if index < shown:
            sheet.append(Decoded(rows[-1], image, decoded))
    return ranks.gather(rows), sheet


def costs(model: WeConvene) -> Record:
    """Count parameters, and thousands of multiply-adds per pixel of the whole model, as training runs it."""
    x = torch.zeros(1, 3, _SIDE, _SIDE, device=next(model.parameters()).device)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "kmacs": count_macs(model, lambda: model(x)) / 1000 / _SIDE**2,
    }


def time_models(models: Mapping[str, WeConvene], image: Tensor, repeats: int) -> dict[str, Record]:
    """Time coding and decoding of an image ``(3, H, W)``, uint8, by models that take turns; medians, on the CPU.

    Args:
        models: By name.
        image: The image.
        repeats: Timed rounds. 0: nothing is timed, and nothing returned of any model.

    Returns:
        For each model ``encode_mps`` and ``decode_mps``, megapixels per second.
    """
    if not repeats:
        return {name: {} for name in models}
    x, size = image[None] / 255, image.shape[1] * image.shape[2] / 1e6
    calls = {}
    with torch.no_grad():
        for name, model in models.items():
            model.eval()
            compressed = model.compress(x)
            calls[name, "encode_mps"] = lambda model=model: model.compress(x)
            calls[name, "decode_mps"] = lambda model=model, compressed=compressed: model.decompress(compressed)
        seconds = median_seconds({"/".join(key): call for key, call in calls.items()}, repeats, 600.0)
    return {name: {key: size / seconds[f"{name}/{key}"] for key in ("encode_mps", "decode_mps")} for name in models}

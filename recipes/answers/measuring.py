"""What an arm answers, what that takes, and how fast it is from files."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from tqdm import tqdm

from recipes.answers.arms import Arm
from recipes.answers.data import Pictures, cut, evenly
from recipes.common.inputs import Pixels, StoredInput
from recipes.common.macs import count_macs
from recipes.common.photographs import read_image
from recipes.common.tables import Record

_TIMED = 48  # images


@torch.no_grad()
def answers(arm: Arm, images: Tensor, batch_size: int, *, show: bool) -> Tensor:
    """Give the logits of all images, on the CPU."""
    device = next(arm.network.parameters()).device
    batches = tqdm(images.split(batch_size), desc=arm.name, unit="batch", disable=not show, leave=False)
    return torch.cat([arm(batch.to(device)).float().cpu() for batch in batches])


def cost(arm: Arm, pictures: Pictures, batch_size: int) -> Record:
    """Count values per image, bytes per image in files, multiply-adds of the network, and images/s from file to logits.

    What is kept of an image is stored as a PNG, or as a ``.wlc`` file; pixels of a folder are read from its own files.
    Block DCT has no such format. Files are those of the same images for every arm, evenly spaced.
    """
    one = pictures.images[:1].to(next(arm.network.parameters()).device)
    height, width = one.shape[-2:]
    read = arm.read(one)
    record: Record = {
        "values": arm.input.values(height, width),
        "macs": count_macs(arm.network, lambda: arm.network(read)),
    }
    if not isinstance(arm.input, StoredInput):
        return record
    with TemporaryDirectory() as folder:
        own = files_of(arm.input, pictures, Path(folder))
        record["bytes"] = sum(file.stat().st_size for file in own) / len(own)
        record["rate"] = _rate(arm, own, batch_size, height, width, folder)
    return record


def files_of(kept: StoredInput, pictures: Pictures, folder: Path) -> list[Path]:
    """Give the files of some pictures: those that pixels come from, or new ones in a folder of what is kept."""
    # Crops of the demo take turns in its photographs; files are sorted by class.
    chosen = evenly(range(len(pictures)), _TIMED) if pictures.files is not None else range(min(_TIMED, len(pictures)))
    if isinstance(kept, Pixels) and pictures.files is not None:
        return [pictures.files[i] for i in chosen]
    files = [folder / f"{i}{kept.suffix}" for i in chosen]
    for i, file in zip(chosen, files, strict=True):
        kept.save(pictures.images[i], file)
    return files


@torch.no_grad()
def _rate(arm: Arm, files: list[Path], batch_size: int, height: int, width: int, made: str) -> float:
    """Read, decode and answer files in batches; images per second."""
    start = time.perf_counter()
    device = next(arm.network.parameters()).device
    for i in range(0, len(files), batch_size):
        some = files[i : i + batch_size]
        if files[0].is_relative_to(made):
            logits = arm.network(torch.stack([arm.load(file, height, width) for file in some]))
        else:
            images = [image for file in some if (image := read_image(file)) is not None]
            logits = arm(torch.stack([cut(image, height, "") for image in images]).to(device))
        logits.cpu()  # waits for the device
    return len(files) / (time.perf_counter() - start)

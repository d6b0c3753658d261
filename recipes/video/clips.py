"""Labeled clips: the demo, or a folder with a subfolder of clips for each class, cut to one size and kept in memory.

A file is a video, or ``.npy`` with ``(3, T, H, W)`` of uint8. Every fifth file of a sorted class validates, unless the
folder has subfolders ``train`` and ``val``. Files that cannot be read, or are too short, are named and left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from recipes.common.files import files_of
from recipes.video.motion import LARGEST, MOTIONS, moving_objects
from walloc_transforms.files import VOLUME_SUFFIXES, read_volume

Sample = tuple[Path, int]


@dataclass
class Clips:
    """Clips of one size, in memory.

    Attributes:
        pixels: ``(N, 3, T, H, W)``, uint8.
        labels: ``(N,)``, indices of classes.
    """

    pixels: Tensor
    labels: Tensor


@dataclass
class Source:
    """Where clips come from.

    Attributes:
        classes: Their names.
        files: Training and validation files with their class; empty for the demo.
    """

    classes: Sequence[str]
    files: tuple[list[Sample], list[Sample]]


def open_source(data: str, size: tuple[int, int, int]) -> Source:
    """Find the clips of a folder, or the demo.

    Raises:
        FileNotFoundError: There is no such folder, or there are no clips in it, or it has fewer than two classes.
        ValueError: The demo has no clips of this size, or no file validates.
    """
    if data == "demo":
        if max(size[1:]) > LARGEST:
            raise ValueError(f"the demo's clips have sides of at most {LARGEST} pixels, got {size[1]}x{size[2]}")
        return Source(MOTIONS, ([], []))
    folder = Path(data)
    files_of(folder, VOLUME_SUFFIXES, "clip")  # names what is missing
    parts = [folder / "train", folder / "val"] if (folder / "train").is_dir() and (folder / "val").is_dir() else []
    classes = sorted(f.name for f in (parts or [folder])[0].iterdir() if f.is_dir())
    if len(classes) < 2:
        raise FileNotFoundError(f"{data!r} must hold one subfolder of clips per class, found {len(classes)}")
    train: list[Sample] = []
    validation: list[Sample] = []
    for label, name in enumerate(classes):
        own, held_out = (
            [(file, label) for file in files_of(part / name, VOLUME_SUFFIXES, "clip")] for part in parts or 2 * [folder]
        )
        train += own if parts else [sample for i, sample in enumerate(own) if i % 5 or len(own) == 1]
        validation += held_out if parts else (own[::5] if len(own) > 1 else [])
    if not validation:
        raise ValueError(f"no clip of {data!r} validates: expected at least two files in some class")
    return Source(classes, (train, validation))


def make_clips(
    source: Source, size: tuple[int, int, int], counts: tuple[int, int], per_file: int, seed: int, *, show: bool
) -> tuple[Clips, Clips]:
    """Make training and validation clips.

    Args:
        source: Where from.
        size: ``(T, H, W)`` of a clip.
        counts: Training and validation clips of the demo.
        per_file: Training clips of a file, cut at random; one validates, the middle.
        seed: Of the demo, or of the cuts.
        show: Show progress.

    Raises:
        ValueError: No clip is left to train on, or to validate.
    """
    if not source.files[0]:
        made = [
            moving_objects(count, size, training=training, seed=seed)
            for count, training in zip(counts, (True, False), strict=True)
        ]
        return Clips(*made[0]), Clips(*made[1])
    parts: list[Clips] = []
    for samples, training in zip(source.files, (True, False), strict=True):
        pixels: list[Tensor] = []
        labels: list[int] = []
        for number, (file, label) in enumerate(tqdm(samples, desc="clips", unit="file", disable=not show, leave=False)):
            random = np.random.default_rng((seed, number))
            try:
                clip = read_clip(file)
                own = [cut(clip, size, random if training else None) for _ in range(per_file if training else 1)]
            except (ValueError, OSError) as error:
                tqdm.write(f"skipped {file}: {error}")
                continue
            pixels += own
            labels += [label] * len(own)
        if not pixels:
            raise ValueError(f"none of {len(samples)} files is a clip of at least {size[0]} frames")
        parts.append(Clips(torch.stack(pixels), torch.tensor(labels)))
    return parts[0], parts[1]


def read_clip(file: Path) -> Tensor:
    """Read a clip: ``(3, T, H, W)``, uint8.

    Raises:
        ValueError: The file holds something else.
    """
    with read_volume(file, 3) as volume:
        frames = list(volume.frames)
    if not frames or frames[0].dtype != torch.uint8 or min(frames[0].shape) == 0:
        raise ValueError(f"expected frames of 8 bits, got {frames[0].dtype if frames else 'none'}")
    return torch.cat(frames, 1)


def cut(clip: Tensor, size: tuple[int, int, int], random: np.random.Generator | None) -> Tensor:
    """Cut a clip to a run of frames, resized to cover the sides: at random, or the middle.

    Raises:
        ValueError: It has too few frames.
    """
    frames, height, width = size
    if (given := clip.shape[1]) < frames:
        raise ValueError(f"it has {given} frames, expected at least {frames}")
    first = (given - frames) // 2 if random is None else int(random.integers(given - frames + 1))
    scale = max(height / clip.shape[2], width / clip.shape[3])
    cover = [max(least, round(side * scale)) for side, least in zip(clip.shape[2:], size[1:], strict=True)]
    x = clip[:, first : first + frames].float()
    if cover != list(clip.shape[2:]):
        x = F.interpolate(x, cover, mode="bicubic", antialias=True)
    spare = [side - least for side, least in zip(cover, size[1:], strict=True)]
    top, left = (n // 2 if random is None else int(random.integers(n + 1)) for n in spare)
    return x[..., top : top + height, left : left + width].round().clamp(0, 255).to(torch.uint8)

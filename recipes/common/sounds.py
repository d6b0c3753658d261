"""Sound files: found, read as stereo at one sample rate, and named where they cannot be."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.functional import resample
from tqdm import tqdm

from recipes.common.files import files_of, names_of
from walloc_transforms.files import READ_ERRORS, SOUND_SUFFIXES, read_signal


def sound_files(folder: str | Path) -> list[Path]:
    """List the sound files below a folder, sorted.

    Raises:
        FileNotFoundError: There is no such folder, or no sound in it.
    """
    return files_of(folder, SOUND_SUFFIXES, "sound")


def read_sound(file: Path, sample_rate: int) -> Tensor:
    """Read a sound file as stereo, ``(2, T)``, float32, resampled where it must be; mono becomes two equal channels.

    Raises:
        ValueError: It is empty, holds NaN, or has more than two channels; the file is named.
        OSError, RuntimeError: It cannot be read.
    """
    sound, rate = read_signal(file, "audio")
    if sound.shape[1] == 0:
        raise ValueError(f"{file} is empty")
    if not torch.isfinite(sound).all():
        raise ValueError(f"{file} holds NaN or infinite values")
    if sound.shape[0] > 2:
        raise ValueError(f"{file} has {sound.shape[0]} channels: expected one or two")
    assert rate is not None
    return resample(sound.expand(2, -1), rate, sample_rate, lowpass_filter_width=32)


class SoundFiles:
    """The readable sounds among some files, read as they are iterated over.

    Attributes:
        files: All of them.
        sample_rate: In Hz, of the sounds.
        skipped: Files that could not be read; each is named.
        clipped: Samples beyond full scale, +-1, in the others; warned of once.
    """

    def __init__(self, files: list[Path], sample_rate: int) -> None:
        self.files, self.sample_rate = files, sample_rate
        self.skipped = self.clipped = 0

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the path below what all files have in common, and the waveform."""
        self.skipped = self.clipped = 0
        for file, name in zip(self.files, names_of(self.files), strict=True):
            try:
                sound = read_sound(file, self.sample_rate)
            except READ_ERRORS as error:
                tqdm.write(f"skipped {file}: {error}")
                self.skipped += 1
                continue
            above = int((sound.abs() > 1).sum())
            if above and not self.clipped:
                warnings.warn(
                    f"{file} has {above} samples beyond full scale; so may others, which are counted", stacklevel=2
                )
            self.clipped += above
            yield name, sound


def full_scale(sound: Tensor) -> Tensor:
    """Subtract the mean over all samples and channels and bring the peak to 1, as the paper does; silence stays."""
    sound = sound - sound.mean()
    return sound / sound.abs().max().clamp(min=torch.finfo(sound.dtype).tiny)

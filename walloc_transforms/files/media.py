"""Image and sound files, found, read and written atomically, for the command line and the recipes."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..safe import write_atomically
from ..signals import Modality, pil_to_tensor

__all__ = ["IMAGE_SUFFIXES", "READ_ERRORS", "SOUND_SUFFIXES", "find_files", "read_signal", "write_signal"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")

# What reading, encoding and writing a file may raise. Anything else is a bug.
READ_ERRORS = (OSError, ValueError, ImportError)


def find_files(inputs: Iterable[Path], suffixes: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    """Find files by name, and below folders by suffix.

    Args:
        inputs: Files, which are taken whatever their suffix, and folders.
        suffixes: Suffixes of the files to find below folders, in lower case, with the dot.

    Yields:
        The file, and its path relative to the folder that was given; the bare name for a file that was given.

    Raises:
        FileNotFoundError: There is no such file or folder.
    """
    for given in inputs:
        if given.is_dir():
            for file in sorted(given.rglob("*")):
                if file.suffix.lower() in suffixes and file.is_file():
                    yield file, file.relative_to(given)
        elif given.exists():
            yield given, Path(given.name)
        else:
            raise FileNotFoundError(f"there is no file or folder {str(given)!r}")


def read_signal(file: Path, modality: Modality, channels: int = 3) -> tuple[Tensor, int | None]:
    """Read an image, turned upright, or a sound file.

    Args:
        file: The file.
        modality: ``"image"`` or ``"audio"``.
        channels: Channels of the image: 3 for color, 1 for gray. Sound keeps its own.

    Returns:
        ``(C, H, W)``, uint8 or uint16, and None; or ``(C, T)``, float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged, or its values have no defined meaning.
        ImportError: soundfile is not installed.
    """
    if modality == "image":
        with _damage(file), Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
        return pil_to_tensor(image, channels), None
    soundfile = _soundfile()
    with _damage(file):
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), int(rate)


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Turn the many types of error that Pillow and soundfile raise for damaged files into one."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{file.name} cannot be read: {error or type(error).__name__}") from error


def write_signal(file: Path, signal: Tensor, sample_rate: int | None) -> None:
    """Write an image, rounded to 8 bits, or a waveform of 16 bits, atomically.

    Args:
        file: The file; its suffix names the format. WebP is written losslessly.
        signal: ``(C, H, W)`` in [0, 1], or ``(C, T)`` in [-1, 1].
        sample_rate: Samples per second of the waveform, in Hz.

    Raises:
        ValueError: The suffix is that of no format that can be written, the image has neither 1 nor 3 channels, or the
            waveform has no sample rate.
        ImportError: soundfile is not installed.
    """
    content = io.BytesIO()
    if signal.ndim == 3:
        kind = Image.registered_extensions().get(file.suffix.lower())
        if kind is None or kind not in Image.SAVE:
            raise ValueError(f"{file.name!r} is of no image format that can be written, such as .png")
        pixels = (signal * 255).round().clamp(0, 255).to(torch.uint8).movedim(0, -1).cpu().numpy()
        if pixels.shape[2] not in (1, 3):
            raise ValueError(f"an image file holds 1 or 3 colors, got {pixels.shape[2]} channels")
        image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))
        image.save(content, kind, **({"lossless": True} if kind == "WEBP" else {}))
    else:
        if sample_rate is None:
            raise ValueError("a sound file needs a sample rate")
        kind = file.suffix[1:].upper()
        soundfile = _soundfile()
        if kind not in soundfile.available_formats():
            raise ValueError(f"{file.name!r} is of no sound format that can be written, such as .wav")
        soundfile.write(content, signal.T.cpu().numpy(), sample_rate, format=kind)
    write_atomically(file, content.getvalue())


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its library is missing
        raise ImportError(f'sound files need soundfile ({error}): pip install "walloc_transforms[audio]"') from error
    return soundfile

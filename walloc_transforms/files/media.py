"""Image and sound files, found, read and written atomically, for the command line and the recipes."""

import io
import math
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..safe import write_atomically
from ..signals import Modality, pil_to_tensor

__all__ = [
    "IMAGE_SUFFIXES",
    "READ_ERRORS",
    "SOUND_SUFFIXES",
    "find_files",
    "load_soundfile",
    "open_image",
    "read_signal",
    "write_signal",
]

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"),
    *(".gif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")

# What reading, encoding and writing a file may raise. Anything else is a bug.
READ_ERRORS = (OSError, ValueError, ImportError)

# The formats of these suffixes. Pillow goes by the content of a file, and would run Ghostscript on a PostScript file.
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM")

# What Pillow raises for damaged files, beside OSError and ValueError; soundfile's own error is a RuntimeError.
_DAMAGE = (
    *(SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, RuntimeError),
    *(struct.error, zlib.error),
)

# Files of a folder that nobody expects to be read as an image or a sound.
_CLUTTER = (
    *("", ".txt", ".md", ".rst", ".html", ".css", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml"),
    *(".ini", ".log", ".py", ".ipynb", ".sh", ".db", ".url", ".md5", ".sha256", ".wlc", ".wcv"),
)

# Notices of what is not read of a file that can be read.
OTHER_PICTURES = "several pictures: only the first is read"
PROFILE = "a color profile other than sRGB, which is ignored"
DEPTH = "16 bits per color, which Pillow reads as 8"

_BLOCK = 2**20  # samples that are read at a time
_UNKNOWN = 0x7F000000  # lengths that a program writes before it knows the length are larger, or 0
_LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes, of an Ogg file


def find_files(
    inputs: Iterable[Path], suffixes: tuple[str, ...], left_out: Counter[str] | None = None
) -> Iterator[tuple[Path, Path]]:
    """Find files by name, and below folders by suffix; what is hidden below a folder is left out.

    Args:
        inputs: Files, which are taken whatever their suffix, and folders.
        suffixes: Suffixes of the files to find below folders, in lower case, with the dot.
        left_out: Counts the suffixes of other files below folders; not of hidden ones, texts, tables and the like.

    Yields:
        The file, and its path relative to the folder that was given; the bare name for a file that was given.

    Raises:
        FileNotFoundError: There is no such file or folder.
    """
    for given in inputs:
        if given.is_dir():
            for file in sorted(given.rglob("*")):
                suffix, relative = file.suffix.lower(), file.relative_to(given)
                if any(part[0] == "." for part in relative.parts):
                    continue
                if suffix in suffixes and file.is_file():
                    yield file, relative
                elif left_out is not None and suffix not in _CLUTTER and file.is_file():
                    left_out[suffix] += 1
        elif given.exists():
            yield given, Path(given.name)
        else:
            raise FileNotFoundError(f"there is no file or folder {str(given)!r}")


def read_signal(
    file: Path,
    modality: Modality,
    channels: int = 3,
    notices: Counter[str] | None = None,
    content: bytes | None = None,
) -> tuple[Tensor, int | None]:
    """Read an image, turned upright, or a sound file.

    Args:
        file: The file.
        modality: ``"image"`` or ``"audio"``.
        channels: Channels of the image: 3 for color, 1 for gray. Sound keeps its own.
        notices: Counts what was not read of the files: other pictures of an animation, a color profile, the lower bits.
        content: Of the file, where it is in memory already. Then ``file`` is its name, and nothing is opened.

    Returns:
        ``(C, H, W)``, uint8 or uint16, and None; or ``(C, T)``, float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged or cut off, of no known format, has more pixels, or samples per channel, than twice
            ``PIL.Image.MAX_IMAGE_PIXELS``, or its values have no defined meaning.
        ImportError: soundfile is not installed.
    """
    if modality == "image":
        with _damage(file), open_image(file if content is None else _Content(content, file.name)) as image:
            not_read = list(_not_read(image))
            ImageOps.exif_transpose(image, in_place=True)  # which copies only what it turns
            image.load()
        if notices is not None:
            notices.update(not_read)
        return pil_to_tensor(image, channels), None
    return _read_sound(file, content)


def open_image(file: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Open an image of a format that :func:`read_signal` reads; Pillow would start other programs for some others."""
    Image.init()
    return Image.open(file, formats=[name for name in _IMAGE_FORMATS if name in Image.OPEN])


def _not_read(image: Image.Image) -> Iterator[str]:
    """Name what Pillow does not read of an image that has been opened, but not loaded."""
    if getattr(image, "is_animated", False):
        yield OTHER_PICTURES
    profile = image.info.get("icc_profile")
    if profile and b"sRGB" not in profile.replace(b"\0", b""):  # its name is in ASCII or in UTF-16
        yield PROFILE
    decoder = [str(tile[3]) for tile in getattr(image, "tile", ())]
    if image.mode in ("RGB", "RGBA") and any(";16" in args or "65535" in args for args in decoder):
        yield DEPTH


class _Content(io.BytesIO):
    """A file in memory; Pillow and soundfile show it in their messages as they show the name of another."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._shown = repr(name)

    def __repr__(self) -> str:
        return self._shown


def _open(file: Path, content: bytes | None) -> BinaryIO:
    return file.open("rb") if content is None else _Content(content, file.name)


def _read_sound(file: Path, content: bytes | None) -> tuple[Tensor, int]:
    soundfile, blocks, count = load_soundfile(), [], 0
    limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # the one of images, and of latent files
    source = file if content is None else _open(file, content)
    with _damage(file), soundfile.SoundFile(source) as opened:
        rate, channels, expected = opened.samplerate, opened.channels, opened.frames
        if opened.format == "MP3" and not _has_length(file, content):
            expected = 0  # that was a guess
        # Not in one piece: the header may speak of any length, and a few bytes of FLAC hold any length of silence.
        while len(block := opened.read(max(_BLOCK // channels, 1), dtype="float32", always_2d=True)):
            blocks.append(block.T)
            count += len(block)
            if count > limit:
                raise ValueError(
                    f"{file.name} has more than {limit} samples per channel: raise PIL.Image.MAX_IMAGE_PIXELS, whose "
                    "double that is, or --max-pixels"
                )
    if count < expected or _is_cut_off(file, content):
        raise ValueError(f"{file.name} is cut off: it has fewer samples than its header says")
    samples = np.concatenate(blocks, axis=1) if blocks else np.empty((channels, 0), np.float32)
    return torch.from_numpy(samples), rate


def _has_length(file: Path, content: bytes | None) -> bool:
    """Whether an MP3 file begins with a frame that says how many follow, behind its ID3 tag if it has one."""
    with _open(file, content) as opened:
        tag = opened.read(10)
        if tag[:3] == b"ID3" and len(tag) == 10:
            opened.seek(10 + sum(part << 7 * place for place, part in enumerate(tag[:5:-1])))
        else:
            opened.seek(0)
        first = opened.read(256)
    return b"Xing" in first or b"Info" in first


def _is_cut_off(file: Path, content: bytes | None) -> bool:
    """Whether the end of a sound file is missing, of formats of which libsndfile reads what is left without a word."""
    with _open(file, content) as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        form = opened.read(12)
        if form[:4] in (b"RIFF", b"FORM"):  # WAV, AIFF: a list of chunks
            position = 12
            while len(header := opened.read(8)) == 8:
                length = struct.unpack("<I" if form[:4] == b"RIFF" else ">I", header[4:])[0]
                if header[:4] in (b"data", b"SSND"):
                    return position + 8 + length > size and length < _UNKNOWN
                position += 8 + length + length % 2
                opened.seek(position)
        elif form[:4] == b"OggS":  # pages
            opened.seek(max(0, size - _LARGEST_PAGE))
            end = opened.read()
            page = end[end.rfind(b"OggS") :]
            return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
    return False


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Turn the many types of error that Pillow and soundfile raise for damaged files into one."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{file.name} has more pixels than PIL.Image.MAX_IMAGE_PIXELS, or --max-pixels, allows: {error}"
        ) from error
    except _DAMAGE as error:
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
        pixels = signal.mul(255).round_().clamp_(0, 255).to(torch.uint8).movedim(0, -1).cpu().numpy()
        if pixels.shape[2] not in (1, 3):
            raise ValueError(f"an image file holds 1 or 3 colors, got {pixels.shape[2]} channels")
        image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))
        image.save(content, kind, **({"lossless": True} if kind == "WEBP" else {}))
    else:
        if sample_rate is None:
            raise ValueError("a sound file needs a sample rate")
        kind = "AIFF" if file.suffix.lower() == ".aif" else file.suffix[1:].upper()
        soundfile = load_soundfile()
        if kind not in soundfile.available_formats():
            raise ValueError(f"{file.name!r} is of no sound format that can be written, such as .wav")
        soundfile.write(content, signal.T.cpu().numpy(), sample_rate, format=kind)
    write_atomically(file, content.getvalue())


def load_soundfile() -> Any:
    """Import soundfile, or say how to install it."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its library is missing
        raise ImportError(f'sound files need soundfile ({error}): pip install "walloc_transforms[audio]"') from error
    return soundfile

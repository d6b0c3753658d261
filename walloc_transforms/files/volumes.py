"""Files of volumes, read and written a few frames at a time: arrays of NumPy, and video files (video.py)."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..safe import atomic_file
from .fields import limit_of_pixels
from .video import VIDEO_SUFFIXES, Frames, check_pixels, read_video, write_video

__all__ = ["VOLUME_SUFFIXES", "read_volume", "write_volume"]

VOLUME_SUFFIXES = (".npy", *VIDEO_SUFFIXES)


@contextmanager
def read_volume(file: Path, channels: int | None, notices: Counter[str] | None = None) -> Iterator[Frames]:
    """Open an array or a video file.

    Args:
        file: The file; ``.npy`` holds ``(C, T, H, W)``, or ``(T, H, W)`` of one channel.
        channels: Channels of the volume. None: those of an array, or 3 of a video.
        notices: Counts what is not read of the file.

    Yields:
        The frames, in the dtype of the array, read when they are asked for.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged or cut off, of no known format, holds no such volume, or one of more pixels than twice
            ``PIL.Image.MAX_IMAGE_PIXELS``.
        ImportError: It is a video file, and PyAV is not installed.
    """
    if file.suffix.lower() != ".npy":
        with read_video(file, channels or 3, notices) as frames:
            yield frames
        return
    try:
        with np.errstate(over="raise"):  # where the sides multiply to more than there is
            array = np.lib.format.open_memmap(file, "r")  # never runs a pickle
    except (ValueError, ArithmeticError, EOFError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    volume = array[None] if array.ndim == 3 and channels in (1, None) else array
    if volume.ndim != 4 or channels not in (len(volume), None):
        form = f"({channels or 'C'}, T, H, W)" + " or (T, H, W)" * (channels in (1, None))
        raise ValueError(f"{file.name} holds an array of shape {array.shape}: expected {form}")
    if volume.dtype.kind not in "uif" or volume.dtype.itemsize > 8:
        raise ValueError(f"{file.name} holds {volume.dtype}: expected numbers of up to 64 bits")
    check_pixels(file, math.prod(volume.shape[1:]), limit_of_pixels(None))
    native = volume.dtype.newbyteorder("=")
    frames = (torch.from_numpy(volume[:, t : t + 1].astype(native)) for t in range(volume.shape[1]))
    yield Frames(frames, volume.shape[1], None)


def write_volume(
    file: Path, pieces: Iterable[Tensor], size: tuple[int, ...], channels: int, rate: Fraction | None
) -> None:
    """Write an array, or a video file, atomically.

    Args:
        file: The file. ``.npy`` holds float32 as it comes; others hold H.264, which loses a little.
        pieces: ``(C, n, H, W)`` each, one after the other; for video in [0, 1].
        size: ``(T, H, W)``.
        channels: C.
        rate: Frames per second of a video.

    Raises:
        ValueError: The suffix is that of no format that can be written, or a video has no rate, or neither 1 nor 3
            channels.
        ImportError: PyAV is not installed.
    """
    if file.suffix.lower() == ".npy":
        _write_array(file, pieces, (channels, *size))
        return
    if rate is None:
        raise ValueError(f"no frame rate is known, which {file.name!r} needs: name an .npy file")
    with atomic_file(file) as opened:
        write_video(opened, file.suffix, pieces, rate)


def _write_array(file: Path, pieces: Iterable[Tensor], shape: tuple[int, ...]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with atomic_file(file) as opened:
        np.lib.format.write_array_header_1_0(opened, header)
        start, done, frame = opened.tell(), 0, 4 * shape[2] * shape[3]
        for piece in pieces:
            for channel, frames in enumerate(piece):
                opened.seek(start + (channel * shape[1] + done) * frame)
                opened.write(frames.contiguous().numpy().astype("<f4").tobytes())
            done += piece.shape[1]

"""Video files, by PyAV: read frame by frame, turned upright, and written."""

import errno
import importlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .fields import limit_of_pixels

__all__ = ["VIDEO_SUFFIXES", "Frames", "check_pixels", "load_av", "read_video", "write_video"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")

# FFmpeg goes by the content of a file, and some formats, such as playlists, would make it open others.
_READ = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
_WRITTEN = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
_FORMATS = {3: "rgb24", 1: "gray"}  # by channels

# Notices of what is not read of a file that can be read.
SOUND = "sound, which is left out"
DEEP = "more than 8 bits per color, which are read as 8"


class Frames(NamedTuple):
    """A volume that is read frame by frame.

    Attributes:
        frames: ``(C, 1, H, W)`` each.
        total: How many there will be; None if the file does not say.
        rate: Frames per second; None if the file does not say.
    """

    frames: Iterator[Tensor]
    total: int | None
    rate: Fraction | None


@contextmanager
def read_video(file: Path, channels: int, notices: Counter[str] | None = None) -> Iterator[Frames]:
    """Open a video file.

    Args:
        file: The file.
        channels: 3 for color, 1 for gray.
        notices: Counts what is not read of the file.

    Yields:
        The frames, uint8, read when they are asked for.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged or cut off, of no known format, has no video, frames of different sizes or more pixels
            than twice ``PIL.Image.MAX_IMAGE_PIXELS``, or ``channels`` is neither 1 nor 3.
        ImportError: PyAV is not installed.
    """
    av = load_av()
    if channels not in _FORMATS:
        raise ValueError(f"{file.name} is a video, which has 3 colors or is read as gray: expected {channels} channels")
    with file.open("rb") as opened:
        if _is_cut_off(opened):
            raise ValueError(f"{file.name} is cut off: a part of it is longer than the file")
        opened.seek(0)
        with _damage(file):
            container = av.open(opened, container_options={"format_whitelist": _READ})
        with container:
            if not container.streams.video:
                raise ValueError(f"{file.name} has no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if container.streams.audio and notices is not None:
                notices[SOUND] += 1
            frames = _decode(file, container, stream, channels, notices)
            yield Frames(frames, stream.frames or None, stream.average_rate)


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Turn what FFmpeg says of a damaged file into a ValueError; what a failing disk says stays as it is."""
    av = load_av()
    try:
        yield
    except av.error.ArgumentError as error:  # what it says of a format that is not allowed
        formats = ", ".join(VIDEO_SUFFIXES)
        raise ValueError(f"{file.name} cannot be read: it is damaged, or none of {formats}") from error
    except (av.error.FFmpegError, OSError) as error:
        # Damage may send FFmpeg to places that do not exist, and the file refuses to go there.
        if not isinstance(error, av.error.FFmpegError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(f"{file.name} cannot be read: {error.strerror or error}") from error


def _decoded(file: Path, container: Any, stream: Any) -> Iterator[Any]:
    frames = iter(container.decode(stream))
    while True:
        with _damage(file):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def _decode(file: Path, container: Any, stream: Any, channels: int, notices: Counter[str] | None) -> Iterator[Tensor]:
    limit, pixels, first = limit_of_pixels(None), 0, None
    check_pixels(file, stream.width * stream.height, limit)  # before the decoder asks for the memory
    for frame in _decoded(file, container, stream):
        size = (frame.height, frame.width)
        if frame.is_corrupt:
            raise ValueError(f"{file.name} is damaged: frame {pixels // (size[0] * size[1])} is not whole")
        if first is None:
            first = size
            if notices is not None and frame.format.components[0].bits > 8:
                notices[DEEP] += 1
        if size != first:
            raise ValueError(f"{file.name} has frames of different sizes: {size} after {first}")
        pixels += size[0] * size[1]
        check_pixels(file, pixels, limit)
        with _damage(file):
            image = np.rot90(frame.to_ndarray(format=_FORMATS[channels]), round(frame.rotation / 90))
        yield torch.from_numpy(image.reshape(1, *image.shape[:2], channels).transpose(3, 0, 1, 2).copy())


def check_pixels(file: Path, pixels: int, limit: float) -> None:
    """Refuse a volume of more pixels than the limit.

    Raises:
        ValueError: It has more.
    """
    if pixels > limit:
        raise ValueError(
            f"{file.name} has more than {limit} pixels in all frames: raise PIL.Image.MAX_IMAGE_PIXELS, whose double "
            "that is, or --max-pixels"
        )


def _is_cut_off(opened: BinaryIO) -> bool:
    """Whether the end of an MP4, MOV or AVI file is missing, of which FFmpeg may read what is left without a word."""
    size = opened.seek(0, 2)
    position = 0
    while position < size:
        opened.seek(position)
        head = opened.read(16)
        if head[:4] == b"RIFF" and len(head) >= 8:
            return position + 8 + struct.unpack("<I", head[4:8])[0] > size
        if len(head) < 8 or (position == 0 and head[4:8] not in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")):
            return position > 0
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length or size - position
        if length < 8:
            return False  # no box: FFmpeg will say what it is
        position += length
    return position > size


def write_video(opened: BinaryIO, suffix: str, pieces: Iterable[Tensor], rate: Fraction) -> None:
    """Write a video file, by H.264.

    Args:
        opened: The file.
        suffix: Its suffix, which names the format.
        pieces: ``(C, n, H, W)`` in [0, 1] each, one after the other.
        rate: Frames per second.

    Raises:
        ValueError: The suffix is that of no format that can be written, or there are neither 1 nor 3 channels.
        TypeError: A piece is not float.
        ImportError: PyAV is not installed.
    """
    av = load_av()
    if suffix.lower() not in _WRITTEN:
        raise ValueError(f"{suffix!r} is the suffix of no file that volumes can be written to: .npy, .mp4, .mkv, .mov")
    try:
        with av.open(opened, "w", format=_WRITTEN[suffix.lower()]) as container:
            stream: Any = None
            for piece in pieces:
                channels, _, height, width = piece.shape
                if not piece.is_floating_point():
                    raise TypeError(f"expected floats in [0, 1] to write, got {piece.dtype}")
                if channels not in _FORMATS:
                    raise ValueError(f"a video file holds 1 or 3 colors, got {channels} channels: name an .npy file")
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate, options={"crf": "17"})
                    stream.width, stream.height = width, height
                    stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
                for image in piece.mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy():
                    image = np.ascontiguousarray(image if channels == 3 else image[..., 0])
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=_FORMATS[channels])))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise ValueError(f"the video cannot be written: {error.strerror or error}") from error


def load_av() -> Any:
    """Import PyAV, or say how to install it."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError(f'video files need PyAV ({error}): pip install "walloc_transforms[video]"') from error

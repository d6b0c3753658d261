"""Latents, images and sound as files."""

from .coders import CODERS, get_coder
from .fields import MAX_SIDE, Cursor, check_container, close_container, limit_of_pixels, varint
from .media import (
    IMAGE_SUFFIXES,
    READ_ERRORS,
    SOUND_SUFFIXES,
    find_files,
    load_soundfile,
    open_image,
    read_signal,
    write_signal,
)
from .mosaic import latents_to_pil, pil_to_latents, save_mosaic
from .rounding import rounding_steps
from .stored import (
    DEFAULT_CODER,
    LatentFile,
    load_latents,
    pack_latents,
    read_header,
    save_latents,
    stored_codec,
)
from .video import VIDEO_SUFFIXES, Frames, load_av
from .volumes import VOLUME_SUFFIXES, read_volume, write_volume
from .wlc import LatentHeader

__all__ = [
    "CODERS",
    "DEFAULT_CODER",
    "IMAGE_SUFFIXES",
    "MAX_SIDE",
    "READ_ERRORS",
    "SOUND_SUFFIXES",
    "VIDEO_SUFFIXES",
    "VOLUME_SUFFIXES",
    "Cursor",
    "Frames",
    "LatentFile",
    "LatentHeader",
    "check_container",
    "close_container",
    "find_files",
    "get_coder",
    "latents_to_pil",
    "limit_of_pixels",
    "load_av",
    "load_latents",
    "load_soundfile",
    "open_image",
    "pack_latents",
    "pil_to_latents",
    "read_header",
    "read_signal",
    "read_volume",
    "rounding_steps",
    "save_latents",
    "save_mosaic",
    "stored_codec",
    "varint",
    "write_signal",
    "write_volume",
]

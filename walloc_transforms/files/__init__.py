"""Latents, images and sound as files."""

from .media import IMAGE_SUFFIXES, READ_ERRORS, SOUND_SUFFIXES, find_files, read_signal, write_signal
from .mosaic import latents_to_pil, pil_to_latents, save_mosaic
from .stored import load_latents, save_latents, stored_codec
from .wlc import DEFAULT_CODER, LatentFile, read_header

__all__ = [
    "DEFAULT_CODER",
    "IMAGE_SUFFIXES",
    "READ_ERRORS",
    "SOUND_SUFFIXES",
    "LatentFile",
    "find_files",
    "latents_to_pil",
    "load_latents",
    "pil_to_latents",
    "read_header",
    "read_signal",
    "save_latents",
    "save_mosaic",
    "stored_codec",
    "write_signal",
]

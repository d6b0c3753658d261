"""Codecs by name: embedded ones, folders, published checkpoints, and repositories of the hub."""

from .checkpoints import read_checkpoint
from .embedded import find_embedded
from .lazy import LazyTensor
from .zoo import CodecInfo, CodecLike, available_codecs, codec_info, fetch, load_codec

__all__ = [
    "CodecInfo",
    "CodecLike",
    "LazyTensor",
    "available_codecs",
    "codec_info",
    "fetch",
    "find_embedded",
    "load_codec",
    "read_checkpoint",
]

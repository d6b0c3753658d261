"""Codecs by name: embedded ones, folders, published checkpoints, and repositories of the hub."""

from .zoo import CodecInfo, CodecLike, available_codecs, codec_info, fetch, load_codec

__all__ = [
    "CodecInfo",
    "CodecLike",
    "available_codecs",
    "codec_info",
    "fetch",
    "load_codec",
]

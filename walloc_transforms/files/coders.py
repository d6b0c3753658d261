"""Lossless coders of integer latents, behind one interface: int8 or int16 arrays to byte streams and back.

    name     number   needs                          a stream holds
    zlib     1        nothing                        a channel
    webp     2        Pillow; int8 only              all channels
    jpegls   3        imagecodecs (extra coders)     16 channels
    ans      4        constriction (extra coders)    a channel

``docs/coders.md`` compares them. A stream repeats nothing that shape and dtype tell. The writer cuts off the headers of
WebP and JPEG-LS and the reader makes them again, so that no stream asks for more memory than the shape does.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .ans import decode_channel, encode_channel
from .coder import Coder, Shape, import_package
from .contexts import ChannelReader, analyze
from .deflate import ZLIB
from .image_coders import JPEGLS, WEBP

__all__ = ["CODERS", "Coder", "get_coder"]


class Ans(Coder):
    """Context modeling and asymmetric numeral systems (:mod:`walloc_transforms.files.ans`), by constriction."""

    name, number = "ans", 4

    def work(self, shape: Shape, dtype: np.dtype) -> int:
        return 5 * math.prod(shape) * dtype.itemsize // 2 + 16_000 * shape[0]

    def encode(self, codes: NDArray) -> list[bytes]:
        import_package("constriction", self.name)
        return [encode_channel(symbols) for symbols in analyze(codes)]

    def decode(self, streams: Sequence[bytes], shape: Shape, dtype: np.dtype, channels: int) -> NDArray:
        import_package("constriction", self.name)
        reader = ChannelReader(shape[1:], dtype)
        codes = np.empty((channels, *shape[1:]), dtype)
        for d in range(channels):
            codes[d] = decode_channel(streams[d], reader)
        return codes


CODERS: dict[str, Coder] = {coder.name: coder for coder in (ZLIB, WEBP, JPEGLS, Ans())}


def get_coder(name: str) -> Coder:
    """Return a coder by its name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in CODERS:
        raise ValueError(f"unknown coder {name!r}: expected one of {', '.join(CODERS)}")
    return CODERS[name]

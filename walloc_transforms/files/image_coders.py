"""Coders that make images of channels, and leave them to a library for lossless images."""

import io
import math
import struct
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .coder import INT8, INT16, Coder, Shape, import_package
from .mosaic import latents_to_pil, pil_to_latents

__all__ = ["JPEGLS", "WEBP"]


class WebP(Coder):
    """Lossless WebP of an RGB mosaic (:mod:`walloc_transforms.files.mosaic`), by Pillow; it is filled up with zeros."""

    name, number, dtypes = "webp", 2, (INT8,)

    def channels_per_stream(self, shape: Shape) -> int:
        return shape[0]

    def work(self, shape: Shape, dtype: np.dtype) -> int:
        _, padded = self._head(shape, dtype)
        return super().work((padded, *shape[1:]), dtype)

    def encode(self, codes: NDArray) -> list[bytes]:
        head, padded = self._head(codes.shape, codes.dtype)
        mosaic = np.zeros((padded, *codes.shape[1:]), np.int8)
        mosaic[: len(codes)] = codes
        file = io.BytesIO()
        latents_to_pil(torch.from_numpy(mosaic))[0].save(file, "WEBP", lossless=True)
        content = file.getvalue()
        size = int.from_bytes(content[16:20], "little")
        if content[12:16] != b"VP8L" or content[20:25] != head or len(content) != 20 + size + size % 2:
            raise RuntimeError("Pillow wrote a WebP file of another kind than was asked for")
        return [content[25 : 20 + size]]

    def decode(self, streams: Sequence[bytes], shape: Shape, dtype: np.dtype, channels: int) -> NDArray:
        head, padded = self._head(shape, dtype)
        chunk = head + streams[0]
        body = b"WEBPVP8L" + struct.pack("<I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2)
        try:
            with Image.open(io.BytesIO(b"RIFF" + struct.pack("<I", len(body)) + body), formats=["WEBP"]) as image:
                latents = pil_to_latents([image], padded)[0, :channels]
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"damaged: no WebP image ({error})") from error
        if latents.shape[1:] != shape[1:]:
            raise ValueError("damaged: a WebP image of another size")
        return latents.numpy()

    def _head(self, shape: Shape, dtype: np.dtype) -> tuple[bytes, int]:
        """Return the head of the bit stream, which holds the size of the image, and the channels of the mosaic."""
        self.check_dtype(dtype)
        side = math.isqrt(-(-shape[0] // 3) - 1) + 1
        height, width = side * shape[1], side * shape[2]
        if max(height, width) > 16383 or height * width > 2**28 // 3:
            raise self.too_large("mosaics of up to 16383 pixels a side and 2**28 values", shape)
        return struct.pack("<BI", 0x2F, width - 1 | (height - 1) << 14), 3 * side**2


class JpegLs(Coder):
    """JPEG-LS, by imagecodecs, of channels stacked into one image: contexts learned from one serve the next."""

    name, number = "jpegls", 3

    def channels_per_stream(self, shape: Shape) -> int:
        return max(1, min(16, 65535 // shape[1]))

    def encode(self, codes: NDArray) -> list[bytes]:
        jpegls_encode = import_package("imagecodecs", self.name).jpegls_encode
        group = self.channels_per_stream(codes.shape)
        offset = 1 << (8 * codes.itemsize - 1)
        planes = (codes.astype(np.int32) + offset).astype(f"u{codes.itemsize}")
        streams = []
        for start in range(0, len(codes), group):
            plane = planes[start : start + group].reshape(-1, codes.shape[2])
            head = self._head(codes.shape, plane.shape, codes.dtype)
            content = bytes(jpegls_encode(plane))
            # The encoder puts an application's segments between the start and the frame. They tell nothing new.
            begin = content.find(head[2:])
            if begin < 0 or not content.endswith(b"\xff\xd9"):
                raise RuntimeError("imagecodecs wrote a JPEG-LS file of another kind than was asked for")
            streams.append(content[begin + len(head) - 2 : -2])
        return streams

    def decode(self, streams: Sequence[bytes], shape: Shape, dtype: np.dtype, channels: int) -> NDArray:
        imagecodecs = import_package("imagecodecs", self.name)
        group = self.channels_per_stream(shape)
        offset = 1 << (8 * dtype.itemsize - 1)
        parts = []
        for start in range(0, channels, group):
            size = (min(group, shape[0] - start) * shape[1], shape[2])
            content = self._head(shape, size, dtype) + streams[start // group] + b"\xff\xd9"
            try:
                plane = imagecodecs.jpegls_decode(content)
            except RuntimeError as error:
                raise ValueError(f"damaged: no JPEG-LS stream ({error})") from error
            if plane.shape != size or plane.itemsize != dtype.itemsize:
                raise ValueError("damaged: a JPEG-LS image of another size")
            parts.append((plane ^ plane.dtype.type(offset)).view(dtype))  # as if the offset were subtracted
        return np.concatenate(parts).reshape(-1, *shape[1:])[:channels]

    def _head(self, shape: Shape, size: tuple[int, int], dtype: np.dtype) -> bytes:
        if max(size) > 65535:
            raise self.too_large("up to 65535 rows and columns", shape)
        frame = struct.pack(">4sHBHHBBBB", b"\xff\xd8\xff\xf7", 11, 8 * dtype.itemsize, *size, 1, 1, 0x11, 0)
        presets = bytes.fromhex("fff8000d01ffff0012004301140040") if dtype == INT16 else b""  # the default ones
        return frame + presets + bytes.fromhex("ffda0008010100000000")


WEBP, JPEGLS = WebP(), JpegLs()

"""Lossless coders of integer latents, behind one interface: int8 or int16 arrays to byte streams and back.

    name     number   needs                          a stream holds
    zlib     1        nothing                        a channel
    webp     2        Pillow; int8 only              all channels
    jpegls   3        imagecodecs (extra coders)     16 channels
    ans      4        constriction (extra coders)    a channel

``docs/coders.md`` compares them. A stream repeats nothing that shape and dtype tell. The writer cuts off the headers of
WebP and JPEG-LS and the reader makes them again, so that no stream asks for more memory than the shape does.
"""

import importlib
import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .ans import decode_channel, encode_channel
from .contexts import ChannelReader, analyze
from .mosaic import latents_to_pil, pil_to_latents

__all__ = ["CODERS", "Coder", "get_coder"]

Shape = tuple[int, int, int]

_INT8, _INT16 = np.dtype(np.int8), np.dtype(np.int16)


class Coder:
    """Encode channels of integers to byte streams, and decode them.

    Attributes:
        name: The name for users.
        number: The number in files; it is never given to another coder.
        dtypes: The dtypes of codes that the coder stores.
    """

    name: ClassVar[str]
    number: ClassVar[int]
    dtypes: ClassVar[tuple[np.dtype, ...]] = (_INT8, _INT16)

    def channels_per_stream(self, shape: Shape) -> int:
        """Return how many consecutive channels of ``(D, h, w)`` share a stream; the last one may have fewer."""
        return 1

    def encode(self, codes: NDArray) -> list[bytes]:
        """Encode channels.

        Args:
            codes: ``(D, h, w)``, no side zero.

        Returns:
            The streams.

        Raises:
            ValueError: The coder cannot hold the dtype or the shape.
            ImportError: It needs a package that is not installed.
        """
        raise NotImplementedError

    def decode(self, streams: Sequence[bytes], shape: Shape, dtype: np.dtype, channels: int) -> NDArray:
        """Decode the first channels.

        Args:
            streams: The streams that hold these channels. More may follow; they are not looked at.
            shape: ``(D, h, w)`` of all that was encoded.
            dtype: The dtype of the codes.
            channels: Number of channels to decode, from 1 to D.

        Returns:
            ``(channels, h, w)``.

        Raises:
            ValueError: A stream is damaged, or the coder cannot have written this dtype or shape.
            ImportError: The coder needs a package that is not installed.
        """
        raise NotImplementedError

    def _check_dtype(self, dtype: np.dtype) -> None:
        if dtype not in self.dtypes:
            known = " and ".join(str(d) for d in self.dtypes)
            raise ValueError(f"coder {self.name!r} stores {known}, got {dtype}; coder 'zlib' stores both")

    def _too_large(self, limit: str, shape: Shape) -> ValueError:
        return ValueError(
            f"coder {self.name!r} holds {limit}, got channels of shape {shape}; coder 'zlib' has no limit"
        )


def _import(package: str, coder: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f'coder {coder!r} needs {package}: pip install "walloc_transforms[coders]"') from error


class Zlib(Coder):
    """Deflate with no matches but runs (``Z_RLE``): latents are close to noise, where a search finds nothing else.

    The first byte of a stream says whether codes are predicted by the mean of the left and the upper neighbor, which
    pays for smooth channels. int16 codes have their sign in the lowest bit, and all low bytes precede all high ones.
    """

    name, number = "zlib", 1
    gain = 0.8  # predict where residuals have at most this share of the size of codes

    def encode(self, codes: NDArray) -> list[bytes]:
        mean = np.zeros_like(codes)
        mean[:, 0, 1:], mean[:, 1:, 0] = codes[:, 0, :-1], codes[:, :-1, 0]
        wide = codes.astype(np.int16 if codes.dtype == _INT8 else np.int32)
        mean[:, 1:, 1:] = (wide[:, 1:, :-1] + wide[:, :-1, 1:]) >> 1
        center = (wide.sum((1, 2), dtype=np.int64) // wide[0].size).astype(wide.dtype)
        sizes = [np.abs(wide - other).sum((1, 2), dtype=np.int64) for other in (mean, center[:, None, None])]
        streams = []
        for own, prediction, smooth in zip(codes, mean, sizes[0] < self.gain * sizes[1], strict=True):
            values = own - prediction if smooth else own  # modulo 2**8 or 2**16
            deflate = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
            streams.append(bytes([int(smooth)]) + deflate.compress(self._pack(values)) + deflate.flush())
        return streams

    def decode(self, streams: Sequence[bytes], shape: Shape, dtype: np.dtype, channels: int) -> NDArray:
        codes = np.empty((channels, *shape[1:]), dtype)
        predicted = []
        for d in range(channels):
            if streams[d][:1] not in (b"\0", b"\1"):
                raise ValueError(f"damaged: channel {d} says neither that it is predicted nor that it is not")
            if streams[d][0]:
                predicted.append(d)
            codes[d] = self._unpack(streams[d][1:], codes[d].size, dtype, d).reshape(shape[1:])
        if predicted:
            codes[predicted] = self._add_means(codes[predicted])
        return codes

    @staticmethod
    def _pack(values: NDArray) -> bytes:
        if values.dtype == _INT8:
            return values.tobytes()
        folded = ((values << 1) ^ (values >> 15)).ravel().view(np.uint16)
        return np.concatenate([folded & 255, folded >> 8]).astype(np.uint8).tobytes()

    @staticmethod
    def _unpack(stream: bytes, count: int, dtype: np.dtype, channel: int) -> NDArray:
        inflate = zlib.decompressobj(-15)
        size = count * dtype.itemsize
        try:
            content = inflate.decompress(stream, size + 1)  # one more than there may be, to reach the end mark
        except zlib.error as error:
            raise ValueError(f"damaged: channel {channel} is no deflate stream ({error})") from error
        if len(content) != size or not inflate.eof or inflate.unused_data:
            raise ValueError(f"damaged: channel {channel} does not hold {size} bytes and nothing else")
        if dtype == _INT8:
            return np.frombuffer(content, np.int8)
        low, high = np.frombuffer(content, np.uint8).reshape(2, count).astype(np.uint16)
        folded = low | high << 8
        return (folded >> 1).view(np.int16) ^ -(folded & 1).view(np.int16)

    @staticmethod
    def _add_means(codes: NDArray) -> NDArray:
        """Undo the prediction, diagonal by diagonal: each is predicted from the one before."""
        n, h, w = codes.shape
        x = codes.astype(np.int32)
        half = 1 << (8 * codes.itemsize - 1)
        x[:, 0] = x[:, 0].cumsum(1).astype(codes.dtype)
        x[:, :, 0] = x[:, :, 0].cumsum(1).astype(codes.dtype)
        flat = x.reshape(n, h * w)
        for k in range(2, h + w - 1 if min(h, w) > 1 else 0):
            first, last = max(1, k - w + 1), min(k - 1, h - 1)
            start, stop = k + first * (w - 1), k + last * (w - 1) + 1
            mean = (flat[:, start - 1 : stop - 1 : w - 1] + flat[:, start - w : stop - w : w - 1]) >> 1
            mean += flat[:, start : stop : w - 1]
            flat[:, start : stop : w - 1] = ((mean + half) & (2 * half - 1)) - half
        return x.astype(codes.dtype)


class WebP(Coder):
    """Lossless WebP of an RGB mosaic (:mod:`walloc_transforms.files.mosaic`), by Pillow; it is filled up with zeros."""

    name, number, dtypes = "webp", 2, (_INT8,)

    def channels_per_stream(self, shape: Shape) -> int:
        return shape[0]

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
        self._check_dtype(dtype)
        side = math.isqrt(-(-shape[0] // 3) - 1) + 1
        height, width = side * shape[1], side * shape[2]
        if max(height, width) > 16383 or height * width > 2**28 // 3:
            raise self._too_large("mosaics of up to 16383 pixels a side and 2**28 values", shape)
        return struct.pack("<BI", 0x2F, width - 1 | (height - 1) << 14), 3 * side**2


class JpegLs(Coder):
    """JPEG-LS, by imagecodecs, of channels stacked into one image: contexts learned from one serve the next."""

    name, number = "jpegls", 3

    def channels_per_stream(self, shape: Shape) -> int:
        return max(1, min(16, 65535 // shape[1]))

    def encode(self, codes: NDArray) -> list[bytes]:
        jpegls_encode = _import("imagecodecs", self.name).jpegls_encode
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
        imagecodecs = _import("imagecodecs", self.name)
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
            parts.append((plane.astype(np.int32) - offset).astype(dtype))
        return np.concatenate(parts).reshape(-1, *shape[1:])[:channels]

    def _head(self, shape: Shape, size: tuple[int, int], dtype: np.dtype) -> bytes:
        if max(size) > 65535:
            raise self._too_large("up to 65535 rows and columns", shape)
        frame = struct.pack(">4sHBHHBBBB", b"\xff\xd8\xff\xf7", 11, 8 * dtype.itemsize, *size, 1, 1, 0x11, 0)
        presets = bytes.fromhex("fff8000d01ffff0012004301140040") if dtype == _INT16 else b""  # the default ones
        return frame + presets + bytes.fromhex("ffda0008010100000000")


class Ans(Coder):
    """Context modeling and asymmetric numeral systems (:mod:`walloc_transforms.files.ans`), by constriction."""

    name, number = "ans", 4

    def encode(self, codes: NDArray) -> list[bytes]:
        _import("constriction", self.name)
        return [encode_channel(symbols) for symbols in analyze(codes)]

    def decode(self, streams: Sequence[bytes], shape: Shape, dtype: np.dtype, channels: int) -> NDArray:
        _import("constriction", self.name)
        reader = ChannelReader(shape[1:], dtype)
        codes = np.empty((channels, *shape[1:]), dtype)
        for d in range(channels):
            codes[d] = decode_channel(streams[d], reader)
        return codes


CODERS: dict[str, Coder] = {coder.name: coder for coder in (Zlib(), WebP(), JpegLs(), Ans())}


def get_coder(name: str) -> Coder:
    """Return a coder by its name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in CODERS:
        raise ValueError(f"unknown coder {name!r}: expected one of {', '.join(CODERS)}")
    return CODERS[name]

"""The coder that needs nothing: Deflate."""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .coder import INT8, Coder, Shape

__all__ = ["ZLIB"]


class Zlib(Coder):
    """Deflate with no matches but runs (``Z_RLE``): latents are close to noise, where a search finds nothing else.

    The first byte of a stream says whether codes are predicted by the mean of the left and the upper neighbor, which
    pays for smooth channels. int16 codes have their sign in the lowest bit, and all low bytes precede all high ones.
    """

    name, number = "zlib", 1
    gain = 0.8  # predict where residuals have at most this share of the size of codes

    def work(self, shape: Shape, dtype: np.dtype) -> int:
        diagonals = sum(shape[1:]) if min(shape[1:]) > 1 else 0
        return super().work(shape, dtype) + 256 * diagonals

    def encode(self, codes: NDArray) -> list[bytes]:
        mean = np.zeros_like(codes)
        mean[:, 0, 1:], mean[:, 1:, 0] = codes[:, 0, :-1], codes[:, :-1, 0]
        wide = codes.astype(np.int16 if codes.dtype == INT8 else np.int32)
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
        if values.dtype == INT8:
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
        if dtype == INT8:
            return np.frombuffer(content, np.int8)
        low, high = np.frombuffer(content, np.uint8).reshape(2, count).astype(np.uint16)
        folded = low | high << 8
        return (folded >> 1).view(np.int16) ^ -(folded & 1).view(np.int16)

    @staticmethod
    def _add_means(codes: NDArray) -> NDArray:
        """Undo the prediction, diagonal by diagonal: each is predicted from the one before."""
        n, h, w = codes.shape
        x = codes.astype(np.int16 if codes.dtype == INT8 else np.int32)
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


ZLIB = Zlib()

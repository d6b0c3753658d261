"""What containers of this package have in common: a magic, a version, numbers of any length, and a checksum at the end.

    8 bytes      magic
    1 byte       version
    ...
    4 bytes      CRC-32 of everything before, little endian

A *varint* has seven bits per byte, the lowest first, and no more bytes than it needs.
"""

import math
import struct
import zlib

from PIL import Image

__all__ = ["MAX_SIDE", "Cursor", "check_container", "close_container", "limit_of_pixels", "varint"]

MAX_SIDE = 2**32 - 1
"""The largest varint."""


def varint(value: int) -> bytes:
    """Write a number of up to 32 bits."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Cursor:
    """Read a header field by field, and never past its end.

    Args:
        content: The header, and what follows it.
        place: Where the first field starts.
    """

    def __init__(self, content: bytes, place: int = 0) -> None:
        self.content, self.place = content, place

    def take(self, count: int) -> bytes:
        """Read so many bytes.

        Raises:
            ValueError: There are fewer.
        """
        if count > len(self.content) - self.place:
            raise ValueError("its header is cut off")
        self.place += count
        return self.content[self.place - count : self.place]

    def byte(self) -> int:
        """Read one byte as a number."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Read a varint.

        Raises:
            ValueError: It is too large, longer than it need be, or cut off.
        """
        value = 0
        for position in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 127) << position
            if byte < 128:
                if value > MAX_SIDE or (position and not byte):
                    break
                return value
        raise ValueError("a number in its header is above 2**32 - 1 or longer than it need be")

    def check_rest(self, payload: int, padding: int) -> None:
        """Compare what is left with the bytes of the streams and of the zeros after them.

        Raises:
            ValueError: There are more or fewer, or others than zeros.
        """
        if self.place + payload + padding != len(self.content):
            raise ValueError(
                f"streams and padding have {len(self.content) - self.place} bytes, and should have {payload + padding}"
            )
        if any(self.content[self.place + payload :]):
            raise ValueError("its padding is not zero")


def close_container(content: bytes) -> bytes:
    """Add the checksum."""
    return content + struct.pack("<I", zlib.crc32(content))


def check_container(content: bytes, file: str, magic: bytes, version: int, what: str) -> bytes:
    """Compare magic, version and checksum.

    Args:
        content: All of the file.
        file: Its name, for messages.
        magic: Its first 8 bytes.
        version: The version that is read.
        what: What it should be, such as ``"latent file"``.

    Returns:
        The content without the checksum.

    Raises:
        ValueError: It is something else, of another version, or damaged.
    """
    start = content[: len(magic)]
    if start != magic:
        raise ValueError(f"{file} is no {what}: it starts with {start.hex() or 'nothing'}")
    if len(content) > 8 and content[8] != version:
        raise ValueError(f"{file} is of version {content[8]}: this release reads version {version}")
    if len(content) < 16 or zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
        raise ValueError(f"{file} is damaged or cut off: its CRC-32 is another")
    return content[:-4]


def limit_of_pixels(max_pixels: float | None) -> float:
    """Return the largest number of pixels of a file: by default twice Pillow's, from where on it refuses images."""
    if max_pixels is not None:
        return max_pixels
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS

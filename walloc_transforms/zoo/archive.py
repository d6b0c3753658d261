"""Zip archives as ``torch.save`` writes them: where the entries lie, all checked, and none read before it is asked for.

Nothing is extracted, and a name in an archive never becomes the name of a file.
"""

import dataclasses
import io
import os
import stat
import struct
import zipfile
import zlib

from ..safe import shown

__all__ = ["Record", "read_directory"]


@dataclasses.dataclass(frozen=True)
class Record:
    """Where the bytes of an uncompressed zip entry lie.

    Attributes:
        file: The archive.
        offset: Of the first byte.
        length: In bytes.
        crc: The CRC-32 of all of them.
    """

    file: str
    offset: int
    length: int
    crc: int

    def read(self, start: int, stop: int) -> bytearray:
        """Read the bytes from ``start`` to ``stop``, counted within the entry.

        Raises:
            ValueError: The archive is cut off, or all was read and its CRC-32 is another.
        """
        content = bytearray(stop - start)
        with open(self.file, "rb") as stream:
            stream.seek(self.offset + start)
            if stream.readinto(content) != len(content):
                raise ValueError(f"{self.file} is damaged: it ends inside a record")
        # A zip file has one checksum per entry, so that a part of an entry is read unchecked.
        if len(content) == self.length and zlib.crc32(content) != self.crc:
            raise ValueError(f"{self.file} is damaged: the CRC-32 of the entry at byte {self.offset} is wrong")
        return content


class _BoundedReader(io.BufferedReader):
    """A file for zipfile, which would read a directory of any length at once."""

    limit = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise ValueError(f"a zip directory of {size} bytes, more than {self.limit}")
        return super().read(size)


def read_directory(file: str, limit: int) -> dict[str, Record]:
    """Find the entries of an archive, and check that they lie uncompressed where the directory says.

    Args:
        file: The archive.
        limit: Bytes that the directory may have.

    Returns:
        The entries by their names within the one folder that holds them all.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, no such archive, or damaged.
    """
    records: dict[str, Record] = {}
    folders: set[str] = set()
    if not stat.S_ISREG(os.stat(file).st_mode):  # a named pipe would be waited for without end
        raise ValueError(f"{file} is no regular file")
    with _BoundedReader(io.FileIO(file)) as stream:
        stream.limit = limit
        end = os.fstat(stream.fileno()).st_size
        if stream.read(4) != b"PK\x03\x04":
            raise ValueError(
                f"{file} is no zip archive, which torch.save writes since PyTorch 1.6: "
                "its older format and plain pickles are refused"
            )
        try:
            entries = zipfile.ZipFile(stream).infolist()
        except Exception as error:  # zipfile raises some ten types for damaged files, and documents one
            raise ValueError(f"{file} is damaged or cut off: {str(error)[:200]}") from error
        for entry in entries:
            folder, *parts = entry.filename.split("/")
            name, where = "/".join(parts), shown(entry.filename)
            folders.add(folder)
            if len(folders) > 1 or name in records or {"", ".", ".."} & {folder, *parts} or "\\" in name:
                raise ValueError(f"{file} must hold one folder, and each name once: {where} is refused")
            stored = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
            start = entry.header_offset  # below 0 where the directory is longer than what is before it
            stream.seek(min(max(start, 0), end))
            header = stream.read(30)
            if start < 0 or len(header) < 30 or header[:4] != b"PK\x03\x04" or stream.read(len(stored)) != stored:
                raise ValueError(f"{file} is damaged: {where} is not where its directory says")
            flags, method, name_length, extra_length = struct.unpack("<6xHH16xHH", header)
            if method or entry.compress_type or (flags | entry.flag_bits) & 1:
                raise ValueError(f"{file}: {where} is compressed or encrypted, as torch.save leaves nothing")
            offset = start + 30 + name_length + extra_length
            if entry.compress_size != entry.file_size or offset + entry.file_size > end:
                raise ValueError(f"{file} is damaged: {where} cannot have {entry.file_size} bytes")
            records[name] = Record(file, offset, entry.file_size, entry.CRC)
    return records

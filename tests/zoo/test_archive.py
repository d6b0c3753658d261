"""The zip file around a checkpoint: what PyTorch writes is read, and lies, damage and other forms are refused."""

import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from tests.zoo.checkpoint_files import bounded, edit, read_all, read_or_refuse, refused, same, save, write_zip
from walloc_transforms.zoo.checkpoints import read_checkpoint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "x.pth", {"x": torch.arange(12.0), "y": [torch.ones(3, dtype=torch.int8)], "z": "text"})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [b"", b"P", b"PK\3", pickle.dumps({"a": 1}), b"\x1f\x8b" * 50, b"\0" * 1000])
def test_no_zip(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", r"no zip archive, .* PyTorch 1\.6: its older format and plain pickles are refused")


def test_formats_of_before_1_6(tmp_path: Path) -> None:
    file = save(tmp_path / "x.pth", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    refused(file, r"no zip archive, .* PyTorch 1\.6: its older format and plain pickles are refused")


def test_other_entries(file: Path, tmp_path: Path) -> None:
    expected = torch.load(file, weights_only=True)
    assert same(read_all(read_checkpoint(edit(file, byteorder=None))), expected)  # as PyTorch 1.6 to 1.13 wrote it
    with pytest.raises(ValueError, match="is b'big'; only b'little' is read"):
        read_checkpoint(edit(file, byteorder=b"big"))
    refused(edit(file, byteorder=b"little" * 10**6), "byteorder is b'littlelittlelitt'")
    refused(edit(file, byteorder=None, version=b"4\n"), "version is b'4'; only b'3' is read")
    refused(edit(file, version=None), r"no PyTorch checkpoint: its folder must hold data\.pkl and version")
    refused(
        edit(file, version=b"3\n", data_pkl=None), r"no PyTorch checkpoint: its folder must hold data\.pkl and version"
    )
    refused(write_zip(file, []), "no zip archive|damaged")


def test_compressed_and_encrypted(file: Path) -> None:
    content = file.read_bytes()
    refused(edit(file, zipfile.ZIP_DEFLATED), r"'x/data\.pkl' is compressed or encrypted")
    for header, field, value in [(b"PK\1\2", 8, 1), (b"PK\3\4", 6, 1), (b"PK\1\2", 10, 8), (b"PK\3\4", 8, 8)]:
        damaged = bytearray(content)
        damaged[content.index(header) + field] |= value
        file.write_bytes(damaged)
        refused(file, "is compressed or encrypted")


@pytest.mark.parametrize(
    "names",
    [
        ["x/data.pkl"],
        ["y/data/0"],
        ["data.pkl"],
        ["/data.pkl"],
        ["x/../data.pkl"],
        ["x/a/../../b"],
        ["x//a"],
        ["x/a\\b"],
        ["x/."],
        ["x/data/"],
        ["x/data/7", "x/data/7"],
        ["x/data.pkl\0z"],
        ["/etc/passwd"],
        ["C:\\a"],
        [""],
    ],
)
def test_names(file: Path, names: list[str]) -> None:
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = name
            archive.writestr(entry, b"12345678")
    refused(file, "must hold one folder, and each name once|is not where its directory says")


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (42, "<L", 5),
        (42, "<L", 2**32 - 2),
        (20, "<L", 10),
        (24, "<L", 10),
        (24, "<L", 2**31),
        (10, "<H", 8),
        (10, "<H", 99),
        (6, "<H", 99),
        (16, "<L", 0),
        (28, "<H", 9),
        (28, "<H", 2**16 - 1),
        (46, "<B", 255),
    ],
)
def test_lies_of_the_directory(file: Path, offset: int, form: str, value: int) -> None:
    content = bytearray(file.read_bytes())
    position = content.index(b"PK\1\2") + offset  # of data.pkl
    content[position : position + struct.calcsize(form)] = struct.pack(form, value)
    file.write_bytes(content)
    with bounded(5, 16):
        refused(file, "damaged|compressed|pickle is refused")


def test_entries_that_are_not_there(file: Path) -> None:
    content = file.read_bytes()
    second = content.index(b"PK\3\4", 4)
    for position in (second, second + 30):
        file.write_bytes(content[:position] + b"?" + content[position + 1 :])
        refused(file, "damaged: 'x/.*' is not where its directory says")


def test_longer_than_the_file(file: Path) -> None:
    """Both sizes agree, and are a lie."""
    content = file.read_bytes()
    for size in (10**4, 2**31, 2**32 - 2):
        damaged = bytearray(content)
        position = damaged.index(b"PK\1\2") + 20
        damaged[position : position + 8] = struct.pack("<2L", size, size)
        file.write_bytes(damaged)
        with bounded(5, 16):
            refused(file, rf"damaged: 'x/data\.pkl' cannot have {size} bytes")


def test_cut_off_anywhere(file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        refused(file, "damaged or cut off|no zip archive")


@pytest.mark.slow
def test_flipped_bits_are_noticed_or_do_not_matter(file: Path) -> None:
    content, expected = file.read_bytes(), torch.load(file, weights_only=True)
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        read_or_refuse(file, expected)


def test_too_many_entries(tmp_path: Path) -> None:
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 500_000 * len(entry), 30, 0)
    (tmp_path / "x.pth").write_bytes(b"PK\3\4" + bytes(26) + entry * 500_000 + end)
    with bounded():
        refused(tmp_path / "x.pth", "a zip directory of 23500000 bytes, more than")

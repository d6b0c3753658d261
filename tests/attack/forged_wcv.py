"""Forged ``.wcv`` files, put together byte by byte, and small valid ones to mutate."""

import copy
import functools
import struct
import tempfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from tests.attack.forged import Forged
from tests.attack.forged_wlc import varint
from walloc_transforms.weconvene import (
    WeConvene,
    fingerprint,
    read_compressed,
    write_compressed,
)


@functools.cache
def model() -> WeConvene:
    """A small model, always the same, whose symbols are not all zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = WeConvene(n=4, m=4, slices=2, blocks=1).eval().requires_grad_(False)
    for layer, scale in ((made.analysis[-1], 40), (made.hyper_analysis[-1], 10)):
        cast(nn.Conv2d, layer).weight.mul_(scale)
    return made


@functools.cache
def name() -> str:
    """Its fingerprint."""
    return fingerprint(model())


def container(size: tuple[int, int], streams: Sequence[bytes], *, padding: int = 0) -> bytes:
    """Make a file of any size and streams, with its checksum right."""
    content = b"\x89WCV\r\n\x1a\n\1" + bytes.fromhex(name()) + varint(size[0]) + varint(size[1])
    content += bytes([len(streams)]) + b"".join(varint(len(s)) for s in streams) + b"".join(streams) + bytes(padding)
    return content + struct.pack("<I", zlib.crc32(content))


def read(file: Path) -> tuple[int, ...]:
    """Decode a file."""
    return tuple(model().decompress([read_compressed(file, name())])[0].shape)


def _file(size: tuple[int, int], streams: Sequence[bytes], padding: int, folder: Path) -> Path:
    file = folder / "forged.wcv"
    file.write_bytes(container(size, streams, padding=padding))
    return file


def _forged(what: str, size: tuple[int, int], streams: Sequence[bytes], padding: int = 0) -> Forged:
    return Forged(f"wcv: {what}", partial(_file, size, streams, padding), read)


def _compressed(scale: float, image: torch.Tensor, folder: Path) -> Path:
    """Compress an image with latents so many times as large; the model decodes them all the same."""
    encoder = copy.deepcopy(model())
    for layer in (encoder.analysis[-1], encoder.hyper_analysis[-1]):
        cast(nn.Conv2d, layer).weight.mul_(scale)
    write_compressed(folder / "forged.wcv", encoder.compress(image)[0], name())
    return folder / "forged.wcv"


def _outliers(folder: Path) -> Path:
    return _compressed(1e12, torch.ones(1, 3, 64, 64), folder)


def _largest(folder: Path) -> Path:
    return _compressed(0, torch.zeros(1, 3, 512, 512), folder)


_EMPTY = (b"", b"", b"")

FORGED: list[Forged] = [
    _forged("sides of 32 bits", (2**32 - 1, 2**32 - 1), _EMPTY),
    _forged("a row of a million pixels", (1, 1_000_000), _EMPTY),
    _forged("a gigapixel, padded", (2**15, 2**15), _EMPTY, 2**22 - 2**10),
    _forged("a megabyte of zeros for one cell", (1, 1), (b"", bytes(2**20), b"")),
    _forged("a megabyte of ones for one cell", (1, 1), (b"\xff" * 2**20,) * 3),
    _forged("half a word", (1, 1), (b"", b"\1\2", b"")),
    _forged("two streams", (1, 1), (b"", b"")),
    _forged("255 streams", (1, 1), (b"",) * 255),
    Forged("wcv: symbols of 32 bits", _outliers, read),
    Forged("wcv: flat, the largest without padding", _largest, read, accepted=True),
]


def seeds() -> list[bytes]:
    """Make small valid files, always the same."""
    chance, files = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.wcv"
        for height, width in ((1, 1), (40, 70), (128, 64)):
            image = torch.from_numpy(chance.random((1, 3, height, width), np.float32))
            [compressed] = model().compress(image)
            write_compressed(file, compressed, name())
            files.append(file.read_bytes())
    return files

"""The parsers that are fuzzed: valid inputs of each, how parts become a file or folder, and what reads it."""

import hashlib
import io
import json
import random
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

import walloc_transforms as wt
from tests.attack import forged_wcv, forged_wlc
from tests.data.test_dataset import make_records
from tests.data.test_dataset import write as write_dataset
from tests.reference import save_checkpoint
from walloc_transforms.codec import Codec
from walloc_transforms.data import merge_dataset, shard_name
from walloc_transforms.files import READ_ERRORS, read_signal
from walloc_transforms.sealed import seal
from walloc_transforms.weconvene import load_checkpoint, save
from walloc_transforms.zoo.published import read_published

Parts = dict[str, bytes]
"""The parts of an input that are mutated one by one: the files of a folder, the members of an archive."""


@dataclass(frozen=True)
class Parser:
    """A parser and what it is fed.

    Attributes:
        seeds: Makes valid inputs.
        write: Puts parts together in an empty folder, and may mend checksums. Returns what is to be read.
        read: Reads it, and uses what it read.
        errors: What it may raise.
        megabytes: What it may take.
    """

    seeds: Callable[[], list[Parts]]
    write: Callable[[Parts, Path, random.Random], Path]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (ValueError,)
    megabytes: float = 300


def _file(name: str, mend: Callable[[bytes], bytes] = lambda content: content) -> Any:
    """Make a function that writes a file, three times of four with its checksum mended."""

    def write(parts: Parts, folder: Path, chance: random.Random) -> Path:
        content = parts["file"]
        (folder / name).write_bytes(mend(content) if chance.randrange(4) else content)
        return folder / name

    return write


def _saved(save: Callable[[Path], object], name: str = "file") -> Parts:
    """Return the content that a function writes into a file of this name."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name)
        return {"file": (Path(folder) / name).read_bytes()}


def _photograph() -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    return torch.stack([torch.sin(rows / (3 + i)) * torch.cos(columns / (5 + i)) for i in range(3)]) / 2 + 0.5


def _wave() -> Tensor:
    return 0.3 * torch.sin(torch.arange(4000) / torch.tensor([[7.0], [9.0]]))


def _latent_files() -> list[Parts]:
    return [{"file": content} for content in forged_wlc.seeds()]


def _mend_crc(content: bytes) -> bytes:
    return content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))


def _read_latents(file: Path) -> None:
    stored = wt.load_latents(file)
    codec = wt.stored_codec(stored)
    codec.decode(stored.latents, size=stored.size)


def _compressed_files() -> list[Parts]:
    return [{"file": content} for content in forged_wcv.seeds()]


def _read_compressed(file: Path) -> None:
    forged_wcv.read(file)


def _mosaics() -> list[Parts]:
    latents = wt.functional.encode_image(_photograph(), "rgb_16x", quantize=True)
    seeds = []
    for mode, suffix in (("RGB", ".png"), ("RGB", ".webp"), ("CMYK", ".tif"), ("L", ".png")):
        [image] = wt.functional.latents_to_pil(latents[:9] if mode == "L" else latents, mode)
        seeds.append(_saved(lambda file: wt.functional.save_mosaic(image, file), f"file{suffix}"))  # noqa: B023  (called at once)
    return seeds


def _read_mosaic(file: Path) -> None:
    with warnings.catch_warnings(), file.open("rb") as stream:
        warnings.simplefilter("ignore")  # of Pillow
        try:
            image = Image.open(stream)
            image.load()
        except Exception as error:  # Pillow raises many kinds for what it cannot read, before we see anything
            raise ValueError("no image") from error
        wt.functional.pil_to_latents([image])


def _images() -> list[Parts]:
    image, seeds = to_pil_image(_photograph()), []
    for kind, mode in (("PNG", "RGB"), ("PNG", "L"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("BMP", "RGB")):
        content = io.BytesIO()
        image.convert(mode).save(content, kind)
        seeds.append({"file": content.getvalue()})
    return seeds


def _sounds() -> list[Parts]:
    seeds = []
    for kind in ("WAV", "FLAC", "OGG", "AIFF"):
        content = io.BytesIO()
        soundfile.write(content, _wave().T.numpy(), 44100, format=kind)
        seeds.append({"file": content.getvalue()})
    return seeds


def _read_image(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow
        read_signal(file, "image")


def _read_sound(file: Path) -> None:
    read_signal(file, "audio")


def _checkpoints() -> list[Parts]:
    """Take published checkpoints apart: members of the archive, and the settings beside it."""
    seeds = []
    for name in ("linear", "residual", "codec1d", "walloc_0.6.0"):
        with tempfile.TemporaryDirectory() as folder:
            file = save_checkpoint(Path(folder), name)
            with zipfile.ZipFile(file) as archive:
                parts = {entry: archive.read(entry) for entry in archive.namelist()}
            settings = file.with_suffix(".json")
            if settings.is_file():
                parts[".json"] = settings.read_bytes()
            seeds.append(parts)
    return seeds


def _write_checkpoint(parts: Parts, folder: Path, chance: random.Random) -> Path:
    file = folder / "strange.pth"
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in parts.items():
            if name != ".json":
                archive.writestr(name, content)
    if ".json" in parts:
        file.with_suffix(".json").write_bytes(parts[".json"])
    if not chance.randrange(4):
        content = bytearray(file.read_bytes())
        place = len(content) - 1 - chance.randrange(min(len(content), 400))  # the directory is at the end
        content[place] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
    return file


def _read_checkpoint(file: Path) -> None:
    codec = read_published(file, file.with_suffix(".json"))
    _use(codec)


def _use(codec: Codec) -> None:
    c = codec.config
    codec.encode(torch.zeros(c.signal_channels, *[2 * c.stride] * c.dims))


def _parts_of(folder: Path) -> Parts:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def _codec_folders() -> list[Parts]:
    seeds = []
    for name, channels in (("rgb_16x", 3), ("rgb_16x_viewing", 12), ("stereo_5x", 5)):
        with tempfile.TemporaryDirectory() as folder:
            wt.load_codec(name, channels=channels).save_pretrained(folder)
            seeds.append(_parts_of(Path(folder)))
    return seeds


def _folder(mend: Mapping[str, str]) -> Any:
    """Make a function that writes a folder, three times of four with the hashes of its files and fields mended.

    Args:
        mend: Files, and the field of ``config.json`` that holds the SHA-256 of each.
    """

    def write(parts: Parts, folder: Path, chance: random.Random) -> Path:
        if chance.randrange(4):
            parts = parts | {"config.json": _mend_hashes(parts, mend)}
        for name, content in parts.items():
            (folder / name).write_bytes(content)
        return folder

    return write


def _mend_hashes(parts: Parts, mend: Mapping[str, str]) -> bytes:
    try:
        fields = json.loads(parts["config.json"])
        for name, field in mend.items():
            if name in parts and field in fields:
                fields[field] = hashlib.sha256(parts[name]).hexdigest()
        return json.dumps(seal(fields) if "config_sha256" in fields else fields).encode()
    except (ValueError, RecursionError, TypeError):  # no JSON any more
        return parts["config.json"]


def _read_codec(folder: Path) -> None:
    codec = Codec.from_pretrained(folder)
    _use(codec)
    if codec.config.refiner_width:
        codec.load_refiner()


def _models() -> list[Parts]:
    with tempfile.TemporaryDirectory() as folder:
        model = timm.create_model("test_resnet", num_classes=3)
        wt.save_model(wt.replace_stem(model, "rgb_16x"), folder)
        return [_parts_of(Path(folder))]


def _learned() -> list[Parts]:
    with tempfile.TemporaryDirectory() as folder:
        save(forged_wcv.model(), folder)
        return [_parts_of(Path(folder))]


def _read_learned(folder: Path) -> None:
    model = load_checkpoint(folder)
    [compressed] = model.compress(torch.zeros(1, 3, 20, 20))
    model.decompress([compressed])


def _datasets() -> list[Parts]:
    with tempfile.TemporaryDirectory() as name:
        write_dataset(Path(name), make_records(5))
        return [_parts_of(Path(name))]


def _write_dataset(parts: Parts, folder: Path, chance: random.Random) -> Path:
    """Write a data set, three times of four with the hashes that its files have of each other mended."""
    if chance.randrange(4):
        parts = dict(parts)
        for name in ("plan.json", "dataset.json"):
            parts[name] = _mend_hashes({"config.json": parts[name]}, {})
        try:
            index = json.loads(parts["dataset.json"])
            old, new = _DATASET_PLAN, seal(index["plan"])["config_sha256"].encode()
            for number, entry in enumerate(index["shards"][:9]):
                if shard := parts.get(shard_name(number)):
                    parts[shard_name(number)] = shard.replace(old, new)
                    entry["bytes"] = len(shard)
            parts["dataset.json"] = json.dumps(seal(index)).encode()
        except (ValueError, LookupError, TypeError, RecursionError, AttributeError):  # no index any more
            pass
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    return folder


_DATASET_PLAN = seal(json.loads(_datasets()[0]["plan.json"]))["config_sha256"].encode()


def _read_dataset(folder: Path) -> None:
    refused = None
    try:
        merge_dataset(Path(folder), progress=False)
    except ValueError as error:  # reading is tried all the same
        refused = error
    dataset = wt.LatentDataset(folder, as_dict=True)
    for i in range(min(len(dataset), 100)):
        dataset[i]
    dataset[[0] * 3]
    repr((dataset, dataset.labels, dataset.grids, dataset.unreadable()))
    dataset.verify(progress=False)
    if refused:
        raise refused


PARSERS = {
    "wlc": Parser(_latent_files, _file("file.wlc", _mend_crc), _read_latents),
    "wcv": Parser(_compressed_files, _file("file.wcv", _mend_crc), _read_compressed),
    "mosaic": Parser(_mosaics, _file("file"), _read_mosaic),
    "image": Parser(_images, _file("file"), _read_image, READ_ERRORS, megabytes=1500),
    "sound": Parser(_sounds, _file("file"), _read_sound, READ_ERRORS),
    "checkpoint": Parser(_checkpoints, _write_checkpoint, _read_checkpoint),
    "codec": Parser(
        _codec_folders, _folder({"weights.safetensors": "sha256", "refiner.safetensors": "refiner_sha256"}), _read_codec
    ),
    "model": Parser(_models, _folder({"model.safetensors": "sha256"}), wt.load_model),
    "learned": Parser(_learned, _folder({"model.safetensors": "sha256"}), _read_learned),
    "dataset": Parser(_datasets, _write_dataset, _read_dataset),
}
"""By name. Other libraries decode images and sound: errors of the operating system's kind are theirs, and right.

Pillow takes memory for as many pixels as a file says it has, up to its limit: 179 million of three bytes, twice.
"""

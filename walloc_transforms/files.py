"""Codec folders, ``config.json`` and ``weights.safetensors``: written atomically, and checked before being believed."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .config import CodecConfig

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "read_codec", "write_codec"]

FORMAT = "walloc_transforms.codec"
FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"


def write_codec(folder: str | os.PathLike[str], config: CodecConfig, state: Mapping[str, Tensor]) -> None:
    """Write both files, each atomically; the config carries the SHA-256 of the weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({k: v.cpu().contiguous() for k, v in state.items()})
    header = {"format": FORMAT, "version": FORMAT_VERSION, "sha256": hashlib.sha256(weights).hexdigest()}
    text = json.dumps({**header, **dataclasses.asdict(config)}, indent=2) + "\n"
    _write_atomically(folder / WEIGHTS_FILE, weights)
    _write_atomically(folder / CONFIG_FILE, text.encode())


def read_codec(folder: str | os.PathLike[str]) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Read what :func:`write_codec` wrote.

    Raises:
        FileNotFoundError: The folder or one of its two files is missing.
        ValueError: A file is damaged, of another format or version, or the two do not belong together.
    """
    folder = Path(folder)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} is no codec folder: it has no {file}")
    fields = _read_config(folder / CONFIG_FILE)
    weights = (folder / WEIGHTS_FILE).read_bytes()
    if hashlib.sha256(weights).hexdigest() != fields.pop("sha256"):
        raise ValueError(f"{folder / WEIGHTS_FILE} is damaged or belongs to another config: "
                         f"its SHA-256 is not the one {CONFIG_FILE} names")  # fmt: skip
    config = CodecConfig(**fields)
    try:
        state = safetensors.torch.load(weights)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} is no safetensors file: {error}") from error
    _check_state(state, config, folder / WEIGHTS_FILE)
    return config, state


def _read_config(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file: {error}") from error
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise ValueError(f"{file} does not describe a codec: expected format {FORMAT!r}")
    version = fields.pop("version", None)
    if version != FORMAT_VERSION:
        raise ValueError(f"{file} is of version {version!r}: this release reads version {FORMAT_VERSION}")
    known = {field.name for field in dataclasses.fields(CodecConfig)} | {"sha256"}
    if fields.keys() != known:
        missing, unknown = sorted(known - fields.keys()), sorted(fields.keys() - known)
        raise ValueError(f"{file}: missing fields {missing}, unknown fields {unknown}")
    return fields


def _check_state(state: dict[str, Tensor], config: CodecConfig, file: Path) -> None:
    """Compare names, shapes and values with the config, before memory is taken on the config's word."""
    d, p = config.channels, config.packets
    shapes = {"weight": (d, p), "bias": (d,), "decoder.weight": (p, d), "decoder.bias": (p,), "latent_mean": (d,),
              "latent_std": (d,)}  # fmt: skip
    if state.keys() != shapes.keys():
        missing, unexpected = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
        raise ValueError(f"{file} does not fit {CONFIG_FILE}: missing tensors {missing}, unexpected {unexpected}")
    for name, shape in shapes.items():
        value = state[name]
        if tuple(value.shape) != shape:
            raise ValueError(f"{file} does not fit {CONFIG_FILE}: {name} has shape {tuple(value.shape)}, not {shape}")
        if value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ValueError(f"{file}: {name} must hold finite float32 values")
    if not (state["latent_std"] > 0).all():
        raise ValueError(f"{file}: latent_std must be positive")


def _write_atomically(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()

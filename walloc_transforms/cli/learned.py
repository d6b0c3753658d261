"""What `encode`, `decode` and `info` do for the codec `weconvene:CHECKPOINT` and the files that it compresses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..files import IMAGE_SUFFIXES, read_signal, write_signal
from ..signals import to_float
from ..weconvene import (
    SUFFIX,
    WeConvene,
    fingerprint,
    load_checkpoint,
    read_compressed,
    read_compressed_header,
    write_compressed,
)
from .outputs import Outputs
from .work import Report, find_or_fail, pixel_limit

__all__ = ["SUFFIX", "checkpoint_of", "compress", "decompress", "describe_compressed", "describe_model"]

_PREFIX = "weconvene:"


def checkpoint_of(codec: str | None) -> Path | None:
    """Return the checkpoint that `weconvene:CHECKPOINT` names; None for the name of any other codec."""
    if codec is None or not codec.startswith(_PREFIX):
        return None
    return Path(codec.removeprefix(_PREFIX))


def describe_compressed(file: Path) -> Mapping[str, Any]:
    """Describe a file, without decoding it."""
    header, size = read_compressed_header(file), file.stat().st_size
    return {
        **vars(header),
        "file": f"{size} bytes, {8 * size / (header.size[0] * header.size[1]):.3f} bits per pixel",
    }


def describe_model(checkpoint: Path) -> Mapping[str, Any]:
    """Describe a model."""
    model = load_checkpoint(checkpoint)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {**model.config, "parameters": f"{count:,}", "model": fingerprint(model)}


def compress(inputs: tuple[Path, ...], output: Path, checkpoint: Path, *, max_pixels: int | None, force: bool) -> int:
    """Compress photographs to `.wcv` files."""
    model, name = _load(checkpoint)
    report = Report()
    sources = find_or_fail(inputs, IMAGE_SUFFIXES, report)
    outputs = Outputs(sources, inputs, output, {"model": name}, force, report)
    if outputs.single and output.suffix.lower() != SUFFIX:
        raise ValueError(
            f"WeConvene compresses to {SUFFIX} files, got --output {output}: to name a folder, make it first"
        )

    def write(source: Path, target: Path) -> None:
        image = to_float(read_signal(source, "image", 3, report.notices)[0], "image")
        write_compressed(target, model.compress(image[None])[0], name)

    with pixel_limit(max_pixels):
        for source, relative in tqdm(sources, unit="file", disable=None):
            with report.noted(source):
                outputs.make(source, relative, SUFFIX, lambda target, source=source: write(source, target))
    return report.exit_code()


def decompress(inputs: tuple[Path, ...], output: Path, checkpoint: Path, *, max_pixels: int | None, force: bool) -> int:
    """Decode `.wcv` files to images."""
    model, name = _load(checkpoint)
    report = Report()
    sources = find_or_fail(inputs, (SUFFIX,), report)
    report.left_out.clear()  # whoever decodes a folder means its compressed images
    outputs = Outputs(sources, inputs, output, {"model": name}, force, report)

    def write(source: Path, target: Path) -> None:
        compressed = read_compressed(source, name)
        try:
            [image] = model.decompress([compressed])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        write_signal(target, image, None)

    with pixel_limit(max_pixels):
        for source, relative in tqdm(sources, unit="file", disable=None):
            with report.noted(source):
                outputs.make(source, relative, ".png", lambda target, source=source: write(source, target))
    return report.exit_code()


def _load(checkpoint: Path) -> tuple[WeConvene, str]:
    model = load_checkpoint(checkpoint)
    model.requires_grad_(False)
    # What is missing fails before any file is read.
    model.decompress(model.compress(torch.zeros(1, 3, 1, 1)))
    return model, fingerprint(model)

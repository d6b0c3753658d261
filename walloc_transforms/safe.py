"""Write files that are there whole or not at all, and check tensors before they are used."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["check_tensors", "write_atomically"]


def check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare the names, shapes and values of tensors with those that are expected.

    Args:
        state: The tensors by name.
        shapes: The expected shapes by name.
        what: Where the tensors come from, for messages.

    Raises:
        ValueError: A tensor is missing, unexpected, of another shape, not float32 or not finite; it is named.
    """
    if state.keys() != shapes.keys():
        missing, unexpected = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
        raise ValueError(f"{what} does not fit its config: missing tensors {missing}, unexpected {unexpected}")
    for name, shape in shapes.items():
        value = state[name]
        if tuple(value.shape) != shape:
            raise ValueError(f"{what} does not fit its config: {name} has shape {tuple(value.shape)}, not {shape}")
        if value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ValueError(f"{what}: {name} must hold finite float32 values")


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: under a temporary name, then renamed."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()

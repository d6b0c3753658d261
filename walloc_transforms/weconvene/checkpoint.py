"""Save models, load them again, and load the checkpoints of the reference implementation.

    config.json          the arguments of the model, and the SHA-256 of the other file and of its own fields
    model.safetensors    all weights, and the integer tables of the hyper latents, which code the same on every machine

A file is a checkpoint of the reference: ``.pth``, whose pickle is not run, or its state dict as ``.safetensors``.
``translation.py`` knows the names in it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .. import sealed
from ..safe import check_tensors, escaped, listed, shown
from ..zoo import LazyTensor, read_checkpoint
from .model import WeConvene, hash_tensors
from .translation import TABLES, find_arguments, translate

__all__ = ["fingerprint", "load_checkpoint", "save"]

FORMAT, VERSION = "walloc_transforms.weconvene", 1
CONFIG_FILE, MODEL_FILE = "config.json", "model.safetensors"
_KINDS = {"n": int, "m": int, "slices": int, "wavelet": str, "weconv": bool, "wecharm": bool, "blocks": int}
LARGEST: dict[str, int] = {"n": 4096, "m": 4096, "slices": 64, "blocks": 16}


def save(model: WeConvene, folder: str | os.PathLike[str]) -> None:
    """Write a model to a folder, each file atomically.

    A model without tables for its hyper latents gets them. Decoding needs the very same tables.

    Args:
        model: The model, in evaluation mode.
        folder: The folder; it is made if it does not exist.

    Raises:
        ValueError: The model is in training mode, not in float32, or holds values that are not finite.

    Example:
        >>> import os, tempfile, walloc_transforms as wt
        >>> model = wt.weconvene.WeConvene(n=4, m=4, slices=1, blocks=0).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wt.weconvene.save(model, folder)
        ...     again = wt.weconvene.load_checkpoint(folder)
        ...     sorted(os.listdir(folder)), wt.weconvene.fingerprint(again) == wt.weconvene.fingerprint(model)
        (['config.json', 'model.safetensors'], True)
    """
    state = _finished_state(model)
    if halves := [name for name, value in state.items() if value.is_floating_point() and value.dtype != torch.float32]:
        raise ValueError(
            f"a model in float32 is saved, call float() first: got {state[halves[0]].dtype} in {listed(halves)}"
        )
    wrong = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        raise ValueError(f"a model of finite weights is saved, got NaN or infinite values in {listed(wrong)}")
    folder = Path(folder)
    with sealed.writing(folder):
        header = {"format": FORMAT, "version": VERSION, "sha256": sealed.write_tensors(folder / MODEL_FILE, state)}
        sealed.write_config(folder / CONFIG_FILE, {**header, **model.config})


def fingerprint(model: WeConvene) -> str:
    """Compute what tells models apart: the SHA-256 of the arguments, weights and tables, 64 hexadecimal digits.

    A file that a model compressed names it, and other models refuse the file. All of the model counts: two that differ
    in their encoders alone are two models. It takes about a second per gigabyte of weights.

    Args:
        model: The model, in evaluation mode. One without tables for its hyper latents gets them.

    Raises:
        ValueError: The model is in training mode.

    Example:
        >>> import walloc_transforms as wt
        >>> len(wt.weconvene.fingerprint(wt.weconvene.WeConvene(n=4, m=4, slices=1, blocks=0).eval()))
        64
    """
    return hash_tensors(_finished_state(model), json.dumps(model.config, sort_keys=True))


def _finished_state(model: WeConvene) -> dict[str, Tensor]:
    if model.training:
        raise ValueError("the model is being trained: call eval() first")
    if not len(model.prior.lengths):
        model.prior.update()
    return model.state_dict()


def load_checkpoint(path: str | os.PathLike[str]) -> WeConvene:
    """Load a model; no pickle is run.

    The tables of a reference checkpoint are made here, from floats. Save the model, and use the folder from then on,
    so that every machine has the same tables.

    Args:
        path: A folder that :func:`save` wrote; or a checkpoint of the reference implementation, ``.pth`` or
            ``.safetensors``, with the names of any version of CompressAI, with or without ``module.`` before them.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: There is no such file, or the folder is not complete.
        ValueError: A file is damaged or of another format, or tensors are missing, unexpected, or of another shape
            than the model has; the message names the first.

    Example:
        >>> import tempfile, walloc_transforms as wt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wt.weconvene.save(wt.weconvene.WeConvene.preset("tiny").eval(), folder)
        ...     wt.weconvene.load_checkpoint(folder).config["m"]
        48
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}: expected a checkpoint of WeConvene")
    return _load_reference(path)


def _load_folder(folder: Path) -> WeConvene:
    for file in (CONFIG_FILE, MODEL_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} is no folder of a WeConvene model: it has no {file}")
    arguments, sha256 = _read_config(folder / CONFIG_FILE)
    state, what = sealed.read_tensors(folder / MODEL_FILE, sha256), str(folder / MODEL_FILE)
    model = _build(arguments, str(folder / CONFIG_FILE))
    tables = {name: state.pop(name) for name in TABLES if name in state}
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in TABLES}
    check_tensors(state, expected, what)
    for name in TABLES:
        if name not in tables or tables[name].dtype != torch.int32 or tables[name].ndim != 1:
            raise ValueError(f"{what}: {name} must be a row of int32 values, which save() writes")
    return _finished(model, {**state, **tables}, what)


def _read_config(file: Path) -> tuple[dict[str, Any], object]:
    fields = sealed.read_config(file, "a WeConvene model", FORMAT, (VERSION,))
    del fields["version"]
    sha256 = fields.pop("sha256", None)
    if {name: type(value) for name, value in fields.items()} != _KINDS:
        expected = ", ".join(f"{name} ({kind.__name__})" for name, kind in _KINDS.items())
        raise ValueError(f"{file}: expected the fields {expected}, got {listed(fields)} or values of other types")
    return fields, sha256


def _load_reference(file: Path) -> WeConvene:
    given: dict[str, Any]
    if file.suffix.lower() == ".safetensors":
        try:
            given = dict(safetensors.torch.load_file(file))
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is no safetensors file: {escaped(str(error))[:200]}") from error
        if TABLES[0] in given:
            raise ValueError(f"{file} is part of a folder: give the folder, whose {CONFIG_FILE} describes the model")
    else:
        content = read_checkpoint(file)
        given = content.get("state_dict", content)
        if not isinstance(given, Mapping) or not all(
            isinstance(name, str) and isinstance(value, LazyTensor) for name, value in given.items()
        ):
            raise ValueError(f"{file} holds no state_dict of tensors: expected a checkpoint of WeConvene")
        cost, size = sum(value.cost for value in given.values()), file.stat().st_size
        if cost > size:  # many tensors of one storage would multiply it
            raise ValueError(f"{file} has {size} bytes, and its tensors {cost}: they overlap")
    try:
        model = _build(find_arguments(given), str(file))
        state = translate(given, model)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in TABLES}
    check_tensors(state, expected, str(file))
    none = torch.empty(0, dtype=torch.int32)
    return _finished(model, {**state, **dict.fromkeys(TABLES, none)}, str(file))


def _build(arguments: Mapping[str, Any], what: str) -> WeConvene:
    """Make the model on the meta device, where it costs nothing."""
    for name, most in LARGEST.items():
        if arguments.get(name, 0) > most:
            raise ValueError(f"{what}: {name} must be at most {most}, got {shown(arguments[name])}")
    try:
        with torch.device("meta"):
            return WeConvene(**arguments)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _finished(model: WeConvene, state: Mapping[str, Tensor], what: str) -> WeConvene:
    model.load_state_dict(state, assign=True)
    model.eval()
    if not len(model.prior.lengths):
        model.prior.update()
    try:
        model.prior.tables()
    except ValueError as error:
        raise ValueError(f"{what}: the tables of the hyper latents are damaged: {error}") from error
    return model

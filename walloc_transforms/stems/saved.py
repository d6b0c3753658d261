"""Save a timm model whose stem was replaced, and load it again, in one call each.

save_model(model, "my_model")
model = load_model("my_model")        # or a Hugging Face repository of these two files

config.json          name of the backbone, the arguments it was made with, the codec, the options of the stem
model.safetensors    all weights, those of the codec among them
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from ..codec import Codec, CodecConfig
from ..safe import write_atomically
from ..zoo import fetch
from .layers import WallocStem, find_stem
from .replace import plan_replacement, put_stem

__all__ = ["load_model", "save_model"]

FORMAT, VERSION = "walloc_transforms.model", 2
CONFIG_FILE, MODEL_FILE = "config.json", "model.safetensors"


def save_model(
    model: nn.Module, folder: str | os.PathLike[str], *, model_args: Mapping[str, Any] | None = None
) -> None:
    """Write a model to a folder, each file atomically.

    Args:
        model: A model of ``replace_stem`` or ``fit_stem``.
        folder: The folder; upload it with ``huggingface_hub.upload_folder`` to share the model.
        model_args: What ``timm.create_model`` was given besides the name and ``num_classes``, such as ``img_size``: a
            model does not remember it.

    Raises:
        ValueError: The model has no WaLLoC stem or does not know its architecture, or ``model_args`` make another model
            than this one; the message names the first difference.

    Example:
        >>> import os, tempfile, timm, walloc_transforms as wt
        >>> model = wt.replace_stem(timm.create_model("resnet18", num_classes=7), "rgb_16x")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wt.save_model(model, folder)
        ...     sorted(os.listdir(folder)), wt.load_model(folder).walloc == model.walloc
        (['config.json', 'model.safetensors'], True)
    """
    stem = find_stem(model)
    info, name = getattr(model, "walloc", None), (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if info is None or not isinstance(name, str):
        raise ValueError(f"this {type(model).__name__} was not made by timm.create_model and replace_stem")
    arguments = {"num_classes": getattr(model, "num_classes", None), **(model_args or {})}
    options = {
        "bias": stem.proj.bias is not None,
        "trainable_codec": stem.trainable_codec,
        "neighbors": stem.neighbors,
        "expand": stem.expand,
    }
    fields = {
        "architecture": name,
        "model_args": arguments,
        "codec": dataclasses.asdict(stem.codec.config),
        "input": info.input,
        "match": info.match,
        "stem": options,
    }
    try:
        fields = json.loads(json.dumps(fields))
    except TypeError as error:
        raise ValueError(f"model_args must be plain values, for a JSON file: {error}") from error
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    _compare(
        _build(fields).state_dict(), state, f"timm.create_model({name!r}) with model_args={dict(model_args or {})}"
    )
    content = safetensors.torch.save(state)
    header = {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(content).hexdigest()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MODEL_FILE, content)
    write_atomically(folder / CONFIG_FILE, (json.dumps({**header, **fields}, indent=2) + "\n").encode())


def load_model(folder: str | os.PathLike[str], *, revision: str | None = None) -> nn.Module:
    """Load a model that :func:`save_model` wrote; no pickle is read, and nothing else is downloaded.

    Args:
        folder: The folder, or a Hugging Face repository ``"owner/name"``.
        revision: Branch, tag or commit of the repository.

    Returns:
        The model, in evaluation mode, as timm loads one.

    Raises:
        FileNotFoundError: The folder is not complete.
        ValueError: A file is damaged, of another format or version, or they do not belong together.
        ConnectionError: The repository could not be read.

    Example:
        >>> import tempfile, timm, walloc_transforms as wt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wt.save_model(wt.replace_stem(timm.create_model("resnet18", num_classes=7), "rgb_16x"), folder)
        ...     type(wt.load_model(folder)).__name__
        'ResNet'
    """
    path = Path(folder)
    if not path.is_dir() and isinstance(folder, str) and folder.count("/") == 1 and not folder.startswith((".", "/")):
        path = fetch(folder, CONFIG_FILE, revision).parent
        fetch(folder, MODEL_FILE, revision)
    for file in (CONFIG_FILE, MODEL_FILE):
        if not (path / file).is_file():
            raise FileNotFoundError(f"{path} is no folder of a model: it has no {file}")
    fields = _read_config(path / CONFIG_FILE)
    content = (path / MODEL_FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != fields["sha256"]:
        raise ValueError(
            f"{path / MODEL_FILE} is damaged or belongs to another config: its SHA-256 is not the one "
            f"{CONFIG_FILE} names"
        )
    try:
        state = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path / MODEL_FILE} is no safetensors file: {error}") from error
    try:
        model = _build(fields)
    except (TypeError, RuntimeError, AssertionError) as error:  # of timm, for arguments that it does not take
        raise ValueError(f"{path / CONFIG_FILE}: no such model can be built: {error}") from error
    _compare(model.state_dict(), state, str(path / MODEL_FILE))
    model.load_state_dict(state, assign=True)  # in the precision it was saved in
    return model.eval()


def _build(fields: Mapping[str, Any]) -> Any:
    """Make the model that a config describes, with random weights; the program's random numbers stay as they are."""
    codec = Codec(CodecConfig(**fields["codec"]))
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(fields["architecture"], **fields["model_args"])
        plan = plan_replacement(model, codec, fields["match"])
        place: dict[str, Any] = {"stride": plan.stride, "output_fmt": plan.family.output_fmt, "input": fields["input"]}
        put_stem(model, plan, WallocStem(codec, plan.channels, **place, **fields["stem"]))
    return model


def _read_config(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ValueError(f"{file} does not describe a model with a WaLLoC stem: expected format {FORMAT!r}")
    if fields.get("version") == 1 and isinstance(fields.get("stem"), dict) and "neighbours" in fields["stem"]:
        # Version 1 named one option otherwise. Its weights hold: a stem's projection reads latents, whatever range
        # pixels had.
        fields["stem"]["neighbors"] = fields["stem"].pop("neighbours")
        fields["version"] = VERSION
    if fields.get("version") != VERSION:
        raise ValueError(f"{file} is of version {fields.get('version')!r}: this release reads versions 1 and {VERSION}")
    kinds = {
        "sha256": str,
        "architecture": str,
        "model_args": dict,
        "codec": dict,
        "input": str,
        "match": str,
        "stem": dict,
    }
    if fields.keys() != {"format", "version", *kinds}:
        raise ValueError(f"{file}: expected the fields {sorted(kinds)}, got {sorted(fields)}")
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            raise ValueError(f"{file}: {name} must be of type {kind.__name__}, got {fields[name]!r}")
    if not timm.is_model(fields["architecture"]):  # so that it cannot name a download
        raise ValueError(f"{file}: timm has no model {fields['architecture']!r}")
    refused = _LOADING & fields["model_args"].keys()
    if refused:
        raise ValueError(f"{file}: model_args may not ask for other weights: {sorted(refused)}")
    if fields["stem"].keys() != {"bias", "trainable_codec", "neighbors", "expand"}:
        raise ValueError(f"{file}: unknown options of the stem: {sorted(fields['stem'])}")
    known = {field.name for field in dataclasses.fields(CodecConfig)}
    if fields["codec"].keys() != known:
        raise ValueError(f"{file}: the codec must have the fields {sorted(known)}, got {sorted(fields['codec'])}")
    return fields


_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    if expected.keys() != state.keys():
        missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        raise ValueError(f"{what} makes another model: missing tensors {missing[:4]}, unexpected {unexpected[:4]}")
    for name, value in expected.items():
        if value.shape != state[name].shape:
            raise ValueError(
                f"{what} makes another model: {name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
            )

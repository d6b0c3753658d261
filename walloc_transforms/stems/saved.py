"""Save a timm model whose stem was replaced, and load it again, in one call each.

save_model(model, "my_model")
model = load_model("my_model")        # or a Hugging Face repository of these two files

config.json          name of the backbone, the arguments it was made with, the codec, the options of the stem
model.safetensors    all weights, those of the codec among them
"""

import contextlib
import dataclasses
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from .. import sealed
from ..codec import Codec, CodecConfig
from ..safe import escaped, listed, shown
from ..zoo import fetch
from .adapter import Adapter, AdapterShape
from .layers import WallocStem, find_stem
from .replace import plan_replacement, put_stem

__all__ = ["load_model", "save_model"]

FORMAT, VERSION = "walloc_transforms.model", 5
CONFIG_FILE, MODEL_FILE = "config.json", "model.safetensors"
MAX_ARGUMENTS = 1 << 22
"""What the numbers in ``model_args`` may add up to, sizes of windows with their fourth power: timm makes lists of as
many blocks, and of all pairs of cells in a window."""
_PREPARATION: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("input_size", "test_input_size"), list),
    **dict.fromkeys(("crop_pct", "test_crop_pct"), (int, float)),
    **dict.fromkeys(("crop_mode", "interpolation"), str),
}
"""What timm's pipelines take from ``pretrained_cfg``, and as what JSON holds it."""
_SLACK = 64 << 20  # bytes that a model may take besides those of its weights


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
        ValueError: The model has no WaLLoC stem, is none of timm's or does not know its architecture, or ``model_args``
            make another model than this one; the message names the first difference.

    Example:
        >>> import os, tempfile, timm, walloc_transforms as wt
        >>> model = wt.replace_stem(timm.create_model("resnet18", num_classes=7), "rgb_16x")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wt.save_model(model, folder)
        ...     sorted(os.listdir(folder)), wt.load_model(folder).walloc == model.walloc
        (['config.json', 'model.safetensors'], True)
    """
    stem = find_stem(model)
    info, config = getattr(model, "walloc", None), getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture")
    if info is not None and len(info.pixels_shape) == 4:
        raise ValueError(
            f"only models of timm can be saved so, this {type(model).__name__} is a video model: save its state_dict, "
            "and load it into a model of the same replace_stem"
        )
    if info is None or not isinstance(name, str):
        raise ValueError(f"this {type(model).__name__} was not made by timm.create_model and replace_stem")
    arguments = {"num_classes": getattr(model, "num_classes", None), **(model_args or {})}
    options = {
        "bias": stem.proj.bias is not None,
        "trainable_codec": stem.trainable_codec,
        "neighbors": stem.neighbors,
        "expand": stem.expand,
        "adapter": dataclasses.asdict(stem.adapter.shape) if isinstance(stem.adapter, Adapter) else None,
    }
    fields = {
        "architecture": name,
        "model_args": arguments,
        "codec": dataclasses.asdict(stem.codec.config),
        "input": info.input,
        "match": info.match,
        "cut": info.cut if info.match == "entry" else None,
        "agreement": info.agreement,
        "pixels_before": info.pixels_before,
        "pretrained_cfg": {key: config[key] for key in _PREPARATION if config.get(key) is not None},
        "stem": options,
    }
    try:
        fields = json.loads(json.dumps(fields, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"model_args must be plain values, for a JSON file: {error}") from error
    state = {
        key: value.detach().cpu()
        for key, value in model.state_dict().items()
        if not re.search(r"(^|\.)codec\.refiner\.", key)  # which is loaded only where somebody decoded by it
    }
    what = f"timm.create_model({name!r}) with model_args={dict(model_args or {})}"
    _check_arguments(fields["model_args"], what)
    made = _build(fields, state, what)
    _compare(made.state_dict(), state, what)
    if made.walloc != info:
        raise ValueError(f"{what} makes another model: {made.walloc}, not {info}")
    folder = Path(folder)
    with sealed.writing(folder):
        header = {"format": FORMAT, "version": VERSION, "sha256": sealed.write_tensors(folder / MODEL_FILE, state)}
        sealed.write_config(folder / CONFIG_FILE, {**header, **fields})


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
    what = str(path / MODEL_FILE)
    state = sealed.read_tensors(path / MODEL_FILE, fields["sha256"])
    try:
        model = _build(fields, state, what)
    except ImportError:  # of diffusers, for a codec whose encoder is a network
        raise
    except Exception as error:  # whatever timm raises for arguments that it does not take
        reason = escaped(f"{error}"[:300])
        raise ValueError(
            f"{path / CONFIG_FILE}: no such model can be built: {type(error).__name__}: {reason}"
        ) from error
    _compare(model.state_dict(), state, what)
    model.load_state_dict(state, assign=True)  # in the precision it was saved in
    return model.eval()


def _build(fields: Mapping[str, Any], state: Mapping[str, Tensor], what: str) -> Any:
    """Make the model that a config describes, with random weights; the program's random numbers stay as they are.

    First it is made on the meta device, where it costs nothing. It is made in earnest only if its size is that of the
    weights.

    Raises:
        ValueError: The codec does not fit its tensors, or the model is much larger than the weights.
    """
    prefix = next((name for name in state if name.endswith("codec.latent_mean")), "").removesuffix("latent_mean")
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    codec = Codec.from_tensors(
        CodecConfig(**fields["codec"]), own, dict.fromkeys(("decoder", "refiner"), _absent), what
    )
    arguments = dict(fields["model_args"])
    if fields["pixels_before"]:  # else the size is that of the architecture's default tag
        arguments["pretrained_cfg_overlay"] = {"input_size": tuple(fields["pixels_before"])}
    with torch.random.fork_rng(devices=[]), _few_modules(state):
        with torch.device("meta"):
            model: Any = timm.create_model(fields["architecture"], **arguments)
            plan = plan_replacement(model, codec, fields["match"], cut=fields["cut"])
        options = {"stride": plan.strides, "output_fmt": plan.family.output_fmt, "input": fields["input"]}
        options |= fields["stem"]
        if options["adapter"] is not None:
            options["adapter"] = AdapterShape(**options["adapter"])
        stem = WallocStem(codec, plan.channels, **options, device="meta")
        tensors = [*model.parameters(), *model.buffers(), *stem.adapter.parameters(), *stem.proj.parameters()]
        needed, given = (sum(t.numel() * t.element_size() for t in ts) for ts in (tensors, state.values()))
        if needed > 4 * given + _SLACK:  # weights may be of half precision, and lack what the stem replaced
            raise ValueError(f"the model takes {needed / 1e6:,.0f} MB, its weights {given / 1e6:,.0f} MB")
        model = timm.create_model(fields["architecture"], **arguments)
        put_stem(model, plan, WallocStem(codec, plan.channels, **options))
        model.pretrained_cfg.update(fields["pretrained_cfg"])
        model.walloc = dataclasses.replace(model.walloc, agreement=fields["agreement"])
        return model


def _absent() -> NoReturn:
    """Stand for a decoder network and a refiner of the codec: without them, it would decode by random ones."""
    raise ValueError(
        "a saved model holds no decoder network or refiner of its codec: decode by that codec, loaded by itself"
    )


@contextlib.contextmanager
def _few_modules(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Let this thread make some modules for every tensor, but not millions: each takes time, on any device."""
    left, thread = 4 * len(state) + 1000, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal left
        if threading.get_ident() == thread:
            left -= 1
            if left < 0:
                raise ValueError(f"the model has far more modules than its {len(state)} tensors need")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _read_config(file: Path) -> dict[str, Any]:
    fields = sealed.read_config(file, "a model with a WaLLoC stem", FORMAT, tuple(range(1, VERSION + 1)))
    version = fields.pop("version")
    if version < 5:  # there was no size
        fields = {"pixels_before": [], "pretrained_cfg": {}, **fields}
    if version < 4 and isinstance(fields.get("stem"), dict):  # there were no adapters
        fields = {"cut": None, "agreement": None, **fields}
        fields["stem"].setdefault("adapter", None)
        if "neighbours" in fields["stem"]:
            # Version 1 named one option otherwise. Its weights hold: a stem's projection reads latents, whatever range
            # pixels had.
            fields["stem"]["neighbors"] = fields["stem"].pop("neighbours")
    kinds: dict[str, Any] = {
        "sha256": str,
        "architecture": str,
        "model_args": dict,
        "codec": dict,
        "input": str,
        "match": str,
        "cut": str | None,
        "agreement": float | None,
        "pixels_before": list,
        "pretrained_cfg": dict,
        "stem": dict,
    }
    if fields.keys() != kinds.keys():
        raise ValueError(f"{file}: expected the fields {listed(kinds)}, got {listed(fields)}")
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            expected = getattr(kind, "__name__", kind)
            raise ValueError(f"{file}: {name} must be of type {expected}, got {shown(fields[name])}")
    # So that it cannot name a download.
    if not re.fullmatch(r"\w+", fields["architecture"]) or not timm.is_model(fields["architecture"]):
        raise ValueError(f"{file}: timm has no model {shown(fields['architecture'])}")
    sizes = [fields["pixels_before"]] if fields["pixels_before"] else []
    sizes += [size for key, size in fields["pretrained_cfg"].items() if key.endswith("_size")]
    for size in sizes:
        if not (isinstance(size, list) and len(size) == 3 and all(type(side) is int and side > 0 for side in size)):
            raise ValueError(f"{file}: sizes of images must be [C, H, W], got {escaped(str(size)[:200])}")
    _check_arguments({**fields["model_args"], "pixels_before": fields["pixels_before"]}, str(file))
    for key, value in fields["pretrained_cfg"].items():
        if key not in _PREPARATION or not isinstance(value, _PREPARATION[key]):
            raise ValueError(f"{file}: unknown entry of pretrained_cfg: {shown(key)} = {shown(value)}")
        fields["pretrained_cfg"][key] = tuple(value) if isinstance(value, list) else value
    if fields["agreement"] is not None and not 0 <= fields["agreement"] <= 1:
        raise ValueError(f"{file}: agreement must be from 0 to 1, got {shown(fields['agreement'])}")
    options = {"bias": bool, "trainable_codec": bool, "neighbors": int, "expand": bool}
    adapter = fields["stem"].get("adapter")
    options["adapter"] = dict if isinstance(adapter, dict) else type(None)
    if {name: type(value) for name, value in fields["stem"].items()} != options:
        raise ValueError(f"{file}: unknown options of the stem: {listed(fields['stem'])}")
    known = {field.name for field in dataclasses.fields(CodecConfig)}
    if fields["codec"].keys() != known:
        raise ValueError(f"{file}: the codec must have the fields {sorted(known)}, got {listed(fields['codec'])}")
    return fields


_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
_PLACING = {"device", "dtype"}  # which would make what is to be made on the meta device elsewhere


def _check_arguments(arguments: Mapping[str, Any], what: str) -> None:
    if refused := (_LOADING | _PLACING) & arguments.keys():
        raise ValueError(f"{what}: model_args may not ask for other weights or a device: {sorted(refused)}")
    if (total := _sum_of_numbers(arguments)) > MAX_ARGUMENTS:
        raise ValueError(
            f"{what}: the numbers in model_args must add up to at most {MAX_ARGUMENTS:,} "
            f"(walloc_transforms.stems.saved), got {total:.4g}"
        )


def _sum_of_numbers(arguments: Mapping[str, Any]) -> float:
    left: list[tuple[str, Any]] = [("", arguments)]
    total = 0.0
    while left:  # a loop, as a file may nest more deeply than functions
        name, value = left.pop()
        if isinstance(value, Mapping):
            left += value.items()
        elif isinstance(value, list):
            left += [(name, inner) for inner in value]
        elif isinstance(value, int | float):
            total += float(min(abs(value), 2**64)) ** (4 if "window" in name else 1)
    return total


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    if expected.keys() != state.keys():
        missing, unexpected = listed(expected.keys() - state.keys()), listed(state.keys() - expected.keys())
        raise ValueError(f"{what} makes another model: missing tensors {missing}, unexpected {unexpected}")
    for name, value in expected.items():
        given = state[name]
        if value.shape != given.shape:
            found = str(tuple(given.shape))[:200]
            raise ValueError(f"{what} makes another model: {name} has shape {found}, not {tuple(value.shape)}")
        floats = value.is_floating_point() and given.is_floating_point() and given.element_size() > 1
        if given.dtype != value.dtype and not floats:
            raise ValueError(f"{what} makes another model: {name} is of {given.dtype}, not {value.dtype}")

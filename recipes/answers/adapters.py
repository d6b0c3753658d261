"""What ``distill_stem`` has learned for a network, in a small file beside the recipe; the network is not in it.

    keep_adapter(model, network, file, command)       adapter and projection, in half precision
    model = with_adapter(network, file)               the network with them, reading latents

The file is a safetensors file. Its metadata say what they belong to: the network, by a hash of its weights; the codec,
by its fingerprint; where the stem stands, and how it was trained. ``shipped`` finds those that come with the recipe.
"""

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import walloc_transforms as wt
from walloc_transforms.safe import write_atomically
from walloc_transforms.stems import Adapter, AdapterShape, plan_replacement, put_stem

FOLDER = Path(__file__).parent / "adapters"
_KEY = "walloc_adapter"


def shipped(network: nn.Module, codec: wt.Codec) -> Path | None:
    """Find the adapter that comes with the recipe for a network and a codec."""
    own = hash_of(network)
    for file in sorted(FOLDER.glob("*.safetensors")):
        about = describe(file)
        if (about["network"], about["fingerprint"]) == (own, codec.fingerprint()):
            return file
    return None


def keep_adapter(model: Any, network: nn.Module, file: Path, command: str) -> int:
    """Write what makes a distilled model of a network.

    Args:
        model: From ``distill_stem(match="entry")``, the trunk frozen.
        network: What it was made from.
        file: The file.
        command: What trained it.

    Returns:
        The number of bytes written.

    Raises:
        ValueError: The model differs from the network elsewhere too.
    """
    stem = stem_of(model)
    before = network.state_dict()
    prefix = next(name for name, module in model.named_modules() if module is stem)
    changed = [
        name
        for name, value in model.state_dict().items()
        if not name.startswith(f"{prefix}.") and not (name in before and torch.equal(value, before[name]))
    ]
    if changed or not isinstance(stem.adapter, Adapter):
        raise ValueError(
            f"{len(changed)} tensors beside the stem were trained too, such as {changed[0]}: save the whole model"
            if changed
            else "the stem has no adapter: save the whole model"
        )
    about = {
        "network": hash_of(network),
        "architecture": model.pretrained_cfg["architecture"],
        "codec": model.walloc.codec,
        "fingerprint": stem.codec.fingerprint(),
        "cut": model.walloc.cut,
        "shape": dataclasses.asdict(stem.adapter.shape),
        "expand": stem.expand,
        "agreement": model.walloc.agreement,
        "command": command,
    }
    tensors = {name: _half(value) for name, value in _own(stem).items()}
    content = safetensors.torch.save(tensors, {_KEY: json.dumps(about)})
    write_atomically(file, content, durable=True)
    return len(content)


def describe(file: Path) -> dict[str, Any]:
    """Read what a file says of itself.

    Raises:
        ValueError: It is no file of an adapter.
    """
    try:
        with safetensors.safe_open(file, "pt") as opened:
            return json.loads(opened.metadata()[_KEY])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no adapter that python -m recipes.pretrained --keep-adapter wrote") from error


def with_adapter(network: nn.Module, file: Path) -> nn.Module:
    """Copy a network and let it read latents through an adapter.

    Raises:
        ValueError: The adapter is of another network or codec, or its tensors are of another shape.
    """
    about = describe(file)
    codec = wt.load_codec(about["codec"])
    if (hash_of(network), codec.fingerprint()) != (about["network"], about["fingerprint"]):
        raise ValueError(f"{file} belongs to another network or codec: to {about['architecture']} and {about['codec']}")
    model = copy.deepcopy(network)
    plan = plan_replacement(model, codec, "entry", cut=about["cut"])
    stem = wt.WallocStem(
        codec,
        plan.channels,
        stride=plan.strides,
        input="latents",
        output_fmt=plan.family.output_fmt,
        expand=about["expand"],
        adapter=AdapterShape(**about["shape"]),
    )
    own, given = _own(stem), safetensors.torch.load_file(file)
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in given.items()}:
        raise ValueError(f"{file} holds tensors of another adapter than its metadata say")
    for name, value in own.items():
        value.copy_(given[name])
    return put_stem(model, plan, stem).eval()


def stem_of(model: nn.Module) -> wt.WallocStem:
    """Find the WaLLoC stem of a model."""
    return next(module for module in model.modules() if isinstance(module, wt.WallocStem))


def hash_of(network: nn.Module) -> str:
    """Hash the weights of a network."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _own(stem: wt.WallocStem) -> dict[str, Tensor]:
    """Take the stem's tensors, the codec's not among them."""
    return {name: value for name, value in stem.state_dict().items() if not name.startswith("codec.")}


def _half(value: Tensor) -> Tensor:
    value = value.contiguous()
    half = value.half()
    return half if value.is_floating_point() and half.isfinite().all() else value

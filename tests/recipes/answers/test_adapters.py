"""Adapters in files of their own."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

import walloc_transforms as wt
from recipes.answers import adapters
from recipes.answers.adapters import describe, keep_adapter, shipped, stem_of, with_adapter
from walloc_transforms.stems import AdapterShape, plan_replacement, put_stem


def network() -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet", num_classes=7).eval()


def distilled(before: Any) -> Any:
    """What distill_stem gives, but for the training."""
    model, codec = network(), wt.load_codec("rgb_16x")
    model.load_state_dict(before.state_dict())
    plan = plan_replacement(model, codec, "entry")
    stem = wt.WallocStem(codec, plan.channels, stride=8, input="latents", expand=True, adapter=AdapterShape(16, 2))
    for module in stem.adapter.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()(torch.randn(64, module.num_features, 1, 1) * 2 + 1)
    return put_stem(model, plan, stem).eval()


def test_kept_adapter_gives_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = network()
    model, file = distilled(before), tmp_path / "adapter.safetensors"
    size = keep_adapter(model, before, file, "train it")
    assert size == file.stat().st_size < 50_000
    assert describe(file)["command"] == "train it"
    latents = wt.load_codec("rgb_16x").encode(torch.rand(2, 3, 160, 160), rounding="round")
    with torch.no_grad():
        expected, given = model(latents), with_adapter(before, file)(latents)
    assert torch.allclose(given, expected, atol=2e-2 * float(expected.std()))
    assert not hasattr(before, "walloc")

    monkeypatch.setattr(adapters, "FOLDER", tmp_path)
    assert shipped(before, wt.load_codec("rgb_16x")) == file
    assert shipped(before, wt.load_codec("rgb_4x")) is None
    with torch.no_grad():
        before.classifier.bias.add_(1)
    assert shipped(before, wt.load_codec("rgb_16x")) is None
    with pytest.raises(ValueError, match="belongs to another network or codec: to test_efficientnet and rgb_16x"):
        with_adapter(before, file)


def test_refused(tmp_path: Path) -> None:
    before = network()
    model, file = distilled(before), tmp_path / "adapter.safetensors"
    keep_adapter(model, before, file, "")
    about = describe(file)
    tensors = safetensors.torch.load_file(file)
    tensors.pop("proj.bias")
    safetensors.torch.save_file(tensors, file, {"walloc_adapter": json.dumps(about)})
    with pytest.raises(ValueError, match="tensors of another adapter"):
        with_adapter(before, file)
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(ValueError, match="is no adapter that"):
        describe(file)
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    with pytest.raises(ValueError, match=r"1 tensors beside the stem were trained too, such as classifier\.weight"):
        keep_adapter(model, before, file, "")
    model = wt.replace_stem(network(), "rgb_16x", input="latents")
    assert stem_of(model).codec.config.name == "rgb_16x"
    with pytest.raises(ValueError, match="the stem has no adapter"):
        keep_adapter(model, before, file, "")

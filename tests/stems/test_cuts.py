"""Latents that enter a model late, through an adapter."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.format import Format, nchw_to
from torch import nn

import walloc_transforms as wt
from tests.helpers import stem_codec
from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.stems import (
    Adapter,
    AdapterShape,
    Plan,
    adapter_for,
    last_of_stage,
    plan_replacement,
    put_stem,
)
from walloc_transforms.stems.budget import count_macs
from walloc_transforms.stems.layers import find_stem
from walloc_transforms.stems.table import find_family

# name: (arguments, end of the stage at stride 8 and the stride there, another cut and its stride)
MODELS: dict[str, tuple[dict[str, Any], str, int, str, int]] = {
    "resnet18": ({"channels": (16, 24, 32, 40)}, "layer2.1", 8, "layer3.0", 16),
    "convnext_atto": ({"depths": (1, 2, 1, 1)}, "stages.1.blocks.1", 8, "stages.2.downsample.0", 8),
    "tf_efficientnet_lite0": ({}, "blocks.2.1", 8, "blocks.4.2", 16),
    "mobilenetv3_small_050": ({}, "blocks.1.1", 8, "blocks.1.0", 8),
    "regnety_002": ({}, "s2.b1", 8, "s3.b4", 16),
    "swin_tiny_patch4_window7_224": (
        {"embed_dim": 24, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 3, 6)},
        "layers.1.blocks.1",
        8,
        "layers.2.blocks.0",
        16,
    ),
    "vit_tiny_patch16_224": ({"depth": 2, "img_size": 64}, "patch_embed", 16, "patch_embed", 16),
}
SMALL = AdapterShape(16, 2, expansion=2, kernel=3)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return stem_codec()


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(2)
    return timm.create_model(name, num_classes=7, **MODELS[name][0], **options).eval()


def put_adapter(model: Any, codec: Codec, plan: Plan, shape: AdapterShape = SMALL, **options: Any) -> Any:
    stem = wt.WallocStem(
        codec, plan.channels, stride=plan.strides, output_fmt=plan.family.output_fmt, adapter=shape, **options
    )
    return put_stem(model, plan, stem)


def stage(model: Any, codec: Codec) -> str:
    return last_of_stage(find_family(model).look(model), codec.config.strides)


def test_stages_end_where_expected(codec: Codec) -> None:
    for name, (_, cut, stride, *_) in MODELS.items():
        model = make(name)
        assert stage(model, codec) == cut
        plan = plan_replacement(model, codec, "entry", cut=cut)
        assert (plan.cut, plan.strides) == (cut, (stride, stride))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_what_follows_the_cut_is_kept(codec: Codec, name: str, last: bool, tmp_path: Path) -> None:
    """Given what the dropped layers gave, the model answers as before; through its adapter, it can be trained."""
    cut, stride = MODELS[name][1:3] if last else MODELS[name][3:]
    model = make(name)
    teacher, x = copy.deepcopy(model), torch.rand(2, 3, *find_family(model).look(model).image_size)
    plan = plan_replacement(model, codec, "entry", cut=cut)
    features = plan.family.teacher(model, plan)(x)
    put_adapter(model, codec, plan, input="latents")
    stem, latents = find_stem(model), codec.encode(x)
    assert (stem.stride, model.walloc.cut, model.walloc.macs < model.walloc.macs_before) == (stride, cut, True)
    assert nchw_to(features, Format(stem.output_fmt)).shape == stem(latents).shape
    hook = stem.register_forward_hook(lambda *_: nchw_to(features, Format(stem.output_fmt)))
    torch.testing.assert_close(model(latents), teacher(x))
    hook.remove()

    model.train()(latents).sum().backward()
    assert all((p.grad is None) == (".codec." in key) for key, p in model.named_parameters())
    if last:
        return  # the other cut, which is not the default, is the harder one to save
    model.eval()
    wt.save_model(model, tmp_path, model_args=MODELS[name][0])
    again: Any = wt.load_model(tmp_path)
    assert again.walloc == model.walloc
    assert torch.equal(again(latents), model(latents))


@pytest.mark.parametrize("name", MODELS)
def test_adapters_fill_a_budget(codec: Codec, name: str) -> None:
    model = make(name)
    plan = plan_replacement(model, codec, "entry", cut=stage(model, codec))
    least = count_macs(plan, model, codec, AdapterShape(16, 2)) / plan.look.macs
    with pytest.raises(ValueError, match=rf"no adapter fits .* takes .* {least:.3f}: expected"):
        adapter_for(plan, model, codec, least - 0.001)
    budget = 1.1 * least
    shape = adapter_for(plan, model, codec, budget)
    wider = AdapterShape(shape.width + 8, shape.blocks)
    assert count_macs(plan, model, codec, shape) <= budget * plan.look.macs < count_macs(plan, model, codec, wider)
    expected = count_macs(plan, model, codec, shape)
    assert put_adapter(model, codec, plan, shape).walloc.macs == expected


def test_the_figures_of_lite0() -> None:
    model, codec = make("tf_efficientnet_lite0"), wt.load_codec("rgb_16x")
    plan = plan_replacement(model, codec, "entry", cut="blocks.2.1")
    adapter = Adapter(12, AdapterShape(48, 3))
    assert adapter(torch.rand(2, 12, 6, 5)).shape == (2, 48, 6, 5)
    assert count_macs(plan, model, codec, AdapterShape(48, 3)) / plan.look.macs == pytest.approx(0.860, abs=0.002)
    assert adapter_for(plan, model, codec, 0.85) == AdapterShape(56, 2)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"width": 0}, "width of an adapter must be an integer from 1 to 1024, got 0"),
        ({"width": 1025}, "from 1 to 1024"),
        ({"blocks": 2.0}, "blocks of an adapter must be an integer from 0 to 32, got 2.0"),
        ({"expansion": True}, "got True"),
        ({"kernel": 4}, "kernel of an adapter must be odd, got 4"),
    ],
)
def test_shapes(numbers: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AdapterShape(**{"width": 16, "blocks": 2, **numbers})


def test_no_such_cut(codec: Codec) -> None:
    model = make("resnet18")
    with pytest.raises(
        ValueError, match=r"this ResNet after cut='layer1.1'; cuts, .* 'layer2.0' \(8\), .*'layer4.1' \(32\)$"
    ):
        plan_replacement(model, codec, "entry", cut="layer1.1")
    with pytest.raises(ValueError, match=r"only match='entry' takes a cut, got match='grid' and cut='layer2\.1'"):
        plan_replacement(model, codec, "grid", cut="layer2.1")
    with pytest.raises(ValueError, match=r"its stem has a stride of 16; cuts, .*: 'patch_embed' \(16\)"):
        plan_replacement(make("vit_tiny_patch16_224"), codec, "entry")
    hiera = timm.create_model("hiera_tiny_224", embed_dim=24, stages=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"of stride 4, the model has no unit .* of stride 8: there is no cut"):
        stage(hiera, codec)
    coarse = Codec(CodecConfig("coarse", "image", 3, 20, 6))
    with pytest.raises(ValueError, match="no unit whose cells are those of latents of stride 64"):
        stage(model, coarse)
    fine = Codec(CodecConfig("fine", "image", 3, 12, 2))
    assert stage(hiera, fine) == "patch_embed"


def test_sides_that_strides_do_not_divide(codec: Codec) -> None:
    """260 pixels are 33 latents, and 17 cells at stride 16, which are no groups of them."""
    model = make("tf_efficientnet_lite0", pretrained_cfg_overlay={"input_size": (3, 260, 260)})
    assert put_adapter(model, codec, plan_replacement(model, codec, "entry", cut="blocks.2.1"))(
        torch.rand(1, 3, 260, 260)
    ).shape == (1, 7)
    other = make("tf_efficientnet_lite0", pretrained_cfg_overlay={"input_size": (3, 260, 260)})
    with pytest.raises(ValueError, match=r"after cut='blocks.3.0'; .*: 'blocks.2.0' \(8\), 'blocks.2.1' \(8\)$"):
        plan_replacement(other, codec, "entry", cut="blocks.3.0")


def test_half_precision_and_prefixes() -> None:
    model, codec = make("resnet18").to(torch.bfloat16), wt.load_codec("rgb_4x", channels=24)
    put_adapter(model, codec, plan_replacement(model, codec, "entry", cut="layer2.1"), neighbors=1, expand=True)
    assert {p.dtype for p in find_stem(model).adapter.parameters()} == {torch.bfloat16}
    assert model(torch.rand(2, 3, 64, 64)).dtype == torch.bfloat16
    assert isinstance(wt.WallocStem(codec, 4, stride=8).adapter, nn.Identity)

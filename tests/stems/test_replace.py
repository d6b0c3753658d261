import copy
import dataclasses
import pickle
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import FeatureListNet, get_model_input_config, group_parameters
from timm.models.resnet import BasicBlock, ResNet
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torchvision.models import resnet18

from tests.helpers import pixels, stem_codec
from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.stems import StemInfo, WallocStem, replace_stem

SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_classes": 7}
SMALL_RESNET = {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40), "num_classes": 7}
SMALL_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 7}

# name: (timm model, arguments, image side after the replacement, stride of the new stem)
MODELS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "vit16": ("vit_tiny_patch16_224", {"img_size": 64, **SMALL_VIT}, 64, 16),
    "vit14": ("vit_tiny_patch16_224", {"img_size": 56, "patch_size": 14, **SMALL_VIT}, 64, 16),
    "vit32": ("vit_tiny_patch16_224", {"img_size": 96, "patch_size": 32, **SMALL_VIT}, 96, 32),
    "vit8": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, **SMALL_VIT}, 32, 8),
    "vit_dynamic": ("vit_tiny_patch16_224", {"img_size": 64, "dynamic_img_size": True, **SMALL_VIT}, 64, 16),
    "vit_norms": (
        "vit_tiny_patch16_224",
        {"img_size": 64, "pre_norm": True, "embed_norm_layer": "rmsnorm", **SMALL_VIT},
        64,
        16,
    ),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64, **SMALL_VIT}, 64, 16),
    "resnet": ("resnet18", SMALL_RESNET, 448, 4),  # the stem's first convolution, before its pooling
    "resnet_d": ("resnet18d", SMALL_RESNET, 448, 4),
    "resnet_t": ("resnet10t", SMALL_RESNET, 352, 4),
    "convnext": ("convnext_atto", SMALL_CONVNEXT, 448, 8),
    "convnext_ols": ("convnext_atto_ols", SMALL_CONVNEXT, 448, 4),
}
ONE_EACH = ["vit16", "resnet", "convnext"]
INPUTS = ["pixels", "latents"]
CODEC_PART = ".codec."


@pytest.fixture(scope="module")
def codec() -> Codec:
    return stem_codec()


def make(name: str) -> Any:
    torch.manual_seed(2)
    return timm.create_model(MODELS[name][0], **MODELS[name][1])


def replaced(name: str, codec: Codec, **options: Any) -> Any:
    return replace_stem(make(name), codec, **options)


def stem_of(model: nn.Module) -> WallocStem:
    (stem,) = [m for m in model.modules() if isinstance(m, WallocStem)]
    return stem


def small_side(name: str) -> int:
    """A ViT wants its own size; the others read any."""
    return MODELS[name][2] if "vit" in name or name == "distilled" else 64


def example(name: str, codec: Codec, kind: str) -> Tensor:
    x = pixels(small_side(name))
    return x if kind == "pixels" else codec.encode(x)


# models


@pytest.mark.parametrize("name", MODELS)
def test_both_inputs_give_the_same_logits(codec: Codec, name: str) -> None:
    model = replaced(name, codec).eval()
    other = replaced(name, codec, input="latents").eval()
    other.load_state_dict(model.state_dict())
    x = pixels(small_side(name))
    logits = model(x)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, other(codec.encode(x)))
    assert torch.equal(model.forward_features(x), other.forward_features(codec.encode(x)))
    assert not torch.allclose(logits[0], logits[1], atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_metadata(codec: Codec, name: str) -> None:
    side, stride = MODELS[name][2:]
    original = make(name)
    shared = dataclasses.asdict(timm.get_pretrained_cfg(MODELS[name][0]))  # pyright: ignore[reportArgumentType]
    for kind, shape in [("pixels", (3, side, side)), ("latents", (12, side // 8, side // 8))]:
        model = replaced(name, codec, input=kind)
        told: StemInfo = model.walloc
        assert (told.codec, told.input, told.match, told.input_shape) == ("test", kind, "grid", shape)
        assert (told.pixels_shape, told.latents_shape) == ((3, side, side), (12, side // 8, side // 8))
        assert 0 < told.macs < told.macs_before
        assert stem_of(model).stride == stride
        assert model.in_chans == shape[0]
        assert model.pretrained_cfg["first_conv"] is None
        data = resolve_model_data_config(model)
        assert (data["input_size"], data["mean"], data["std"]) == ((3, side, side), (0.0,) * 3, (1.0,) * 3)
        assert get_model_input_config(model)["input_size"] == (shape[0], side, side)
        assert get_model_input_config(model)["first_conv"] is None
        x = torch.zeros(1, *shape)
        assert model(x).shape == (1, 7)
        for info, features in zip(model.feature_info, model.forward_intermediates(x)[1], strict=True):
            assert (info["num_chs"], -(-side // info["reduction"])) == features.shape[1:3]
    assert dataclasses.asdict(timm.get_pretrained_cfg(MODELS[name][0])) == shared  # pyright: ignore[reportArgumentType]
    assert make(name).feature_info == original.feature_info
    assert make(name).pretrained_cfg == original.pretrained_cfg


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_grid_of_the_trunk_is_kept(codec: Codec, name: str) -> None:
    original = make(name).eval()
    model = replaced(name, codec).eval()
    before = (3, *original.patch_embed.img_size) if hasattr(original, "patch_embed") else (3, 224, 224)
    if name == "resnet_t":
        before = (3, 176, 176)
    one = original.forward_intermediates(torch.zeros(1, *before), intermediates_only=True)
    two = model.forward_intermediates(torch.zeros(1, *model.walloc.input_shape), intermediates_only=True)
    later = slice(1, None) if "resnet" in name else slice(None)  # a ResNet's first features lay before its pooling
    assert [f.shape for f in one[later]] == [f.shape for f in two[later]]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_names_and_weights_of_the_trunk_are_kept(codec: Codec, name: str) -> None:
    before, after = make(name).state_dict(), replaced(name, codec).state_dict()
    stem = [k for k in after if CODEC_PART in k or (k.endswith((".proj.weight", ".proj.bias")) and k not in before)]
    trunk = {k: v for k, v in after.items() if k not in stem}
    gone = {"conv1": "conv1.", "stem": "stem."}.get(next(iter(before)).split(".")[0], "patch_embed.proj.")
    assert {k for k in before if k not in trunk and not k.startswith(gone)} == set()
    assert all(torch.equal(v, before[k]) for k, v in trunk.items() if k in before)
    assert trunk.keys() <= before.keys()
    if "convnext" in name:
        assert any(k.startswith("stem.") for k in trunk)  # the norm
    assert (stem_of(replaced(name, codec)).proj.bias is None) == ("resnet" in name or name == "vit_norms")
    if name == "vit_norms":
        assert "patch_embed.norm.weight" in trunk


@pytest.mark.slow
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", MODELS)
def test_training_reaches_everything_but_the_codec(codec: Codec, name: str, kind: str) -> None:
    model = replaced(name, codec, input=kind).train()
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    stem, x = stem_of(model), example(name, codec, kind)
    assert torch.equal(stem(x), stem(x))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    nn.functional.cross_entropy(model(x), torch.tensor([1, 2])).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (CODEC_PART in key) == (not parameter.requires_grad), key
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stem.proj.parameters())
    projection = stem.proj.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(projection, stem.proj.weight)
    assert all(torch.equal(v, before[k]) for k, v in stem.codec.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", MODELS)
def test_layer_decay_takes_the_stem_for_the_first_layer(codec: Codec, name: str, kind: str) -> None:
    model = replaced(name, codec, input=kind)
    groups: Any = group_parameters(model, model.group_matcher(), reverse=True)
    names: dict[int, str] = {id(p): key for key, p in model.named_parameters()}
    stem = {names[id(p)] for p in stem_of(model).proj.parameters()}
    assert stem and {groups[key] for key in stem} == {0}
    decayed: Any = param_groups_layer_decay(model, layer_decay=0.5)
    lowest = min(group["lr_scale"] for group in decayed)
    first = {names[id(p)] for group in decayed for p in group["params"] if group["lr_scale"] == lowest}
    assert stem <= first
    assert not any(CODEC_PART in names[id(p)] for group in decayed for p in group["params"])
    assert not any(key.startswith(("layer", "stages", "blocks")) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", ONE_EACH)
def test_copies(codec: Codec, name: str, kind: str) -> None:
    model = replaced(name, codec, input=kind).eval()
    x = example(name, codec, kind)
    expected = model(x)
    other = replaced(name, Codec(codec.config), input=kind).eval()
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(x), expected)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)
        assert twin.walloc == model.walloc
        assert twin.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ONE_EACH)
def test_reset_classifier(codec: Codec, name: str) -> None:
    model = replaced(name, codec)
    model.reset_classifier(3)
    assert model(example(name, codec, "pixels")).shape == (2, 3)
    model.reset_classifier(0)
    assert model(example(name, codec, "pixels")).shape == (2, model.num_features)


@pytest.mark.parametrize("name", ONE_EACH)
def test_half_precision_models(codec: Codec, name: str) -> None:
    x = example(name, codec, "pixels")
    model = replaced(name, codec).eval()
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float(), expected, rtol=0.1, atol=0.1)
    logits = model.to(torch.bfloat16)(x)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)
    # a model that is half precision already gets a stem like it
    model = replace_stem(make(name).to(torch.bfloat16), codec).eval()
    assert stem_of(model).proj.weight.dtype == torch.bfloat16
    assert model(x).dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_EACH)
def test_compiles_to_one_graph(codec: Codec, name: str) -> None:
    for kind in INPUTS:
        torch.compiler.reset()
        model = replaced(name, codec, input=kind).eval()
        x = example(name, codec, kind)
        with torch.no_grad():
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_timm_transforms_yield_the_range_of_the_codec(codec: Codec) -> None:
    model = replaced("resnet", codec)
    transform: Any = create_transform(**resolve_model_data_config(model))
    black, white = (transform(Image.new("RGB", (500, 600), value)) for value in ("black", "white"))
    assert black.shape == (3, 448, 448)
    assert (black.unique().tolist(), white.unique().tolist()) == ([0.0], [1.0])
    assert model.pretrained_cfg["test_input_size"] == (3, 576, 576)
    block: Any = BasicBlock
    direct: Any = ResNet(block, **SMALL_RESNET)  # without any metadata
    assert resolve_model_data_config(replace_stem(direct, codec)) | {"crop_pct": 0} == {
        "input_size": (3, 448, 448),
        "interpolation": "bicubic",
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "crop_pct": 0,
        "crop_mode": "center",
    }


@pytest.mark.parametrize("name", ["resnet", "resnet_d", "convnext", "convnext_ols"])
def test_feature_extractors_can_wrap_the_result(codec: Codec, name: str) -> None:
    model = replaced(name, codec).eval()
    x = pixels(64)
    expected = model.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
    features = FeatureListNet(model, out_indices=(1, 2), flatten_sequential="convnext" in name)
    got = features(x)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert features.feature_info.reduction() == ([8, 16] if name.startswith("resnet") else [16, 32])


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", ["vit16", "vit14", "vit_dynamic", "distilled"])
def test_vit_input_size(codec: Codec, name: str, kind: str) -> None:
    model = replaced(name, codec, input=kind).eval()
    model.set_input_size(img_size=(96, 128))
    assert (model.patch_embed.img_size, model.patch_embed.grid_size) == ((96, 128), (6, 8))
    x = torch.rand(1, 3, 96, 128)
    x = x if kind == "pixels" else codec.encode(x)
    assert model(x).shape == (1, 7)
    final, intermediates = model.forward_intermediates(x)
    assert final.shape == (1, 48 + model.num_prefix_tokens, 48)
    assert [f.shape for f in intermediates] == [(1, 48, 6, 8)] * 2
    assert get_model_input_config(model)["input_size"][1:] == (96, 128)
    model.set_input_size(img_size=64)
    assert model.patch_embed.num_patches == 16
    with pytest.raises(ValueError, match="fixed at 16 pixels, got patch_size=32"):
        model.set_input_size(patch_size=32)
    with pytest.raises(ValueError, match=r"multiples of 16 pixels, got \(72, 64\)"):
        model.set_input_size(img_size=(72, 64))


def test_vit_sizes_are_checked(codec: Codec) -> None:
    with pytest.raises(ValueError, match=r"reads pixels of 64x64 .*got 96x64: call set_input_size"):
        replaced("vit16", codec)(torch.zeros(1, 3, 96, 64))
    with pytest.raises(ValueError, match=r"reads latents of 8x8 \(images of 64x64 pixels\), got 4x8"):
        replaced("vit16", codec, input="latents")(torch.zeros(1, 12, 4, 8))
    with pytest.raises(ValueError, match=r"got 3 channels: pixels\?"):  # not: wrong size
        replaced("vit16", codec, input="latents")(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("kind", INPUTS)
def test_dynamic_vit_reads_any_size(codec: Codec, kind: str) -> None:
    model = replaced("vit_dynamic", codec, input=kind).eval()
    x = torch.rand(1, 3, 32, 80)
    x = x if kind == "pixels" else codec.encode(x)
    assert model(x).shape == (1, 7)
    assert model.forward_intermediates(x)[1][0].shape == (1, 48, 2, 5)


def test_gradient_checkpointing(codec: Codec) -> None:
    for name in ONE_EACH:
        model = replaced(name, codec).train()
        model.set_grad_checkpointing()
        model(example(name, codec, "pixels")).sum().backward()
        assert stem_of(model).proj.weight.grad is not None


def test_codecs_of_other_strides() -> None:
    coarse = Codec(CodecConfig("coarse", "image", 3, 20, 4))
    model = replaced("resnet", coarse)
    assert model.walloc.input_shape == (3, 896, 896)
    assert [f["reduction"] for f in model.feature_info] == [8, 16, 32, 64, 128]
    fine = Codec(CodecConfig("fine", "image", 3, 12, 1))
    model = replaced("resnet", fine, input="latents")
    assert model.walloc.input_shape == (12, 112, 112)
    assert stem_of(model).proj.kernel_size == (1, 1)
    assert [f["reduction"] for f in model.feature_info] == [2, 4, 8, 16, 32]


def test_replace_by_name_returns_the_model_itself() -> None:
    model = make("convnext")
    assert replace_stem(model, "rgb_16x", input="latents") is model
    assert model.walloc.codec == "rgb_16x"
    with pytest.raises(ValueError, match=r"reads latents with 12 channels of codec 'rgb_16x'.*got 3 channels"):
        model(pixels())


def test_replace_refuses(codec: Codec) -> None:
    reasons = {
        "naflexvit_base_patch16_gap": "cuts images into patches before",
        "xcit_nano_12_p16_224": "the size of",
        "mvitv2_tiny": "the size of the",
        "tnt_s_legacy_patch16_224": "pixels inside a patch",
    }
    for name, reason in reasons.items():
        with torch.device("meta"):
            model = timm.create_model(name)
        with pytest.raises(
            ValueError, match=rf"{type(model).__name__} are not supported: .*{reason}.*supported are ViT"
        ):
            replace_stem(model, codec)
    with pytest.raises(
        ValueError, match=r"torch\.nn\.modules\.linear\.Linear is not a timm model, nor .*; supported are ViT"
    ):
        replace_stem(nn.Linear(2, 2), codec)
    with pytest.raises(
        ValueError, match=r"torchvision\.models\.resnet\.ResNet is not a timm model, nor .*; supported are ViT"
    ):
        replace_stem(resnet18(), codec)
    hybrid = timm.create_model("vit_tiny_r_s16_p8_224", depth=1)
    with pytest.raises(ValueError, match="has a HybridEmbed of its own"):
        replace_stem(hybrid, codec)
    padding = timm.create_model("vit_tiny_patch16_224", depth=1, dynamic_img_size=True, dynamic_img_pad=True)
    with pytest.raises(ValueError, match="without dynamic_img_pad"):
        replace_stem(padding, codec)
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        with pytest.raises(ValueError, match=r"features_only=True: call replace_stem on the whole model"):
            replace_stem(timm.create_model(name, features_only=True), codec)
    with pytest.raises(ValueError, match=r"replaced already: StemInfo\(codec='test', input='pixels'"):
        replace_stem(replaced("resnet", codec), codec)
    with pytest.raises(ValueError, match="match must be one of 'grid', 'entry', 'resolution', got 'size'"):
        replaced("resnet", codec, match="size")
    with pytest.raises(ValueError, match=r"match='entry' needs .* VisionTransformer: its stem has a stride of 16"):
        replaced("vit16", codec, match="entry")
    with pytest.raises(ValueError, match=r"match='resolution' needs .*'s is 14; match='grid' takes it"):
        replaced("vit14", codec, match="resolution")


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_refused_model_is_left_as_it_was(codec: Codec, name: str) -> None:
    model = make(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config, info = model.pretrained_cfg, model.feature_info
    kept = copy.deepcopy((config, info))
    with pytest.raises(ValueError, match="codec of images or volumes"):
        replace_stem(model, Codec(CodecConfig("sound", "audio", 2, 4, 3)))
    with pytest.raises(ValueError, match="input must be one of"):
        replace_stem(model, codec, input="wavelets")  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (model.pretrained_cfg, model.feature_info, hasattr(model, "walloc")) == (config, info, False)
    assert all(m.training for m in model.modules())
    assert all(m.training for m in replace_stem(model, codec).modules())
    assert not any(m.training for m in replace_stem(make(name).eval(), codec).modules())
    assert (config, info) == kept  # others may hold them
    assert model.pretrained_cfg != config

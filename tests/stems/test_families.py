"""Every family of ``FAMILIES`` of images, by its smallest model: both inputs, all matches, and timm's own manners."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from tests.helpers import stem_codec
from walloc_transforms.codec import Codec
from walloc_transforms.stems import FAMILIES, replace_stem
from walloc_transforms.stems.layers import find_stem
from walloc_transforms.stems.saved import load_model, save_model

ARGS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"depth": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "deit3_small_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "vit_small_patch14_dinov2": {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 112},
    "eva02_tiny_patch14_224": {"depth": 2},
    "vit_small_patch16_dinov3": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 6)},
    "swinv2_tiny_window8_256": {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 6)},
    "hiera_tiny_224": {"embed_dim": 24, "stages": (1, 1, 1, 1)},
    "resnet18": {"channels": (16, 24, 32, 40)},
    "resnet18d": {"channels": (16, 24, 32, 40)},
    "resnetv2_50": {"layers": (1, 1, 1, 1), "channels": (32, 48, 64, 80)},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "convnext_atto_ols": {"depths": (1, 1, 1, 1)},
    "convnextv2_atto": {"depths": (1, 1, 1, 1)},
    "efficientnet_b0": {},
    "tf_efficientnetv2_b0": {"channel_multiplier": 0.5, "depth_multiplier": 0.5},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_050": {},
    "maxvit_nano_rw_256": {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64)},
    "coatnet_nano_rw_224": {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64)},
    "regnety_002": {},
    "fastvit_t8": {"layers": (1, 1, 1, 1)},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "edgenext_xx_small": {"depths": (1, 1, 1, 1)},
    "eca_nfnet_l0": {"depths": (1, 1, 1, 1)},
    "csatv2": {"dims": (16, 24, 32, 40)},
    "hgnetv2_b0": {},
    "efficientformerv2_s0": {"depths": (1, 1, 1, 1)},
    "repvit_m0_9": {"embed_dim": (16, 24, 32, 40), "depth": (1, 1, 1, 1)},
    "efficientvit_b0": {"depths": (1, 1, 1, 1, 1)},
    "inception_next_atto": {"depths": (1, 1, 1, 1)},
    "poolformer_s12": {},
    "tiny_vit_5m_224": {"embed_dims": (16, 32, 64, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 4)},
    "starnet_s1": {"depths": (1, 1, 1, 1)},
}
PLAIN = ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "beit_base_patch16_224"]
TOKENS = [
    *PLAIN,
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_dinov2",
    "hiera_tiny_224",
]
NATIVE = ["csatv2"]  # its own stride is 8: all matches are the same
PATCH14 = ["vit_small_patch14_dinov2", "eva02_tiny_patch14_224"]
CASES = [
    (name, match)
    for name in ARGS
    for match in ("grid", "entry", "resolution")
    if (match == "grid" or name not in NATIVE)
    and (match != "entry" or name not in TOKENS)
    and (match != "resolution" or name not in PATCH14)
]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return stem_codec()


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(2)
    return timm.create_model(name, num_classes=7, **ARGS[name], **options)


def images(model: Any) -> Tensor:
    """Images of the model's own size, or smaller ones where it takes any, for speed."""
    shape = model.walloc.pixels_shape
    fixed = any(
        hasattr(model, name) for name in ("patch_embed", "partition_ratio", "head_dist")
    )  # ..., EfficientFormer
    side = shape[1] if fixed else min(shape[1], 256)
    return torch.rand(2, 3, side, side)


def test_every_family_is_tested() -> None:
    seen = {kind.__name__ for name in ARGS for kind in type(make(name)).__mro__}
    assert {name for name, family in FAMILIES.items() if family.dims == 2} <= seen


@pytest.mark.slow
@pytest.mark.parametrize(("name", "match"), CASES)
def test_family(codec: Codec, name: str, match: Any, tmp_path: Path) -> None:
    original = make(name)
    model = replace_stem(copy.deepcopy(original), codec, input="latents", match=match)
    info, stem = model.walloc, find_stem(model)
    check_geometry(original, model, match)

    pixels = images(model)
    latents = codec.encode(pixels)
    assert info.input_shape == info.latents_shape == (12, *(-(-side // 8) for side in info.pixels_shape[1:]))
    check_training(model, latents)
    check_layer_decay(model)

    # The trunk has kept its weights.
    other = replace_stem(copy.deepcopy(original), codec, input="pixels", match=match).eval()
    state, before = other.state_dict(), original.state_dict()
    kept = [key for key in state if key in before and before[key].shape == state[key].shape]
    assert all(torch.equal(state[key], before[key]) for key in kept)
    new = set(state) - set(kept)
    assert all(".codec." in key or ".proj." in key for key in new), new
    assert stem.proj.weight.shape[1] == 12

    # Pixels, encoded inside, give what the latents give.
    other.load_state_dict(model.eval().state_dict())
    with torch.no_grad():
        logits = model(latents)
        assert torch.equal(other(pixels), logits)
        levels = (pixels * 255).round().byte()
        torch.testing.assert_close(other(levels), other(levels / 255), atol=1e-2, rtol=1e-2)
        check_features(model, latents, pixels.shape[2])
        check_features(other, pixels, pixels.shape[2])
    for wrong in (pixels, latents[:, :5], torch.rand(2, 48, *latents.shape[2:])):
        with pytest.raises(ValueError, match="this stem reads latents with 12 channels"):
            model(wrong)

    if match != "grid":
        return
    save_model(model, tmp_path, model_args=ARGS[name])
    again = load_model(tmp_path)
    assert again.walloc == info
    with torch.no_grad():
        assert torch.equal(again(latents), logits)


def check_geometry(original: Any, model: Any, match: str) -> None:
    """Sizes and compute are what the match promises."""
    info = model.walloc
    size = timm.models.get_model_input_config(original)["input_size"][-2:]
    stem_stride = find_stem(model).stride
    if match != "grid":
        assert info.pixels_shape[1:] == size
    if match == "entry":
        assert stem_stride == 8
        assert info.macs < info.macs_before
    else:
        assert 0 < info.macs < 1.001 * info.macs_before  # without the old stem
    assert model.num_features == original.num_features
    assert model.pretrained_cfg["input_size"] == info.pixels_shape


def check_training(model: nn.Module, x: Tensor) -> None:
    """Every parameter that is trained gets a gradient; those of the codec are not."""
    nn.functional.cross_entropy(model.train()(x), torch.tensor([1, 2])).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (".codec." in key) == (not parameter.requires_grad), key


def check_layer_decay(model: Any) -> None:
    """timm takes the projection for the first layer, and the codec for nothing."""
    if not hasattr(model, "group_matcher"):  # of timm's classes, CSATv2 and MetaFormer have none
        assert type(model).__name__ in ("CSATv2", "MetaFormer")
        return
    groups: Any = group_parameters(model, model.group_matcher(), reverse=True)
    names = {id(p): key for key, p in model.named_parameters()}
    assert {groups[names[id(p)]] for p in find_stem(model).proj.parameters()} == {0}
    decayed: Any = param_groups_layer_decay(model, layer_decay=0.5)
    assert not any(".codec." in names[id(p)] for group in decayed for p in group["params"])


def check_features(model: Any, x: Tensor, side: int) -> None:
    features = model.forward_intermediates(x, intermediates_only=True)
    assert len(features) == len(model.feature_info)
    for info, feature in zip(model.feature_info, features, strict=True):
        assert (info["num_chs"], -(-side // info["reduction"])) == tuple(feature.shape[1:3]), info
    assert model.forward_features(x).shape[0] == 2


WINDOWS = ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "maxvit_nano_rw_256", "coatnet_nano_rw_224"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*searchsorted:UserWarning", "ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", PLAIN + WINDOWS)
@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_set_input_size(codec: Codec, name: str, kind: Any) -> None:
    """In pixels, also rectangular, whatever the model reads."""
    model = replace_stem(make(name), codec, input=kind).eval()
    height, width = model.walloc.pixels_shape[1:]
    model.set_input_size((height, 2 * width))
    x = torch.rand(1, 3, height, 2 * width)
    with torch.no_grad():
        assert model(x if kind == "pixels" else codec.encode(x)).shape == (1, 7)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_models_entered_late_keep_their_size(codec: Codec, name: str) -> None:
    model = replace_stem(make(name), codec, match="entry")
    with pytest.raises(ValueError, match="entered after its first stages: its size is fixed"):
        model.set_input_size((512, 512))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnety_002", "fastvit_t8", "convnext_atto"])
@pytest.mark.parametrize("match", ["grid", "entry", "resolution"])
def test_dynamic_and_rectangular_sizes(codec: Codec, name: str, match: Any) -> None:
    model = replace_stem(make(name), codec, match=match).eval()
    for size in [(128, 192), (200, 136)]:
        assert model(torch.rand(1, 3, *size)).shape == (1, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "swin_tiny_patch4_window7_224", "maxvit_nano_rw_256"])
@pytest.mark.parametrize("match", ["grid", "entry"])
def test_grad_checkpointing_and_classifier(codec: Codec, name: str, match: Any) -> None:
    model = replace_stem(make(name), codec, input="latents", match=match).train()
    x = codec.encode(images(model))
    model.set_grad_checkpointing()
    model(x).sum().backward()
    assert find_stem(model).proj.weight.grad is not None
    model.reset_classifier(3)
    assert model.eval()(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model.get_classifier() is not None
    assert model(x).shape == (2, model.num_features)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnety_002", "fastvit_t8", "eca_nfnet_l0"])
@pytest.mark.parametrize("match", ["grid", "entry", "resolution"])
def test_features_only(codec: Codec, name: str, match: Any) -> None:
    model = replace_stem(make(name), codec, input="latents", match=match).eval()
    x = codec.encode(images(model))
    expected = model.forward_intermediates(x, intermediates_only=True)
    indices = (2, 3, 4) if len(expected) == 5 else (1, 2, 3)
    flatten = not hasattr(model, "conv1") and not hasattr(model, "s1")
    wrapped = timm.models.FeatureListNet(copy.deepcopy(model), out_indices=indices, flatten_sequential=flatten)
    for features, other in zip(wrapped(x), expected[-3:], strict=True):
        assert torch.equal(features, other)

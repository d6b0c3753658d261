from typing import Any

import pytest
import timm
import torch
from torch import nn

from walloc_transforms.stems.tracing import Trace


def test_units_of_a_resnet() -> None:
    model = timm.create_model("resnet18d")
    stem = ("conv1", "bn1", "act1", "maxpool")
    units = Trace(model, (3, 64, 64)).units(stem)
    assert [unit.path for unit in units[:9]] == [*[f"conv1.{i}" for i in range(7)], "bn1", "act1"]
    assert units[9] == ("maxpool", (64, 16, 16))
    # Blocks are units as a whole: what is in them only looks like a chain, as a residual is added in place.
    assert [unit.path for unit in units[10:14]] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert units[-1].path == "fc" or units[-1].path.startswith("global_pool")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convnext_atto", ["stem.0", "stem.1", "stages.0.downsample", "stages.0.blocks.0", "stages.0.blocks.1"]),
        ("regnety_002", ["stem.conv", "stem.bn", "s1.b1", "s2.b1"]),
        ("maxvit_nano_rw_256", ["stem.conv1", "stem.norm1", "stem.conv2", "stages.0.blocks.0"]),
        ("fastvit_t8", ["stem.0", "stem.1", "stem.2", "stages.0.downsample"]),
        (
            "eca_nfnet_l0",
            ["stem.conv1", "stem.act2", "stem.conv2", "stem.act3", "stem.conv3", "stem.act4", "stem.conv4"],
        ),
        ("vit_tiny_patch16_224", ["patch_embed"]),  # positions are added after it
    ],
)
def test_units(name: str, expected: list[str]) -> None:
    model: Any = timm.create_model(name)
    side = model.pretrained_cfg["input_size"][-1]
    stem = ("patch_embed",) if "vit_tiny" in name else ("stem",)
    assert [unit.path for unit in Trace(model, (3, side, side)).units(stem)][: len(expected)] == expected


def test_parallel_parts_are_one_unit() -> None:
    model = timm.create_model("hgnetv2_b0")  # two branches in its stem
    assert Trace(model, (3, 64, 64)).units(("stem",))[0] == ("stem", (16, 16, 16))


def test_macs_against_hand_count() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 4 * 6, 5))
    assert Trace(model, (3, 4, 6)).macs == 3 * 8 * 9 * 24 + 192 * 5


def test_output_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
    assert Trace(model, (3, 9, 11)).shapes == {"0": (8, 4, 5), "1": (8, 4, 5)}


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(training: bool) -> None:
    model: Any = timm.create_model("resnet18", layers=(1, 1, 1, 1)).train(training)
    model.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    Trace(model, (3, 64, 64)).units(("conv1",))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)

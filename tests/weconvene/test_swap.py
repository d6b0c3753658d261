import copy
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from walloc_transforms.weconvene import ParallelConv2d, WeConv2d, swap_conv


def small_resnet(block: type[nn.Module] = BasicBlock, **options: Any) -> ResNet:
    torch.manual_seed(0)
    sizes = {"layers": (1, 2, 1, 1), "channels": (8, 12, 12, 12), "zero_init_last": False}
    return ResNet(block, num_classes=5, stem_width=8, **{**sizes, **options}).eval()  # pyright: ignore[reportArgumentType] (timm wants one of its two blocks)


def swapped(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, WeConv2d)]


def macs(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 64, 64))
    return counter.get_total_flops() // 2


def test_replace() -> None:
    model = small_resnet()
    before = macs(model)
    assert swap_conv(model, high="band") is model
    assert swapped(model) == [f"layer{i}.conv2" for i in ("1.0", "2.0", "2.1", "3.0", "4.0")]
    assert macs(model) == before
    # odd maps, down to 2x2, and a step of training
    images = torch.randn(2, 3, 33, 35)
    model.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"wavelet": "bior4.4", "high": "band", "norm": "gdn"}])
def test_a_parallel_branch_changes_nothing_and_learns(options: dict[str, Any]) -> None:
    model, images = small_resnet(), torch.randn(2, 3, 33, 35)
    expected = model(images)
    swap_conv(model, branch="parallel", **options)
    assert torch.equal(model(images), expected)
    assert model.get_submodule("layer1.0.conv2").training is False
    model.train()(images).square().sum().backward()
    gradients = [p.grad for n, p in model.named_parameters() if "weconv" in n and "norm" not in n]
    assert len(gradients) == 10 and all(g is not None and g.abs().max() > 0 for g in gradients)


def test_bottlenecks_of_stride_1_are_swapped_with_their_groups() -> None:
    model = swap_conv(small_resnet(Bottleneck, cardinality=4, base_width=32))
    assert swapped(model) == ["layer1.0.conv2", "layer2.1.conv2"]  # conv2 of layer2.0 has a stride
    layer = model.get_submodule("layer2.1.conv2")
    assert isinstance(layer, WeConv2d) and layer.groups == 4
    assert swapped(swap_conv(small_resnet().get_submodule("layer1.0"))) == ["conv2"]  # a block by itself


def test_a_predicate_chooses() -> None:
    model, images = small_resnet(), torch.randn(1, 3, 33, 35)
    size = model(images).shape
    swap_conv(model, lambda name, conv: name == "conv1" or (conv.stride == (2, 2) and conv.kernel_size == (3, 3)))
    assert swapped(model) == ["conv1", *(f"layer{i}.0.conv1" for i in (2, 3, 4))]
    layer = model.get_submodule("conv1")
    assert isinstance(layer, WeConv2d) and layer.low.kernel_size == (7, 7) and layer.strided is not None
    assert model(images).shape == size


def test_state_dict(tmp_path: Any) -> None:
    images = torch.randn(1, 3, 32, 32)
    for branch in ("replace", "parallel"):
        model = swap_conv(small_resnet(), branch=branch)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
        torch.save(model.state_dict(), tmp_path / "model.pt")
        other = swap_conv(small_resnet(), branch=branch)
        other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        assert_close(other(images), model(images), rtol=0, atol=0)


def test_dtype_device_and_shared_modules() -> None:
    model = small_resnet().double().to("meta")
    swap_conv(model, branch="parallel")
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float64, "meta")}
    shared = nn.Conv2d(4, 4, 3, padding=1)
    twice = swap_conv(nn.ModuleDict({"a": shared, "b": shared}), lambda *_: True)
    assert isinstance(twice["a"], WeConv2d) and twice["a"] is twice["b"]


def test_errors_leave_the_model_alone() -> None:
    transformer = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(ValueError, match="VisionTransformer has no convolution of 3x3, stride 1, named 'conv2'"):
        swap_conv(transformer)
    with pytest.raises(ValueError, match="no convolution that the predicate takes: it has 15 others"):
        swap_conv(small_resnet(), lambda *_: False)
    with pytest.raises(ValueError, match="unknown branch 'both'"):
        swap_conv(small_resnet(), branch="both")  # pyright: ignore[reportArgumentType] (what is tested)
    model = small_resnet()
    state, names = copy.deepcopy(model.state_dict()), swapped(model)
    for changed in (
        nn.Conv2d(8, 8, 4, padding=2),
        nn.Conv2d(8, 8, (3, 1), padding=1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    ):
        with pytest.raises(ValueError, match=r"cannot swap 1, Conv2d\(8, 8"):
            swap_conv(nn.Sequential(model, changed), lambda name, conv: "conv2" in name or name == "1")
    assert swapped(model) == names == [] and model.state_dict().keys() == state.keys()
    with pytest.raises(ValueError, match="cannot swap the model itself"):
        swap_conv(nn.Conv2d(4, 4, 3, padding=1), lambda *_: True)


def test_a_model_swapped_twice_has_branches_only_once() -> None:
    model = swap_conv(small_resnet(), branch="parallel")
    with pytest.raises(ValueError, match="named 'conv2'"):
        swap_conv(model, branch="parallel")
    assert sum(isinstance(module, ParallelConv2d) for module in model.modules()) == 5

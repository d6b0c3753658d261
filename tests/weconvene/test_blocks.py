import pytest
import torch
from torch import nn
from torch.testing import assert_close

from walloc_transforms.weconvene import Attention, Downsample, ResidualBlock, Upsample


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_those_of_the_paper() -> None:
    """Parameters of the modules with 128 channels inside, counted by hand from their description."""
    n, gdn = 128, 128 * 128 + 128
    conv = n * n * 9 + n
    joint = conv + (3 * n) ** 2 * 9 + 3 * n + gdn + (3 * n) ** 2 + 3 * n
    subpixel = 4 * conv
    assert count(ResidualBlock(n, n)) == 2 * conv
    assert count(Downsample(n, n, 2)) == conv + joint + n * n + n
    assert count(Upsample(n, n, 2)) == 2 * subpixel + joint
    assert count(Downsample(3, n, 1, weconv=False)) == 3 * n * 9 + n + conv + gdn + 3 * n + n
    assert count(Upsample(n, n, 2, weconv=False)) == 2 * subpixel + conv + gdn
    # WeConvene's refinements of the means of the low slices have 5,215,680 in all
    assert sum(count(Attention(320 + 64 * i, 320 + 64 * i)) for i in range(5)) == 5_215_680


@pytest.mark.parametrize("weconv", [False, True])
def test_changes_of_resolution(weconv: bool) -> None:
    x = torch.randn(2, 4, 7, 10, requires_grad=True)
    down, up = Downsample(4, 6, 2, weconv, "bior4.4"), Upsample(6, 4, 2, weconv, "bior4.4")
    small = down(x)
    assert small.shape == (2, 6, 4, 5)
    large = up(small)
    assert large.shape == (2, 4, 8, 10)
    large.square().sum().backward()
    assert all(p.grad is not None for module in (down, up) for p in module.parameters())
    assert not any(isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) for module in up.modules())
    assert isinstance(Downsample(4, 4, 1, weconv).skip, nn.Identity)
    assert down(torch.empty(0, 4, 7, 10)).shape == (0, 6, 4, 5)


def test_residual_block_and_attention_follow_their_description() -> None:
    block, x = ResidualBlock(4, 4), torch.randn(2, 4, 5, 3)
    leaky = nn.functional.leaky_relu
    assert_close(block(x), leaky(block.conv2(leaky(block.conv1(x), 0.01)), 0.01) + x)
    attention = Attention(4, 6, 8)
    entered = attention.enter(x)
    mask = attention.mask(attention.context(entered))
    assert mask.min() > 0 and mask.max() < 1
    assert_close(attention(x), attention.leave(attention.features(entered) * mask + entered))

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from walloc_transforms.wavelets import Wavelet
from walloc_transforms.weconvene.blocks import Attention, Upsample
from walloc_transforms.weconvene.exact import freeze, on_grid
from walloc_transforms.weconvene.layers import GDN


def wide(*shape: int) -> Tensor:
    """Values from very small to beyond the range of the grid."""
    return torch.randn(shape, dtype=torch.float64) * 10 ** torch.empty(shape, dtype=torch.float64).uniform_(-3, 4.3)


def test_sums_are_those_of_fractions() -> None:
    layer = nn.Conv2d(600, 2, 1)
    with torch.no_grad():
        layer.weight.mul_(10 ** torch.empty_like(layer.weight).uniform_(-6, 6))
    x = wide(1, 600, 1, 1)
    frozen = freeze(layer)
    weight, bias = (dict(frozen.named_buffers())[name].tolist() for name in ("weight", "bias"))
    values = [Fraction(v) for v in on_grid(x).flatten().tolist()]
    for channel, result in enumerate(frozen(x).flatten().tolist()):
        products = [Fraction(w[0][0]) * v for w, v in zip(weight[channel], values, strict=True)]
        assert Fraction(result) == sum(products, Fraction(bias[channel]))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # what flags() sets anew
def test_order_of_sums_does_not_matter() -> None:
    attention = Attention(40, 8, 16)
    order = torch.randperm(40)
    x = wide(3, 40, 9, 7)
    expected = freeze(attention)(x)
    assert torch.equal(freeze(attention)(x[1:2]), expected[1:2])
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(freeze(attention)(x), expected)
    torch.set_num_threads(2)
    assert torch.equal(freeze(attention)(x), expected)
    with torch.no_grad():
        attention.enter.weight.copy_(attention.enter.weight[:, order])
    assert torch.equal(freeze(attention)(x[:, order]), expected)


@pytest.mark.parametrize("wavelet", ["haar", "bior2.2", "bior4.4"])
def test_is_near_the_network(wavelet: Wavelet) -> None:
    network = nn.Sequential(
        Upsample(6, 8, 2, wavelet=wavelet), nn.GELU(), Attention(8, 8, 8), Upsample(8, 4, 1, weconv=False), nn.Tanh()
    )
    x = torch.randn(2, 6, 5, 4)
    frozen = freeze(network)
    assert not list(frozen.parameters())
    assert all(values.dtype == torch.float64 for values in frozen.buffers())
    assert_close(frozen(x), network.double()(x.double()).detach(), rtol=0, atol=0.01)


def test_functions_by_table() -> None:
    x = torch.cat([torch.linspace(-13, 13, 4001, dtype=torch.float64), torch.tensor([-8192.0, -100, 100, 8192])])
    for layer in (nn.GELU(), nn.Sigmoid(), nn.Tanh()):
        assert_close(freeze(layer)(x), layer(on_grid(x)), rtol=0, atol=1 / 512)


def test_inverse_gdn() -> None:
    layer = GDN(24, inverse=True)
    with torch.no_grad():
        layer.gamma.uniform_(0.1, 0.3)
        layer.beta[:4] = 0
    x = on_grid(wide(1, 24, 30, 30).clamp(-2000, 2000))
    assert_close(freeze(layer)(x), layer.double()(x).detach(), rtol=1e-3, atol=0.01)


@pytest.mark.parametrize("root", [9, 1000, 94906265 // 2, 2**26 - 1, 2**26])
def test_roots_are_rounded_down(root: int) -> None:
    for square in (root * root - 1, root * root, min(root * root + 1, 2**52)):
        layer = GDN(1, inverse=True).double()
        layer.coefficients = lambda square=square: (torch.tensor([square / 2**26]).double(), torch.zeros(1, 1))
        frozen = freeze(layer)
        beta = dict(frozen.named_buffers())["beta"].item()  # as it was rounded
        assert frozen(torch.ones(1, 1, 1, 1)).item() * 2**13 == math.isqrt(int(beta * 2**26))


def test_refuses_what_it_cannot_freeze() -> None:
    with pytest.raises(TypeError, match="1: no exact form of Softplus"):
        freeze(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Softplus()))
    with pytest.raises(TypeError, match="its inverse"):
        freeze(GDN(4))
    with pytest.raises(TypeError, match="padding_mode='reflect'"):
        freeze(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(TypeError, match="approximate='tanh'"):
        freeze(nn.GELU("tanh"))
    network = nn.Sequential(nn.ReLU())
    network.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(TypeError, match="scale"):
        freeze(network)
    broken = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        broken.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="weight"):
        freeze(broken)


def test_leaves_the_network_alone() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.LeakyReLU())
    before = {name: values.clone() for name, values in network.state_dict().items()}
    freeze(network)(torch.ones(1, 2, 3, 3))
    assert_close(network.state_dict(), before, rtol=0, atol=0)

import itertools
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from tests.reference import GOLDEN
from walloc_transforms.wavelets import Extension, Wavelet, join_bands, split_bands
from walloc_transforms.weconvene import GDN, WeConv2d
from walloc_transforms.weconvene.layers import High

WAVELETS: list[Wavelet] = ["haar", "bior2.2", "bior4.4"]
EXTENSIONS: list[Extension] = ["symmetric", "periodic"]
HIGHS: list[High] = ["joint", "band"]


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_that_of_compressai(inverse: bool) -> None:
    golden, name = load_file(GOLDEN / "gdn.safetensors"), "igdn" if inverse else "gdn"
    gdn = GDN(6, inverse=inverse)
    assert_close(gdn.beta.detach(), golden["first_beta"], rtol=1e-6, atol=0)
    assert_close(gdn.gamma.detach(), golden["first_gamma"], rtol=1e-6, atol=1e-12)
    gdn.load_state_dict({"beta": golden["beta"], "gamma": golden["gamma"]})
    x = golden["x"].requires_grad_()
    y = gdn(x)
    assert_close(y, golden[f"{name}.y"])
    (y * golden["weight"]).sum().backward()
    for key, value in {"x": x, "beta": gdn.beta, "gamma": gdn.gamma}.items():
        assert_close(value.grad, golden[f"{name}.grad.{key}"], msg=key)


@pytest.mark.parametrize(("wavelet", "extension", "high"), [*itertools.product(WAVELETS, EXTENSIONS, HIGHS)])
def test_identity(wavelet: Wavelet, extension: Extension, high: High) -> None:
    for groups, kernel_size, size in ((1, 3, (7, 7)), (2, 1, (1, 1)), (3, 5, (4, 9)), (6, 3, (1, 6))):
        layer = WeConv2d(6, 6, kernel_size, groups=groups, high=high, wavelet=wavelet, extension=extension)
        x = torch.randn(2, 6, *size)
        assert_close(layer.identity_()(x), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("high", HIGHS)
def test_any_1x1_convolution_is_one_in_the_wavelet_domain(high: High) -> None:
    plain, layer = nn.Conv2d(4, 5, 1, bias=False), WeConv2d(4, 5, 1, bias=False, high=high, wavelet="bior4.4")
    with torch.no_grad():
        layer.low.weight.copy_(plain.weight)
        layer.high.weight.zero_()
        for band in range(3):
            first = 4 * band if high == "joint" else 0
            layer.high.weight[5 * band : 5 * band + 5, first : first + 4] = plain.weight
    x = torch.randn(2, 4, 7, 6)
    assert_close(layer(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("high", HIGHS)
def test_forward_is_its_definition(high: High) -> None:
    layer, x = WeConv2d(4, 2, high=high, norm="gdn"), torch.randn(2, 4, 8, 6)
    assert layer.norm_low is not None and layer.norm_high is not None
    bands = split_bands(x)
    if high == "joint":
        convolved = layer.high(bands[:, 4:])
    else:
        weights, biases = layer.high.weight.split(2), layer.high.bias.split(2)  # pyright: ignore[reportOptionalMemberAccess] (it has biases)
        parts = zip(bands[:, 4:].split(4, 1), weights, biases, strict=True)
        convolved = torch.cat([nn.functional.conv2d(band, w, b, padding=1) for band, w, b in parts], 1)
    expected = torch.cat([layer.norm_low(layer.low(bands[:, :4])), layer.norm_high(convolved)], 1)
    assert_close(layer(x), join_bands(expected, (8, 6)))


@pytest.mark.parametrize("high", HIGHS)
def test_groups_see_only_their_own_channels(high: High) -> None:
    layer, x = WeConv2d(6, 9, groups=3, high=high, wavelet="bior2.2"), torch.randn(1, 6, 6, 5)
    changed = x.clone()
    changed[:, 2:4] += 1 + torch.rand(1, 2, 6, 5)
    difference = (layer(changed) - layer(x)).abs().amax((0, 2, 3))
    assert (difference[3:6] > 1e-3).all()
    assert (difference[[0, 1, 2, 6, 7, 8]] == 0).all()
    # and the three bands of a group are mixed if they are to be: each feeds every band of the output
    for band in range(1, 4):
        bands = torch.zeros(1, 24, 3, 3)
        bands[:, 6 * band + 2] = 1
        zero = join_bands(torch.zeros_like(bands), (6, 6), "bior2.2")
        reached = split_bands(layer(join_bands(bands, (6, 6), "bior2.2")) - layer(zero), "bior2.2")
        seen = {i for i in range(4) if reached[:, 9 * i + 3 : 9 * i + 6].abs().max() > 1e-3}
        assert seen == ({1, 2, 3} if high == "joint" else {band})


@pytest.mark.parametrize(("high", "macs", "weights"), [("joint", 22.5, 90), ("band", 9, 36)])
def test_costs(high: High, macs: float, weights: int) -> None:
    layer = WeConv2d(8, 8, high=high, bias=False)
    assert sum(p.numel() for p in layer.parameters()) == weights * 8**2
    with FlopCounterMode(display=False) as counter:
        layer(torch.rand(1, 8, 6, 10))
    assert counter.get_total_flops() / 2 == macs * 8**2 * 60


def test_stride() -> None:
    layer = WeConv2d(4, 6, stride=2, wavelet="bior4.4", norm="igdn")
    assert layer.strided is not None
    inner = WeConv2d(6, 6, wavelet="bior4.4", norm="igdn")
    inner.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("strided")})
    for size in ((9, 6), (1, 2)):
        x = torch.randn(2, 4, *size)
        assert layer(x).shape == nn.Conv2d(4, 6, 3, 2, 1)(x).shape
        assert_close(layer(x), inner(layer.strided(x)))
    assert layer(torch.empty(0, 4, 9, 6)).shape == (0, 6, 5, 3)


@pytest.mark.slow
def test_compile_and_export() -> None:
    layer, x = WeConv2d(4, 4, groups=2, stride=2, norm="gdn"), torch.randn(2, 4, 7, 10)
    torch.compiler.reset()  # or every test counts towards the limit of recompilations
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    program = torch.export.export(layer.eval(), (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    x = torch.randn(3, 4, 7, 10)
    assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    layer, x = WeConv2d(4, 4, norm="gdn"), torch.randn(2, 4, 5, 5)
    expected = layer(x)
    got = layer.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    assert_close(got.float(), expected, rtol=0, atol=1e-5 if dtype == torch.float64 else 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high": "none"}, r"unknown high 'none': expected 'joint' or 'band'"),
        ({"norm": "batch"}, r"unknown norm 'batch': expected 'gdn', 'igdn' or None"),
        ({"wavelet": "db2"}, "unknown wavelet 'db2'"),
        ({"groups": 3}, "groups to divide 4 and 6 channels, got 3"),
        ({"kernel_size": 2}, "kernel_size to be odd, got 2"),
        ({"stride": 0}, "stride to be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels to be at least 1, got 0"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeConv2d(**{"in_channels": 4, "out_channels": 6, **options})


def test_identity_is_refused_where_there_is_none() -> None:
    for layer in (WeConv2d(4, 6), WeConv2d(4, 4, stride=2), WeConv2d(4, 4, norm="gdn")):
        with pytest.raises(ValueError, match="can be the identity"):
            layer.identity_()
    with pytest.raises(ValueError, match="channels to be at least 1, got 0"):
        GDN(0)

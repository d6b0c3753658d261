from statistics import NormalDist

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing import assert_close

from walloc_transforms.codec.companding import compand, expand, round_latents, saturation, slope

# bits, slope at 0, M, expand(1), expand(q), saturation: measured on the reference implementation
TABLE = [
    (2, 2.2127, 1.499, 0.5234, 0.5234, 2.010),
    (3, 1.7216, 3.499, 0.5939, 2.3775, 6.031),
    (4, 1.5813, 7.499, 0.6354, 6.9423, 14.072),
    (5, 1.5252, 15.499, 0.6564, 17.3674, 30.154),
    (6, 1.4998, 31.499, 0.6669, 40.4264, 62.319),
    (8, 1.4819, 127.499, 0.67483, 198.0534, 255.305),
    (10, 1.4775, 511.499, 0.6768, 910.814, 1027.25),
]
BITS = [row[0] for row in TABLE]
TAIL = 1e-4


def constants(bits: int) -> tuple[int, float, float]:
    q = 2 ** (bits - 1) - 1
    return q, q + 0.5 - 0.001, q / 1.85


@pytest.mark.parametrize(("bits", "steepness", "limit", "at_one", "at_last_code", "most"), TABLE)
def test_golden_values(
    bits: int, steepness: float, limit: float, at_one: float, at_last_code: float, most: float
) -> None:
    last_code = constants(bits)[0]
    codes = torch.tensor([1.0, last_code, -last_code], dtype=torch.float64)
    expected = torch.tensor([at_one, at_last_code, -at_last_code], dtype=torch.float64)
    assert_close(expand(codes, bits), expected, rtol=1e-5, atol=6e-5)  # the table was measured in float32
    beyond = torch.tensor([limit, 10 * limit], dtype=torch.float64)
    assert expand(beyond, bits).tolist() == pytest.approx([most, most], abs=1e-3, rel=1e-5)
    assert compand(torch.tensor(1e6), bits) == pytest.approx(limit)
    assert slope(bits) == pytest.approx(steepness, abs=6e-5)
    assert saturation(bits) == pytest.approx(most, rel=1e-5, abs=1e-3)
    assert isinstance(saturation(bits), float)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", BITS)
def test_compand_and_expand_follow_the_normal_distribution(bits: int, dtype: torch.dtype) -> None:
    normal, (_, limit, scale) = NormalDist(), constants(bits)
    z = torch.linspace(-5 * scale, 5 * scale, 101, dtype=dtype)
    companded = [2 * limit * (normal.cdf(float(value) / scale) - 0.5) for value in z]
    assert_close(compand(z, bits), torch.tensor(companded, dtype=dtype), rtol=0, atol=1e-6 * limit)
    v = torch.linspace(-limit - 0.5, limit + 0.5, 101, dtype=dtype)
    shares = [min(max(float(value) / (2 * limit) + 0.5, TAIL), 1 - TAIL) for value in v]
    expanded = torch.tensor([scale * normal.inv_cdf(share) for share in shares], dtype=dtype)
    assert_close(expand(v, bits), expanded, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=1e-6 * limit)


@pytest.mark.parametrize("bits", BITS)
def test_expand_undoes_compand_within_three_s(bits: int) -> None:
    scale = constants(bits)[2]
    z = torch.linspace(-3 * scale, 3 * scale, 1001)
    assert_close(expand(compand(z, bits), bits), z, rtol=0, atol=1e-3 * max(1.0, scale / constants(8)[2]))
    assert_close(expand(compand(z.double(), bits), bits), z.double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("bits", BITS)
def test_codes_fit_a_signed_integer(bits: int) -> None:
    last_code, scale = constants(bits)[0], constants(bits)[2]
    codes = round_latents(compand(torch.linspace(-9 * scale, 9 * scale, 9999), bits), "round")
    assert codes.unique().tolist() == list(range(-last_code, last_code + 1))
    assert torch.equal(round_latents(compand(expand(codes, bits), bits), "round"), codes)


def test_default_is_eight_bits() -> None:
    z = torch.linspace(-300, 300, 11)
    assert torch.equal(compand(z), compand(z, 8))
    assert torch.equal(expand(z), expand(z, 8))
    assert (slope(), saturation()) == (slope(8), saturation(8))


@pytest.mark.parametrize("bits", [4, 8, 10])
def test_codes_expand_by_a_table(bits: int) -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8).repeat(3).view(2, 3, 128)
    assert torch.equal(expand(codes, bits), expand(codes.float(), bits))
    assert torch.equal(expand(codes.transpose(0, 2), bits), expand(codes.float(), bits).transpose(0, 2))
    assert expand(codes[:0], bits).shape == (0, 3, 128)


def test_a_tracer_leaves_nothing_in_the_table() -> None:
    codes, bits = torch.arange(-128, 128, dtype=torch.int8), 9  # which no other test has asked for
    with FakeTensorMode() as mode:
        assert isinstance(expand(mode.from_tensor(codes), bits), FakeTensor)
    assert torch.equal(expand(codes, bits), expand(codes.float(), bits))


def test_compand_is_odd_and_rises_with_the_slope_at_zero() -> None:
    z = torch.linspace(-250, 250, 501)
    assert torch.equal(compand(-z), -compand(z))
    assert (compand(z).diff() > 0).all()
    zero = torch.zeros((), requires_grad=True)
    compand(zero).backward()
    assert zero.grad is not None
    assert zero.grad.item() == pytest.approx(slope())


@pytest.mark.parametrize("function", [compand, expand])
def test_gradients(function) -> None:
    assert torch.autograd.gradcheck(function, torch.linspace(-100, 100, 7, dtype=torch.float64, requires_grad=True))


def test_none_and_round() -> None:
    u = torch.tensor([-2.5, -1.5, -0.5, -0.2, 0.5, 1.5, 2.5, 126.6])
    assert round_latents(u, "none") is u
    assert round_latents(u, "round").tolist() == [-2, -2, 0, 0, 0, 2, 2, 127]  # half to even


def test_noise_is_uniform_within_half_a_code() -> None:
    u = torch.linspace(-100, 100, 100_000, dtype=torch.float64, requires_grad=True)
    noisy = round_latents(u, "noise")
    noise = (noisy - u).detach()
    assert noise.min() >= -0.5 - 1e-9
    assert noise.max() < 0.5 + 1e-9
    assert noise.mean().abs() < 0.005
    assert noise.std().item() == pytest.approx(12**-0.5, abs=0.005)
    assert torch.equal(torch.autograd.grad(noisy.sum(), u)[0], torch.ones_like(u))
    assert not torch.equal(round_latents(u, "noise"), noisy)


@pytest.mark.parametrize("mode", ["Round", "", None, True])
def test_unknown_mode(mode) -> None:
    with pytest.raises(ValueError, match=f"'none', 'round', 'noise'.*got {mode!r}"):
        round_latents(torch.zeros(1), mode)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4)])
def test_shape_and_dtype_are_kept(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        for function in (compand, expand):
            result = function(torch.zeros(shape, dtype=dtype))
            assert (result.shape, result.dtype) == (torch.Size(shape), dtype)


def test_compiles_whole() -> None:
    compiled = torch.compile(lambda z: round_latents(expand(compand(z)), "round"), fullgraph=True, backend="aot_eager")
    z = torch.linspace(-100, 100, 11)
    assert torch.equal(compiled(z), z.round())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_expansion() -> None:
    """Programs are exported without ``erfinv``, which ONNX lacks."""

    class Expand(torch.nn.Module):
        def forward(self, v: torch.Tensor) -> torch.Tensor:
            return expand(v)

    v = torch.linspace(-130, 130, 5201)
    program = torch.export.export(Expand(), (v,))
    assert "erfinv" not in str(program.graph)
    torch.testing.assert_close(program.module()(v), expand(v), atol=5e-3, rtol=0)

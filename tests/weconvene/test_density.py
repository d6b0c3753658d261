"""The densities against CompressAI's, and what becomes of them when a model is stored."""

import hashlib
import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.reference import GOLDEN
from walloc_transforms.weconvene import SCALES, FactorizedPrior, GaussianConditional, SymbolEncoder, lower_bound


def assert_likely(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return safetensors.torch.load_file(GOLDEN / "weconvene_density.safetensors")


@pytest.fixture
def prior(golden: dict[str, Tensor]) -> FactorizedPrior:
    prior = FactorizedPrior(6)
    for name, parameter in prior.named_parameters():
        parameter.data.copy_(golden[f"prior.{name}"])
    return prior


def test_lower_bound_lets_values_return() -> None:
    x = torch.tensor([-1.0, -1.0, 2.0, 2.0, 0.5], requires_grad=True)
    lower_bound(x, 0.5).backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]))
    assert lower_bound(x, 0.5).tolist() == [0.5, 0.5, 2.0, 2.0, 0.5]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, -1.0, 1.0, -1.0, 1.0]


def test_prior_has_the_likelihoods_of_compressai(golden: dict[str, Tensor], prior: FactorizedPrior) -> None:
    x_hat = golden["prior.train.x_hat"]
    assert_likely(prior.likelihood(x_hat), golden["prior.train.likelihoods"])
    near = x_hat[:, :, 1:].clone().requires_grad_()
    (-prior.likelihood(near).log2().sum()).backward()
    assert_close(near.grad, golden["prior.gradient.x"], atol=1e-4, rtol=1e-3)
    for name, parameter in prior.named_parameters():
        if name != "quantiles":
            assert_close(parameter.grad, golden[f"prior.gradient.{name}"], atol=1e-4, rtol=1e-3)
    rounded, likelihoods = prior.eval()(golden["prior.x"])
    assert_close(rounded, golden["prior.eval.x_hat"])
    assert_likely(likelihoods, golden["prior.eval.likelihoods"])


def test_auxiliary_loss_is_that_of_compressai(golden: dict[str, Tensor], prior: FactorizedPrior) -> None:
    loss = prior.auxiliary_loss()
    loss.backward()
    assert_close(loss, golden["prior.loss"])
    assert_close(prior.quantiles.grad, golden["prior.loss.quantiles"])
    assert all(parameter.grad is None for name, parameter in prior.named_parameters() if name != "quantiles")


def test_tables_of_the_prior_are_near_those_of_compressai(golden: dict[str, Tensor], prior: FactorizedPrior) -> None:
    """They have the same support; CompressAI's are of 16 bits, and both give every integer the least frequency."""
    prior.quantiles.data.copy_(golden["prior.fitted.quantiles"])
    assert_close(prior.medians, golden["prior.medians"].view(-1))
    prior.update()
    tables = prior.tables()
    assert tables.offsets.tolist() == golden["prior.cdf.offset"].tolist()
    assert (tables.lengths + 1).tolist() == golden["prior.cdf.length"].tolist()
    for channel, cdf in enumerate(golden["prior.cdf"].double().numpy() / 2**16):
        ours = tables[channel].cumsum() / 2**24
        np.testing.assert_allclose(ours, cdf[1 : len(ours) + 1], atol=len(ours) / 2**16)


def test_gaussian_has_the_likelihoods_of_compressai(golden: dict[str, Tensor]) -> None:
    conditional = GaussianConditional()
    x_hat, scales = (golden[f"gaussian.{name}"].clone().requires_grad_() for name in ("train.x_hat", "scales"))
    likelihoods = conditional.likelihood(x_hat, scales, golden["gaussian.means"])
    assert_likely(likelihoods, golden["gaussian.train.likelihoods"])
    (-likelihoods.log2().sum()).backward()
    assert_close(x_hat.grad, golden["gaussian.gradient.x"], atol=1e-3, rtol=1e-3)
    assert_close(scales.grad, golden["gaussian.gradient.scales"], atol=1e-3, rtol=1e-3)
    rounded, likelihoods = conditional.eval()(golden["gaussian.x"], scales, golden["gaussian.means"])
    assert_close(rounded, golden["gaussian.eval.x_hat"])
    assert_likely(likelihoods, golden["gaussian.eval.likelihoods"])


def test_scales_select_the_tables_of_compressai(golden: dict[str, Tensor]) -> None:
    assert_close(torch.tensor(SCALES), golden["gaussian.table"], rtol=2e-6, atol=0)
    assert torch.equal(GaussianConditional.table_of(golden["gaussian.scales"]), golden["gaussian.indices"].long())
    assert GaussianConditional.table_of(torch.tensor([0.0, 0.11, 0.110001, 226.0, 227.0, math.inf])).tolist() == [
        0,
        0,
        1,
        62,
        63,
        63,
    ]


def test_no_machine_selects_another_table() -> None:
    """The borders lie far from where float32 would round them otherwise, and from the 1/256 that scales are made of."""
    borders = np.array(SCALES[:-1])
    rounded = borders.astype(np.float32)
    for side in (0, np.inf):
        turn = (rounded.astype(np.float64) + np.nextafter(rounded, np.float32(side))) / 2
        assert (np.abs(borders - turn) > 1e-10 * borders).all()
    assert (np.abs(256 * borders - np.rint(256 * borders)) > 1e-4).all()


def test_gaussian_tables_are_near_those_of_compressai(golden: dict[str, Tensor]) -> None:
    """Ours are of the middle of the scales that select them, theirs of the largest, which is 6 % more."""
    tables = GaussianConditional.tables()
    for index in (0, 10, 20, 30, 40):
        theirs, offset = golden[f"gaussian.cdf.{index}"].numpy() / 2**16, int(golden[f"gaussian.cdf.{index}.offset"])
        ours = np.concatenate([[0], tables[index][:-1].cumsum() / 2**24])
        inner = theirs[int(tables.offsets[index]) - offset :][: len(ours)]
        np.testing.assert_allclose(ours, inner, atol=1e-4 if index == 0 else 0.016)


def test_gaussian_tables_are_the_same_everywhere() -> None:
    tables = GaussianConditional.tables()
    data = b"".join(a.astype("<i4").tobytes() for a in (tables.frequencies, tables.lengths, tables.offsets))
    assert hashlib.sha256(data).hexdigest() == "69500e310d02990442b39f700f5946ee81b41add34d656cf1c21f9f84b1b9b87"


def test_gaussian_tables_are_far_from_rounding_otherwise() -> None:
    """Exact masses, in units of a frequency, lie 1e-5 or more from a half: float64 is off by less than 1e-8."""
    ratio = mpmath.mpf(256) / mpmath.mpf("0.11")
    tables = GaussianConditional.tables()
    with mpmath.workdps(30):
        for index in range(64):
            scale = mpmath.mpf("0.11") * ratio ** (mpmath.mpf(max(0, 2 * index - 1)) / 126)
            half = -int(tables.offsets[index])
            tails = [mpmath.erfc((k - 0.5) / (scale * mpmath.sqrt(2))) / 2 for k in range(1, half + 2)]
            exact = [2**24 * (a - b) for a, b in pairwise(tails)]
            assert min(abs(v - mpmath.floor(v) - 0.5) for v in exact) > 1e-5
            assert [max(1, int(mpmath.nint(v))) for v in exact] == tables[index][half + 1 : -1].tolist()


def test_real_rate_is_the_estimated_one() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.exp(torch.rand(300_000, generator=generator) * math.log(256 / 0.11)) * 0.11
    x = torch.randn(300_000, generator=generator) * scales
    rounded, likelihoods = GaussianConditional().eval()(x, scales)
    encoder = SymbolEncoder()
    encoder.put(rounded.int(), GaussianConditional.table_of(scales), GaussianConditional.tables())
    assert 8 * len(encoder.finish()) == pytest.approx(-likelihoods.log2().sum().item(), rel=1e-3)


@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (2, 6), (1, 6, 7), (2, 6, 0, 3), (1, 6, 2, 3, 4)])
def test_shapes(prior: FactorizedPrior, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for mode in (True, False):
        for part in (*prior.train(mode)(x), *GaussianConditional().train(mode)(x, torch.rand(shape))):
            assert part.shape == shape
    with pytest.raises(ValueError, match=r"\(N, 6, \.\.\.\), got \(2, 5, 3\)"):
        prior(torch.zeros(2, 5, 3))


def test_half_precision_keeps_the_least_likelihood(prior: FactorizedPrior) -> None:
    x = torch.full((1, 6, 1), 300.0)
    with torch.autocast("cpu", torch.bfloat16):
        for likelihoods in (prior(x.bfloat16())[1], GaussianConditional()(x.half(), x.half() / 1e4)[1]):
            assert likelihoods.dtype == torch.float32
            assert_close(likelihoods, torch.full_like(x, 1e-9))


def test_tables_of_the_prior_are_stored(prior: FactorizedPrior) -> None:
    with pytest.raises(ValueError, match=r"call update\(\)"):
        prior.tables()
    prior.eval().update()
    state = safetensors.torch.load(safetensors.torch.save(prior.state_dict()))
    for assign in (False, True):
        loaded = FactorizedPrior(6)
        loaded.load_state_dict(state, assign=assign)
        loaded.eval().half()
        for name in ("frequencies", "lengths", "offsets"):
            np.testing.assert_array_equal(getattr(loaded.tables(), name), getattr(prior.tables(), name))
    assert len(prior.train().state_dict()["frequencies"]) == 0
    with pytest.raises(ValueError, match=r"call update\(\)"):
        prior.tables()


def test_prior_learns() -> None:
    """Two optimizers fit the density and its quantiles, and the tables code at the rate that was estimated."""
    prior = FactorizedPrior(2)
    x = torch.randn(1, 2, 500) * torch.tensor([1.0, 4.0])[:, None] + torch.tensor([3.0, -20.0])[:, None]
    main = torch.optim.Adam([p for name, p in prior.named_parameters() if name != "quantiles"], 0.08)
    auxiliary = torch.optim.Adam([prior.quantiles], 0.5)
    for _ in range(120):
        prior.zero_grad()
        (-prior(x)[1].log2().mean()).backward()
        prior.auxiliary_loss().backward()
        main.step()
        auxiliary.step()
    assert_close(prior.medians, torch.tensor([3.0, -20.0]), atol=1.0, rtol=0)
    rounded, likelihoods = prior.eval()(x)
    estimated = -likelihoods.log2().sum().item()
    entropy = 500 * (math.log2(4) + 2 * math.log2(math.sqrt(2 * math.pi * math.e)))
    assert estimated == pytest.approx(entropy, rel=0.04)
    prior.update()
    encoder = SymbolEncoder()
    symbols = (rounded - prior.medians[:, None]).round().int()
    encoder.put(symbols, np.broadcast_to(np.arange(2)[:, None], symbols.shape), prior.tables())
    assert 8 * len(encoder.finish()) == pytest.approx(estimated, rel=5e-3, abs=32)

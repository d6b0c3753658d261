from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from tests.golden.make_weconvene import FILE, SIZE, TABLES, WAVELETS, decode
from tests.golden.make_weconvene import make_model as make_golden
from walloc_transforms.wavelets import Wavelet
from walloc_transforms.weconvene import PRESETS, Compressed, WeConvene

VARIANTS: list[dict[str, Any]] = [
    {},
    {"weconv": False},
    {"wecharm": False},
    {"weconv": False, "wecharm": False},
    {"wavelet": "bior2.2"},
    {"wavelet": "bior4.4"},
]


def make_model(**options: Any) -> WeConvene:
    """A small model whose symbols are not all zero and whose scales differ."""
    model = WeConvene(**{"n": 8, "m": 16, "slices": 2, "blocks": 1, **options}).eval()
    with torch.no_grad():
        for name, gain in (("analysis", 15), ("hyper_analysis", 3)):
            [*model.get_submodule(name).parameters()][-2].mul_(gain)
        for name, values in model.charm.named_parameters():
            if name.endswith(".scale.4.weight"):
                values.mul_(10)
            elif name.endswith(".scale.4.bias"):
                values.copy_(torch.linspace(1, 12, len(values)))
    return model


@pytest.fixture
def model() -> WeConvene:
    return make_model()


def parameters(module: nn.Module) -> int:
    return sum(values.numel() for values in module.parameters())


@pytest.fixture(scope="module")
def paper() -> WeConvene:
    with torch.device("meta"):
        return WeConvene().eval()


def test_has_the_parameters_of_the_paper(paper: WeConvene) -> None:
    model = paper
    counts = {name: parameters(part) for name, part in model.named_children() if parameters(part)}
    for group in model.charm.groups:
        for part in ("mean_attention", "scale_attention", "mean", "scale", "residual"):
            slices = [model.get_submodule(f"charm.groups.{group}.slices.{index}.{part}") for index in range(5)]
            counts[f"{group} {part}"] = sum(map(parameters, slices))
    dead = 3 * (9 * 128**2 + 128)  # the original makes a convolution in each downsampling WeConv that it never uses
    assert parameters(model) == 106_704_396
    assert parameters(model) + dead == 107_147_148
    del counts["charm"]
    assert sum(counts.values()) == 106_704_396
    assert {name: round(count / 1e6, 2) for name, count in counts.items()} == {
        "analysis": 6.80,
        "synthesis": 9.21,
        "hyper_analysis": 4.38,
        "hyper_means": 5.77,
        "hyper_scales": 5.77,
        "prior": 0.01,
        "low mean_attention": 5.22,
        "low scale_attention": 5.22,
        "low mean": 6.18,
        "low scale": 6.18,
        "low residual": 6.82,
        "high mean_attention": 5.75,
        "high scale_attention": 5.75,
        "high mean": 9.50,
        "high scale": 9.50,
        "high residual": 14.66,
    }


def test_has_the_work_of_the_paper(paper: WeConvene) -> None:
    paper.prior.forward = lambda x: (x, x)  # counted by nobody; autocast knows no meta device
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        paper(torch.empty(1, 3, 64, 64))
    assert counter.get_total_flops() / 2 / 64**2 / 1000 == pytest.approx(2343, abs=0.5)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_models(preset: str) -> None:
    with torch.device("meta"):
        model = WeConvene.preset(preset, wavelet="bior2.2")
        assert parameters(WeConvene(**model.config)) == parameters(model)
    assert model.config["wavelet"] == "bior2.2"


@pytest.mark.parametrize("options", VARIANTS)
def test_training_reaches_every_parameter(options: dict[str, Any]) -> None:
    model = make_model(**options).train()
    x = torch.rand(2, 3, 64, 128)
    result = model(x)
    assert result["x_hat"].shape == x.shape
    bits = sum(-values.log2().sum() for values in result["likelihoods"].values())
    (bits + result["x_hat"].square().sum()).backward()
    assert [name for name, values in model.named_parameters() if values.grad is None] == ["prior.quantiles"]
    model.auxiliary_loss().backward()
    assert model.prior.quantiles.grad is not None
    assert all(values.grad.isfinite().all() for values in model.parameters() if values.grad is not None)


def test_rounding_passes_gradients(model: WeConvene) -> None:
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    model.train()(x)["x_hat"].sum().backward()
    assert x.grad is not None and x.grad.abs().min() > 0


@pytest.mark.parametrize("group", ["low", "high"])
@pytest.mark.parametrize("changed", [0, 1])
def test_slices_know_only_those_before(model: WeConvene, group: str, changed: int) -> None:
    order = [(name, index) for name in ("low", "high") for index in range(2)]
    hyper = torch.randn(2, 1, 16, 4, 4)

    def run(change: bool) -> list[Tensor]:
        seen = []

        def decode(name: str, index: int, means: Tensor, scales: Tensor) -> Tensor:
            seen.append(torch.cat([means, scales]))
            return means.round() + 10.0 * (change and (name, index) == (group, changed))

        model.charm(*hyper, decode)
        return seen

    with torch.no_grad():
        same = [torch.equal(*pair) for pair in zip(run(False), run(True), strict=True)]
    assert same == [position <= order.index((group, changed)) for position in range(4)]


@pytest.mark.parametrize("options", VARIANTS)
def test_decodes_what_forward_gives(options: dict[str, Any]) -> None:
    model = make_model(**options)
    x = torch.rand(1, 3, 70, 130)
    with torch.no_grad():
        exact, floats = model(x, exact=True), model(x)
    (compressed,) = model.compress(x)
    assert torch.equal(model.decompress([compressed])[0], exact["x_hat"][0])
    for stream, likelihoods in zip(compressed.streams, exact["likelihoods"].values(), strict=True):
        estimate = -likelihoods.log2().sum().item() / 8
        assert len(stream) == pytest.approx(estimate, rel=0.015, abs=6)
    # floats and exact networks round a few latents otherwise
    assert_close(floats["x_hat"], exact["x_hat"], rtol=0, atol=0.2)
    for name, values in floats["likelihoods"].items():
        assert values.log2().sum().item() == pytest.approx(exact["likelihoods"][name].log2().sum().item(), rel=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (2, 3), (63, 65), (64, 64), (65, 5)])
def test_any_size(model: WeConvene, size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size)
    (decoded,) = model.decompress(model.compress(x))
    with torch.no_grad():
        expected = model(x, exact=True)["x_hat"]
    assert decoded.shape == (3, *size)
    assert torch.equal(decoded[None], expected)


def test_batches(model: WeConvene) -> None:
    x = torch.rand(3, 3, 40, 70)
    together = model.compress(x)
    assert together == [model.compress(image[None])[0] for image in x]
    other = model.compress(torch.rand(1, 3, 20, 20))
    images = model.decompress([*other, *together])
    assert [tuple(image.shape) for image in images] == [(3, 20, 20), *[(3, 40, 70)] * 3]
    assert torch.equal(images[2], model.decompress(together[1:2])[0])
    assert model.compress(torch.rand(0, 3, 40, 70)) == []
    assert model.decompress([]) == []
    with pytest.raises(ValueError, match="no tables of its hyper latents"):
        model.train().eval().decompress(together)
    assert model(torch.rand(0, 3, 40, 70))["x_hat"].shape == (0, 3, 40, 70)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # what flags() sets anew
def test_decoding_depends_on_no_setting(model: WeConvene) -> None:
    compressed = model.compress(torch.rand(1, 3, 130, 130))
    latents: list[Tensor] = []
    model.synthesis.register_forward_pre_hook(lambda module, inputs: latents.append(inputs[0].clone()))
    model.decompress(compressed)
    torch.set_num_threads(2)
    model.decompress(compressed)
    with torch.backends.mkldnn.flags(enabled=False):
        model.decompress(compressed)
    with torch.autocast("cpu", torch.bfloat16):
        model.decompress(compressed)
    assert len(latents) == 4
    assert all(torch.equal(latents[0], other) for other in latents[1:])


def test_follows_its_weights(model: WeConvene) -> None:
    x = torch.rand(1, 3, 64, 64)
    before = model.compress(x)
    assert model.compress(x) == before
    other = make_model()
    model.load_state_dict(other.state_dict(), strict=False)
    assert model.compress(x) == other.compress(x) != before
    for values in model.hyper_scales.parameters():
        values.data.mul_(0.5)  # behind torch's back: no version counts it
    again = make_model()
    again.load_state_dict(model.state_dict(), strict=False)
    assert model.compress(x) == again.compress(x) != other.compress(x)


def test_double_precision(model: WeConvene) -> None:
    x = torch.rand(1, 3, 64, 64)
    assert model.compress(x.double()) == model.compress(x)
    assert model(x.double())["x_hat"].dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.rand(1, 1, 64, 64), ValueError, r"RGB images \(N, 3, H, W\).*\(1, 1, 64, 64\)"),
        (torch.rand(3, 64, 64), ValueError, r"\(3, 64, 64\)"),
        (torch.rand(1, 3, 0, 64), ValueError, r"\(1, 3, 0, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, "uint8"),
        (torch.full((1, 3, 64, 64), 255.0), ValueError, r"within \[0, 1\], got values from 255 to 255"),
        (torch.full((1, 3, 64, 64), torch.nan), ValueError, r"within \[0, 1\]"),
    ],
)
def test_refuses_other_images(model: WeConvene, x: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.compress(x)


def test_refuses_other_streams(model: WeConvene) -> None:
    (compressed,) = model.compress(torch.rand(1, 3, 64, 64))
    hyper, low, high = compressed.streams
    for streams in ((hyper, low, high + bytes(4)), (hyper, low, high[:-4]), (hyper, high, low)):
        with pytest.raises(ValueError, match="damaged"):
            model.decompress([Compressed(streams, compressed.size)])
    with pytest.raises(ValueError, match=r"3 streams \(hyper, low, high\), got 2"):
        model.decompress([Compressed((hyper, low), compressed.size)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeConvene(8, 16, 3), "multiple of slices=3, got 16"),
        (lambda: WeConvene(8, 16, 0), "slices to be at least 1, got 0"),
        (lambda: WeConvene(8, 16, 2, wavelet=cast(Any, "db2")), "unknown wavelet 'db2'"),
        (lambda: WeConvene.preset("huge"), "unknown preset 'huge': expected one of tiny, small, medium, paper"),
        (lambda: WeConvene(8, 16, 2)(torch.rand(1, 3, 64, 64), exact=True), "call eval"),
        (lambda: WeConvene(8, 16, 2).compress(torch.rand(1, 3, 64, 64)), "call eval"),
        (lambda: WeConvene(8, 16, 2).decompress([]), "call eval"),
    ],
)
def test_refuses_other_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_decodes_what_other_machines_made(wavelet: Wavelet) -> None:
    golden = load_file(FILE)
    model = make_golden(wavelet)
    for name in TABLES:
        setattr(model.prior, name, golden[f"{wavelet}.{name}"])
    streams = tuple(golden[f"{wavelet}.stream{index}"].numpy().tobytes() for index in range(3))
    assert torch.equal(decode(model, Compressed(streams, SIZE)), golden[f"{wavelet}.latents"])

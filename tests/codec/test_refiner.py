"""The refiner by itself; how a codec decodes with one is tested in test_codec.py, its file in test_files.py."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.helpers import PRODUCTS, assert_close_float32, give_refiner, make_codec, make_refiner, reference_features
from walloc_transforms.codec import CodecConfig
from walloc_transforms.codec.refiner import Refiner, build_refiner, prefix_of, refiner_state

IMAGE = CodecConfig("pictures", "image", 3, 12, 3, refiner_width=8, refiner_blocks=2)
AUDIO = CodecConfig("sounds", "audio", 2, 27, 8, refiner_width=8, refiner_blocks=2)
CONFIGS = pytest.mark.parametrize("config", [IMAGE, AUDIO], ids=["image", "audio"])


def refiner_of(config: CodecConfig) -> Refiner:
    c = config
    return make_refiner(c.channels, c.packets, c.dims, c.refiner_width, c.refiner_blocks)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (9, 2), (7, 8), (1,), (2,), (30,)], ids=str)
def test_features_by_the_definition(size: tuple[int, ...], blocks: int) -> None:
    refiner, x = make_refiner(5, 16, len(size), blocks=blocks), torch.randn(3, 5, *size)
    features = refiner(x)
    assert features.shape == (3, 8, *size)
    assert features.dtype == torch.float32
    assert_close(features, reference_features(refiner, x).float(), rtol=0, atol=2e-5)
    packets = torch.einsum("p,pw,nw...->np...", refiner.scale, refiner.head, features)
    assert_close(refiner.packets(features), packets, rtol=0, atol=2e-5)


@CONFIGS
def test_untrained_adds_nothing(config: CodecConfig) -> None:
    c = config
    x = torch.randn(2, c.channels, *[5] * c.dims)
    for refiner in (Refiner(c.channels, c.packets, 8, 2, c.dims), build_refiner(c)):
        features = refiner(x)
        assert features.std() > 0.5
        assert not refiner.packets(features).any()
        assert torch.equal(refiner.scale, torch.ones(c.packets))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("size", [(15, 15), (31,)], ids=str)
def test_reach_is_exact(size: tuple[int, ...], blocks: int) -> None:
    """What lies at the reach makes a difference, in every direction, and what lies beyond makes none."""
    refiner = make_refiner(5, 16, len(size), blocks=blocks)
    assert refiner.reach == 1 + 2 * blocks
    x, middle = torch.randn(1, 5, *size), [side // 2 for side in size]
    other = x.clone()
    other[(0, slice(None), *middle)] += 10
    changed = (refiner(x) != refiner(other)).any(1)[0].nonzero()
    lowest, highest = changed.amin(0).tolist(), changed.amax(0).tolist()
    assert [m - low for m, low in zip(middle, lowest, strict=True)] == [refiner.reach] * len(size)
    assert [high - m for m, high in zip(middle, highest, strict=True)] == [refiner.reach] * len(size)
    assert len(changed) == (2 * refiner.reach + 1) ** len(size)


@pytest.mark.parametrize("tile", [1, 2, 3, 4, 6, 7, 10, 64])
@pytest.mark.parametrize("size", [(13, 20), (6, 7), (1, 9), (14, 3), (23,), (6,)], ids=str)
def test_tiles_make_no_difference(size: tuple[int, ...], tile: int) -> None:
    refiner, x = make_refiner(5, 16, len(size)), torch.randn(2, 5, *size)
    whole = refiner(x)
    tiled = refiner(x, tile)
    assert (tiled.shape, tiled.dtype) == (whole.shape, whole.dtype)
    assert_close_float32(tiled, whole, terms=PRODUCTS, factor=8)


@pytest.mark.parametrize("size", [(2, 513), (65537,)], ids=str)
def test_tiles_of_their_own_accord(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    refiner, x, widths = make_refiner(2, 4, len(size), width=4), torch.randn(1, 2, *size), []
    whole, original = refiner(x, 1 << 20), refiner._features

    def spy(part: Tensor) -> Tensor:
        widths.append(part.shape[-1])
        return original(part)

    monkeypatch.setattr(refiner, "_features", spy)
    assert_close_float32(refiner(x), whole, terms=PRODUCTS, factor=8)
    assert widths == ([259, 260, 4] if len(size) == 2 else [65537, 4])


def test_progress_counts_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    codec = give_refiner(make_codec())
    latents = torch.zeros(1, codec.config.channels, 5, 7)
    plain = codec.decode(latents, decoder="refiner", tile=4 * codec.config.stride)
    assert capsys.readouterr().err == ""
    shown = codec.decode(latents, decoder="refiner", tile=4 * codec.config.stride, progress=True)
    assert "4/4" in capsys.readouterr().err
    assert torch.equal(plain, shown)


def test_tiles_can_be_trained_through() -> None:
    refiner, x = make_refiner(5, 16), torch.randn(1, 5, 9, 10, requires_grad=True)
    results = [
        torch.autograd.grad(refiner(x, tile).square()[:, ::2].sum(), [x, refiner.stem.weight]) for tile in (None, 4)
    ]
    for tiled, whole in zip(*results, strict=True):
        assert_close(tiled, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize("size", [(7, 8), (20,)], ids=str)
def test_signals_of_a_batch_are_apart(size: tuple[int, ...], tile: int | None) -> None:
    refiner, x = make_refiner(5, 16, len(size)), torch.randn(3, 5, *size)
    features = refiner(x, tile)
    for i in range(3):
        assert_close_float32(refiner(x[i : i + 1], tile)[0], features[i], terms=PRODUCTS, factor=8)
    assert refiner(x[:0], tile).shape == (0, 8, *size)
    assert refiner.packets(refiner(x[:0], tile)).shape == (0, 16, *size)


@CONFIGS
def test_state_goes_round(config: CodecConfig) -> None:
    refiner, x = refiner_of(config), torch.randn(2, config.channels, *[9] * config.dims)
    state = refiner_state(refiner)
    assert {name: value.dtype for name, value in state.items()} == {
        name: torch.float32 if name == "scale" else torch.float16 for name in refiner.state_dict()
    }
    for stored in (state, refiner.state_dict()):
        again = build_refiner(config, stored)
        assert torch.equal(again(x), refiner(x))  # half precision holds the weights of these tests
        assert torch.equal(again.weight, refiner.weight)
        assert not any(p.requires_grad for p in again.parameters())
        assert all(p.dtype == torch.float32 for p in again.state_dict().values())
    assert again.stem.weight.is_contiguous(memory_format=torch.channels_last)


@CONFIGS
def test_belongs_to_nobody_else(config: CodecConfig) -> None:
    refiner = refiner_of(config)
    again, x = build_refiner(config, refiner.state_dict()), torch.randn(2, config.channels, *[9] * config.dims)
    features, weight = again(x), again.weight
    with torch.no_grad():
        for value in refiner.state_dict().values():
            value.zero_()
    assert torch.equal(again(x), features)
    assert torch.equal(again.weight, weight)


def test_scale_can_be_tiny() -> None:
    refiner = make_refiner(5, 192)
    refiner.scale.fill_(1e-9)
    config = CodecConfig("a", "image", 3, 5, 3, refiner_width=8, refiner_blocks=1)
    assert torch.equal(build_refiner(config, refiner_state(refiner)).weight, refiner.weight)
    assert refiner.weight.any()


@CONFIGS
def test_random_numbers_are_the_program_s_own(config: CodecConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the random numbers of another device were touched")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    before = torch.get_rng_state()
    fresh, state = build_refiner(config).state_dict(), build_refiner(config).state_dict()
    build_refiner(config, state)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(fresh[name], value) for name, value in state.items())


def test_built_in_inference_mode() -> None:
    with torch.inference_mode():
        state = {name: value.clone() for name, value in refiner_state(refiner_of(IMAGE)).items()}
        refiners = build_refiner(IMAGE), build_refiner(IMAGE, state)
    for refiner in refiners:
        assert not any(value.is_inference() for value in refiner.state_dict().values())
        refiner.requires_grad_()
        refiner.packets(refiner(torch.randn(1, 12, 4, 4))).square().sum().backward()


EDITS: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (lambda s: s.pop("head"), r"missing tensors \['head'\], unexpected \[\]"),
    (lambda s: s.pop("scale"), r"missing tensors \['scale'\]"),
    (lambda s: s.update(extra=torch.zeros(1)), r"unexpected \['extra'\]"),
    (lambda s: s.update({"blocks.2.norm.weight": torch.zeros(8)}), r"unexpected \['blocks.2.norm.weight'\]"),
    (lambda s: s.update(head=s["head"].T), r"head has shape \(8, 192\), not \(192, 8\)"),
    (lambda s: s.update({"stem.weight": s["stem.weight"][:, :11]}), r"stem.weight has shape \(8, 11, 3, 3\), not"),
    (lambda s: s["head"][3].fill_(torch.nan), "head must hold finite float32 values"),
    (lambda s: s["scale"][3:4].fill_(torch.inf), "scale must hold finite"),
    (lambda s: s.update(head=s["head"].half().fill_(torch.inf)), "head must hold finite"),
    (lambda s: s.update(head=s["head"].double()), "head must hold finite float32 values"),
    (lambda s: s.update(head=s["head"].bfloat16()), "head must hold finite float32 values"),
    (lambda s: s.update(latent_mean=torch.zeros(12)), r"missing tensors \['latent_std'\]"),
    (lambda s: s.update(latent_mean=torch.zeros(12), latent_std=torch.ones(11)), "latent_std has shape"),
    (lambda s: s.update(latent_mean=torch.zeros(12), latent_std=torch.zeros(12)), "latent_std must be positive"),
    (lambda s: s.update(scale=torch.ones(192, dtype=torch.int64)), "scale must hold finite float32 values"),
]


@pytest.mark.parametrize(("edit", "match"), EDITS)
def test_wrong_tensors(edit: Callable[[dict[str, Tensor]], object], match: str) -> None:
    state = refiner_of(IMAGE).state_dict()
    edit(state)
    with pytest.raises(ValueError, match=f"the refiner of codec 'pictures'.*{match}"):
        build_refiner(IMAGE, state)


@pytest.mark.parametrize("name", ["head", "stem.weight", "blocks.1.conv2.bias", "norm.weight", "scale"])
def test_what_half_precision_cannot_hold(name: str) -> None:
    refiner = refiner_of(IMAGE)
    value = refiner.state_dict()[name]
    value[(0,) * value.ndim] = 1e5
    if name == "scale":  # which is stored as it is
        assert refiner_state(refiner)["scale"][0] == 1e5
        return
    with pytest.raises(ValueError, match=f"the refiner's {name} is beyond the range of half precision"):
        refiner_state(refiner)


@pytest.mark.parametrize("channels", [1, 7, 12])
def test_prefix_holds_the_other_latents_at_their_mean(channels: int) -> None:
    refiner, x = refiner_of(IMAGE), torch.randn(2, 12, 9, 5)
    config = CodecConfig("pictures", "image", 3, channels, 3, refiner_width=8, refiner_blocks=2)
    shorter = build_refiner(config, prefix_of(refiner.state_dict(), channels))
    features = shorter(x[:, :channels])
    assert_close(features, refiner(torch.cat([x[:, :channels], torch.zeros(2, 12 - channels, 9, 5)], 1)))
    assert torch.equal(shorter.weight, refiner.weight)
    assert not torch.allclose(features, refiner(x)) or channels == 12


def test_every_weight_matters() -> None:
    refiner, x = refiner_of(IMAGE), torch.randn(1, 12, 6, 6)
    packets = refiner.packets(refiner(x))
    for name, value in refiner.state_dict().items():
        before = value.clone()
        value[(0,) * value.ndim] += 1
        assert not torch.equal(refiner.packets(refiner(x)), packets), name
        value.copy_(before)
    assert torch.equal(refiner.packets(refiner(x)), packets)

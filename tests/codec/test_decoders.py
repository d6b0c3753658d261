import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import PRODUCTS, assert_close_float32
from walloc_transforms.codec import CodecConfig
from walloc_transforms.codec.decoders import LinearDecoder, NetworkDecoder, cut_side
from walloc_transforms.codec.networks import build_decoder

REACH = NetworkDecoder.reach


def test_linear_decoder() -> None:
    decoder = LinearDecoder(5, 7)
    decoder.weight.normal_()
    decoder.bias.normal_()
    z = torch.randn(2, 5, 3, 4)
    expected = torch.einsum("pd,ndhw->nphw", decoder.weight, z) + decoder.bias.view(-1, 1, 1)
    torch.testing.assert_close(decoder(z), expected)


@pytest.mark.parametrize("tile", [8, 9, 16, 31])
@pytest.mark.parametrize("side", [1, 8, 9, 15, 16, 17, 33, 100])
def test_tiles_cover_a_side_once(side: int, tile: int) -> None:
    tiles = cut_side(side, tile, reach=None)
    total = torch.zeros(side)
    for start, weights in tiles:
        assert len(weights) == min(tile, side)
        assert (weights >= 0).all()
        total[start : start + len(weights)] += weights
    torch.testing.assert_close(total, torch.ones(side))
    for (a, _), (b, _) in itertools.pairwise(tiles):
        assert a + tile - b >= tile // 4


@pytest.mark.parametrize("side", [345, 400, 689, 1500])
def test_local_tiles_do_not_use_their_ends(side: int) -> None:
    tiles = cut_side(side, 344, reach=REACH)
    for i, (_, weights) in enumerate(tiles):
        if i > 0:
            assert not weights[:REACH].any()
        if i < len(tiles) - 1:
            assert not weights[-REACH:].any()
    total = torch.zeros(side)
    for start, weights in tiles:
        total[start : start + 344] += weights
    torch.testing.assert_close(total, torch.ones(side))


class Pointwise(nn.Module):
    """A network to which tiles make no difference."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z.sin(), z * 2], 1)


class Mean(nn.Module):
    """A network that gives every tile another level."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z) + z.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("shape", [(2, 3, 17, 40), (1, 3, 8, 8), (1, 3, 100, 9)])
@pytest.mark.parametrize("tile", [8, 11, 200])
def test_tiles_of_images_are_blended(shape: tuple[int, ...], tile: int) -> None:
    z = torch.randn(shape)
    decoder = NetworkDecoder(Pointwise(), 6, 2)
    torch.testing.assert_close(decoder(z, tile), decoder(z))
    torch.testing.assert_close(decoder(z, tile, progress=True), decoder(z))


def test_seams_are_smooth() -> None:
    z = torch.arange(128.0).expand(1, 1, 32, 128)
    y = NetworkDecoder(Mean(), 1, 2)(z, 32)[0, 0]
    steps = y.diff(dim=1).abs()
    assert y.std() > 10
    assert steps.max() <= 24 / 8 + 1e-4  # neighbors lie 24 apart and share 8


@pytest.mark.slow
def test_audio_is_cut_without_loss() -> None:
    config = CodecConfig("test", "audio", 2, 8, 4, decoder="oobleck", decoder_width=16, pad=1)
    decoder = build_decoder(config)
    z = torch.randn(2, 8, 1502) * 5
    whole = decoder.network(z)
    assert whole.shape == (2, 32, 1500)
    for tile in (344, 400, 1000, 1500, 4096):
        assert_close_float32(decoder(z, tile), whole, terms=PRODUCTS, factor=32)


def test_reach() -> None:
    """What an Oobleck network sees: no farther than we say, and nearly as far."""
    decoder = build_decoder(CodecConfig("test", "audio", 2, 8, 4, decoder="oobleck", decoder_width=16, pad=1))
    z = torch.randn(1, 8, 402)
    other = z.clone()
    other[..., 201] += 10
    changed = (decoder(z) != decoder(other)).any(1)[0].nonzero().flatten()
    assert 200 - REACH <= int(changed.min()) <= 200 - REACH + 3
    assert 200 + REACH - 3 <= int(changed.max()) <= 200 + REACH


@pytest.mark.parametrize(("dims", "least"), [(2, 8), (1, 344)])
def test_tiles_too_small(dims: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"a tile must be at least {least} cells wide, got {least - 1}"):
        NetworkDecoder(Pointwise(), 6, dims)(torch.zeros(1, 3, *[9] * dims), least - 1)


def test_empty_batch() -> None:
    assert NetworkDecoder(Pointwise(), 6, 2)(torch.zeros(0, 3, 9, 9)).shape == (0, 6, 9, 9)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    NetworkDecoder(Pointwise(), 6, 2)(torch.zeros(2, 3, 9, 20), 8, progress=True)
    assert "12/12" in capsys.readouterr().err


def test_gradients_reach_the_latents() -> None:
    z = torch.randn(1, 3, 9, 20, requires_grad=True)
    NetworkDecoder(Pointwise(), 6, 2)(z, 8).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, z.detach().cos() + 2)

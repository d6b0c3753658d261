"""How far flips look, by wavelet, and that they follow the weights; ``tests/test_latents.py`` flips ``wt.Latents``."""

import copy

import pytest
import torch

from tests.helpers import make_codec, signal
from walloc_transforms.codec import Codec, flip
from walloc_transforms.codec.flipping import moved_bands, near_cells


def missed(codec: Codec, axis: int) -> float:
    """Share of the latents' variance."""
    image = signal(1, 3, 64, 96)
    expected = codec.encode(image.flip(axis))
    return float((flip(codec.encode(image), codec, axis) - expected).square().mean() / expected.var())


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize(
    ("wavelet", "levels"),
    [("db4", 3), ("db4", 1), ("db8", 2), ("db20", 1), ("coif3", 3), ("coif17", 1), ("sym8", 3), ("bior6.8", 1)],
)
def test_wavelets_that_are_far_from_symmetric(wavelet: str, levels: int, axis: int) -> None:
    codec = make_codec(3 * 4**levels, levels, gain=40.0, wavelet=wavelet)
    assert missed(codec, axis) < 1e-4


@pytest.mark.parametrize(
    ("wavelet", "levels", "reach"),
    [*[("bior4.4", levels, 3) for levels in (1, 2, 3, 4)], ("haar", 3, 0), ("bior3.9", 3, 0), ("db4", 3, 5)],
)
def test_no_more_cells_than_matter(wavelet: str, levels: int, reach: int) -> None:
    moved = moved_bands(wavelet, levels)
    assert near_cells(moved).shape == (2**levels, 2**levels, 2 * reach + 1)
    torch.testing.assert_close(moved[..., [0, -1]], torch.zeros_like(moved[..., :2]))  # nothing came round


@pytest.mark.parametrize("part", ["decoder.weight", "decoder.bias", "weight", "bias"])
def test_flips_follow_the_weights(part: str) -> None:
    codec, latents = make_codec(), 30 * torch.randn(1, 12, 4, 5)
    flip(latents, codec, -1)
    with torch.no_grad():
        codec.get_parameter(part).mul_(0.5)
    assert torch.equal(flip(latents, codec, -1), flip(latents, copy.deepcopy(codec), -1))

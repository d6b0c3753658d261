"""What transforms do to latents of volumes that are stored already, against encoding what they do to volumes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import walloc_transforms as wt
from tests.codec.test_volumes import moving


@pytest.fixture(scope="module")
def codec() -> wt.Codec:
    return wt.fit_codec([moving(seed=seed) for seed in range(8)], levels=(2, 3, 2), channels=96, progress=False)


@pytest.fixture(scope="module")
def encode(codec: wt.Codec) -> wt.WallocEncode:
    return wt.WallocEncode(codec)  # latents know their codec as long as this is there


@pytest.fixture(scope="module")
def latents(encode: wt.WallocEncode) -> wt.Latents:
    return encode(moving(seed=9))


def missed(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).square().mean() / torch.Tensor(expected).var((-3, -2, -1)).mean())


@pytest.mark.parametrize(
    ("flip", "axis"),
    [(F.horizontal_flip, -1), (wt.transforms.LatentRandomHorizontalFlip(1), -1), (F.vertical_flip, -2)],
)
def test_flips(codec: wt.Codec, latents: wt.Latents, flip: Callable[[Any], wt.Latents], axis: int) -> None:
    flipped, expected = flip(latents), wt.WallocEncode(codec)(moving(seed=9).flip(axis))
    assert (type(flipped), flipped.signal_size) == (wt.Latents, (24, 40, 40))
    assert missed(flipped, expected) < 0.01
    assert missed(torch.Tensor(latents).flip(axis), expected) > 0.2
    odd = wt.WallocEncode(codec)(moving(side=39))
    with pytest.raises(ValueError, match=f"{'width' if axis == -1 else 'height'} 39 would begin with what encoding"):
        flip(odd)


def test_crops_cut_all_of_time(latents: wt.Latents) -> None:
    assert latents.shape == (96, 6, 5, 10)
    part: Any = F.crop(latents, 1, 2, 3, 4)
    assert torch.equal(part, latents[..., 1:4, 2:6])
    assert (part.signal_size, part.cropped) == ((24, 24, 16), (False, True, True))
    assert F.get_size(latents) == [5, 10]
    assert torch.equal(v2.CenterCrop((3, 4))(latents), latents[..., 1:4, 3:7])
    with pytest.raises(ValueError, match="within their grid, here of 5 x 10 cells"):
        F.crop(latents, 3, 0, 3, 3)
    with pytest.raises(TypeError, match="resize changes the geometry"):
        v2.Resize(4)(latents)


def test_random_crops_and_windows(codec: wt.Codec) -> None:
    encode = wt.WallocEncode(codec, quantize=True, dtype=torch.int8)
    both = encode(torch.stack([moving(25, 45), moving(25, 45, seed=1)]))
    assert both.shape == (2, 96, 7, 6, 12)
    crop = wt.transforms.LatentRandomCrop((4, 8))(both)
    assert (crop.shape, crop.dtype, crop.signal_size) == ((2, 96, 7, 4, 8), torch.int8, (25, 32, 32))
    window = wt.transforms.LatentRandomWindow(4, margin=1)(both)
    assert window.signal_size == (16, 45, 45)
    assert torch.equal(window, both[:, :, 1:5])  # no other place is left: the last cell holds one frame
    assert window.cropped == (True, False, False)
    middle = wt.transforms.LatentCenterCrop(5)(window)
    assert (middle.shape, middle.signal_size) == ((2, 96, 4, 5, 5), (16, 40, 20))
    assert wt.WallocDecode(codec)(middle).shape == (2, 3, 16, 40, 20)
    with pytest.raises(ValueError, match="a crop of 7 cells does not fit into 6 whole cells"):
        wt.transforms.LatentRandomWindow(7)(both)


def test_values(encode: wt.WallocEncode, latents: wt.Latents) -> None:
    torch.manual_seed(0)
    darker = wt.transforms.LatentColorJitter(brightness=(0.6, 0.6), saturation=(0.5, 0.5))(latents)
    pixels = v2.functional.adjust_saturation_video(moving(seed=9).transpose(0, 1) / 255 * 0.6, 0.5).transpose(0, 1)
    assert missed(darker, encode(pixels)) < 0.01
    clip = 0.25 + moving(seed=9) / 510  # noise stays in range
    gray = encode(clip)
    noisy = encode(clip + 0.05 * torch.randn(3, 24, 40, 40)) - torch.Tensor(gray)
    added = wt.transforms.LatentNoise(0.05)(gray) - torch.Tensor(gray)
    assert_close(added.std(), noisy.std(), rtol=0.1, atol=0)
    with pytest.raises(ValueError, match="LatentGain is for latents of waveforms: those of 'custom' are of volumes"):
        wt.transforms.LatentGain()(latents)

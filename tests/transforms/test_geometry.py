"""Crops, flips and windows of stored latents."""

import pickle
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

import walloc_transforms as wt

F: Any = functional  # type checkers do not know its kernels
T = wt.transforms


def photographs(count: int, height: int = 192, width: int = 256) -> Tensor:
    image = torch.from_numpy(data.coffee()).permute(2, 0, 1)
    return torch.stack([image[:, 12 * i : 12 * i + height, 20 * i : 20 * i + width] for i in range(count)])


def stored(count: int = 4, codec: str = "rgb_16x", **options: Any) -> wt.Latents:
    encode = wt.WallocEncode(codec, **{"quantize": True, "dtype": torch.int8, **options})
    return encode(photographs(count))


def record(latents: wt.Latents, index: int) -> wt.Latents:
    return wt.Latents.wrap(torch.Tensor(latents[index]), latents)


def missed(given: Tensor, expected: Tensor) -> float:
    given, expected = given[...].float(), expected[...].float()
    return float((given - expected).square().mean() / expected.var((-2, -1)).mean())


def test_every_record_has_a_crop_of_its_own() -> None:
    latents = stored(16)
    crops = T.LatentRandomCrop((9, 12), margin=2)(latents)
    assert (crops.shape, crops.dtype, crops.signal_size) == ((16, 12, 9, 12), torch.int8, (72, 96))
    assert crops.cropped == (True, True) and crops.is_contiguous()
    places = []
    for part, whole in zip(crops[...], latents[...], strict=True):
        found = [
            (top, left)
            for top in range(2, 24 - 9 - 1)
            for left in range(2, 32 - 12 - 1)
            if torch.equal(part, whole[:, top : top + 9, left : left + 12])
        ]
        assert len(found) == 1
        places += found
    assert len(set(places)) > 8


def test_a_crop_is_the_cropped_image_inside() -> None:
    """The outermost cells have other neighbors: where the cropped image is encoded, it wraps around."""
    latents, image = stored(1, quantize=False, dtype=None), photographs(1)
    crop = T.LatentCenterCrop(16)(latents)
    fresh = wt.WallocEncode("rgb_16x")(image[..., 32:160, 64:192])
    assert missed(crop[..., 4:-4, 4:-4], fresh[..., 4:-4, 4:-4]) < 1e-6
    assert missed(crop[..., 2:-2, 2:-2], fresh[..., 2:-2, 2:-2]) < 0.002
    assert 0.01 < missed(crop, fresh) < 0.3


def test_single_latents_are_a_batch_of_one() -> None:
    latents = stored(1)
    augment = v2.Compose([T.LatentRandomCrop(16), T.LatentRandomHorizontalFlip()])
    for seed in range(4):
        torch.manual_seed(seed)
        batch = augment(latents)
        torch.manual_seed(seed)
        single, label = augment(record(latents, 0), 7)
        assert label == 7
        assert type(single) is wt.Latents and single.shape == (12, 16, 16)
        assert torch.equal(batch[0], single[...])
        assert (batch.signal_size, batch.cropped) == (single.signal_size, single.cropped)


@pytest.mark.parametrize("codec", ["rgb_16x", "rgb_4x"])
def test_flips_of_some_records(codec: str) -> None:
    latents = stored(8, codec)
    torch.manual_seed(0)
    flipped = T.LatentRandomHorizontalFlip()(latents)
    kept = [torch.equal(now, was) for now, was in zip(flipped[...], latents[...], strict=True)]
    assert 0 < sum(kept) < 8
    for i in range(8):
        expected = record(latents, i)[...] if kept[i] else F.horizontal_flip(record(latents, i))[...]
        assert (flipped[i].int() - expected.int()).abs().max() <= 1  # sums in another order may round the other way
    assert torch.equal(T.LatentRandomHorizontalFlip(0)(latents)[...], latents[...])
    assert torch.equal(T.LatentRandomHorizontalFlip(1)(latents)[...], F.horizontal_flip(latents)[...])


def test_int8_flips_as_float_and_rounded() -> None:
    """What int8 expands to is read from a table."""
    latents = stored(2, "rgb_4x")
    expected = F.horizontal_flip(wt.Latents.wrap(latents[...].float(), latents)).round()[...]
    assert torch.equal(F.horizontal_flip(latents)[...].float(), expected)


def test_other_forms() -> None:
    augment = v2.Compose([T.LatentRandomCrop(16), T.LatentRandomHorizontalFlip(1)])
    torch.manual_seed(0)
    again = pickle.loads(pickle.dumps(augment))
    normal = stored(2, normalize=True, quantize=False, dtype=None)
    first = augment(normal)
    torch.manual_seed(0)
    assert torch.equal(again(normal)[...], first[...])
    torch.manual_seed(0)
    raw = augment(stored(2, quantize=False, dtype=None))
    torch.testing.assert_close(first[...], wt.load_codec("rgb_16x").normalize(raw[...]), atol=1e-3, rtol=0)
    empty = augment(wt.Latents.wrap(stored(1)[:0], stored(1)))
    assert (empty.shape, empty.signal_size) == ((0, 12, 16, 16), (128, 128))
    nested = wt.Latents.wrap(stored(4)[...].view(2, 2, 12, 24, 32), stored(1))
    assert augment(nested).shape == (2, 2, 12, 16, 16)
    prefix = wt.WallocEncode(wt.load_codec("rgb_4x", channels=20), quantize=True, dtype=torch.int8)(photographs(2))
    assert augment(prefix).shape == (2, 20, 16, 16)
    assert "LatentRandomCrop(size=(16, 16), margin=0)" in repr(augment)


def test_cells_that_encoding_filled_are_not_taken() -> None:
    latents = wt.WallocEncode("rgb_16x")(photographs(8, 100, 90))
    assert latents.shape[-2:] == (13, 12)
    flipped = v2.Compose([T.LatentRandomCrop((12, 11)), T.LatentRandomHorizontalFlip(1)])(latents)
    assert flipped.signal_size == (96, 88)
    with pytest.raises(ValueError, match=r"a crop of 12 x 12 cells does not fit into 12 x 11 whole cells$"):
        T.LatentRandomCrop(12)(latents)
    with pytest.raises(ValueError, match="does not fit into 12 x 11 whole cells within a margin of 1"):
        T.LatentRandomCrop((12, 11), margin=1)(latents)
    with pytest.raises(ValueError, match="width 90 would begin with what encoding added"):
        T.LatentRandomHorizontalFlip(1)(latents)


def test_windows_of_sound() -> None:
    sound = torch.rand(4, 2, 44100) - 0.5
    latents = wt.WallocEncode("stereo_20x", quantize=True, dtype=torch.int8)(sound)
    windows = T.LatentRandomWindow(20, margin=3)(latents)
    stride = wt.load_codec("stereo_20x").config.stride
    assert (windows.shape[-1], windows.signal_size, windows.cropped) == (20, (20 * stride,), (True,))
    assert wt.WallocDecode("stereo_20x")(windows).shape == (4, 2, 20 * stride)
    with pytest.raises(ValueError, match="does not fit into"):
        T.LatentRandomWindow(44100 // stride + 1)(latents)
    with pytest.raises(
        ValueError, match="LatentRandomCrop is for latents of images and volumes: those of 'stereo_20x' are"
    ):
        T.LatentRandomCrop(2)(latents)
    with pytest.raises(ValueError, match="LatentRandomWindow is for latents of waveforms and volumes"):
        T.LatentRandomWindow(2)(stored(1))


def test_samples_that_would_be_torn_apart() -> None:
    latents, mask = stored(1), tv_tensors.Mask(torch.zeros(1, 24, 32))
    for transform in (T.LatentRandomCrop(8), T.LatentCenterCrop(8), T.LatentRandomHorizontalFlip()):
        with pytest.raises(TypeError, match=r"reads wt.Latents, got Tensor, int: transform latents before"):
            transform(latents[...], 3)
        with pytest.raises(TypeError, match=r"would leave the Mask of the sample where it is: v2.Random"):
            transform(latents, mask)
    with pytest.raises(ValueError, match="which must agree: got"):
        T.LatentRandomCrop(8)(latents, stored(2))
    with pytest.raises(ValueError, match="a size counts cells"):
        T.LatentRandomCrop((8, 0))
    assert T.LatentRandomCrop([8]).size == T.LatentCenterCrop((8,)).size == (8, 8)  # as in torchvision
    with pytest.raises(ValueError, match="margin counts cells"):
        T.LatentRandomWindow(8, margin=-1)
    with pytest.raises(ValueError, match="p is a probability"):
        T.LatentRandomHorizontalFlip(1.5)

"""Volumes and video in transforms: order of axes, windows, samples, and what is refused."""

import pickle

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision import tv_tensors
from torchvision.transforms import v2

import walloc_transforms as wt
from tests.codec.test_volumes import moving


@pytest.fixture(scope="module")
def codec() -> wt.Codec:
    return wt.fit_codec([moving(seed=seed) for seed in range(8)], levels=(2, 3, 3), channels=24, progress=False)


@pytest.fixture(scope="module")
def scans() -> wt.Codec:
    return wt.fit_codec([moving(channels=1, seed=s) for s in range(8)], levels=(1, 3, 3), channels=16, progress=False)


def test_video_is_read_in_its_own_order(codec: wt.Codec) -> None:
    clip = moving()
    encode = pickle.loads(pickle.dumps(wt.WallocEncode(codec, quantize=True, dtype=torch.int8)))
    latents, label = encode((tv_tensors.Video(clip.transpose(0, 1)), 7))
    assert torch.equal(latents.as_subclass(Tensor), encode(clip).as_subclass(Tensor))
    assert (label, latents.signal_size, latents.shape) == (7, (24, 40, 40), (24, 6, 5, 5))
    decoded = wt.WallocDecode(codec)(latents)
    assert decoded.shape == clip.shape
    assert_close(decoded, codec.decode(latents))
    assert_close(wt.functional.decode_volume(latents, codec), decoded)


def test_transforms_of_video_come_before(codec: wt.Codec) -> None:
    video = tv_tensors.Video(moving(frames=9, side=60).transpose(0, 1))
    encode = v2.Compose([v2.RandomCrop(40), v2.RandomHorizontalFlip(), wt.WallocEncode(codec, normalize=True)])
    assert encode(video).shape == (24, 3, 5, 5)


def test_window(scans: wt.Codec) -> None:
    hounsfield = (moving(channels=1, seed=9).to(torch.int16) - 200) * 6  # -1200 to 330
    encode, decode = (wt.WallocEncode(scans, window=(-1350, 150)), wt.WallocDecode(scans, window=(-1350, 150)))
    expected = hounsfield.float().clamp(-1350, 150)
    assert_close(encode(hounsfield), wt.WallocEncode(scans)((expected + 1350) / 1500), rtol=0, atol=1e-2)
    decoded = decode(encode(hounsfield))
    assert decoded.amin() >= -1350
    assert decoded.amax() <= 150
    assert_close(decoded, wt.WallocDecode(scans)(encode(hounsfield)) * 1500 - 1350)
    assert "window=(-1350.0, 150.0)" in repr(encode)


def test_levels_of_each_axis_in_images() -> None:
    images = [moving(frames=1, seed=seed)[:, 0] for seed in range(8)]
    codec = wt.fit_codec(images, levels=(2, 3), channels=12, progress=False)
    latents = wt.WallocEncode(codec)(images[0])
    assert latents.shape == (12, 10, 5)
    assert wt.WallocDecode(codec)(latents).shape == (3, 40, 40)


@pytest.mark.parametrize("window", [(100, 100), (1, 0), (0, float("nan")), (0,), (0, float("inf"))])
def test_wrong_windows(scans: wt.Codec, window: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="window must be two numbers, the lower one first"):
        wt.WallocEncode(scans, window=window)


def test_refuses(codec: wt.Codec) -> None:
    with pytest.raises(ValueError, match="window is for codecs of volumes, got one for 'rgb_16x'"):
        wt.WallocEncode("rgb_16x", window=(0, 1))
    with pytest.raises(TypeError, match=r"expected a tensor \(\.\.\., C, T, H, W\) or a tv_tensors\.Video, got Image"):
        wt.WallocEncode(codec)(tv_tensors.Image(moving()[:, 0]))
    with pytest.raises(TypeError, match=r"got torch\.int16"):
        wt.WallocEncode(codec)(moving().to(torch.int16))
    with pytest.raises(ValueError, match="expected a volume codec, got 'rgb_16x'"):
        wt.functional.encode_volume(moving(), "rgb_16x")
    with pytest.raises(ValueError, match="NaN"):
        wt.WallocEncode(codec)(moving() / 255 * float("nan"))

"""Codecs of volumes and video: fitted, used, saved; and codecs with levels of their own for each axis."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import walloc_transforms as wt


def moving(frames: int = 24, side: int = 40, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth noise that drifts: ``(channels, frames, side, side)``, uint8."""
    noise = torch.rand(1, channels, side + 8, side + 8 + frames, generator=torch.Generator().manual_seed(seed))
    still = torch.nn.functional.avg_pool2d(noise, 9, 1)[0]
    still = (still - still.amin()) / (still.amax() - still.amin())
    clip = torch.stack([still[:, :, frame : frame + side] for frame in range(frames)], 1)
    return (clip * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def codec() -> wt.Codec:
    clips = [moving(seed=seed) for seed in range(1, 9)]
    return wt.fit_codec(clips, levels=(2, 3, 3), channels=24, name="clips", progress=False)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_fit_encode_decode(codec: wt.Codec) -> None:
    clip = moving(frames=25, side=45)
    assert (codec.config.modality, codec.config.strides, codec.config.dimensionality_reduction) == (
        "volume",
        (4, 8, 8),
        32,
    )
    latents = codec.encode(clip, rounding="round")
    assert latents.shape == (24, 7, 6, 6)
    decoded = codec.decode(latents.to(torch.int8), size=(25, 45, 45))
    assert decoded.shape == clip.shape
    small = torch.nn.functional.interpolate(clip[None] / 255, scale_factor=32 ** (-1 / 3), mode="trilinear")
    resized = torch.nn.functional.interpolate(small, clip.shape[1:], mode="trilinear")[0]
    assert psnr(decoded, clip / 255) > psnr(resized, clip / 255) + 3
    assert_close(codec.denormalize(codec.normalize(latents)), latents)
    assert_close(codec.decode(codec.normalize(latents), normalized=True)[:, :25, :45, :45], decoded)


def test_decoding_stays_in_range(codec: wt.Codec) -> None:
    latents = 3 * codec.encode(moving())
    decoded, free = codec.decode(latents), codec.decode(latents, clamp=False)
    assert free.min() < -0.1 and free.max() > 1.1
    assert torch.equal(decoded, free.clamp(0, 1))


def test_batches_dtypes_and_prefix(codec: wt.Codec) -> None:
    clip = moving()
    latents = codec.encode(clip)
    both = torch.stack([clip, clip.flip(-1)])
    assert_close(codec.encode(both[:, None])[0, 0], latents, rtol=0, atol=1e-3)
    assert_close(codec.encode(clip / 255), latents, rtol=0, atol=2e-3)
    assert_close(codec.encode((clip.to(torch.int32) * 257).to(torch.uint16)), latents, rtol=0, atol=2e-3)
    assert codec.encode(both[:0]).shape == (0, 24, 6, 5, 5)
    assert codec.decode(latents[None][:0]).shape == (0, 3, 24, 40, 40)
    assert_close(codec.prefix(6).encode(clip), latents[:6], rtol=0, atol=1e-3)


def test_training_path_equals_folded_path(codec: wt.Codec) -> None:
    trained = copy.deepcopy(codec).requires_grad_()
    clip = moving() / 255
    latents = trained.encode(clip)
    assert_close(latents.detach(), codec.encode(clip), rtol=0, atol=2e-3)
    trained.decode(latents).square().mean().backward()
    assert trained.weight.grad is not None
    assert bool(trained.weight.grad.any())


def test_save_and_load(codec: wt.Codec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "clips")
    loaded = wt.load_codec(str(tmp_path / "clips"))
    assert loaded.config == codec.config
    assert loaded.config.levels == (2, 3, 3)
    assert loaded.fingerprint() == codec.fingerprint()
    assert torch.equal(loaded.encode(moving()), codec.encode(moving()))
    assert "volume, signal_channels=3, channels=24, stride=(4, 8, 8), reduction=32" in repr(loaded)


def test_images_may_have_levels_of_each_axis() -> None:
    images = [moving(frames=1, seed=seed)[:, 0] for seed in range(8)]
    codec = wt.fit_codec(images, levels=(1, 3), channels=48, progress=False)
    latents = codec.encode(images[0])
    assert latents.shape == (48, 20, 5)
    assert psnr(codec.decode(latents), images[0] / 255) > 50  # all packets: nothing is lost
    with pytest.raises(ValueError, match=r"codec 'custom' has levels \(1, 3\): what needs one stride for all axes"):
        _ = codec.config.stride


@pytest.mark.parametrize(
    ("clip", "error", "match"),
    [
        (moving()[:2], ValueError, r"expects signals of shape \(\.\.\., 3, T, H, W\), got \(2, 24, 40, 40\)"),
        (moving()[:, :3], ValueError, "got 3x40x40 samples, expected at least 4x8x8"),
        (moving()[:, 0], ValueError, r"got \(3, 40, 40\)"),
        (moving().float(), ValueError, r"float volumes in \[0, 1\], got values from 0 to 255"),
        (moving() / 255 * float("nan"), ValueError, "NaN"),
        (moving().to(torch.int16), TypeError, "expected a volume of dtype uint8, uint16 or float, got torch.int16"),
    ],
)
def test_refuses(codec: wt.Codec, clip: Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        codec.encode(clip)


def test_fit_refuses_frames_first() -> None:
    with pytest.raises(ValueError, match=r"looks like video \(T, C, H, W\): use transpose\(0, 1\)"):
        wt.fit_codec([moving().transpose(0, 1)], levels=2, channels=4, progress=False)


def test_codec_info(codec: wt.Codec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "clips")
    assert wt.codec_info(tmp_path / "clips").stride == (4, 8, 8)

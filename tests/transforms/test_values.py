"""Brightness, colors, gain, noise and missing channels of stored latents, against the same done to signals."""

import math
import pickle
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor
from torchvision.transforms.v2 import functional as F

import walloc_transforms as wt
from tests.helpers import make_codec

T = wt.transforms
IMAGE_CODECS = ["rgb_16x", "rgb_4x", "rgb_16x_viewing"]


def photographs() -> Tensor:
    """Two photographs within [0.2, 0.7], so that nothing is clipped."""
    image = torch.from_numpy(data.coffee()).permute(2, 0, 1) / 255
    return 0.2 + torch.stack([image[:, :192, :256], image[:, 200:392, 300:556]]) / 2


def sound() -> Tensor:
    noise = torch.randn(3, 2, 16384, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    return 0.4 * (noise - noise.mean(-1, keepdim=True)) / noise.abs().max()


def missed(given: Tensor, expected: Tensor) -> float:
    given, expected = given[...].float(), expected[...].float()
    return float((given - expected).square().mean() / expected.var(-1).mean())


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_colors_are_those_of_the_image(codec: str) -> None:
    encode, images = wt.WallocEncode(codec), photographs()
    latents = encode(images)
    for factors, change, most in (
        ((1.3, 1, 1), lambda x: F.adjust_brightness(x, 1.3), 1e-6),
        ((1, 0.6, 1), lambda x: F.adjust_contrast(x, 0.6), 1e-6),
        ((1, 1, 0.5), lambda x: F.adjust_saturation(x, 0.5), 1e-3),
        (
            (0.7, 1.4, 1.2),
            lambda x: F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(x, 0.7), 1.4), 1.2),
            1e-3,
        ),
    ):
        jitter = T.LatentColorJitter(*((factor, factor) for factor in factors))
        assert missed(jitter(latents), encode(change(images))) < most
        assert missed(latents, encode(change(images))) > 5 * most


def test_records_have_factors_of_their_own() -> None:
    latents = wt.WallocEncode("rgb_16x", quantize=True, dtype=torch.int8)(photographs()[:1].expand(8, -1, -1, -1))
    torch.manual_seed(0)
    jittered = T.LatentColorJitter(0.5)(latents)
    assert jittered.dtype == torch.int8
    assert len({float(x.float().mean()) for x in jittered[...]}) == 8
    torch.manual_seed(0)
    assert torch.equal(pickle.loads(pickle.dumps(T.LatentColorJitter(0.5)))(latents)[...], jittered[...])
    assert torch.equal(T.LatentColorJitter()(latents)[...], latents[...])


@pytest.mark.parametrize("codec", ["stereo_5x", "stereo_20x"])
def test_sounds_are_those_of_the_signal(codec: str) -> None:
    encode, signal = wt.WallocEncode(codec), sound()
    latents = encode(signal)
    assert missed(T.LatentGain((6, 6))(latents), encode(signal * 10**0.3)) < 1e-5
    assert missed(T.LatentPolarity(1)(latents), encode(-signal)) < 1e-6
    assert missed(T.LatentSwapChannels(1)(latents), encode(signal.flip(1))) < 0.02
    assert missed(latents, encode(signal.flip(1))) > 0.2
    for transform in (T.LatentPolarity(0), T.LatentSwapChannels(0)):
        assert torch.equal(transform(latents)[...], latents[...])


def test_noise_has_the_spread_of_noise_on_images() -> None:
    codec, images = wt.load_codec("rgb_16x"), photographs()
    latents = wt.WallocEncode(codec)(images)
    torch.manual_seed(0)
    noisy = T.LatentNoise(0.05)(latents)
    expected = wt.WallocEncode(codec)(images + 0.05 * torch.randn(images.shape))
    z, ours, theirs = (codec.expand(x[...]) for x in (latents, noisy, expected))
    torch.testing.assert_close((ours - z).std((0, 2, 3)), (theirs - z).std((0, 2, 3)), atol=0, rtol=0.08)


def test_missing_channels_decode_as_a_prefix() -> None:
    codec = wt.load_codec("rgb_16x")
    encoded = wt.WallocEncode(codec, quantize=True, dtype=torch.int8)(photographs()[:1].expand(16, -1, -1, -1))
    torch.manual_seed(0)
    dropped = T.LatentChannelDropout(p=0.5, least=3)(encoded)
    kept = [int((x != 0).flatten(1).any(1).sum()) for x in dropped[...]]
    assert set(kept) <= set(range(3, 13)) and 12 in kept and len(set(kept)) > 3
    k = kept.index(min(kept))
    torch.testing.assert_close(
        codec.decode(dropped[k]), codec.prefix(kept[k]).decode(encoded[k, : kept[k]]), atol=1e-5, rtol=0
    )
    torch.manual_seed(0)
    normal = wt.WallocEncode(codec, normalize=True)(photographs()[:1].expand(16, -1, -1, -1))
    zero = -codec.latent_mean / codec.latent_std
    torch.testing.assert_close(T.LatentChannelDropout(p=0.5, least=3)(normal)[k, -1, 0, 0], zero[-1])


@pytest.mark.parametrize(
    "transform",
    [T.LatentColorJitter(0.2, 0.2, 0.2), T.LatentNoise(0.1), T.LatentChannelDropout(1)],
    ids=lambda t: type(t).__name__,
)
def test_other_forms(transform: Any) -> None:
    normal = wt.WallocEncode("rgb_4x", normalize=True)(photographs())
    torch.manual_seed(0)
    given = transform(normal)
    codec = wt.load_codec("rgb_4x")
    raw = wt.WallocEncode(codec)(photographs())
    torch.manual_seed(0)
    torch.testing.assert_close(given[...], codec.normalize(transform(raw)[...]), atol=1e-2, rtol=0)
    torch.manual_seed(0)
    single = transform(wt.Latents.wrap(raw[0], raw))
    assert single.shape == raw.shape[1:] and not torch.equal(single[...], raw[0])
    assert transform(wt.Latents.wrap(raw[:0], raw)).shape == (0, *raw.shape[1:])
    prefix = wt.WallocEncode(wt.load_codec("rgb_4x", channels=20), quantize=True, dtype=torch.int8)(photographs())
    assert transform(prefix).dtype == torch.int8


def test_other_surroundings() -> None:
    """Neither the default dtype nor autocast changes anything."""
    latents, sounds = wt.WallocEncode("rgb_16x")(photographs()), wt.WallocEncode("stereo_5x")(sound())
    transforms = [(T.LatentColorJitter((0.5, 0.5), 0.0, (2, 2)), latents), (T.LatentSwapChannels(1), sounds)]
    expected = [transform(given) for transform, given in transforms]
    try:
        torch.set_default_dtype(torch.float64)
        wide = [transform(given) for transform, given in transforms]
        noisy = [T.LatentNoise(0.1)(latents), T.LatentGain()(sounds), T.LatentChannelDropout(1)(latents)]
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cast = [transform(given) for transform, given in transforms]
    for given in (wide, cast):
        for ours, theirs in zip(given, expected, strict=True):
            torch.testing.assert_close(ours[...], theirs[...], atol=1e-3, rtol=0)
    assert {x.dtype for x in noisy} == {torch.float32}


def test_what_cannot_be_changed() -> None:
    latents = wt.WallocEncode("stereo_5x")(sound())
    with pytest.raises(ValueError, match="is for latents of images and volumes: those of 'stereo_5x' are of waveforms"):
        T.LatentColorJitter(0.5)(latents)
    with pytest.raises(TypeError, match=r"reads wt.Latents, got Tensor: transform latents before default_collate"):
        T.LatentGain()(latents[...])
    with pytest.raises(ValueError, match="has 108 channels, of which least=108 are kept"):
        T.LatentChannelDropout(least=108)(latents)
    staged = wt.WallocEncode(make_codec(stages=2))(torch.rand(3, 32, 32))
    with pytest.raises(ValueError, match="cannot be mixed: its encoder is not one linear projection"):
        T.LatentColorJitter(0.5)(staged)
    with pytest.raises(ValueError, match="cannot be given noise of a signal"):
        T.LatentNoise()(staged)
    for wrong in (-1, (1, 0.5), (-0.5, 1), (1, 2, 3)):
        with pytest.raises(ValueError, match="brightness is one number of at least 0 or two in order, none below 0"):
            T.LatentColorJitter(wrong)
    for wrong in ((-math.inf, 0), (0, math.inf), (math.nan, 0), math.inf):
        with pytest.raises(ValueError, match=r"decibels is one number .* in order, none infinite, got"):
            T.LatentGain(wrong)
    with pytest.raises(ValueError, match="sigma is a standard deviation"):
        T.LatentNoise(-1)

"""What a program sets for all of torch changes no result: default dtypes, default devices, transforms of functions."""

from collections.abc import Iterator

import pytest
import torch
from torchvision.transforms.v2.functional import horizontal_flip

import walloc_transforms as wt
from tests.helpers import signal


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float64], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


IMAGE, WAVE = signal(2, 3, 40, 48), signal(2, 2, 4096)
CODEC, SOUND = wt.load_codec("rgb_16x"), wt.load_codec("stereo_5x")
LATENTS, FRAMES = CODEC.encode(IMAGE), SOUND.encode(WAVE)
REFINED = CODEC.decode(LATENTS, decoder="refiner")
FITTED = wt.fit_codec(IMAGE, levels=2, channels=6, progress=False)


def test_default_dtype(default_dtype: torch.dtype) -> None:
    codec = wt.load_codec("rgb_16x")
    assert codec.fingerprint() == CODEC.fingerprint()
    assert torch.equal(codec.encode(IMAGE), LATENTS)
    assert torch.equal(codec.decode(LATENTS, decoder="refiner"), REFINED)
    codec.requires_grad_(True)  # the plain path
    torch.testing.assert_close(codec.encode(IMAGE).detach(), LATENTS, rtol=0, atol=1e-3)
    assert torch.equal(wt.load_codec("stereo_5x").encode(WAVE), FRAMES)
    assert torch.equal(wt.fit_codec(IMAGE, levels=2, channels=6, progress=False).weight, FITTED.weight)
    assert wt.WallocStem("rgb_16x", 8, stride=8)(IMAGE).dtype == default_dtype  # as every layer


def test_meta_device_as_the_default() -> None:
    """A codec is its values: it is loaded to where they can be."""
    with torch.device("meta"):
        codec, stem = wt.load_codec("rgb_16x"), wt.WallocStem("rgb_16x", 8, stride=8)
        assert torch.equal(codec.encode(IMAGE), LATENTS)
        assert torch.equal(codec.decode(LATENTS, decoder="refiner"), REFINED)
        assert all(value.is_meta for value in stem.state_dict().values())
        assert stem(torch.rand(1, 3, 32, 32)).shape == (1, 8, 4, 4)


def test_meta_device_as_the_default_of_volumes() -> None:
    clips = [signal(3, 8, 32, 32) for _ in range(3)]
    codec = wt.fit_codec(clips, levels=(1, 2, 2), channels=12, progress=False)
    latents = codec.encode(clips[0])
    with torch.device("meta"):
        assert torch.equal(codec.encode(clips[0]), latents)
        assert codec.decode(latents).device == latents.device


def test_codecs_are_built_on_one_device() -> None:
    with torch.device("meta"):
        codec = wt.Codec(wt.CodecConfig("a", "image", 3, 12, 3))
        packets = wt.wavelets.WaveletPacketAnalysis()(torch.rand(1, 3, 32, 32))
        assert wt.wavelets.WaveletPacketSynthesis()(packets).shape == (1, 3, 32, 32)
    assert all(t.is_meta for t in (*codec.parameters(), *codec.buffers(), packets))


def test_on_the_meta_device() -> None:
    codec = wt.load_codec("rgb_16x").to("meta")
    latents = codec.encode(IMAGE.to("meta"))
    assert latents.is_meta
    assert latents.shape == LATENTS.shape
    assert codec.decode(latents, size=(40, 48)).shape == IMAGE.shape


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: torch.func.grad(lambda x: f(x).mean())])
def test_vmap_is_refused(wrap) -> None:
    with pytest.raises(ValueError, match=r"torch\.vmap is not supported.*pass the whole batch"):
        torch.vmap(wrap(CODEC.encode))(IMAGE)
    with pytest.raises(ValueError, match=r"torch\.vmap is not supported.*pass the whole batch"):
        torch.vmap(wrap(CODEC.decode))(LATENTS)


def test_meta_device_as_the_default_where_codecs_are_made() -> None:
    with torch.device("meta"):
        fitted = wt.fit_codec(IMAGE, levels=2, channels=6, progress=False)
        measured = wt.fit_statistics(wt.load_codec("rgb_16x"), IMAGE, progress=False)
        prefix, frames = wt.load_codec("rgb_16x", channels=4), wt.StreamEncoder(wt.load_codec("stereo_5x"))(WAVE[0])
        flipped = horizontal_flip(wt.functional.encode_image(IMAGE, "rgb_16x"))
    assert torch.equal(fitted.weight, FITTED.weight)
    assert measured.latent_std.isfinite().all()
    assert torch.equal(prefix.encode(IMAGE), LATENTS[:, :4])
    assert frames.device == flipped.device == IMAGE.device

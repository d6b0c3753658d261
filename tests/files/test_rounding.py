"""Steps of channels: what rounding may cost is what it costs, and files hold what was rounded, no more and no less."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import walloc_transforms as wt
from tests.helpers import make_codec, signal
from walloc_transforms.files import read_header
from walloc_transforms.files.steps import factors, step_bytes, step_values


def psnr_loss(codec: wt.Codec, original: Tensor, latents: Tensor) -> float:
    """PSNR in dB that these latents have less than those that are not rounded."""
    exact = codec.encode(original)
    errors = [
        (codec.decode(some, size=original.shape[1:]) - original).square().mean().item() for some in (latents, exact)
    ]
    return 10 * math.log10(errors[0] / errors[1])


def quiet(scale: float) -> Tensor:
    """Sound whose upper frequencies, most of what the codecs lose, are scaled."""
    noise = torch.randn(2, 256 * 60, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(noise)
    spectrum[:, 400:] *= scale
    sound = torch.fft.irfft(spectrum, noise.shape[1])
    return 0.9 * sound / sound.abs().max()


@pytest.mark.parametrize("name", ["stereo_5x", "stereo_20x"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_rounding_costs_what_it_may(tmp_path: Path, name: str, scale: float) -> None:
    codec, sound, file = wt.load_codec(name), quiet(scale), tmp_path / "a.wlc"
    steps = wt.functional.rounding_steps(sound, name, loss=0.2)
    latents = wt.functional.encode_waveform(sound, name)
    wt.save_latents(file, latents, name, steps=steps)
    stored = wt.load_latents(file)
    assert stored.steps == tuple(steps.tolist()) and stored.latents.dtype == torch.float32
    assert (stored.latents - latents).abs().amax(1).le(0.55 * steps + 1e-4).all()
    assert 0.17 < psnr_loss(codec, sound, stored.latents) <= 0.2 + 1e-6  # the next step is 1.04 times as large
    once = wt.save_latents(tmp_path / "b.wlc", stored.latents, name, steps=stored.steps)
    assert (tmp_path / "b.wlc").read_bytes() == file.read_bytes() and once == file.stat().st_size
    assert torch.equal(wt.load_latents(file, channels=5).latents, stored.latents[:5].as_subclass(Tensor))
    assert wt.stored_codec(stored).config.name == name


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_of_any_range(dtype: torch.dtype) -> None:
    image = signal(3, 64, 72)
    pixels = (image * 255).round().to(dtype) if dtype == torch.uint8 else image
    codec = wt.load_codec("rgb_16x")
    steps = wt.functional.rounding_steps(pixels, codec, loss=0.5).view(-1, 1, 1)
    exact = codec.encode(pixels)
    assert 0.35 < psnr_loss(codec, image, torch.round(exact / steps) * steps) < 0.52


def test_steps_are_equal_in_units_of_the_signal() -> None:
    """A codec whose channels are scaled rounds the same signal alike."""
    codec, scaled = (make_codec(6, levels=4, signals=2, dims=1, gain=10.0) for _ in range(2))
    scales = torch.tensor([1.0, 2.0, 4.0, 0.25, 0.5, 1.0])
    scaled.weight.mul_(scales[:, None])
    scaled.bias.mul_(scales)
    scaled.decoder.weight.div_(scales)
    steps = [wt.functional.rounding_steps(signal(2, 4000), part, loss=0.3) for part in (codec, scaled)]
    torch.testing.assert_close(steps[1] / steps[0], scales, rtol=0.2, atol=0)


def test_latents_that_int16_holds_no_finer(tmp_path: Path) -> None:
    steps = wt.functional.rounding_steps(torch.full((2, 2304), 0.1), "stereo_20x", loss=1e-3)
    assert steps.tolist() == [2.0**-8] * 27
    wt.save_latents(tmp_path / "a.wlc", torch.full((27, 9), 127.5), "stereo_20x", size=2304, steps=steps)
    assert read_header(tmp_path / "a.wlc").dtype == torch.int16


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ([1.0] * 26, r"a step for each of 27 channels, got shape \(26,\)"),
        ([1.0] * 26 + [0.0], "steps must be from 1/256 to 245"),
        ([1.0] * 26 + [-1.0], "steps must be from 1/256 to 245"),
        ([1.0] * 26 + [math.nan], "steps must be from 1/256 to 245"),
        ([2.0**-12] * 27, "steps must be from 1/256 to 245, got some from 0.000244141 to 0.000244141"),
        ([2.0**-8] * 27, "of which int16 holds all multiples, got latents of up to 51200 steps"),
    ],
)
def test_refuses_steps(tmp_path: Path, steps: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        wt.save_latents(tmp_path / "a.wlc", torch.full((27, 9), 200.0), "stereo_20x", size=2304, steps=steps)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("loss", [0.0, -1.0, math.nan])
def test_refuses_losses(loss: float) -> None:
    with pytest.raises(ValueError, match="loss must be above 0 dB"):
        wt.functional.rounding_steps(quiet(1.0), "stereo_20x", loss=loss)


def test_stored_steps() -> None:
    """All 256, alike on all machines: doubling is exact, and fractions of an octave have 24 bits."""
    values = step_values(bytes(range(256)))
    assert values[128] == 1 and values[0] == 2.0**-8
    assert torch.equal(values[16:], 2 * values[:-16])
    exact = [round(2 ** (i / 16) * 2**23) for i in range(16)]
    assert (values[128:144] * 2**23).tolist() == exact
    assert step_bytes(values.tolist(), 256) == bytes(range(256))
    assert step_bytes(torch.tensor([1.02, 1.03]), 2) == bytes([128, 129])


def test_halves_go_towards_zero() -> None:
    """The code that is smaller takes fewer bits."""
    latents = torch.tensor([[0.54, -0.54, 0.56, -0.56, 2.0, -3.0]])
    assert factors(latents * 4, torch.tensor([4.0])).tolist() == [[0, 0, 1, -1, 2, -3]]

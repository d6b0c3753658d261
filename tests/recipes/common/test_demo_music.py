"""The procedural band: repeatable, in range, and separable the way music is."""

import pytest
import torch

from recipes.common.demo_music import STEMS, demo_track

RATE = 22050


def spectrum(stem: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfft(stem.mean(0) * torch.hann_window(stem.shape[-1])).abs().square()


def test_a_seed_is_a_tune() -> None:
    torch.manual_seed(1)
    tune = demo_track(3, 2, RATE)
    state = torch.get_rng_state()
    again = demo_track(3, 2, RATE)
    assert torch.equal(torch.get_rng_state(), state)  # it leaves the program's random numbers alone
    assert tuple(tune) == STEMS
    for name, stem in tune.items():
        assert (stem.shape, stem.dtype) == ((2, 2 * RATE), torch.float32)
        assert torch.equal(stem, again[name])
        assert not torch.equal(stem, demo_track(4, 2, RATE)[name])


@pytest.mark.parametrize("seed", range(4))
def test_range_and_balance(seed: int) -> None:
    tune = demo_track(seed, 5, RATE)
    for stem in (*tune.values(), sum(tune.values(), torch.zeros(()))):
        assert 0.01 < float(stem.abs().max()) < 1
        assert float(stem.mean().abs()) < 0.01
    for stem in tune.values():
        level = 20 * torch.log10(stem.square().mean().sqrt())
        assert -40 < level < -12
        assert float((stem[0] - stem[1]).abs().max()) > 1e-3  # it is stereo


def test_the_voice_pauses_and_the_rest_plays_on() -> None:
    tune = demo_track(0, 16, RATE)
    voice, rest = tune["vocals"], tune["drums"] + tune["bass"] + tune["other"]
    levels = [x.unflatten(-1, (32, -1)).square().mean((0, 2)).sqrt() for x in (voice, rest)]  # per half second
    silent = levels[0] < 0.1 * levels[0].max()
    assert 2 <= int(silent.sum()) <= 16
    assert bool((levels[1] > 0.2 * levels[1].median()).all())


def test_the_voice_is_harmonic_has_vibrato_and_overlaps_with_the_rest() -> None:
    tune = demo_track(1, 8, RATE)
    hertz = torch.linspace(0, RATE / 2, 4 * RATE + 1)
    powers = {name: spectrum(stem) for name, stem in tune.items()}
    band = (hertz > 200) & (hertz < 4000)
    assert float(powers["vocals"][band].sum() / powers["vocals"].sum()) > 0.8
    assert float(powers["other"][band].sum() / powers["other"].sum()) > 0.5
    assert float(powers["bass"][hertz < 400].sum() / powers["bass"].sum()) > 0.7
    assert float(powers["drums"][hertz > 4000].sum() / powers["drums"].sum()) > 0.02
    # Vibrato and portamento spread the voice's partials; those of the chords stand still.
    peaked = [float(p[band].topk(200).values.sum() / p[band].sum()) for p in (powers["vocals"], powers["other"])]
    assert peaked[0] < 0.6 < peaked[1]


@pytest.mark.parametrize(("seconds", "rate"), [(0.5, RATE), (2, 8000)])
def test_too_short_or_too_low(seconds: float, rate: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 s at 16000 Hz, got {seconds} s at {rate} Hz"):
        demo_track(0, seconds, rate)

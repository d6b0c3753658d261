from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.testing import assert_close

import walloc_transforms as wt
from tests.helpers import make_codec
from walloc_transforms.cli import figures
from walloc_transforms.cli.codecs import inspect
from walloc_transforms.cli.figures import impulse_responses, inspect_codec, sample_signal
from walloc_transforms.codec.companding import slope


@pytest.mark.parametrize("dims", [1, 2])
def test_impulse_responses(dims: int) -> None:
    """A latent of a signal close to mid-gray is the sum of the signal times the filter."""
    codec = make_codec(4, levels=2, signals=2, dims=dims)
    codec.bias.zero_()
    responses = impulse_responses(codec)
    reach = (responses.shape[-1] // 4 - 1) // 2
    assert responses.shape == (4, 2, *[(2 * reach + 1) * 4] * dims)
    x = torch.randn(2, *responses.shape[2:]) * 1e-3
    gray = 0.5 if dims == 2 else 0.0
    middle = (slice(None), *[reach] * dims)
    assert_close(codec.encode(gray + x)[middle], (responses * x).flatten(1).sum(1), atol=1e-4, rtol=2e-3)
    edges = [responses[..., :4], responses[..., -4:]]
    assert not any(edge.any() for edge in edges)  # nothing is cut off
    assert float(responses.abs().max()) < slope() * 150


def test_responses_of_a_published_kind() -> None:
    codec = make_codec(6, levels=4, signals=2, dims=1, pad=1)
    whole = make_codec(6, levels=4, signals=2, dims=1)
    whole.load_state_dict(codec.state_dict())
    assert_close(impulse_responses(codec), impulse_responses(whole))


def test_histograms_count_every_latent() -> None:
    codec = wt.load_codec("rgb_16x")
    latents = [codec.encode(torch.rand(3, *size), rounding="round") for size in ((64, 80), (40, 48))]
    figure = inspect_codec(codec, latents, "two images")
    bars: Any = figure.subfigs[1].axes[0].patches
    assert len(bars) == 255
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    assert len(figure.subfigs[0].axes) == 16
    with pytest.raises(ValueError, match="nothing to count"):
        inspect_codec(wt.load_codec("rgb_16x"), [], "nothing")


@pytest.mark.parametrize(("channels", "source"), [(3, "matplotlib's photograph"), (1, "noise")])
def test_caption_says_what_was_encoded(
    channels: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_codec(3, signals=channels).save_pretrained(tmp_path / "codec")
    said: list[str] = []

    def draw(codec: wt.Codec, latents: Any, source: str) -> Figure:
        said.append(source)
        return Figure()

    monkeypatch.setattr(figures, "inspect_codec", draw)
    inspect(str(tmp_path / "codec"), output=tmp_path / "fig.png")
    assert said == [source]


def test_sample_signal() -> None:
    assert sample_signal(wt.load_codec("rgb_16x")).shape == (3, 600, 512)
    assert sample_signal(make_codec(3, signals=1)).shape == (1, 512, 512)
    wave = sample_signal(make_codec(3, dims=1))
    assert wave.min() < -0.9

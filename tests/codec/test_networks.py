"""The networks of published codecs; what they compute is compared with the reference in test_published.py."""

import dataclasses
import sys
from typing import Any

import pytest
import torch
from torch import nn

from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.codec.networks import build_decoder, build_network, make_network

pytest.importorskip("diffusers")

KL = CodecConfig("test", "image", 3, 12, 3, decoder="autoencoder_kl", decoder_width=32)
OOBLECK = CodecConfig("test", "audio", 2, 27, 4, decoder="oobleck", decoder_width=54, pad=1, post_filter=True)


@pytest.mark.parametrize(
    ("part", "options", "expected"),
    [  # what the notebooks that trained them printed
        ("decoder", {"channels": 12, "decoder_width": 768}, 56_883_648),
        ("decoder", {"channels": 48, "decoder_width": 768}, 57_132_480),
        ("decoder", {"channels": 48, "decoder_width": 1024, "levels": 4}, 106_127_104),
        ("encoder", {"channels": 27, "decoder_width": 512, "encoder_width": 512}, 20_949_019),
    ],
)
def test_number_of_parameters(part: Any, options: dict[str, Any], expected: int) -> None:
    kinds = {"decoder": "autoencoder_kl", "encoder": "autoencoder_kl" if "encoder_width" in options else "linear"}
    config = CodecConfig("test", "image", 3, **{"levels": 3, **kinds, **options})
    with pytest.raises(ValueError, match="missing tensors") as error:
        build_network(config, part, {}, "nothing")  # without taking memory
    del error
    with torch.device("meta"):
        network = make_network(config, part)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("config", [KL, OOBLECK], ids=["autoencoder_kl", "oobleck"])
def test_random_networks(config: CodecConfig) -> None:
    before = torch.get_rng_state()
    decoder, again = build_decoder(config), build_decoder(config)
    assert torch.equal(before, torch.get_rng_state())  # the program's random numbers are its own
    assert not any(p.requires_grad for p in decoder.parameters())
    for (name, a), (_, b) in zip(decoder.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("config", [KL, OOBLECK], ids=["autoencoder_kl", "oobleck"])
def test_state_goes_round(config: CodecConfig) -> None:
    decoder = build_decoder(config)
    again = build_decoder(config, decoder.state_dict())
    z = torch.randn(2, config.channels, *[9] * config.dims)
    assert torch.equal(again(z), decoder(z))


def test_post_filter_that_does_not_fit() -> None:
    state = build_decoder(OOBLECK).state_dict()
    with pytest.raises(ValueError, match=r"post\.weight has shape \(2, 2, 128\), not \(2, 2, 129\)"):
        build_decoder(OOBLECK, {**state, "post.weight": torch.zeros(2, 2, 128)})
    with pytest.raises(ValueError, match=r"unexpected \['other\.bias'\]"):
        build_decoder(OOBLECK, {**state, "other.bias": torch.zeros(2)})


def test_post_filter_is_compared_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for 4,096 signal channels takes 9 GB."""
    state = build_decoder(OOBLECK).state_dict()
    monkeypatch.setattr(nn, "Conv1d", None)
    with pytest.raises(ValueError, match=r"post\.weight has shape \(2, 2, 129\), not \(4096, 4096, 129\)"):
        build_decoder(dataclasses.replace(OOBLECK, signal_channels=4096), state)


@pytest.mark.parametrize("config", [KL, OOBLECK], ids=["autoencoder_kl", "oobleck"])
def test_without_diffusers(config: CodecConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(config)  # which needs none: the decoder is built when it is used
    side = 16 * config.stride
    latents = codec.encode(torch.zeros(config.signal_channels, *[side] * config.dims))
    for name in ("diffusers", "diffusers.models", "diffusers.models.autoencoders"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'decoder of codec .test.*pip install "walloc_transforms\[diffusers\]"'):
        codec.decode(latents)


@pytest.mark.parametrize(("config", "kind"), [(KL, "autoencoder_kl"), (OOBLECK, "oobleck")])
def test_deep_encoder_without_diffusers(config: CodecConfig, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders", None)
    fields = {**vars(config), "encoder": kind, "encoder_width": config.decoder_width}
    with pytest.raises(ImportError, match="encoder of codec"):
        Codec(CodecConfig(**fields))

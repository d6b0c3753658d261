"""What a config refuses; that it fits the tensors is tested in test_files.py."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from walloc_transforms.codec import CodecConfig

IMAGE = CodecConfig("a", "image", 3, 12, 3)
KL = CodecConfig("a", "image", 3, 12, 3, decoder="autoencoder_kl", decoder_width=64)
AUDIO = CodecConfig("a", "audio", 2, 27, 8)
OOBLECK = CodecConfig("a", "audio", 2, 27, 8, decoder="oobleck", decoder_width=54, pad=1, post_filter=True)
REFINER = {"refiner_width": 8, "refiner_blocks": 2}


@pytest.mark.parametrize(
    ("config", "changes", "match"),
    [
        (IMAGE, {"name": 3}, "name must be of type str, got 3"),
        (IMAGE, {"levels": 3.0}, r"levels must be of type int, or one for each axis, got 3\.0"),
        (IMAGE, {"levels": True}, "levels must be of type int, or one for each axis, got True"),
        (IMAGE, {"post_filter": 1}, "post_filter must be of type bool, got 1"),
        (IMAGE, {"statistics": None}, "statistics must be of type bool"),
        (IMAGE, {"modality": "video"}, "modality must be 'image' or 'audio' or 'volume', got 'video'"),
        (IMAGE, {"encoder": "vit"}, "encoder must be 'linear' or 'autoencoder_kl' or 'oobleck', got 'vit'"),
        (IMAGE, {"companding": "mu"}, "companding must be 'gaussian' or 'clip', got 'mu'"),
        (IMAGE, {"levels": 0}, "levels must be from 1 to 16, got 0"),
        (IMAGE, {"levels": (3,) * 10**5}, "levels must be a number, or one for each of 2 axes, got 100000$"),
        (IMAGE, {"levels": (3, 3.0)}, "of type int, or one for each axis, got a tuple"),
        (AUDIO, {"levels": (0,)}, "levels must be from 1 to 16"),
        (IMAGE, {**REFINER, "levels": (2, 3)}, "a refiner is for images and audio with the same levels along all axes"),
        (IMAGE, {"latent_bits": 17}, "latent_bits must be from 2 to 16"),
        (IMAGE, {"signal_channels": 0}, "signal_channels must be from 1"),
        (IMAGE, {"channels": 193}, r"channels must be from 1 to 192 \(all packets of 3 signal channels\), got 193"),
        (IMAGE, {"decoder_width": 64}, "decoder_width of decoder 'linear' must be 0, got 64"),
        (IMAGE, {"stages": 5}, "12 channels do not make 5 stages"),
        (IMAGE, {"stages": 0}, "stages must be from 1 to 64"),
        (IMAGE, {"pad": 1}, "pad is for audio, got 1"),
        (IMAGE, {"decoder": "oobleck", "decoder_width": 12}, "decoder 'oobleck' is not for modality 'image'"),
        (KL, {"decoder_width": 0}, "must be a multiple of 32, at least 32, got 0"),
        (KL, {"decoder_width": 48}, "must be a multiple of 32, at least 32, got 48"),
        (KL, {"decoder_width": 2**14}, "decoder_width must be from 0 to 8192"),
        (KL, {"stages": 2}, "several stages need a linear encoder and decoder"),
        (KL, {"post_filter": True}, "a post filter goes with decoder 'oobleck'"),
        (AUDIO, {"pad": 2}, "pad must be from 0 to 1"),
        (AUDIO, {"sample_rate": 44100.0}, r"sample_rate must be of type int, got 44100\.0"),
        (AUDIO, {"sample_rate": -1}, "sample_rate must be from 0 to"),
        (IMAGE, {"sample_rate": 44100}, "sample_rate is for audio, got 44100 for modality 'image'"),
        (IMAGE, {"refiner_width": 8}, "refiner_width and refiner_blocks must both be 0, or neither, got 8 and 0"),
        (IMAGE, {"refiner_blocks": 2}, "must both be 0, or neither, got 0 and 2"),
        (IMAGE, {"refiner_width": -1, "refiner_blocks": 1}, "refiner_width must be from 0 to 4096, got -1"),
        (IMAGE, {"refiner_width": 4097, "refiner_blocks": 1}, "refiner_width must be from 0 to 4096, got 4097"),
        (IMAGE, {"refiner_width": 8, "refiner_blocks": 65}, "refiner_blocks must be from 0 to 64, got 65"),
        (IMAGE, {"refiner_width": 8.0, "refiner_blocks": 1}, r"refiner_width must be of type int, got 8\.0"),
        (IMAGE, {"refiner_width": 8, "refiner_blocks": True}, "refiner_blocks must be of type int, got True"),
        (IMAGE, {**REFINER, "stages": 2}, "a refiner goes with a linear encoder and decoder, one stage"),
        (IMAGE, {**REFINER, "statistics": False}, "a refiner goes .* latents whose mean and spread are known"),
        (IMAGE, {**REFINER, "encoder": "autoencoder_kl", "encoder_width": 32}, "a refiner goes with a linear encoder"),
        (KL, REFINER, "a refiner goes with a linear encoder and decoder"),
        (OOBLECK, REFINER, "a refiner goes with a linear encoder and decoder"),
        (OOBLECK, {"decoder_width": 50}, "must be a multiple of 27, at least 27, got 50"),
        (OOBLECK, {"pad": 0}, "an 'oobleck' network goes with pad 1, got 0"),
        (OOBLECK, {"encoder": "autoencoder_kl", "encoder_width": 32}, "'autoencoder_kl' is not for modality 'audio'"),
    ],
)
def test_refuses(config: CodecConfig, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"codec config: .*{match}"):
        dataclasses.replace(config, **changes)


def test_derived() -> None:
    assert (IMAGE.dims, IMAGE.stride, IMAGE.packets, IMAGE.dimensionality_reduction) == (2, 8, 192, 16)
    assert (OOBLECK.dims, OOBLECK.stride, OOBLECK.packets) == (1, 256, 512)
    assert OOBLECK.dimensionality_reduction == 512 / 27


@pytest.mark.parametrize("make", [int, np.int64, np.uint8, torch.tensor], ids=["int", "int64", "uint8", "tensor"])
def test_sizes_of_any_integers(make: Callable[[int], Any]) -> None:
    assert IMAGE.check_size((make(64), make(48))) == (64, 48)
    assert IMAGE.check_size(np.array([64, 48])) == (64, 48)  # type: ignore[arg-type]  # as good as a sequence
    sides = AUDIO.check_size(make(64)) if make is not torch.tensor else AUDIO.check_size([make(64)])
    assert sides is not None and sides == (64,)
    assert all(type(side) is int for side in sides)


@pytest.mark.parametrize("size", [64.0, (64, 48.0), np.float32(64), "64", (None, 64), torch.tensor(64.0)])
def test_sizes_refused(size: Any) -> None:
    for config, form in ((IMAGE, r"\(H, W\)"), (AUDIO, "a number of samples T")):
        with pytest.raises(TypeError, match=f"size must be {form}.* of integers, got"):
            config.check_size(size)
    with pytest.raises(ValueError, match=r"size must be \(H, W\) for codec 'a', got 64"):
        IMAGE.check_size(64)


def test_decoders_to_choose_from() -> None:
    refined = dataclasses.replace(AUDIO, **REFINER)
    for config, choices in ((IMAGE, ["linear"]), (KL, ["autoencoder_kl"]), (refined, ["linear", "refiner"])):
        assert config.check_decoder(None) == config.decoder
        assert [config.check_decoder(choice) for choice in choices] == choices
        named = " or ".join(f"'{choice}'" for choice in choices)
        for other in {"linear", "refiner", "autoencoder_kl", "", "Refiner"} - set(choices):
            with pytest.raises(ValueError, match=f"decoder of codec 'a' must be {named}, got '{other}'"):
                config.check_decoder(other)
    assert refined.is_linear
    assert not KL.is_linear
    assert not dataclasses.replace(IMAGE, stages=2).is_linear

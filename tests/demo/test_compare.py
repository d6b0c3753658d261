"""What the page shows of a file: the same figures as by the public functions, and a message for what cannot be read."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import skimage.data
import soundfile
import torch
from PIL import Image
from torchvision.transforms import v2

import walloc_transforms as wt
from walloc_transforms.demo.compare import choices, compare
from walloc_transforms.demo.network import SIDE, Network
from walloc_transforms.files import CODERS


def photograph(width: int = 96, height: int = 64) -> Image.Image:
    small = np.random.RandomState(0).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def wav(waveform: np.ndarray, rate: int = 44100, subtype: str = "PCM_16") -> bytes:
    content = io.BytesIO()
    soundfile.write(content, waveform, rate, format="WAV", subtype=subtype)
    return content.getvalue()


def tones(seconds: float = 0.2, rate: int = 44100, channels: int = 2) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * (300 + 200 * i) * time) for i in range(channels)], 1)


def content_of(uri: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(uri.partition(";base64,")[2]))


def seen(arm: dict[str, Any]) -> np.ndarray:
    with Image.open(content_of(arm["picture"]["uri"])) as image:
        assert image.size == (arm["picture"]["width"], arm["picture"]["height"])
        return np.asarray(image)


def test_image(tmp_path: Any) -> None:
    image = photograph(97, 67)
    result = compare(png(image), "a.png", codec="rgb_16x", channels=6, coder="webp")
    original, latents, resized = result["arms"]
    assert np.array_equal(seen(original), np.asarray(image))
    codec = wt.load_codec("rgb_16x", channels=6)
    encoded = wt.functional.encode_image(image, codec, quantize=True)
    expected = wt.functional.decode_image(encoded, codec).mul(255).round().movedim(0, -1).numpy()
    assert np.array_equal(seen(latents), expected)
    error = np.square(expected - np.asarray(image, float)).mean()
    assert latents["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert latents["bytes"] == wt.save_latents(tmp_path / "a.wlc", encoded, codec, coder="webp")
    assert latents["rate"] == pytest.approx(8 * latents["bytes"] / (97 * 67))
    assert (original["values"], latents["values"]) == (3 * 67 * 97, encoded.numel())
    assert resized["values"] == pytest.approx(3 * 67 * 97 / 32, rel=0.05)
    assert seen(resized).shape == (67, 97, 3)
    assert seen(result["latents"]).shape == (2 * 9, 3 * 13)  # six tiles
    assert result["notes"] == []
    assert original["bytes"] == len(png(image))


def test_refiner_comes_nearer_than_resizing() -> None:
    figures = [compare(png(photograph()), "a.png", codec="rgb_16x", decoder=d)["arms"] for d in (None, "refiner")]
    assert figures[0][1]["title"] != figures[1][1]["title"]
    assert figures[0][1]["psnr"] != figures[1][1]["psnr"]
    assert figures[0][1]["bytes"] == figures[1][1]["bytes"]


def test_middle_of_a_large_image() -> None:
    result = compare(png(photograph(1400, 40)), "a.png", codec="rgb_16x")
    expected = np.asarray(photograph(1400, 40))[:, 188 : 188 + 1024]
    assert np.array_equal(seen(result["arms"][0]), expected)
    assert "1024 x 40 of 1400 x 40" in result["notes"][0]
    assert result["arms"][0]["bytes"] is None  # the file holds more


def test_sound() -> None:
    waveform = tones()
    result = compare(wav(waveform), "a.wav", codec="stereo_5x", coder="zlib")
    original, latents, resampled = result["arms"]
    heard, rate = soundfile.read(content_of(original["sound"]))
    assert rate == 44100
    assert np.abs(heard - waveform).max() < 1e-4
    tensor = torch.from_numpy(soundfile.read(content_of(original["sound"]), dtype="float32")[0].T.copy())
    encoded = wt.functional.encode_waveform(tensor, "stereo_5x", quantize=True)
    decoded = wt.functional.decode_waveform(encoded, "stereo_5x").numpy().T
    assert np.abs(soundfile.read(content_of(latents["sound"]))[0] - decoded).max() < 1e-4
    error = np.square(decoded - tensor.numpy().T).mean()
    assert latents["psnr"] == pytest.approx(10 * np.log10(4 / error), abs=1e-3)
    assert resampled["values"] == pytest.approx(latents["values"], rel=0.05)
    assert resampled["psnr"] > 40  # low tones pass
    assert seen(original).shape == seen(latents).shape == seen(resampled).shape
    assert seen(result["latents"]).shape == (108, 35)


def test_sound_of_another_form() -> None:
    result = compare(wav(tones(11, 8000, 1), 8000), "a.wav", codec="stereo_20x", channels=1)
    assert [note.split()[0] for note in result["notes"]] == ["Only", "Resampled", "The"]
    heard, rate = soundfile.read(content_of(result["arms"][0]["sound"]))
    assert (heard.shape, rate) == ((441_000, 2), 44100)
    middle = np.sin(2 * np.pi * 300 * (np.arange(441_000) / 44100 + 0.5)) * 0.4
    assert np.abs(heard[1000:-1000, 0] - middle[1000:-1000]).max() < 0.01


def test_black_has_no_error_that_json_cannot_hold() -> None:
    result = compare(png(Image.new("RGB", (16, 16))), "a.png", codec="rgb_16x")
    assert result["arms"][2]["psnr"] == 100


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"no image", {}, "cannot identify image file 'a.png'"),
        (png(photograph())[:300], {}, "truncated|cut off|cannot be read"),
        (png(photograph(4, 4)), {}, "too small"),
        (png(Image.new("RGBA", (16, 16))), {}, "transparent"),
        (png(photograph()), {"codec": "stereo_5x"}, "a.png cannot be read: Error opening 'a.png'"),
        (png(photograph()), {"codec": "../rgb_16x"}, "unknown codec '../rgb_16x'"),
        (png(photograph()), {"codec": "owner/name"}, "unknown codec"),
        (png(photograph()), {"channels": 13}, "13"),
        (png(photograph()), {"decoder": "magic"}, "magic"),
        (png(photograph()), {"coder": "magic"}, "magic"),
        (wav(tones(), subtype="FLOAT"), {}, "cannot identify"),
        (wav(np.full((999, 2), np.nan), subtype="FLOAT"), {"codec": "stereo_5x"}, "NaN"),
        (wav(np.full((999, 1), np.inf), 8000, "FLOAT"), {"codec": "stereo_5x"}, "NaN"),
        (wav(np.zeros((0, 2))), {"codec": "stereo_5x"}, "too small"),
        (wav(tones(0.1, channels=3)), {"codec": "stereo_5x"}, r"got \(3, 4410\)"),
        (wav(tones())[:9000], {"codec": "stereo_5x"}, "cut off"),
    ],
)
def test_what_cannot_be_compared(content: bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises((OSError, ValueError), match=message):
        compare(content, "a.png", **{"codec": "rgb_16x", **options})


def test_choices() -> None:
    known = choices()
    assert [codec["name"] for codec in known["codecs"]] == wt.available_codecs()
    assert {"zlib", "webp"} <= set(known["coders"]) <= set(CODERS)


class Reddish(torch.nn.Module):
    """Takes red images for a tench, the first class, and others for an ear of corn, among the last."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[1:] == (3, SIDE, SIDE)
        red = image[:, 0].mean((1, 2))  # from -1 to 1
        return torch.nn.functional.one_hot(torch.where(red > 0, 0, 998), 1000) * 3.0


def test_answers_of_a_network() -> None:
    loaded: list[Reddish] = []

    def load() -> Reddish:
        loaded.append(Reddish())
        return loaded[0]

    network = Network(load)
    assert compare(wav(tones()), "a.wav", codec="stereo_5x", network=network)["unanswered"] == ""
    assert loaded == []  # until there is a picture
    likely, unlikely = np.exp(3) / (np.exp(3) + 999), 1 / (np.exp(3) + 999)
    for color, name in (("red", "tench"), ("blue", "ear")):
        result = compare(png(Image.new("RGB", (64, 48), color)), "a.png", codec="rgb_16x", network=network)
        for arm in result["arms"]:
            assert arm["answers"][0][0] == name
            assert [p for _, p in arm["answers"]] == pytest.approx([likely, unlikely, unlikely])
    assert len(loaded) == 1


@pytest.mark.slow
def test_trained_network_and_what_it_reads() -> None:
    """The picture is the network's own input, as timm cuts it."""
    cat = Image.fromarray(skimage.data.chelsea())
    network = Network()
    result = compare(png(cat), "a.png", codec="rgb_4x", reduce=True, network=network)
    assert [arm["answers"][0][0] for arm in result["arms"][:2]] == ["tiger cat"] * 2
    read = seen(result["arms"][0])
    expected = np.asarray(v2.CenterCrop(224)(v2.Resize(256, v2.InterpolationMode.BICUBIC)(cat)), float)
    assert np.abs(read - expected).mean() < 1
    assert "looked at as the network reads it" in result["notes"][0]
    whole = compare(png(cat), "a.png", codec="rgb_4x", network=network)["arms"][0]
    assert whole["picture"]["width"] == cat.width
    assert whole["answers"] == result["arms"][0]["answers"]


def test_network_that_is_not_installed() -> None:
    def load() -> torch.nn.Module:
        raise FileNotFoundError("not here: pip install it")

    result = compare(png(photograph()), "a.png", codec="rgb_16x", network=Network(load))
    assert result["unanswered"].endswith("not here: pip install it")
    assert [arm["answers"] for arm in result["arms"]] == [[], [], []]

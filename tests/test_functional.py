import pytest
import torch

import walloc_transforms as wt
from tests.helpers import PRODUCTS, assert_close_float32, give_refiner
from walloc_transforms import functional as F

IMAGE_DTYPES = {
    torch.float32: 1,
    torch.float64: 1,
    torch.float16: 1,
    torch.bfloat16: 1,
    torch.uint8: 255,
    torch.uint16: 65535,
}


def audio_codec() -> wt.Codec:
    codec = wt.Codec(wt.CodecConfig("sound", "audio", 2, 16, 4))
    with torch.no_grad():
        codec.weight.mul_(50)
        codec.decoder.weight.div_(50)
    return codec


@pytest.mark.parametrize("batch", [(), (0,), (5, 0), (2,), (2, 3)])
@pytest.mark.parametrize("name", ["rgb_16x", "rgb_4x"])
def test_shapes(batch: tuple[int, ...], name: str) -> None:
    codec = wt.load_codec(name)
    latents = F.encode_image(torch.rand(*batch, 3, 17, 11), codec)
    assert latents.shape == (*batch, codec.config.channels, 3, 2)
    assert latents.dtype == torch.float32
    assert F.decode_image(latents, codec).shape == (*batch, 3, 17, 11)
    assert F.decode_image(torch.Tensor(latents), codec).shape == (*batch, 3, 24, 16)
    assert F.decode_image(latents, codec, size=(17, 11)).shape == (*batch, 3, 17, 11)


@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
def test_range_is_by_dtype(dtype: torch.dtype) -> None:
    full = IMAGE_DTYPES[dtype]
    image = (torch.rand(3, 17, 24) * full).to(dtype)
    torch.testing.assert_close(
        F.encode_image(image, "rgb_16x"), F.encode_image(image.double() / full, "rgb_16x"), atol=1e-3, rtol=0
    )


def test_black_and_white_survive() -> None:
    for name in ("rgb_16x", "rgb_16x_viewing", "rgb_4x", "rgb_4x_viewing"):
        for value in (0.0, 1.0):
            image = torch.full((3, 16, 24), value)
            decoded = F.decode_image(F.encode_image(image, name, quantize=True), name)
            torch.testing.assert_close(decoded, image, atol=0.02, rtol=0)


def test_quantize_and_dtype() -> None:
    image = torch.rand(2, 3, 32, 40)
    raw = F.encode_image(image, "rgb_4x")
    rounded = F.encode_image(image, "rgb_4x", quantize=True)
    assert not torch.equal(raw, raw.round())
    assert torch.equal(rounded, raw.round())
    codes = F.encode_image(image, "rgb_4x", quantize=True, dtype=torch.int8)
    assert codes.dtype == torch.int8
    assert torch.equal(codes.float(), rounded)
    assert torch.equal(F.decode_image(codes, "rgb_4x"), F.decode_image(rounded, "rgb_4x"))
    assert F.encode_image(image, "rgb_4x", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_normalize() -> None:
    codec = wt.load_codec("rgb_16x")
    image = torch.rand(3, 32, 40)
    raw, normal = F.encode_image(image, codec), F.encode_image(image, codec, normalize=True)
    expected = (raw - codec.latent_mean.view(-1, 1, 1)) / codec.latent_std.view(-1, 1, 1)
    torch.testing.assert_close(normal, expected)
    torch.testing.assert_close(codec.denormalize(normal), raw, atol=1e-4, rtol=0)


def test_decoded_images_stay_in_range() -> None:
    decoded = F.decode_image(torch.randn(12, 5, 7) * 60, "rgb_16x")
    assert decoded.min() == 0
    assert decoded.max() == 1


def test_waveforms() -> None:
    codec, waveform = audio_codec(), torch.rand(3, 2, 100) * 2 - 1
    latents = F.encode_waveform(waveform, codec)
    assert latents.shape == (3, 16, 7)
    torch.testing.assert_close(latents, codec.encode(waveform), atol=1e-4, rtol=0)
    decoded = F.decode_waveform(latents, codec, size=100)
    assert decoded.shape == waveform.shape
    assert decoded.abs().max() <= 1
    torch.testing.assert_close(decoded, codec.decode(latents, size=(100,), clamp=False).clamp(-1, 1))
    normalized = F.encode_waveform(waveform, codec, normalize=True)
    torch.testing.assert_close(F.decode_waveform(normalized, codec, size=100, normalized=True), decoded)


@pytest.mark.parametrize("batch", [(), (0,), (5, 0), (2,), (2, 3)])
@pytest.mark.parametrize("name", ["stereo_5x", "stereo_20x"])
@pytest.mark.parametrize("length", [256, 257, 1011])
def test_shapes_of_waveforms(batch: tuple[int, ...], name: str, length: int) -> None:
    codec = wt.load_codec(name)
    latents = F.encode_waveform(torch.rand(*batch, 2, length) - 0.5, codec)
    assert latents.shape == (*batch, codec.config.channels, -(-length // 256))
    assert latents.dtype == torch.float32
    assert F.decode_waveform(latents, codec, size=length).shape == (*batch, 2, length)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_pcm_is_by_dtype(dtype: torch.dtype) -> None:
    half = {torch.uint8: 128, torch.int16: 2**15, torch.int32: 2**31}[dtype]
    silence = 128 if dtype == torch.uint8 else 0
    floats = torch.rand(2, 2, 3000, dtype=torch.float64) * 2 - 1
    pcm = (floats * half + silence).round().clamp(silence - half, silence + half - 1).to(dtype)
    exact = (pcm.double() - silence) / half
    torch.testing.assert_close(
        F.encode_waveform(pcm, "stereo_20x"), F.encode_waveform(exact, "stereo_20x"), atol=1e-3, rtol=0
    )
    quiet = torch.full((2, 512), silence, dtype=dtype)
    nothing = F.encode_waveform(torch.zeros(2, 512), "stereo_20x")
    torch.testing.assert_close(F.encode_waveform(quiet, "stereo_20x"), nothing, atol=1e-4, rtol=0)


def test_sample_rate() -> None:
    waveform = torch.rand(2, 1000)
    latents = F.encode_waveform(waveform, "stereo_20x", sample_rate=44100)
    assert torch.equal(latents, F.encode_waveform(waveform, "stereo_20x"))
    with pytest.raises(ValueError, match=r"is for 44100 Hz, got a waveform of 48000 Hz.*Resample\(48000, 44100\)"):
        F.encode_waveform(waveform, "stereo_20x", sample_rate=48000)
    assert F.encode_waveform(waveform, audio_codec(), sample_rate=48000).shape == (16, 63)  # not known: not checked
    with pytest.raises(ValueError, match="sample_rate must be positive, got 0"):
        F.encode_waveform(waveform, audio_codec(), sample_rate=0)


@pytest.mark.parametrize(
    ("waveform", "error", "message"),
    [
        (torch.rand(1, 1000), ValueError, r"got \(1, 1000\): repeat the one channel"),
        (torch.rand(1000), ValueError, r"signals of shape \(..., 2, T\), got \(1000,\)"),
        (torch.rand(2, 255), ValueError, "too small: got 255 samples, expected at least 256"),
        (torch.rand(2, 1), ValueError, "too small: got 1 samples"),
        (torch.rand(2, 0), ValueError, r"without samples: shape \(2, 0\)"),
        (torch.full((2, 1000), torch.nan), ValueError, "NaN or infinite"),
        (torch.zeros(2, 1000, dtype=torch.int64), TypeError, "int32 or float, got torch.int64"),
        (torch.zeros(2, 1000, dtype=torch.uint16), TypeError, "got torch.uint16"),
        ("song.wav", TypeError, "expected a tensor of shape .*, got str"),
    ],
)
def test_encode_waveform_refuses(waveform: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.encode_waveform(waveform, "stereo_20x")


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (
            torch.rand(1, 16, 16),
            ValueError,
            r"'rgb_16x' expects signals of shape \(\.\.\., 3, H, W\), got \(1, 16, 16\)",
        ),
        (torch.rand(16, 16), ValueError, r"got \(16, 16\)"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), TypeError, "uint8, uint16 or float, got torch.int64"),
        (torch.zeros(3, 16, 16, dtype=torch.bool), TypeError, "got torch.bool"),
        (torch.full((3, 16, 16), float("nan")), ValueError, "NaN or infinite"),
        (torch.rand(3, 7, 16), ValueError, "too small: got 7x16 samples, expected at least 8 along every side"),
        (torch.rand(3, 0, 16), ValueError, r"without samples: shape \(3, 0, 16\)"),
        ("photo.jpg", TypeError, "expected a tensor or a PIL image, got str"),
    ],
)
def test_encode_image_refuses(image: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        F.encode_image(image, "rgb_16x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.int8}, "holds rounded latents only: set quantize=True"),
        ({"dtype": torch.int8, "quantize": True, "normalize": True}, "normalize=False"),
        ({"dtype": torch.uint8, "quantize": True}, "got torch.uint8"),
    ],
)
def test_options_at_odds(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.encode_image(torch.rand(3, 16, 16), "rgb_16x", **options)


def test_modality_is_checked() -> None:
    with pytest.raises(ValueError, match=r"expected an image codec, got 'sound' \(audio\)"):
        F.encode_image(torch.rand(3, 16, 16), audio_codec())
    with pytest.raises(ValueError, match=r"expected an audio codec, got 'rgb_16x' \(image\)"):
        F.encode_waveform(torch.rand(2, 160), "rgb_16x")


def test_decode_refuses() -> None:
    with pytest.raises(ValueError, match=r"size 16x16 does not belong to these latents: they hold 40x56 samples"):
        F.decode_image(torch.zeros(12, 5, 7), "rgb_16x", size=(16, 16))
    with pytest.raises(ValueError, match=r"expects latents of shape \(\.\.\., 12, H, W\), got \(48, 5, 7\)"):
        F.decode_image(torch.zeros(48, 5, 7), "rgb_16x")
    with pytest.raises(TypeError, match=r"float, int8 or int16 latents, got torch.int64"):
        F.decode_image(torch.zeros(12, 5, 7, dtype=torch.int64), "rgb_16x")


def test_decode_with_a_refiner() -> None:
    codec, codes = give_refiner(wt.load_codec("rgb_16x")), torch.randint(-9, 9, (2, 12, 3, 4), dtype=torch.int8)
    image = F.decode_image(codes, codec, size=(17, 30), decoder="refiner")
    assert image.shape == (2, 3, 17, 30)
    expected = codec.decode(codes, size=(17, 30), decoder="refiner", clamp=False).clamp(0, 1)
    assert_close_float32(image, expected, terms=PRODUCTS, factor=8)
    torch.testing.assert_close(F.decode_image(codes, codec, size=(17, 30), decoder="refiner", tile=16), image)
    linear = F.decode_image(codes, codec)
    assert torch.equal(F.decode_image(codes, codec, decoder="linear"), linear)
    assert (image - linear[..., :17, :30]).abs().mean() > 0.05
    audio, codes = give_refiner(wt.load_codec("stereo_20x")), torch.randint(-99, 99, (2, 27, 4), dtype=torch.int8)
    waveform = F.decode_waveform(codes, audio, size=1000, decoder="refiner")
    expected = audio.decode(codes, size=(1000,), decoder="refiner", clamp=False).clamp(-1, 1)
    assert_close_float32(waveform, expected, terms=PRODUCTS, factor=8)
    assert torch.equal(F.decode_waveform(codes, audio, decoder="linear"), F.decode_waveform(codes, audio))


def test_unknown_decoder() -> None:
    refined = give_refiner(wt.load_codec("rgb_16x"))
    with pytest.raises(ValueError, match="decoder of codec 'rgb_16x' must be 'linear' or 'refiner', got 'magic'"):
        F.decode_image(torch.zeros(12, 2, 2), refined, decoder="magic")
    with pytest.raises(ValueError, match="decoder of codec 'sound' must be 'linear', got 'refiner'"):
        F.decode_waveform(torch.zeros(16, 5), audio_codec(), decoder="refiner")

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import walloc_transforms as wt
from tests.helpers import give_refiner, make_codec
from walloc_transforms.codec.fitting import synthesis_gram
from walloc_transforms.codec.packet_statistics import PacketStatistics
from walloc_transforms.wavelets.packets import WaveletPacketAnalysis


def smooth_images(count: int = 6, channels: int = 3) -> list[torch.Tensor]:
    """Noise whose power falls with frequency as that of photographs does, colors alike."""
    images = []
    for i in range(count):
        h, w = 96 + 8 * i, 130
        spectrum = torch.randn(channels, h, w, dtype=torch.complex64) + 2 * torch.randn(1, h, w, dtype=torch.complex64)
        frequency = torch.sqrt(torch.fft.fftfreq(h)[:, None] ** 2 + torch.fft.fftfreq(w) ** 2).clamp(min=0.01)
        image = torch.fft.ifft2(spectrum / frequency).real
        images.append((0.45 + 0.15 * image / image.std()).clamp(0, 1))
    return images


def error(codec: wt.Codec, images: list[torch.Tensor], quantize: bool) -> float:
    squares = 0.0
    for x in images:
        latents = wt.functional.encode_image(x, codec, quantize=quantize)
        squares += float((wt.functional.decode_image(latents, codec, size=x.shape[1:]) - x).square().sum())
    return squares / sum(x.numel() for x in images)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return smooth_images()


@pytest.fixture(scope="module")
def codec(images: list[torch.Tensor]) -> wt.Codec:
    return wt.fit_codec(images, levels=2, channels=12, progress=False, name="mine", source="noise")


def test_result(codec: wt.Codec, images: list[torch.Tensor]) -> None:
    c = codec.config
    assert (c.name, c.modality, c.signal_channels, c.channels, c.levels, c.source) == (
        "mine",
        "image",
        3,
        12,
        2,
        "noise",
    )
    latents = torch.cat([wt.functional.encode_image(x, codec).flatten(1) for x in images], 1)
    torch.testing.assert_close(latents.mean(1), codec.latent_mean, atol=0.5, rtol=0.02)
    torch.testing.assert_close(latents.std(1), codec.latent_std, atol=0.02, rtol=0.02)


def test_channels_are_uncorrelated_and_ordered(codec: wt.Codec, images: list[torch.Tensor]) -> None:
    """In the metric of the signal, where a channel's share is its variance times the norm of what it decodes to."""
    analysis = WaveletPacketAnalysis(levels=2)
    packets = torch.cat([analysis(x[None] - 0.5)[0].flatten(1) for x in images], 1).double()
    packets = (packets - packets.mean(1, keepdim=True)).float()
    latents = codec.weight @ packets
    correlation = torch.corrcoef(latents) - torch.eye(12)
    assert correlation.abs().max() < 1e-2
    gram = synthesis_gram(codec.config).float()
    decoder = codec.decoder.weight
    variance = latents.var(1) * (decoder * (gram @ decoder)).sum(0)
    assert (variance[1:] <= variance[:-1] * 1.001).all()


def test_beats_every_other_projection(codec: wt.Codec, images: list[torch.Tensor]) -> None:
    """Principal components in the plain metric, or the coarsest bands alone, reconstruct worse."""
    best = error(codec, images, quantize=False)
    analysis = WaveletPacketAnalysis(levels=2)
    packets = torch.cat([analysis(x[None] - 0.5)[0].flatten(1) for x in images], 1)
    _, vectors = torch.linalg.eigh(torch.cov(packets))
    bands = torch.eye(48)[:, [c * 16 + b for c in range(3) for b in (0, 1, 2, 3)]]
    for rival in (vectors[:, -12:], bands):
        other = wt.Codec(codec.config)
        with torch.no_grad():
            other.weight.copy_(rival.T * 30)
            other.decoder.weight.copy_(rival / 30)
            mean = packets.mean(1)
            other.bias.copy_(-(other.weight @ mean))
            other.decoder.bias.copy_(mean)
        assert best < error(other, images, quantize=False)


@pytest.mark.parametrize("loss", [0.1, 0.5])
def test_rounding_costs_what_was_allowed(images: list[torch.Tensor], loss: float) -> None:
    codec = wt.fit_codec(images, levels=2, channels=12, rounding_loss=loss, progress=False)
    cost = 10 * math.log10(error(codec, images, quantize=True) / error(codec, images, quantize=False))
    assert cost == pytest.approx(loss, rel=0.35)


def test_a_prefix_is_the_smaller_codec(images: list[torch.Tensor], codec: wt.Codec) -> None:
    smaller = wt.fit_codec(images, levels=2, channels=5, progress=False)
    assert error(codec.prefix(5), images, False) == pytest.approx(error(smaller, images, False), rel=1e-3)


def test_all_channels_reconstruct_exactly(images: list[torch.Tensor]) -> None:
    codec = wt.fit_codec(images, levels=1, channels=12, progress=False)
    assert error(codec, images, quantize=False) < 1e-8
    assert wt.functional.encode_image(images[0], codec).abs().max() < 127.5


def test_memory_does_not_grow(images: list[torch.Tensor]) -> None:
    statistics = PacketStatistics(wt.CodecConfig("any", "image", 3, 4, 2), sample_size=500)
    for image in images:
        statistics.add(image - 0.5)
        assert statistics.sample.shape[1] <= 500
    assert statistics.count == sum(-(-x.shape[1] // 4) * -(-x.shape[2] // 4) for x in images)
    mean, covariance = statistics.covariance()  # a uniform sample has the moments of the whole
    root = covariance.diagonal().sqrt()
    assert ((statistics.sample.mean(1).double() - mean).abs() < 6 * root / math.sqrt(500)).all()


def test_sample_is_uniform_over_the_stream() -> None:
    statistics = PacketStatistics(wt.CodecConfig("any", "image", 1, 4, 1, "haar"), sample_size=1000)
    for level in range(10):
        statistics.add(torch.full((1, 60, 60), float(level)))
    share = (
        torch.bincount((statistics.sample[0] / 2).round().int(), minlength=10) / 1000
    )  # LL of a constant is twice it
    assert ((share - 0.1).abs() < 0.04).all()


def test_kinds_of_input_agree(images: list[torch.Tensor]) -> None:
    bytes_ = [(x * 255).round().to(torch.uint8) for x in images]
    pil = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in bytes_]
    fits = [
        wt.fit_codec(s, levels=2, channels=4, progress=False) for s in (bytes_, pil, iter([x / 255 for x in bytes_]))
    ]
    for other in fits[1:]:
        torch.testing.assert_close(other.weight, fits[0].weight, atol=1e-3, rtol=1e-3)


def test_waveforms() -> None:
    waveforms = [torch.cumsum(torch.randn(2, 3000 + 16 * i), 1) / 200 for i in range(3)]
    codec = wt.fit_codec(waveforms, levels=4, channels=8, progress=False)
    assert (codec.config.modality, codec.config.signal_channels, codec.config.packets) == ("audio", 2, 32)
    decoded = wt.functional.decode_waveform(wt.functional.encode_waveform(waveforms[0], codec), codec, size=3000)
    assert (decoded - waveforms[0].clamp(-1, 1)).square().mean() < 0.05 * waveforms[0].square().mean()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_pcm_fits_like_floats(dtype: torch.dtype) -> None:
    half, silence = {torch.uint8: (128, 128), torch.int16: (2**15, 0), torch.int32: (2**31, 0)}[dtype]
    waves = [(torch.cumsum(torch.randn(2, 3000), 1) / 300).clamp(-0.99, 0.99) for _ in range(3)]
    pcm = [(x.double() * half + silence).round().to(dtype) for x in waves]
    exact = [((x.double() - silence) / half).float() for x in pcm]
    fits = [wt.fit_codec(x, levels=4, channels=8, sample_rate=8000, progress=False) for x in (pcm, exact)]
    torch.testing.assert_close(fits[0].weight, fits[1].weight, atol=1e-2, rtol=1e-3)
    assert fits[0].config.sample_rate == 8000


def loud_and_quiet() -> list[torch.Tensor]:
    """A loud sound of high frequencies and a quiet one of low frequencies, which need different channels."""
    torch.manual_seed(0)
    spectra = torch.fft.rfft(torch.randn(2, 2, 8192))
    spectra[0, :, :1000] = 0
    spectra[1, :, 800:] *= 0.001
    loud, quiet = torch.fft.irfft(spectra)
    return [loud / loud.abs().max(), quiet / quiet.abs().max() / 100]


def losses(codec: wt.Codec, waves: list[torch.Tensor]) -> list[float]:
    """What the codec leaves of the energy, unrounded."""
    return [float((codec.decode(codec.encode(x / 2)) * 2 - x).square().mean() / x.square().mean()) for x in waves]


def test_relative_weighs_by_the_error_of_resizing() -> None:
    waves = loud_and_quiet()
    plain = losses(wt.fit_codec(waves, levels=4, channels=8, progress=False), waves)
    relative = losses(wt.fit_codec(waves, levels=4, channels=8, relative=True, progress=False), waves)
    assert plain[1] > 0.5  # nearly all channels are spent on the loud one
    assert relative[1] < 0.05
    assert relative[0] < 1
    scaled = [waves[0] / 4, waves[1] * 10]
    again = losses(wt.fit_codec(scaled, levels=4, channels=8, relative=True, progress=False), scaled)
    assert again == pytest.approx(relative, rel=1e-2)  # whatever their levels are


def test_relative_prefixes_hold_the_most_energy() -> None:
    waves = loud_and_quiet()
    codec = wt.fit_codec(waves, levels=4, channels=8, relative=True, progress=False)
    packets = torch.cat([WaveletPacketAnalysis(levels=4, dims=1)(x[None] / 2)[0] for x in waves], 1)
    latents = codec.weight @ (packets - packets.mean(1, keepdim=True))
    assert (torch.corrcoef(latents) - torch.eye(8)).abs().max() < 1e-2
    gram = synthesis_gram(codec.config).float()
    variance = latents.var(1) * (codec.decoder.weight * (gram @ codec.decoder.weight)).sum(0)
    assert (variance[1:] <= variance[:-1] * 1.001).all()


@pytest.mark.parametrize("loss", [0.1, 0.5])
def test_relative_rounding_is_for_average_signals(loss: float) -> None:
    """The step gives ``loss`` at an error that is the geometric mean of those of resizing."""
    torch.manual_seed(0)
    waves = [torch.randn(2, 20_000) / 20, torch.randn(2, 20_000) / 100]
    codec = wt.fit_codec(waves, levels=3, channels=8, relative=True, rounding_loss=loss, progress=False)
    rounding = [
        float((codec.decode(z.round(), clamp=False) - codec.decode(z, clamp=False)).square().mean())
        for z in (codec.encode(x) for x in waves)
    ]
    halves = [float(x.square().mean()) / 2 for x in waves]  # 8 of 16 bands of white noise are lost
    typical = math.sqrt(halves[0] * halves[1])
    # The loud signal reaches into coarser steps, the quiet one sees the nominal step.
    assert 10 * math.log10(1 + rounding[1] / typical) == pytest.approx(loss, rel=0.1)


def test_relative_with_silence_and_images(images: list[torch.Tensor]) -> None:
    wave = torch.cumsum(torch.randn(2, 6000), 1) / 200
    silent = wt.fit_codec([wave, torch.zeros(2, 3000)], levels=4, channels=8, relative=True, progress=False)
    assert all(value.isfinite().all() for value in silent.state_dict().values())
    codec = wt.fit_codec(images, levels=2, channels=12, relative=True, progress=False)
    best = wt.fit_codec(images, levels=2, channels=12, progress=False)
    assert error(best, images, False) <= error(codec, images, False) * 1.0001 < error(best, images, False) * 1.1


def test_repeatable(images: list[torch.Tensor], codec: wt.Codec) -> None:
    again = wt.fit_codec(images, levels=2, channels=12, progress=False)
    for name, value in again.state_dict().items():
        assert torch.equal(value, codec.state_dict()[name]), name


def test_wrong_options_are_said_at_the_first_signal() -> None:
    seen = []
    with pytest.raises(ValueError, match="channels must be from 1 to 48"):
        wt.fit_codec((seen.append(i) or torch.rand(3, 64, 64) for i in range(5)), levels=2, channels=49)
    assert seen == [0]


@pytest.mark.parametrize(
    ("levels", "message"),
    [(12, r"12 levels of 'bior4\.4' in 2-D compose filters"), (7, "make 49,152 packets.*at most 16,384 .*MAX_PACKETS")],
)
def test_levels_that_memory_does_not_hold(levels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wt.fit_codec([torch.rand(3, 64, 64)], levels=levels, channels=12, progress=False)


@pytest.mark.parametrize(
    ("signals", "options", "error_", "message"),
    [
        ([], {}, ValueError, "no signals to fit"),
        (["a.jpg"], {}, TypeError, "signal 0: expected a tensor or a PIL image, got str"),
        ([torch.rand(3, 64, 64), torch.rand(1, 64, 64)], {}, ValueError, r"3 channels and 2 axes .* got shape \(1, 64"),
        ([torch.rand(3, 64, 64), torch.rand(3, 64)], {}, ValueError, "3 channels and 2 axes"),
        ([torch.rand(3, 3, 64)], {}, ValueError, "too small: got 3x64"),
        ([torch.rand(3, 64, 64) * 255], {}, ValueError, r"signal 0: fitting expects float images in \[0, 1\].*0..255"),
        ([torch.randn(2, 6400) * 3000], {}, ValueError, "signal 0: .*PCM as floats"),
        ([torch.full((3, 64, 64), float("nan"))], {}, ValueError, "signal 0: the signal holds NaN"),
        ([torch.zeros(3, 64, 64, dtype=torch.int64)], {}, TypeError, "got torch.int64"),
        ([torch.zeros(2, 640, dtype=torch.int64)], {}, TypeError, "int32 or float, got torch.int64"),
        ([torch.rand(2, 3, 64, 64)], {}, ValueError, r"got shape \(2, 3, 64, 64\)"),
        ([torch.rand(3, 8, 8)], {}, ValueError, "4 cells are too few to determine 48 packets"),
        ([torch.full((3, 64, 64), 0.5)], {}, ValueError, "do not vary"),
        ([torch.rand(3, 64, 64)], {"channels": 49}, ValueError, "channels must be from 1 to 48"),
        ([torch.rand(3, 64, 64)], {"rounding_loss": 0}, ValueError, "above 0 and at most 100 dB, got 0"),
        ([torch.rand(3, 64, 64)], {"rounding_loss": 1e9}, ValueError, "at most 100 dB, got 1000000000.0"),
        ([torch.rand(3, 64, 64)], {"rounding_loss": math.nan}, ValueError, "at most 100 dB, got nan"),
        ([torch.rand(3, 64, 64)], {"levels": 7}, ValueError, "49,152 packets, too many"),
        ([torch.rand(1, 64, 64).expand(3, -1, -1)], {"channels": 17}, ValueError, "do not vary in 17 directions"),
        ([torch.rand(64, 48, 3)], {"levels": 1}, ValueError, r"shape \(64, 48, 3\), which looks like \(H, W, C\)"),
        ([torch.rand(640, 2)], {}, ValueError, r"shape \(640, 2\), which looks like \(T, C\)"),
        ([torch.rand(3, 64, 64), torch.rand(3, 3, 9)], {}, ValueError, "signal 1: too small: got 3x9"),
        ([(torch.rand(3, 64, 64), 7)], {}, TypeError, "signal 0: .* got tuple: pass signals one at a time"),
        ([np.zeros((64, 64, 3), np.uint8)], {}, TypeError, "signal 0: .*torch.from_numpy makes tensors"),
        (torch.rand(3, 64, 64), {}, ValueError, r"a tensor of shape \(3, 64, 64\): one image\? Put it in a list"),
        ("folder", {}, TypeError, "expected several signals, .* got str"),
        (Image.new("RGB", (64, 64)), {}, TypeError, "expected several signals, .* got Image"),
        ([torch.rand(3, 64, 64)], {"sample_rate": 8000}, ValueError, "sample_rate is for audio, got 8000"),
        ([torch.rand(3, 64, 64)], {"wavelet": "bior9.9"}, ValueError, "unknown wavelet 'bior9.9'"),
    ],
)
def test_refuses(signals: Any, options: dict, error_: type[Exception], message: str) -> None:
    with pytest.raises(error_, match=message):
        wt.fit_codec(signals, **{"levels": 2, "channels": 4, "progress": False, **options})


def test_the_coarsest_step_is_finite(images: list[torch.Tensor]) -> None:
    codec = wt.fit_codec(images, levels=2, channels=4, rounding_loss=100, progress=False)
    assert all(value.isfinite().all() for value in codec.state_dict().values())
    assert wt.functional.decode_image(codec.encode(images[0]), codec).isfinite().all()


class MapStyle(torch.utils.data.Dataset):
    """Has no ``__iter__``; Python goes through it by its indices."""

    def __init__(self, images: list[torch.Tensor]) -> None:
        self.images = images

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def test_data_sets_without_iter(images: list[torch.Tensor], codec: wt.Codec) -> None:
    fitted = wt.fit_codec(MapStyle(images), levels=2, channels=12, progress=False)  # type: ignore[arg-type]  # it has no __iter__
    assert torch.equal(fitted.weight, codec.weight)


@pytest.mark.parametrize(
    ("given", "signals", "error_", "message"),
    [
        ("rgb_16x", [], TypeError, "expected a codec, as load_codec gives it, got str"),
        (wt.load_codec("rgb_16x"), [torch.zeros(3, 64, 64)] * 2, ValueError, "vary in none of the 12 channels"),
        (wt.load_codec("rgb_16x"), [torch.rand(3, 64, 64), torch.rand(3, 8, 7)], ValueError, "signal 1: too small"),
        (wt.load_codec("rgb_16x"), torch.rand(3, 64, 64), ValueError, "one image"),
        (
            wt.load_codec("rgb_16x"),
            [torch.rand(1, 3, 64, 64)],
            ValueError,
            r"signal 0: .*one at a time, got .*\(1, 3, 6",
        ),
        (wt.load_codec("rgb_16x"), [torch.rand(3, 3, 64, 64)], ValueError, "signal 0: expected .* 3 channels and 2"),
        (
            wt.load_codec("stereo_5x"),
            torch.rand(4, 1, 2, 800),
            ValueError,
            "signal 0: expected .* 2 channels and 1 axis",
        ),
    ],
)
def test_statistics_refuse(given: Any, signals: Any, error_: type[Exception], message: str) -> None:
    with pytest.raises(error_, match=message):
        wt.fit_statistics(given, signals, progress=False)


def test_statistics_leave_a_refiner_its_own(tmp_path: Path) -> None:
    """It was trained on latents normalized by the codec's, which their user replaces."""
    codec = give_refiner(make_codec())
    signals = [[0.2 * torch.rand(3, 64, 64)], [torch.rand(3, 64, 64)]]
    latents, measured = codec.encode(torch.rand(3, 40, 48)), codec
    for some in signals:
        measured = wt.fit_statistics(measured, some, progress=False)
    assert not torch.allclose(measured.latent_mean, codec.latent_mean)
    assert codec.refiner is not None and codec.refiner.latent_mean is None
    whole = measured.prefix(7)
    measured.save_pretrained(tmp_path)
    read = wt.load_codec(tmp_path)
    lazy = read.prefix(7)
    for one in (measured, read, copy.deepcopy(measured)):
        assert torch.equal(one.decode(latents, decoder="refiner"), codec.decode(latents, decoder="refiner"))
        normalized = one.normalize(latents)
        torch.testing.assert_close(
            one.decode(normalized, decoder="refiner", normalized=True), one.decode(latents, decoder="refiner")
        )
    expected = codec.prefix(7).decode(latents[:7], decoder="refiner")
    for one in (whole, lazy):
        assert torch.equal(one.decode(latents[:7], decoder="refiner"), expected)


def test_statistics_measured_in_inference_mode() -> None:
    with torch.inference_mode():
        measured = wt.fit_statistics(wt.load_codec("rgb_16x"), [torch.rand(3, 64, 64)], progress=False)
    assert not any(value.is_inference() for value in measured.state_dict().values())
    measured.requires_grad_()

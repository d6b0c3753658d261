"""Evaluation of audio codecs: figures against what they are by hand, rivals, and the recipe made small."""

import csv
import math
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

import walloc_transforms as wt
from recipes import evaluate_codec
from recipes.common.quality import psnr
from recipes.common.sounds import full_scale
from recipes.evaluation import sounds as sound_evaluation
from recipes.evaluation.nearest import Coded
from recipes.evaluation.sound_formats import (
    FORMATS,
    RESAMPLERS,
    Format,
    LossyFile,
    align,
    find_delay,
    resample_fourier,
    si_sdr,
)
from recipes.evaluation.sounds import (
    DemoMusic,
    Piece,
    differences,
    mean_over_pieces,
    mean_prefixes,
    measure,
    prefix_lengths,
)

RATE = 16000


def music(seed: int = 0, samples: int = 2 * RATE) -> Tensor:
    """Stereo noise that falls off with frequency, as music does, with a common part."""
    noise = torch.randn(3, samples, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.rfft(noise)
    spectrum /= 1 + (torch.arange(spectrum.shape[1]) * RATE / samples / 300) ** 1.5
    noise = torch.fft.irfft(spectrum, samples)
    return full_scale(noise[:2] + noise[2])


@pytest.fixture(scope="module")
def codec() -> wt.Codec:
    return wt.fit_codec([music(9)], levels=4, channels=12, name="tiny", sample_rate=RATE, progress=False)


# figures


def test_psnr_by_hand() -> None:
    sound = torch.zeros(2, 4)
    assert psnr(sound, torch.full((2, 4), 0.2)) == pytest.approx(20)  # halved 0.1
    one = sound.clone()
    one[0, 0] = 1.0  # (1 / 2)^2 / 8
    assert psnr(sound, one) == pytest.approx(10 * math.log10(32))
    assert psnr(one, one) == math.inf
    with pytest.raises(ValueError, match=r"shape \(2, 3\), the original \(2, 4\)"):
        psnr(sound, sound[:, 1:])


def test_si_sdr_by_hand() -> None:
    sound = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
    orthogonal = torch.tensor([[0.1, 0.1, -0.1, -0.1], [0.01, -0.01, 0.01, -0.01]])
    for gain in (1.0, 0.3):
        assert si_sdr(sound, gain * (sound + orthogonal)) == pytest.approx((20 + 40) / 2, abs=1e-3)
    silent = torch.cat([sound[:1], torch.zeros(1, 4)])
    assert si_sdr(silent, silent + orthogonal) == pytest.approx(20, abs=1e-3)
    assert math.isnan(si_sdr(torch.zeros(2, 4), orthogonal))
    with pytest.raises(ValueError, match="shape"):
        si_sdr(sound, sound[:, 1:])


# resampling


@pytest.mark.parametrize("name", RESAMPLERS)
def test_resampling_keeps_what_is_below_and_drops_what_is_above(name: str) -> None:
    t = torch.arange(RATE) / RATE
    low, high = (torch.sin(2 * torch.pi * f * t).expand(2, -1) * 0.4 for f in (1700, 2400))
    kept = RESAMPLERS[name](low + high, Fraction(1, 4))  # all below 2 kHz
    assert kept.shape == low.shape
    assert float((kept - low)[:, 1000:-1000].abs().max()) < 0.01
    assert torch.equal(RESAMPLERS[name](low, Fraction(1)), low)


def test_the_ideal_low_pass_keeps_as_many_values() -> None:
    kept = torch.fft.rfft(resample_fourier(0.1 * torch.randn(2, 512), Fraction(27, 128)))
    values = 2 * int((kept.abs() > 1e-4).sum(1)[0]) - 1  # that at 0 Hz is real
    assert abs(values - 512 * 27 / 128) <= 1


def test_the_resamplers_agree_and_clip() -> None:
    sound = music()
    sinc, fourier = (psnr(sound, resample(sound, Fraction(1, 4))) for resample in RESAMPLERS.values())
    assert sinc == pytest.approx(fourier, abs=0.1)
    square = torch.sign(torch.sin(2 * torch.pi * 200 * torch.arange(RATE) / RATE)).expand(2, -1)
    for resample in RESAMPLERS.values():
        assert float(resample(square, Fraction(1, 4)).abs().max()) == 1


# lossy files


@pytest.mark.parametrize("delay", [0, 1, 1105, -37])
def test_delays_are_found_and_taken_away(delay: int) -> None:
    sound = music()
    moved = torch.nn.functional.pad(sound, (delay, -delay)) + 0.02 * torch.randn(sound.shape)
    for decoded in (moved, moved[:, :-500], torch.nn.functional.pad(moved, (0, 700))):
        assert find_delay(sound, decoded) == delay
        aligned = align(decoded, delay, sound.shape[1])
        assert aligned.shape == sound.shape
        assert psnr(sound[:, 2000:-2000], aligned[:, 2000:-2000]) > 35


def test_delay_of_opposite_channels_and_long_sounds() -> None:
    left = music()[:1]
    sound = torch.cat([left, -left])
    sound[:, :15000] = 0  # the excerpt is where there is something
    assert find_delay(sound, sound.roll(20, 1), excerpt=9000) == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_lossy_files_at_a_matched_rate(name: str) -> None:
    if why := FORMATS[name].missing():
        pytest.skip(why)
    sound = music(samples=3 * RATE)
    lossy = LossyFile(sound, RATE, FORMATS[name])
    ends = [len(lossy.encode(level).content) for level in (0.0, FORMATS[name].highest)]
    assert ends[0] > 1.3 * ends[1]
    size = round(math.sqrt(ends[0] * ends[1]))
    coded = lossy.nearest(size)
    assert len(coded.content) == pytest.approx(size, rel=0.1)
    decoded, delay, seconds = lossy.decode(coded)
    assert decoded.shape == sound.shape
    assert abs(delay) < 4096
    assert seconds > 0
    assert psnr(sound, decoded) > 25
    assert find_delay(sound, decoded) == 0
    assert lossy.nearest(10**9).setting == 0
    assert lossy.nearest(1).setting == FORMATS[name].highest


def test_opus_at_a_rate_it_does_not_know() -> None:
    sound = music()
    lossy = LossyFile(sound, 44100, FORMATS["Opus"])
    assert lossy.file_rate == 48000
    decoded, delay, _ = lossy.decode(lossy.encode(0.2))
    assert delay == 0
    assert psnr(sound, decoded) > 35


def test_the_level_nearest_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that fall exponentially, in steps: found in fewer tries than halving needs."""
    tried = []

    def encode(self: LossyFile, level: float) -> Coded:
        tried.append(level)
        return Coded(bytes(round(10000 * math.exp(-3 * level))), level, 0.0)

    monkeypatch.setattr(LossyFile, "encode", encode)
    coded = LossyFile(music(), RATE, FORMATS["Opus"]).nearest(3000)
    assert len(coded.content) == pytest.approx(3000, rel=0.01)
    assert len(tried) <= 4


def test_formats_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = Piece("x", music(), RATE)
    monkeypatch.setitem(FORMATS, "new", Format("OGG", "MPEG_LAYER_III"))
    monkeypatch.setitem(FORMATS, "unheard", Format("UNHEARD", "OF"))
    for name in ("new", "unheard"):
        assert sound_evaluation.measure_format(piece, name, 1000)["note"].startswith("not in libsndfile ")
    monkeypatch.setattr(soundfile, "SoundFile", lambda file, mode: None)
    assert "cannot set a rate: 0.13 can" in sound_evaluation.measure_format(piece, "MP3", 1000)["note"]


def test_formats_that_refuse_are_named() -> None:
    note = sound_evaluation.measure_format(Piece("x", music(), 12345), "MP3", 1000)["note"]
    assert note.startswith("refused: ")


# codecs


def test_measuring_a_codec(codec: wt.Codec, tmp_path: Path) -> None:
    piece = Piece("x", music(1, samples=20001), RATE)
    ((_, figures),), length = measure(piece, codec, "zlib")
    z = codec.encode(piece.sound, rounding="round")
    size = wt.save_latents(tmp_path / "x.wlc", z.to(torch.int8), codec, size=(20001,), sample_rate=RATE)
    assert length == size == (tmp_path / "x.wlc").stat().st_size
    assert figures["bits_per_sample"] == pytest.approx(8 * size / 40002)
    assert figures["compression_ratio"] == pytest.approx(16 * 40002 / (8 * size))
    assert figures["reduction"] == pytest.approx(32 / 12)
    error = float(((codec.decode(z, size=(20001,)) - piece.sound) / 2).double().square().mean())
    assert figures["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    unrounded = codec.decode(codec.encode(piece.sound), size=(20001,))
    error = float(((unrounded - piece.sound) / 2).double().square().mean())
    assert figures["psnr_unrounded"] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    assert figures["psnr_unrounded"] > figures["psnr"]


def test_sample_rates(codec: wt.Codec) -> None:
    assert sound_evaluation.sample_rate_of(codec) == RATE
    assert sound_evaluation.sample_rate_of(wt.Codec(wt.CodecConfig("x", "audio", 2, 8, 4))) == 44100


def test_the_better_resampler_is_the_rival() -> None:
    piece = Piece("x", music(), RATE)
    both = [piece.resampled(name, Fraction(1, 3))["psnr_unrounded"] for name in RESAMPLERS]
    assert both[0] != both[1]
    assert piece.best_resampling(Fraction(1, 3)) == max(both)


def test_prefix_lengths() -> None:
    assert prefix_lengths(27) == [8, 16, 24, 27]
    assert prefix_lengths(16) == [8, 16]
    assert prefix_lengths(4) == [4]


def test_averages() -> None:
    about = {
        "codec": "c",
        "method": "c",
        "decoder": "linear",
        "reduction": 4.0,
        "psnr_unrounded": 31.0,
        "psnr": 30.0,
        "si_sdr": 10.0,
        "encode_msps": 1.0,
        "decode_msps": 2.0,
    }
    records = [
        {**about, "piece": "a", "bits_per_sample": 1.0},
        {**about, "piece": "b", "bits_per_sample": 3.0, "psnr": 34.0, "si_sdr": math.nan},
    ]
    for piece, quality in (("a", 30.0), ("b", 32.5)):
        for name, less in zip(RESAMPLERS, (0.0, 1.5), strict=True):
            figures = {"reduction": 4.0, "psnr_unrounded": quality - less}
            records.append({"codec": "c", "method": name, "decoder": "", "piece": piece, **figures})
    mp3 = {"codec": "c", "method": "MP3", "decoder": ""}
    records += [
        {**mp3, "piece": "a", "note": "refused"},
        {
            **mp3,
            "piece": "b",
            "reduction": 1.0,
            "psnr": 20.0,
            "bits_per_sample": 2.0,
            "delay": 7,
            "note": "",
        },
    ]
    rows = mean_over_pieces(records)
    assert [r["method"] for r in rows] == ["c", *RESAMPLERS, "MP3"]
    assert (rows[0]["pieces"], rows[0]["psnr"], rows[0]["si_sdr"]) == (2, 32, 10)
    assert rows[0]["compression_ratio"] == 8  # of the mean of 1 and 3 bits, not (16 + 16 / 3) / 2
    assert (rows[3]["pieces"], rows[3]["psnr"], rows[3]["delay"]) == (1, 20, "7")
    assert rows[3]["note"] == "refused (1 of 2)"
    less = differences(records)
    assert [r["piece"] for r in less] == ["a", "b", "mean"]
    assert [r["unrounded_less"] for r in less] == [1.0, -1.5, -0.25]
    assert [r["rounded_less"] for r in less] == [0.0, 1.5, 0.75]
    curve = [
        {"piece": p, "codec": "c", "channels": 8, "reduction": 4.0, "psnr": v, "resampling_psnr": 30.0}
        for p, v in (("a", 29.0), ("b", 32.0))
    ]
    figures = {"reduction": 4.0, "psnr": 30.5, "resampling_psnr": 30.0, "difference": 0.5}
    assert mean_prefixes(curve) == [{"codec": "c", "channels": 8, "pieces": 2, **figures}]


# the recipe


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """Two pieces at half scale with an offset, one of another rate; four files that are skipped; one left out."""
    folder = tmp_path / "music"
    folder.mkdir()
    for i, rate in enumerate((RATE, 22050)):
        soundfile.write(folder / f"{i}.wav", music(i).T.numpy() / 2 + 0.1, rate, subtype="FLOAT")
    soundfile.write(folder / "2.wav", np.full((999, 2), 0.3), RATE)
    soundfile.write(folder / "3.wav", np.array([[0.1, 0.2]]), RATE)
    (folder / "4.wav").write_bytes(b"no sound")
    soundfile.write(folder / "5.wav", np.full((99, 1), np.nan), RATE, subtype="FLOAT")
    soundfile.write(folder / "other.wav", np.zeros((99, 1)), RATE)
    return folder


def test_evaluate_codec_on_music(
    pieces: Path, codec: wt.Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec.save_pretrained(tmp_path / "tiny")
    config = evaluate_codec.Config(
        data=str(pieces),
        codecs=(str(tmp_path / "tiny"),),
        include=("[0-9].wav",),
        formats=("Vorbis",),
        output_dir=tmp_path / "out",
    )
    rows = evaluate_codec.main(config)
    said = capsys.readouterr().out
    assert "2.wav: silent" in said
    assert "3.wav: shorter than 16 samples" in said
    assert "4.wav cannot be read: Error opening" in said
    assert "5.wav holds NaN" in said
    assert "other.wav" not in said
    assert [r["method"] for r in rows] == ["tiny", *RESAMPLERS, "Vorbis"]
    assert {r["pieces"] for r in rows} == {2}
    assert {f.name for f in config.output_dir.iterdir()} == {
        "config.yaml",
        "table.md",
        "pieces.csv",
        "prefix.csv",
        "prefix.png",
    }
    records = rows_of(config.output_dir / "pieces.csv")
    assert [r["piece"] for r in records] == ["0.wav"] * 4 + ["1.wav"] * 4
    figures = ["reduction", "bits_per_sample", "compression_ratio", "psnr_unrounded", "psnr", "si_sdr", "encode_msps"]
    named = ["piece", "seconds", "codec", "method", "decoder"]
    assert [*records[0]] == [*named, *figures, "decode_msps", "delay", "level", "note"]
    # The first piece is music(0), once its offset and level are gone.
    ((_, expected),), _ = measure(Piece("0", music(0), RATE), codec, "zlib")
    assert float(records[0]["psnr"]) == pytest.approx(expected["psnr"], abs=0.01)
    assert float(records[0]["si_sdr"]) == pytest.approx(expected["si_sdr"], abs=0.01)
    assert float(records[4]["seconds"]) == pytest.approx(2 * RATE / 22050, abs=1e-3)
    curve = rows_of(config.output_dir / "prefix.csv")
    assert [*curve[0]] == ["codec", "channels", "pieces", "reduction", "psnr", "resampling_psnr", "difference"]
    assert [r["channels"] for r in curve] == ["8", "12"]
    assert float(curve[1]["psnr"]) == pytest.approx(rows[0]["psnr_unrounded"])
    assert float(curve[1]["resampling_psnr"]) >= rows[1]["psnr_unrounded"]
    assert float(curve[0]["psnr"]) < float(curve[1]["psnr"])
    table = (config.output_dir / "table.md").read_text()
    assert "4 files skipped, 0 samples beyond full scale" in table
    assert f"| `tiny` | 2 | 2.67 | {rows[0]['compression_ratio']:.1f} |" in table
    assert "| `tiny` | mean |" in table
    assert "refiner" not in table
    with Image.open(config.output_dir / "prefix.png") as figure:
        assert min(figure.size) > 300


def test_evaluate_codec_on_generated_music(codec: wt.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec of several stages has no prefix curve, one that does not say its rate is measured at 44.1 kHz."""
    staged = wt.Codec(wt.CodecConfig("staged", "audio", 2, 12, 4, stages=2, sample_rate=RATE))
    rateless = wt.fit_codec([music(8)], levels=4, channels=8, name="rateless", progress=False)
    for one in (staged, codec, rateless):
        one.save_pretrained(tmp_path / one.config.name)
    monkeypatch.setattr(sound_evaluation, "DemoMusic", partial(DemoMusic, pieces=1, seconds=1.0))
    names = ("staged", "tiny", "rateless")
    config = evaluate_codec.Config(
        codecs=tuple(str(tmp_path / name) for name in names), formats=(), output_dir=tmp_path / "out"
    )
    rows = evaluate_codec.main(config)
    assert [r["codec"] for r in rows] == [name for name in names for _ in range(3)]
    assert {r["codec"] for r in rows_of(tmp_path / "out" / "prefix.csv")} == {"tiny", "rateless"}
    assert {r["seconds"] for r in rows_of(tmp_path / "out" / "pieces.csv")} == {"1.0"}
    config = evaluate_codec.Config(codecs=(str(tmp_path / "staged"),), formats=(), output_dir=tmp_path / "bare")
    evaluate_codec.main(config)
    assert {f.name for f in config.output_dir.iterdir()} == {"config.yaml", "table.md", "pieces.csv"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"codecs": ("tiny", "rgb_4x")}, ValueError, r"one modality, got 'tiny' \(audio\) and 'rgb_4x' \(image\)"),
        ({"codecs": ()}, ValueError, "one modality, got none"),
        ({"codecs": ("mono",)}, ValueError, "codec 'mono' has 1 signal channels: expected stereo"),
        ({"codecs": ("tiny", "tiny")}, ValueError, "codecs of different names"),
        ({"coder": "rar"}, ValueError, "unknown coder or format 'rar': expected one of zlib"),
        ({"formats": ("WMA",)}, ValueError, "unknown coder or format 'WMA': expected one of Opus, Vorbis, MP3"),
        ({"include": ("0.wav", "kodim*")}, FileNotFoundError, r"none of the 7 files matches 'kodim\*'"),
        ({"include": ("2.wav",)}, ValueError, "no piece in .* could be measured"),
        ({"data": "nowhere"}, FileNotFoundError, "there is no folder 'nowhere'"),
    ],
)
def test_bad_options(
    pieces: Path, codec: wt.Codec, tmp_path: Path, options: dict, error: type[Exception], message: str
) -> None:
    codec.save_pretrained(tmp_path / "tiny")
    wt.Codec(wt.CodecConfig("mono", "audio", 1, 8, 4)).save_pretrained(tmp_path / "mono")
    options = {"data": str(pieces), "codecs": ("tiny",), "output_dir": tmp_path / "out", **options}
    options["codecs"] = tuple(str(tmp_path / c) if (tmp_path / c).exists() else c for c in options["codecs"])
    with pytest.raises(error, match=message):
        evaluate_codec.main(evaluate_codec.Config(**options))
    assert not (tmp_path / "out").exists()

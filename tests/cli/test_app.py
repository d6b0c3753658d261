"""The commands, as a user calls them; what they call is tested beside its own module."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import walloc_transforms as wt
from tests.helpers import give_refiner, make_codec, write_latents
from tests.reference import save_checkpoint
from walloc_transforms.cli.app import main
from walloc_transforms.cli.outputs import JOURNAL


def photograph(height: int = 64, width: int = 80, seed: int = 0) -> Image.Image:
    """A smooth picture, so that decoding comes close."""
    small = np.random.RandomState(seed).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photographs, one in a folder of its own, a text, and a damaged file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    photograph(67, 81).save(folder / "a.png")
    photograph(64, 80, 1).save(folder / "more/b.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    time = np.arange(4000) / 8000
    for i, name in enumerate(["a.wav", "b.flac"]):
        tone = np.sin(2 * np.pi * (200 + 100 * i) * time) * 0.5
        soundfile.write(folder / name, np.stack([tone, -tone], 1), 8000)
    return folder


def files(folder: Path) -> list[str]:
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if name != JOURNAL)


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image).astype(float)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"walloc_transforms {wt.__version__}\n"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    networks, viewing = "the default: images for networks", "pictures to look at, decoded by the refiner"
    assert [line.split(maxsplit=7) for line in lines[1:]] == [
        ["rgb_16x", "image", "12", "8", "16", "linear,", "refiner", networks],
        ["rgb_4x", "image", "48", "8", "4", "linear,", "refiner", networks],
        ["rgb_16x_viewing", "image", "12", "8", "16", "linear,", "refiner", viewing],
        ["rgb_4x_viewing", "image", "48", "8", "4", "linear,", "refiner", viewing],
        ["stereo_20x", "audio", "27", "256", "19", "linear,", "refiner", "the default: music"],
        ["stereo_5x", "audio", "108", "256", "4.74", "linear,", "refiner", "the default: music"],
    ]


@pytest.mark.parametrize("coder", ["zlib", "webp"])
def test_one_file_there_and_back(photos: Path, tmp_path: Path, coder: str, capsys: pytest.CaptureFixture[str]) -> None:
    wlc, png = tmp_path / "a.wlc", tmp_path / "a.png"
    assert main(["encode", str(photos / "a.png"), "-o", str(wlc), "--coder", coder]) == 0
    assert main(["decode", str(wlc), "-o", str(png)]) == 0
    tensor = torch.from_numpy(read(photos / "a.png")).byte().permute(2, 0, 1)
    latents = wt.functional.encode_image(tensor, "rgb_16x", quantize=True)
    decoded = wt.functional.decode_image(latents, "rgb_16x", size=(67, 81))
    assert np.array_equal(read(png), (decoded * 255).round().permute(1, 2, 0).numpy())
    assert np.abs(read(png) - read(photos / "a.png")).mean() < 10
    assert torch.equal(wt.load_latents(wlc).latents.float(), latents)
    assert main(["info", str(wlc)]) == 0
    out = capsys.readouterr().out
    assert "(12, 9, 11)" in out
    assert "(67, 81)" in out
    assert coder in out


def test_loss(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode = ["encode", str(photos / "a.png"), "-o", str(tmp_path / "a.wlc")]
    assert main([*encode, "--loss", "0.5"]) == 0
    stored = wt.load_latents(tmp_path / "a.wlc")
    steps = wt.functional.rounding_steps(Image.open(photos / "a.png"), "rgb_16x", loss=0.5)
    assert stored.steps == tuple(steps.tolist())
    assert main(["info", str(tmp_path / "a.wlc")]) == 0
    assert f"{steps.min():.4g} to {steps.max():.4g}" in capsys.readouterr().out
    assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "a.png")]) == 0
    assert np.abs(read(tmp_path / "a.png") - read(photos / "a.png")).mean() < 10
    assert main(encode) == 1  # by other options
    assert main([*encode, "--loss", "0"]) == 1
    assert "--loss must be above 0 dB, got 0.0" in capsys.readouterr().err


def test_folder(photos: Path, tmp_path: Path) -> None:
    assert main(["encode", str(photos), "-o", str(tmp_path / "wlc"), "--codec", "rgb_4x"]) == 0
    assert files(tmp_path / "wlc") == ["a.wlc", "more/b.wlc"]
    assert main(["decode", str(tmp_path / "wlc"), "-o", str(tmp_path / "out")]) == 0
    assert files(tmp_path / "out") == ["a.png", "more/b.png"]
    assert read(tmp_path / "out/a.png").shape == (67, 81, 3)


def test_other_formats(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["encode", str(photos / "a.png"), "-o", str(tmp_path / "a.wlc")])
    for name in ("a.webp", "a.bmp", "a.png"):
        assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / name)]) == 0
    assert np.array_equal(read(tmp_path / "a.webp"), read(tmp_path / "a.png"))  # lossless
    assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "a.xyz")]) == 1
    assert "'a.xyz' is of no image format" in capsys.readouterr().err


def test_orientation(tmp_path: Path) -> None:
    image, exif = photograph(40, 64), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.wlc")]) == 0
    assert wt.load_latents(tmp_path / "a.wlc").size == (64, 40)


def test_bad_files_among_good_ones(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    photograph(4, 4).save(photos / "tiny.png")
    out = tmp_path / "out"
    assert main(["encode", str(photos), str(photos / "notes.txt"), "-o", str(out)]) == 1
    assert files(out) == ["a.wlc", "more/b.wlc"]
    errors = capsys.readouterr().err
    for name in ("broken.jpg", "tiny.png", "notes.txt"):
        assert f"{name}: " in errors
    assert "3 files could not be done" in errors
    (out / "a.wlc").write_bytes((out / "a.wlc").read_bytes()[:-9])
    assert main(["decode", str(out), "-o", str(tmp_path / "png")]) == 1
    assert files(tmp_path / "png") == ["more/b.png"]
    assert "a.wlc: " in capsys.readouterr().err


def test_force(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["encode", str(photos), "-o", str(out)]
    (out / "more").mkdir(parents=True)
    (out / "a.wlc").write_text("mine")
    assert main(command) == 1
    assert "a.wlc exists, and this command makes something else: --force overwrites it" in capsys.readouterr().err
    assert (out / "a.wlc").read_text() == "mine"
    assert files(out) == ["a.wlc", "more/b.wlc"]  # the rest is done
    assert main([*command, "--force"]) == 0
    assert wt.load_latents(out / "a.wlc").size == (67, 81)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["encode", "nowhere", "-o", "out"], "there is no file or folder 'nowhere'"),
        (["encode", "-o", "out"], "there is nothing to do in no file or folder at all"),
        (["encode", "empty", "-o", "out"], "there is nothing to do in empty: looked for .jpg"),
        (["encode", "empty", "-o", "out", "--codec", "rgb_17x"], "unknown codec 'rgb_17x': did you mean 'rgb_"),
        (["decode", "nowhere.wlc", "-o", "out"], "there is no file or folder"),
        (["info", "nowhere.wlc"], "nowhere.wlc"),
        (["import", "nowhere.pth", "-o", "out"], "nowhere.pth"),
        (["fit", "empty", "-o", "out"], "there is nothing to do in empty: looked for .jpg"),
        (["inspect", "nothing", "-o", "out"], "unknown codec 'nothing'"),
    ],
)
def test_errors(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert files(tmp_path) == []


@pytest.mark.parametrize("command", [["frobnicate"], ["encode", "a.png"], ["encode", "a", "-o", "b", "--nonsense"]])
def test_wrong_arguments(command: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(command)
    assert error.value.code == 2


def test_debug_shows_where_errors_come_from(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["encode", str(photos / "notes.txt"), str(photos / "a.png"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main([*command, "--force", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown codec"):
        main(["--debug", "info", "nothing"])
    with pytest.raises(FileNotFoundError):
        main(["encode", "--debug", "-o", str(tmp_path / "out"), "--", str(tmp_path / "--debug")])

    def bug(*args: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(os, "replace", bug)
    assert main([*command, "--force"]) == 1
    assert "in bug" in capsys.readouterr().err  # a bug is never reduced to one line


def test_forged_name_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "rgb_16x\nfingerprint: 0000\x1b[31m"
    write_latents(
        tmp_path / "a.wlc", torch.zeros(12, 8, 8), codec=name, fingerprint=64 * "a", size=(64, 64), coder="zlib"
    )
    assert main(["info", str(tmp_path / "a.wlc")]) == 0
    assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "a.png")]) == 1
    said = capsys.readouterr()
    assert r"rgb_16x\nfingerprint: 0000\x1b[31m" in said.out
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    assert "--codec" in said.err


@pytest.mark.filterwarnings("default")
def test_warning_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_codec().save_pretrained("rgb_4x")
    assert main(["info", "rgb_4x"]) == 0
    assert capsys.readouterr().err.startswith("walloc: 'rgb_4x' is the embedded codec; the folder of this name is")


def test_unknown_coder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(photos / "a.png"), "-o", str(tmp_path / "a.wlc"), "--coder", "zip"]) == 1
    assert "'zip'" in capsys.readouterr().err
    assert not (tmp_path / "a.wlc").exists()


def test_interrupt(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert main(["encode", str(photos), "-o", str(tmp_path / "out")]) == 130
    assert files(tmp_path / "out") == []


def test_fit_and_use(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.jpg").write_bytes(b"")
    command = ["fit", str(photos), "-o", str(tmp_path / "mine"), "--channels", "5", "--levels", "2", "--name", "mine"]
    assert main(command) == 1
    assert "broken.jpg: " in capsys.readouterr().err
    codec = wt.load_codec(tmp_path / "mine")
    assert (codec.config.channels, codec.config.levels, codec.config.source) == (5, 2, "fitted to 2 files")
    assert main(command) == 1
    assert "exists: --force overwrites it" in capsys.readouterr().err
    own = ["--codec", str(tmp_path / "mine")]
    assert main(["encode", str(photos / "a.png"), "-o", str(tmp_path / "a.wlc"), *own]) == 0
    assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "a.png"), *own]) == 0
    capsys.readouterr()
    assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "b.png")]) == 1
    assert "asks for codec 'mine'" in capsys.readouterr().err
    assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "b.png"), "--codec", "rgb_16x"]) == 1
    assert "were made by another encoder" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "mine")]) == 0
    assert codec.fingerprint() in capsys.readouterr().out


def test_sound(sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["fit", str(sounds), "-o", str(tmp_path / "stereo"), "--audio", "--levels", "4", "--channels", "6"]) == 0
    )
    own = ["--codec", str(tmp_path / "stereo")]
    assert main(["encode", str(sounds), "-o", str(tmp_path / "wlc"), *own]) == 0
    assert main(["decode", str(tmp_path / "wlc"), "-o", str(tmp_path / "out"), *own]) == 0
    assert files(tmp_path / "out") == ["a.wav", "b.wav"]
    for original, name in (("a.wav", "a.wav"), ("b.flac", "b.wav")):
        (samples, rate), (decoded, again) = soundfile.read(sounds / original), soundfile.read(tmp_path / "out" / name)
        assert (again, decoded.shape) == (rate, samples.shape)
        assert np.abs(decoded - samples).mean() < 0.02
    capsys.readouterr()
    assert main(["info", str(tmp_path / "wlc/a.wlc")]) == 0
    assert "8000" in capsys.readouterr().out
    assert wt.load_codec(tmp_path / "stereo").config.sample_rate == 8000


def test_bad_sounds(sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wave = np.random.default_rng(0).standard_normal((1000, 2)) * 0.2
    folder = tmp_path / "bad"
    folder.mkdir()
    soundfile.write(folder / "good.wav", wave, 44100)
    loud = wave.copy()
    loud[[3, 5, 7], [0, 1, 0]] = (1.5, -2, 1.1)
    soundfile.write(folder / "loud.wav", loud, 44100, subtype="FLOAT")
    soundfile.write(folder / "empty.wav", wave[:0], 44100)
    soundfile.write(folder / "one.wav", wave[:1], 44100)
    soundfile.write(folder / "mono.wav", wave[:, 0], 44100)
    soundfile.write(folder / "nan.wav", wave * np.nan, 44100, subtype="FLOAT")
    soundfile.write(folder / "rate.wav", wave, 48000)
    soundfile.write(folder / "huge.wav", wave / np.abs(wave).max() * 3e38, 44100, subtype="FLOAT")
    (folder / "broken.ogg").write_bytes(b"no sound")
    assert main(["encode", str(folder), "-o", str(tmp_path / "out"), "--codec", "stereo_20x"]) == 1
    assert files(tmp_path / "out") == ["good.wlc", "loud.wlc"]
    errors = capsys.readouterr().err
    for message in (
        "1 file with samples beyond full scale",
        "empty.wav: codec 'stereo_20x' got signals without samples",
        "one.wav: too small: got 1 samples, expected at least 256",
        "mono.wav: codec 'stereo_20x' expects signals of shape (..., 2, T), got (1, 1000): repeat the one channel",
        "nan.wav: the signal holds NaN",
        "huge.wav: codec 'stereo_20x' expects float waveforms in [-1, 1], got values from ",
        "rate.wav: codec 'stereo_20x' is for 44100 Hz, got a waveform of 48000 Hz",
        "broken.ogg cannot be read: Error opening",
        "7 files could not be done",
    ):
        assert message in errors
    fit = ["fit", str(folder), "-o", str(tmp_path / "codec"), "--audio", "--levels", "4", "--channels", "6"]
    assert main([*fit, "--relative"]) == 1
    errors = capsys.readouterr().err
    for message in (
        "empty.wav: too small: got 0 samples, expected at least 16",
        "one.wav: too small: got 1 samples",
        "mono.wav: it has 1 channels, but the first file 2",
        "nan.wav: the signal holds NaN",
        "huge.wav: fitting expects float waveforms in [-1, 1], got values from ",
        "rate.wav: it has 48000 Hz, but the first file 44100",
        "broken.ogg cannot be read: Error opening",
    ):
        assert message in errors
    config = wt.load_codec(tmp_path / "codec").config
    assert (config.source, config.sample_rate) == ("fitted to 2 files", 44100)


def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_checkpoint(tmp_path, "codec2d", "json")
    assert main(["import", str(file), "-o", str(tmp_path / "codec")]) == 0
    assert files(tmp_path / "codec") == ["config.json", "decoder.safetensors", "weights.safetensors"]
    assert wt.load_codec(tmp_path / "codec").fingerprint() == wt.load_codec(str(file)).fingerprint()
    assert main(["import", str(file), "-o", str(tmp_path / "codec")]) == 1
    assert "exists" in capsys.readouterr().err
    photograph().save(tmp_path / "a.png")
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.wlc"), "--codec", str(file)]) == 0
    back = ["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "b.png"), "--codec", str(tmp_path / "codec")]
    assert main([*back, "--tile", "64"]) == 0
    assert read(tmp_path / "b.png").shape == (64, 80, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: make_codec(3, levels=2, signals=1),
        lambda: make_codec(3, dims=1),
    ],
    ids=["gray", "sound"],
)
def test_inspect(tmp_path: Path, make: Callable[[], wt.Codec], capsys: pytest.CaptureFixture[str]) -> None:
    make().save_pretrained(tmp_path / "codec")
    command = ["inspect", str(tmp_path / "codec"), "-o", str(tmp_path / "fig.png")]
    assert main(command) == 0
    assert read(tmp_path / "fig.png").std() > 5
    assert main(command) == 1
    assert "exists" in capsys.readouterr().err


def test_inspect_own_data(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"")
    command = ["inspect", "rgb_16x", "--data", str(photos), "-o", str(tmp_path / "fig.png")]
    assert main(command) == 1  # for the broken one; the picture is there
    assert read(tmp_path / "fig.png").shape[2] in (3, 4)


def test_command_is_installed(photos: Path, tmp_path: Path) -> None:
    command = shutil.which("walloc", path=str(Path(sys.executable).parent))
    assert command is not None
    done = subprocess.run([command, "encode", str(photos), "-o", str(tmp_path / "out")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert files(tmp_path / "out") == ["a.wlc", "more/b.wlc"]


def test_decoder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = give_refiner(wt.load_codec("rgb_16x"))
    codec.save_pretrained(tmp_path / "codec")
    assert main(["encode", str(photos / "a.png"), "-o", str(tmp_path / "a.wlc")]) == 0
    command = ["decode", str(tmp_path / "a.wlc"), "-o"]
    own = ["--codec", str(tmp_path / "codec")]
    for name, options in (
        ("plain", []),
        ("linear", ["--decoder", "linear"]),
        ("refined", ["--decoder", "refiner"]),
        ("tiled", ["--decoder", "refiner", "--tile", "16"]),
    ):
        assert main([*command, str(tmp_path / f"{name}.png"), *own, *options]) == 0
    latents = wt.load_latents(tmp_path / "a.wlc").latents
    expected = wt.functional.decode_image(latents, codec, size=(67, 81), decoder="refiner")
    assert np.array_equal(read(tmp_path / "refined.png"), (expected * 255).round().permute(1, 2, 0).numpy())
    assert np.abs(read(tmp_path / "tiled.png") - read(tmp_path / "refined.png")).max() <= 1
    assert np.array_equal(read(tmp_path / "linear.png"), read(tmp_path / "plain.png"))
    assert np.abs(read(tmp_path / "refined.png") - read(tmp_path / "plain.png")).mean() > 5
    capsys.readouterr()
    assert main([*command, str(tmp_path / "no.png"), *own, "--decoder", "magic"]) == 1
    assert "decoder of codec 'rgb_16x' must be 'linear' or 'refiner', got 'magic'" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
    assert main(["info", str(tmp_path / "codec")]) == 0
    assert "refiner_width:" in capsys.readouterr().out


def test_decoder_that_a_codec_has_not(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_codec(gain=60).save_pretrained(tmp_path / "codec")
    own = ["--codec", str(tmp_path / "codec")]
    assert main(["encode", str(photos / "a.png"), "-o", str(tmp_path / "a.wlc"), *own]) == 0
    assert main(["decode", str(tmp_path / "a.wlc"), "-o", str(tmp_path / "b.png"), *own, "--decoder", "refiner"]) == 1
    assert "decoder of codec 'random' must be 'linear', got 'refiner'" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()

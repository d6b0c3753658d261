"""The commands on volumes: arrays and video there and back, piece by piece, and what is refused."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import walloc_transforms as wt
from tests.codec.test_volumes import moving
from tests.files.test_video import Evil, needs_av, whole, write
from walloc_transforms.cli import volumes
from walloc_transforms.cli.app import main


@pytest.fixture(scope="module")
def codec() -> wt.Codec:
    clips = [moving(frames=8, side=24, seed=seed) for seed in range(4)]
    return wt.fit_codec(clips, levels=(1, 2, 2), channels=12, name="clips", progress=False)


@pytest.fixture
def folder(codec: wt.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    codec.save_pretrained("clips")
    wt.fit_codec(
        [moving(1 + i, 16, 1, i)[:, :1] for i in range(3)], levels=(0, 1, 1), channels=4, progress=False
    ).save_pretrained("scans")
    Path("in").mkdir()
    return tmp_path


def run(command: str, code: int = 0) -> None:
    assert main(command.split()) == code


def psnr(a: Any, b: Any) -> float:
    return float(-10 * np.log10(np.square(np.asarray(a, float) - np.asarray(b, float)).mean()))


@pytest.mark.parametrize("frames", [2, 7, 33, 60, 61])
def test_pieces_make_a_whole(frames: int, codec: wt.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_PIXELS", 1)
    clip = moving(frames, 21)
    latents, size = volumes.latents_of(iter(clip.split(1, 1)), codec)
    assert (latents.dtype, size) == (torch.int8, (frames, 21, 21))
    expected = codec.encode(clip, rounding="round")
    assert (latents != expected).float().mean() < 1e-3  # a sum in another order may be rounded elsewhere
    pieces = list(volumes.frames_of(latents, codec, size))
    assert (len(pieces) > 1) == (frames > 30)
    torch.testing.assert_close(torch.cat(pieces, 1), codec.decode(latents, size=size), rtol=0, atol=1e-5)


def test_arrays_there_and_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = moving(frames=9, side=21).numpy()
    np.save("in/a.npy", clip)
    run("encode in -o wlc --codec clips")
    run("decode wlc -o out --codec clips")
    decoded = np.load("out/a.npy")
    assert (decoded.shape, decoded.dtype) == (clip.shape, np.float32)
    assert psnr(decoded, clip / 255) > 20
    run("info wlc/a.wlc")
    assert "bits per pixel" in capsys.readouterr().out
    run("encode in/a.npy -o a.wlc --codec clips --loss 0.1")
    run("decode a.wlc -o a.npy --codec clips")
    assert psnr(np.load("a.npy"), clip / 255) > psnr(decoded, clip / 255)


def test_window(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = (moving(frames=5, side=21, channels=1).numpy()[0].astype(np.int16) - 200) * 6  # -1200 to 330
    np.save("in/ct.npy", scan)
    run("encode in -o wlc --codec scans", code=1)
    assert "holds torch.int16: name the values that mean black and white, --window LOW HIGH" in capsys.readouterr().err
    run("encode in -o wlc --codec scans --window -1350 150")
    run("decode wlc -o out --codec scans --window -1350 150")
    decoded = np.load("out/ct.npy")
    assert decoded.shape == (1, 5, 21, 21)
    assert np.abs(decoded[0] - scan.clip(-1350, 150)).mean() < 30
    run("decode wlc -o unit --codec scans")
    np.testing.assert_allclose(np.load("unit/ct.npy") * 1500 - 1350, decoded, atol=0.01)
    run("encode in -o x --window 0 1", code=1)
    assert "window is for codecs of volumes, got one for 'rgb_16x'" in capsys.readouterr().err


@needs_av
def test_video_there_and_back(folder: Path) -> None:
    clip = moving(frames=25, side=32, channels=1).expand(3, -1, -1, -1)
    write(folder / "in/a.mkv", clip, Fraction(30000, 1001))
    read, _, rate = whole(folder / "in/a.mkv")
    run("encode in -o wlc --codec clips")
    assert wt.load_latents("wlc/a.wlc").frame_rate == rate
    run("decode wlc -o out --codec clips")
    again, _, same = whole(folder / "out/a.mp4")
    assert (again.shape, same) == (clip.shape, rate)
    assert psnr(again / 255, read / 255) > 20
    run("decode wlc/a.wlc -o a.npy --codec clips")
    assert psnr(np.load("a.npy"), again / 255) > 25
    run("encode in -o wlc --codec clips")  # finished


def test_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        np.save(f"in/{seed}.npy", moving(6, 20, 2, seed).numpy().astype(np.int16) * 4 - 500)
    np.save("in/other.npy", moving(6, 20))
    run("fit in -o mine --volumes --levels 1 2 2 --channels 8", code=1)
    said = capsys.readouterr().err
    assert "holds torch.int16: name the values" in said and "the signals" not in said
    run("fit in -o mine --volumes --levels 1 2 2 --channels 8 --window -500 520 --force", code=1)
    assert "other.npy: it has 3 channels, but the first file 2" in capsys.readouterr().err
    config = wt.load_codec("mine").config
    assert (config.modality, config.levels, config.signal_channels) == ("volume", (1, 2, 2), 2)
    assert config.source == "fitted to 3 files"
    run("encode in/0.npy -o 0.wlc --codec mine --window -500 520")
    run("fit in -o other --levels 1 2 2", code=1)
    assert "levels must be a number, or one for each of 2 axes, got 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (moving(8, 24)[:2], "a.npy holds an array of shape (2, 8, 24, 24): expected (3, T, H, W)"),
        (moving(1, 24), "got 1x24x24 samples, expected at least 2x4x4"),
        (moving(8, 24)[:, :0], "there are no frames in it"),
        (moving(8, 24).float() * torch.nan, "NaN"),
        (moving(8, 24).float(), "got values from 0 to 255"),
        (np.array([Evil()]), "Python objects"),
    ],
)
def test_bad_arrays(folder: Path, array: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("in/a.npy", np.asarray(array), allow_pickle=True)
    run("encode in -o out --codec clips", code=1)
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err
    assert "pickle was run" not in said.out
    assert not list(Path("out").glob("*.wlc"))


@needs_av
def test_bad_video(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = write(folder / "in/a.mp4", moving(frames=8, side=32)).read_bytes()
    Path("in/a.mp4").write_bytes(content[:-100])
    run("encode in -o out --codec clips", code=1)
    assert "walloc: in/a.mp4 is cut off: a part of it" in capsys.readouterr().err
    run("encode in/a.mp4 -o a.wlc", code=1)
    assert "codec 'rgb_16x' is for modality 'image': name a codec of volumes, --codec FOLDER" in capsys.readouterr().err
    np.save("in/b.npy", moving(frames=8, side=32))
    run("encode in/b.npy -o b.wlc --codec clips")
    run("decode b.wlc -o b.mp4 --codec clips", code=1)
    assert "no frame rate is known" in capsys.readouterr().err
    assert not Path("b.mp4").exists()


def test_info_of_a_codec_and_a_data_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        np.save(f"in/{i}.npy", moving(8, 24, seed=i).numpy())
    run("encode-dataset in -o set --codec clips --window 2")
    run("info set")
    assert "12 channels, stride (2, 4, 4)" in capsys.readouterr().out
    run("info clips")
    assert re.search(r"^stride: +\(2, 4, 4\)$", capsys.readouterr().out, re.MULTILINE)
    assert [tuple(latents.shape) for latents, _ in wt.LatentDataset("set")] == [(12, 2, 6, 6)] * 6

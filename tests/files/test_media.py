import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from walloc_transforms.files.media import find_files, read_signal, write_signal


def test_find_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.PNG", "a.png", "b/c.png", "b/d.txt"):
        (tmp_path / name).touch()
    found = [str(relative) for _, relative in find_files([tmp_path, tmp_path / "b/d.txt"], (".png",))]
    assert found == ["a.png", "b/c.png", "z.PNG", "d.txt"]  # a file is taken at its word
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list(find_files([tmp_path / "c"], (".png",)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tif"])
def test_images_go_round(tmp_path: Path, channels: int, name: str) -> None:
    image = torch.randint(0, 256, (channels, 11, 17))
    write_signal(tmp_path / name, image / 255, None)
    back, rate = read_signal(tmp_path / name, "image", channels)
    assert rate is None
    assert torch.equal(back.long(), image)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_images_are_rounded_and_clamped(tmp_path: Path) -> None:
    write_signal(tmp_path / "a.png", torch.tensor([-0.5, 0.2509, 0.2511, 2.0]).view(1, 1, 4), None)
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 64, 64, 255]]


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_sound_goes_round(tmp_path: Path, name: str) -> None:
    wave = torch.randint(-(2**15), 2**15, (2, 1000)) / 2**15
    write_signal(tmp_path / name, wave, 44100)
    back, rate = read_signal(tmp_path / name, "audio")
    assert (rate, back.dtype) == (44100, torch.float32)
    torch.testing.assert_close(back, wave, atol=1.01 / 2**15, rtol=0)


@pytest.mark.parametrize(
    ("name", "shape", "rate", "message"),
    [
        ("a.xyz", (3, 8, 8), None, "no image format that can be written"),
        ("a", (3, 8, 8), None, "no image format"),
        ("a.png", (5, 8, 8), None, "1 or 3 colors, got 5"),
        ("a.wav", (2, 8), None, "needs a sample rate"),
        ("a.xyz", (2, 8), 8000, "no sound format"),
    ],
)
def test_refuses(tmp_path: Path, name: str, shape: tuple[int, ...], rate: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_signal(tmp_path / name, torch.zeros(shape), rate)
    assert not any(tmp_path.iterdir())


def test_without_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"walloc_transforms\[audio\]"):
        read_signal(tmp_path / "a.wav", "audio")

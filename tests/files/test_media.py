import sys
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageCms

from walloc_transforms.files import media
from walloc_transforms.files.media import (
    DEPTH,
    IMAGE_SUFFIXES,
    OTHER_PICTURES,
    PROFILE,
    find_files,
    read_signal,
    write_signal,
)
from walloc_transforms.signals import Modality


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


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.aif"])
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


def test_find_files_counts_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a.png", "b/c.HEIC", "d.heic", "e.mov", "notes.txt", "LICENSE", ".hidden.heic", "._d.heic"):
        (tmp_path / name).touch()
    left_out: Counter[str] = Counter()
    assert [file.name for file, _ in find_files([tmp_path], IMAGE_SUFFIXES, left_out)] == ["a.png"]
    assert left_out == {".heic": 2, ".mov": 1}


def test_hidden_files_are_left_out_below_folders(tmp_path: Path) -> None:
    for name in (".top/a.png", ".top/._a.png", ".top/.git/b.png", ".top/c/.d/e.png", ".top/c/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(relative) for _, relative in find_files([tmp_path / ".top", tmp_path / ".top/._a.png"], (".png",))]
    assert found == ["a.png", "c/f.png", "._a.png"]


def notices_of(file: Path) -> list[str]:
    notices: Counter[str] = Counter()
    read_signal(file, "image", notices=notices)
    return list(notices)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_only_the_first_picture_is_read(tmp_path: Path, name: str) -> None:
    pictures = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "green")]
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], lossless=True)
    pictures[0].save(tmp_path / f"one_{name}")
    assert notices_of(tmp_path / name) == [OTHER_PICTURES]
    assert notices_of(tmp_path / f"one_{name}") == []
    assert torch.equal(read_signal(tmp_path / name, "image")[0][:, 0, 0], torch.tensor([255, 0, 0], dtype=torch.uint8))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
def test_depth(tmp_path: Path, name: str) -> None:
    pixels = np.random.RandomState(0).randint(0, 65536, (16, 16, 3)).astype(np.uint16)
    encode = {"png": imagecodecs.png_encode, "tif": imagecodecs.tiff_encode}.get(name[2:])
    content = encode(pixels) if encode else b"P6 16 16 65535\n" + pixels.astype(">u2").tobytes()
    (tmp_path / name).write_bytes(content)
    assert notices_of(tmp_path / name) == [DEPTH]


def test_color_profile(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16))
    image.save(tmp_path / "srgb.jpg", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    image.save(tmp_path / "lab.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    assert notices_of(tmp_path / "srgb.jpg") == []
    assert notices_of(tmp_path / "lab.png") == [PROFILE]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.png", "a.jpg", "a.webp", "a.tif"])
def test_file_that_is_cut_off(tmp_path: Path, name: str, share: float) -> None:
    whole, cut = tmp_path / name, tmp_path / f"cut_{name}"
    modality: Modality = "audio" if name[2:] in ("wav", "flac", "ogg", "mp3", "aiff") else "image"
    if modality == "audio":
        soundfile.write(whole, np.random.RandomState(0).rand(50_000, 2) / 9, 44100)
    else:
        Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)).save(whole)
    signal, rate = read_signal(whole, modality)
    content = whole.read_bytes()
    whole.unlink()
    same, same_rate = read_signal(whole, modality, content=content)  # in memory
    assert torch.equal(same, signal)
    assert same_rate == rate
    cut.write_bytes(content[: int(share * len(content))])
    for given in (None, cut.read_bytes()):
        with pytest.raises((OSError, ValueError)):
            read_signal(cut, modality, content=given)


def test_streamed_sound_is_not_cut_off(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 8000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = b"\xff" * 4  # as a program writes that does not know the length yet
    (tmp_path / "a.wav").write_bytes(content)
    assert read_signal(tmp_path / "a.wav", "audio")[0].shape == (1, 1000)


def test_sound_of_bounded_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros((2_000_000, 2)), 44100)  # a few kilobytes
    assert read_signal(tmp_path / "a.flac", "audio")[0].shape == (2, 2_000_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900_000)
    with pytest.raises(ValueError, match="more than 1800000 samples"):
        read_signal(tmp_path / "a.flac", "audio")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="cannot identify"):
        read_signal(tmp_path / "a.jpg", "image")


def test_bug_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*args: object) -> None:
        raise TypeError("a bug")

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    monkeypatch.setattr(media, "pil_to_tensor", bug)
    with pytest.raises(TypeError, match="a bug"):
        read_signal(tmp_path / "a.png", "image")

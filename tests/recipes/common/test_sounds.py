"""Sound files: what is found, how it is read, and what is said about what cannot be."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from recipes.common.sounds import SoundFiles, full_scale, read_sound, sound_files

RATE = 8000


def write(file: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """Float WAV, which keeps NaN and what is beyond full scale."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, rate, subtype="FLOAT" if file.suffix == ".wav" else None)
    return file


def noise(samples: int = 1000, channels: int = 2, peak: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-peak, peak, (samples, channels)).astype(np.float32)


def test_files_are_found_by_suffix_and_sorted(tmp_path: Path) -> None:
    for name in ("b.WAV", "sub/a.flac", "sub/deep/c.mp3", "a.ogg", "notes.txt", "cover.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    found = [f.relative_to(tmp_path).as_posix() for f in sound_files(tmp_path)]
    assert found == ["a.ogg", "b.WAV", "sub/a.flac", "sub/deep/c.mp3"]


def test_no_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no sound in .*: looked for \.wav"):
        sound_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        sound_files(tmp_path / "nowhere")


def test_stereo_is_read_as_it_is(tmp_path: Path) -> None:
    samples = noise()
    sound = read_sound(write(tmp_path / "x.wav", samples), RATE)
    assert sound.dtype == torch.float32
    assert torch.equal(sound, torch.from_numpy(samples.T))


def test_mono_becomes_two_equal_channels(tmp_path: Path) -> None:
    samples = noise(channels=1)
    sound = read_sound(write(tmp_path / "x.wav", samples), RATE)
    assert sound.shape == (2, 1000)
    assert torch.equal(sound[0], sound[1])
    assert torch.equal(sound[0], torch.from_numpy(samples[:, 0]))


@pytest.mark.parametrize("rate", [4000, 16000, 12345])
def test_resampling_keeps_a_tone(tmp_path: Path, rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)[:, None]
    sound = read_sound(write(tmp_path / "x.wav", tone, rate), RATE)
    assert sound.shape == (2, RATE)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    assert float((sound[0] - expected)[200:-200].abs().max()) < 0.01


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (noise(0), "x.wav is empty"),
        (np.where(np.arange(1000)[:, None] == 7, np.nan, noise()), "x.wav holds NaN or infinite values"),
        (np.where(np.arange(1000)[:, None] == 7, np.inf, noise()), "x.wav holds NaN or infinite values"),
        (noise(channels=3), "x.wav has 3 channels: expected one or two"),
    ],
)
def test_bad_sounds(tmp_path: Path, samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_sound(write(tmp_path / "x.wav", samples), RATE)


def test_what_cannot_be_read_is_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.wav", noise(500))
    (tmp_path / "b.wav").write_bytes(b"no sound")
    write(tmp_path / "c.wav", noise(channels=3))
    write(tmp_path / "d.flac", noise(700))
    files = SoundFiles(sound_files(tmp_path), RATE)
    assert len(files) == 4
    for _ in range(2):  # counts begin anew
        assert [(name, sound.shape[1]) for name, sound in files] == [("a.wav", 500), ("d.flac", 700)]
        assert (files.skipped, files.clipped) == (2, 0)
        said = capsys.readouterr().out
        assert f"skipped {tmp_path / 'b.wav'}" in said
        assert "c.wav has 3 channels" in said


def test_names_tell_folders_apart(tmp_path: Path) -> None:
    files = [write(tmp_path / track / "mixture.wav", noise()) for track in ("one", "two")]
    assert [name for name, _ in SoundFiles(files, RATE)] == ["one/mixture.wav", "two/mixture.wav"]
    assert [name for name, _ in SoundFiles(files[:1], RATE)] == ["mixture.wav"]
    assert list(SoundFiles([], RATE)) == []


def test_samples_beyond_full_scale_are_counted_and_warned_of_once(tmp_path: Path) -> None:
    loud = noise()
    loud[[3, 5], 0], loud[9, 1] = (1.2, -1.3), 1.0
    files = SoundFiles([write(tmp_path / f"{i}.wav", x) for i, x in enumerate((noise(), loud, loud))], RATE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sounds = [sound for _, sound in files]
    assert [str(w.message)[-70:] for w in caught] == [
        "1.wav has 2 samples beyond full scale; so may others, which are counted"[-70:]
    ]
    assert files.clipped == 4
    assert float(sounds[1].min()) == pytest.approx(-1.3)  # they are counted, not cut


def test_full_scale() -> None:
    sound = torch.tensor([[0.1, 0.3], [0.5, 0.3]])
    torch.testing.assert_close(full_scale(sound), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert torch.equal(full_scale(torch.full((2, 5), 0.25)), torch.zeros(2, 5))

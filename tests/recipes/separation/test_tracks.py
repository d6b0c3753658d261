"""Folders of stems: layouts, splits, bad files, reading in parts, and crops."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from recipes.separation.tracks import RATE, SOURCES, Crops, Track, load_tracks, segments_of

TWO, FOUR = SOURCES


def save(file: Path, sound: Tensor | None = None, *, rate: int = RATE, seed: int = 0, samples: int = 4000) -> Tensor:
    """Write a sound, by default noise in stereo, as float WAV or 16-bit FLAC."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if sound is None:
        sound = 0.2 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed)).clamp(-4, 4)
    subtype = "FLOAT" if file.suffix == ".wav" else None
    soundfile.write(file, sound.T.numpy(), rate, subtype=subtype)
    return sound


def tracks_of(folder: Path, count: int = 2) -> None:
    for i in range(count):
        for seed, stem in enumerate(TWO):
            save(folder / f"track{i}" / f"{stem}.wav", seed=2 * i + seed)


def load(folder: Path, sources: tuple[str, ...] = TWO, **options: object) -> tuple[list[Track], list[Track]]:
    return load_tracks(str(folder), folder, sources, **{"show": False, **options})  # type: ignore[arg-type]


# layouts


def test_accompaniment_is_a_file_or_the_sum_of_the_rest(tmp_path: Path) -> None:
    tracks_of(tmp_path)
    voice = save(tmp_path / "track0" / "vocals.wav", seed=8)
    for i in range(2):
        save(tmp_path / f"track{i}" / "mixture.wav", seed=9)  # not what it says: it must not matter
    file = save(tmp_path / "track0" / "accompaniment.wav", seed=10)
    (tmp_path / "track1" / "accompaniment.wav").unlink()
    parts = [save(tmp_path / "track1" / f"{stem}.wav", seed=20 + i) for i, stem in enumerate(("organ", "Drums"))]
    (tmp_path / "track1" / "notes.txt").write_text("no sound")
    train, test = load(tmp_path)
    assert [t.name for t in train + test] == ["track1", "track0"]
    for memory in (1e9, 0):
        train, test = load(tmp_path, memory=memory)
        assert (test[0].samples is None) is (memory == 0)
        assert torch.equal(test[0].crop(0, 4000), torch.stack([voice, file]))
        assert torch.allclose(train[0].crop(0, 4000)[1], parts[0] + parts[1], atol=1e-7)


def test_four_stems_and_a_track_that_lacks_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        for seed, stem in enumerate(FOUR):
            save(tmp_path / f"track{i}" / f"{stem}.flac", seed=seed)
    (tmp_path / "track2" / "bass.flac").unlink()
    train, test = load(tmp_path, FOUR, show=True)
    assert ([t.name for t in train], [t.name for t in test]) == (["track1"], ["track0"])
    assert train[0].crop(0, 100).shape == (4, 2, 100)
    assert "skipped track track2: it has no bass, but drums, other, vocals" in capsys.readouterr().out


def test_splits(tmp_path: Path) -> None:
    tracks_of(tmp_path, 7)
    (tmp_path / "empty").mkdir()
    assert [t.name for t in load(tmp_path)[1]] == ["track0", "track5"]
    train, test = load(tmp_path, test_tracks="track[23]")
    assert ([t.name for t in test], len(train)) == (["track2", "track3"], 5)
    with pytest.raises(ValueError, match=r"no track is called 'live\*': there are track0, track1"):
        load(tmp_path, test_tracks="live*")
    with pytest.raises(ValueError, match="no training track is left"):
        load(tmp_path, test_tracks="*")


def test_train_and_test_folders_and_musdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: Path, subset: str, download: bool) -> None:
        assert (root, subset, download) == (tmp_path, "train", True)
        for part in ("train", "test"):
            for stem in (*FOUR, "mixture"):
                save(tmp_path / "musdb18hq" / part / f"A {part} song" / f"{stem}.wav")

    monkeypatch.setattr(torchaudio.datasets, "MUSDB_HQ", download)
    for _ in range(2):  # the second time it is there
        train, test = load_tracks("MUSDB_HQ", tmp_path, FOUR, show=False)
        assert ([t.name for t in train], [t.name for t in test]) == (["A train song"], ["A test song"])
        monkeypatch.delattr(torchaudio.datasets, "MUSDB_HQ", raising=False)
    with pytest.raises(ValueError, match="has its own train and test folders"):
        load(tmp_path / "musdb18hq", test_tracks="A*")


def test_demo() -> None:
    (train, test), (four, _) = (
        load_tracks("demo", Path(), s, demo_tracks=(1, 1), demo_seconds=1, show=False) for s in SOURCES
    )
    assert [t.name for t in train + test] == ["demo00", "demo01"]
    assert torch.allclose(train[0].crop(0, RATE)[1], four[0].crop(0, RATE)[1:].sum(0), atol=1e-6)


@pytest.mark.parametrize(
    ("folder", "error", "message"),
    [("nowhere", FileNotFoundError, "there is no folder"), ("empty", FileNotFoundError, "no folders of stems")],
)
def test_missing_folders(tmp_path: Path, folder: str, error: type[Exception], message: str) -> None:
    (tmp_path / "empty" / "track").mkdir(parents=True)
    with pytest.raises(error, match=message):
        load(tmp_path / folder)


@pytest.mark.parametrize("sources", [("vocals",), ("vocals", "drums"), ("vocals", "mixture"), ()])
def test_sources_that_make_no_mixture(tmp_path: Path, sources: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="sources must be vocals accompaniment or vocals drums bass other"):
        load(tmp_path, sources)


# bad files


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("text", "vocals.wav"),
        ("truncated", "vocals.wav"),
        ("no file", "it has no vocals"),
        ("empty", "is empty"),
        ("nan", "NaN or infinite"),
        ("surround", "3 channels"),
        ("one sample", "its 1 samples are fewer than 512"),
        ("twice", "two files of 'vocals', vocals.flac and vocals.wav"),
    ],
)
def test_a_bad_track_is_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, message: str
) -> None:
    tracks_of(tmp_path, 3)
    file = tmp_path / "track1" / "vocals.wav"
    if bad == "text":
        file.write_text("no sound")
    elif bad == "truncated":
        file.write_bytes(file.read_bytes()[:30])
    elif bad == "no file":
        file.unlink()
    elif bad == "empty":
        save(file, torch.zeros(2, 0))
    elif bad == "nan":
        save(file, torch.tensor([[0.0, float("nan")] * 1000] * 2))
    elif bad == "surround":
        save(file, torch.zeros(3, 4000))
    elif bad == "one sample":
        for stem in TWO:
            save(tmp_path / "track1" / f"{stem}.wav", torch.ones(2, 1))
    else:
        save(file.with_suffix(".flac"))
    train, test = load(tmp_path, show=True)
    assert ([t.name for t in train], [t.name for t in test]) == (["track2"], ["track0"])
    said = capsys.readouterr().out
    assert "skipped track track1: " in said
    assert message in said


def test_nothing_left(tmp_path: Path) -> None:
    tracks_of(tmp_path, 2)
    (tmp_path / "track0" / "vocals.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"no test track is left in .*: 1 were skipped"):
        load(tmp_path)


def test_stems_of_different_length_are_continued_with_silence(tmp_path: Path) -> None:
    tracks_of(tmp_path)
    short = save(tmp_path / "track0" / "vocals.wav", samples=1)
    with pytest.warns(UserWarning, match=r"stems of track0 last from 0.000 to 0.091 s: the shorter are continued"):
        load(tmp_path, show=True)
    for memory in (1e9, 0):
        voice = load(tmp_path, memory=memory)[1][0].crop(0, 4000)[0]
        assert torch.equal(voice[:, :1], short)
        assert not voice[:, 1:].any()


def test_beyond_full_scale_is_warned_of_once_and_kept(tmp_path: Path) -> None:
    tracks_of(tmp_path, 3)
    for i in (0, 1):
        save(tmp_path / f"track{i}" / "vocals.wav", torch.full((2, 4000), 1.5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = load(tmp_path, show=True)
    assert [str(w.message).split(";")[0] for w in caught] == ["track1 has 8000 samples beyond full scale"]
    assert [t.beyond for t in test + train] == [8000, 8000, 0]
    assert float(test[0].crop(0, 100)[0].max()) == 1.5


def test_mono_is_both_channels(tmp_path: Path) -> None:
    tracks_of(tmp_path)
    mono = save(tmp_path / "track0" / "vocals.wav", 0.1 * torch.randn(1, 4000))
    for memory in (1e9, 0):
        assert torch.equal(load(tmp_path, memory=memory)[1][0].crop(0, 4000)[0], mono.expand(2, -1))


# reading


@pytest.mark.parametrize("rate", [48000, 22050, 44100])
def test_parts_read_from_disk_are_those_in_memory(tmp_path: Path, rate: int) -> None:
    """Also within a track of mixed sample rates, whose sounds must stay in step."""
    tracks_of(tmp_path)
    seconds = torch.arange(2 * rate) / rate
    tone = 0.5 * torch.sin(2 * np.pi * 441 * seconds).expand(2, -1)
    save(tmp_path / "track0" / "vocals.wav", tone, rate=rate)
    save(tmp_path / "track0" / "accompaniment.wav", seed=5, samples=88200)
    (kept,), (read,) = (load(tmp_path, memory=memory)[1] for memory in (1e9, 0))
    assert kept.length == read.length == 88200
    assert read.samples is None
    for start, length in ((0, 1024), (777, 30000), (87000, 4096), (88199, 512), (90000, 512)):
        assert torch.allclose(read.crop(start, length), kept.crop(start, length), atol=1e-6)
    expected = 0.5 * torch.sin(2 * np.pi * 441 * torch.arange(40000, 50000) / RATE)
    assert torch.allclose(kept.crop(40000, 10000)[0, 0], expected, atol=1e-3)


def test_memory_is_kept_to(tmp_path: Path) -> None:
    tracks_of(tmp_path, 4)
    train, test = load(tmp_path, memory=2.5 * 2 * 2 * 4000 * 4)
    assert [t.samples is not None for t in train + test] == [True, True, False, False]


# crops


def numbered(count: int, length: int = 6000) -> list[Track]:
    return [Track(f"t{i}", [], length, 0.1 * torch.randn(2, 2, length)) for i in range(count)]


def test_crops_depend_on_seed_and_step_alone() -> None:
    tracks = numbered(3)
    crops = Crops(tracks, 1024, seed=5)
    before = [t.crop(0, 6000).clone() for t in tracks]
    batches = [crops.batch(step, 4) for step in range(3)]
    assert batches[0].shape == (4, 2, 2, 1024)
    assert torch.equal(Crops(tracks, 1024, seed=5).batch(2, 4), batches[2])
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(Crops(tracks, 1024, seed=6).batch(0, 4), batches[0])
    shares = [crops.batch(1, 4, rank, 2) for rank in range(2)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), batches[1])
    assert all(torch.equal(t.crop(0, 6000), b) for t, b in zip(tracks, before, strict=True))


def test_remixing_gains_and_channels() -> None:
    """Where stems come from shows in their values: source, track, channel and sample are coded in each."""
    length = 100
    pair = torch.tensor([[1.0], [2.0]])
    values = [torch.stack([pair * 4 ** (2 * i + s) for s in range(2)]) for i in range(8)]
    tracks = [Track(f"t{i}", [], length, value.expand(2, 2, length)) for i, value in enumerate(values)]
    for remix, least, most in ((0.0, 0.0, 0.0), (1.0, 0.6, 1.0), (0.5, 0.2, 0.7)):
        apart, swapped, gains = 0, 0, []
        for number in range(200):
            places = []
            for s, stem in enumerate(Crops(tracks, 10, 0, remix).crop(number)):
                low, high = stem[:, 0].sort().values.tolist()
                assert high == pytest.approx(2 * low)
                track = round(float(np.log(low / 4**s / 0.84) / np.log(16)))  # gains are well within a factor of 4
                gains.append(20 * np.log10(low / 4 ** (2 * track + s)))
                swapped += bool(stem[0, 0] > stem[1, 0])
                places.append(track)
            apart += places[0] != places[1]
        assert least <= apart / 200 <= most
        assert 150 < swapped < 250
        assert -6.01 < min(gains) < -5.5
        assert 2.5 < max(gains) < 3.01


def test_short_tracks_are_continued_with_silence_and_long_ones_come_more_often() -> None:
    short, long = numbered(1, 600)[0], numbered(1, 60000)[0]
    crop = Crops([short], 1024, 0).crop(0)
    assert crop[..., :600].any()
    assert not crop[..., 600:].any()
    seen = [Crops([short, long], 1024, 0, remix=0).crop(i) for i in range(100)]
    assert sum(bool(c[..., 600:].any()) for c in seen) > 90


def test_segments_follow_one_another() -> None:
    tracks = [Track("long", [], 3500), Track("short", [], 700), Track("exact", [], 1000)]
    assert [(t.name, s) for t, s in segments_of(tracks, 1000)] == [
        ("long", 0),
        ("long", 1000),
        ("long", 2000),
        ("short", 0),
        ("exact", 0),
    ]

"""Tracks of music with their stems: the demo, folders and MUSDB-HQ; random crops to train on, fixed segments to test.

    train, test = load_tracks("PATH/TO/STEMS", Path("data"), ("vocals", "accompaniment"), test_tracks="*live*")

The mixture is always the sum of the stems, also where a file of it lies beside them, and also in evaluation: after
lossy coding the two differ, by an error that no separation could undo (MP3: 15 to 23 dB below the music).
"""

import fnmatch
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor
from torchaudio.functional import resample
from tqdm import tqdm

from recipes.common.demo_music import demo_track
from recipes.common.sounds import read_sound
from walloc_transforms.files import READ_ERRORS, SOUND_SUFFIXES

RATE = 44100
SOURCES = (("vocals", "accompaniment"), ("vocals", "drums", "bass", "other"))
MIXTURE = "mixture"
SHORTEST = 512  # samples of a track: two frames of every arm
_FILTER_WIDTH = 32  # of the resampling filter, in zero crossings; the same as read_sound's


@dataclass
class Track:
    """One piece of music: of every source, the files that add up to it, or its samples.

    Attributes:
        name: Of the folder.
        parts: The files of every source.
        length: Of the longest file, in samples at 44.1 kHz. A crop beyond the end of a file holds silence there.
        samples: ``(sources, 2, length)`` float32, where they are kept in memory.
        beyond: Samples beyond full scale, +-1.
        rates: Sample rate of every file in Hz.
    """

    name: str
    parts: list[list[Path]]
    length: int
    samples: Tensor | None = None
    beyond: int = 0
    rates: dict[Path, int] = field(default_factory=dict)

    def crop(self, start: int, length: int) -> Tensor:
        """Read ``(sources, 2, length)`` from sample ``start`` on, with silence where the track has ended."""
        if self.samples is not None:
            cut = self.samples[..., start : start + length]
            return F.pad(cut, (0, length - cut.shape[-1]))
        sums = []
        for files in self.parts:
            sums.append(sum((self._read(file, start, length) for file in files), torch.zeros(2, length)))
        return torch.stack(sums)

    def _read(self, file: Path, start: int, length: int) -> Tensor:
        """Read part of a file as if all of it had been resampled: blocks of both rates' common period, and a margin."""
        rate = self.rates[file]
        period = torch.tensor([RATE, rate]) // torch.gcd(torch.tensor(RATE), torch.tensor(rate))
        out, step = period.tolist()
        margin = -(-2 * _FILTER_WIDTH // min(out, step)) if out != step else 0
        first = max(0, start // out - margin)
        last = -(-(start + length) // out) + margin
        with soundfile.SoundFile(file) as opened:
            if first * step >= opened.frames:
                return torch.zeros(2, length)
            opened.seek(first * step)
            part = torch.from_numpy(opened.read((last - first) * step, dtype="float32", always_2d=True).T.copy())
        part = resample(part.expand(2, -1), rate, RATE, lowpass_filter_width=_FILTER_WIDTH)
        part = part[:, start - first * out :][:, :length]
        return F.pad(part, (0, length - part.shape[-1]))


def load_tracks(
    data: str,
    root: Path,
    sources: Sequence[str],
    *,
    test_tracks: str = "",
    memory: float = 2e9,
    demo_tracks: tuple[int, int] = (12, 4),
    demo_seconds: float = 16,
    show: bool = True,
) -> tuple[list[Track], list[Track]]:
    """Open training and test tracks.

    Args:
        data: ``demo``; a folder of folders, ``TRACK/STEM.wav`` (or .flac, .ogg, .mp3, .aiff), below ``train`` and
            ``test`` if there are such; or ``MUSDB_HQ``.
        root: Where MUSDB-HQ is, or is downloaded to (23 GB).
        sources: ``vocals, accompaniment`` or ``vocals, drums, bass, other``. Without an ``accompaniment`` file, it is
            the sum of all stems but the vocals.
        test_tracks: Pattern of the test tracks' names, as in ``musdb18*``, where there are no ``train`` and ``test``.
            Default: every fifth track.
        memory: Bytes of samples to keep; tracks beyond are read crop by crop.
        demo_tracks: Training and test tracks of the demo.
        demo_seconds: Length of each.
        show: Show progress, and warn of stems of different length or beyond full scale.

    Returns:
        Training and test tracks. One that lacks a stem, or with a file that cannot be read, is empty or holds NaN, is
        named and left out.

    Raises:
        FileNotFoundError: The folder is missing or holds no stems.
        ValueError: Other ``sources``, or no training or no test track is left.
    """
    if tuple(sources) not in SOURCES:
        raise ValueError(f"sources must be {' or '.join(' '.join(s) for s in SOURCES)}, got {' '.join(sources)!r}")
    if data == "demo":
        count = sum(demo_tracks)
        tracks = [
            _demo(i, demo_seconds, sources)
            for i in tqdm(range(count), desc="demo", unit="track", leave=False, disable=not show)
        ]
        return tracks[: demo_tracks[0]], tracks[demo_tracks[0] :]
    if data == "MUSDB_HQ":
        folder = root / "musdb18hq"
        if not folder.is_dir():
            torchaudio.datasets.MUSDB_HQ(root, "train", download=True)
    else:
        folder = Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    halves = [_folders(folder / part) for part in ("train", "test")]
    if not all(halves):
        halves = _split(_folders(folder), test_tracks)
    elif test_tracks:
        raise ValueError(f"{str(folder)!r} has its own train and test folders: leave test_tracks out")
    if not any(halves):
        raise FileNotFoundError(f"there are no folders of stems, TRACK/STEM.wav, in {str(folder)!r}")
    reader = _Reader(sources, memory, show)
    train, test = (
        [track for track in map(reader.open, tqdm(half, desc="tracks", leave=False, disable=not show)) if track]
        for half in halves
    )
    for name, tracks in (("training", train), ("test", test)):
        if not tracks:
            raise ValueError(f"no {name} track is left in {str(folder)!r}: {reader.skipped} were skipped")
    return train, test


def _demo(seed: int, seconds: float, sources: Sequence[str]) -> Track:
    stems = demo_track(seed, seconds, RATE)
    if "accompaniment" in sources:
        stems["accompaniment"] = stems["drums"] + stems["bass"] + stems["other"]
    samples = torch.stack([stems[source] for source in sources])
    return Track(f"demo{seed:02}", [], samples.shape[-1], samples)


def _folders(folder: Path) -> list[Path]:
    """Folders with sound in them, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        d for d in folder.iterdir() if d.is_dir() and any(f.suffix.lower() in SOUND_SUFFIXES for f in d.iterdir())
    )


def _split(folders: list[Path], test_tracks: str) -> list[list[Path]]:
    if test_tracks:
        test = {f for f in folders if fnmatch.fnmatchcase(f.name, test_tracks)}
        if folders and not test:
            raise ValueError(f"no track is called {test_tracks!r}: there are {', '.join(f.name for f in folders)}")
    else:
        test = set(folders[::5])
    return [[f for f in folders if f not in test], [f for f in folders if f in test]]


class _Reader:
    """Opens tracks one after another, as long as they fit in memory keeping their samples."""

    def __init__(self, sources: Sequence[str], memory: float, show: bool) -> None:
        self.sources, self.left, self.show = sources, memory, show
        self.skipped = 0
        self.warned = False

    def open(self, folder: Path) -> Track | None:
        """Read all of a track once, to know that it can be read; None if it cannot, which is said."""
        try:
            return self._open(folder)
        except READ_ERRORS as error:
            self.skipped += 1
            if self.show:
                tqdm.write(f"skipped track {folder.name}: {error}")
            return None

    def _open(self, folder: Path) -> Track:
        parts = [_files_of(source, folder) for source in self.sources]
        files = [file for part in parts for file in part]
        sounds = {file: read_sound(file, RATE) for file in files}
        rates = {file: int(soundfile.info(file).samplerate) for file in files}
        lengths = {file: sound.shape[-1] for file, sound in sounds.items()}
        length = max(lengths.values())
        if length < SHORTEST:
            raise ValueError(f"its {length} samples are fewer than {SHORTEST}")
        samples = torch.stack(
            [
                sum((F.pad(sounds[file], (0, length - lengths[file])) for file in part), torch.zeros(2, length))
                for part in parts
            ]
        )
        beyond = sum(int((sound.abs() > 1).sum()) for sound in sounds.values())
        if self.show:
            self._warn(folder, beyond, min(lengths.values()), length)
        keep = samples.nbytes <= self.left
        self.left -= samples.nbytes if keep else 0
        return Track(folder.name, parts, length, samples if keep else None, beyond, rates)

    def _warn(self, folder: Path, beyond: int, shortest: int, longest: int) -> None:
        if shortest < longest:
            warnings.warn(
                f"the stems of {folder.name} last from {shortest / RATE:.3f} to {longest / RATE:.3f} s: the "
                "shorter are continued with silence",
                stacklevel=2,
            )
        if beyond and not self.warned:
            warnings.warn(
                f"{folder.name} has {beyond} samples beyond full scale; so may other tracks, which are counted",
                stacklevel=2,
            )
            self.warned = True


def _files_of(source: str, folder: Path) -> list[Path]:
    """Files that add up to a source."""
    stems: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SOUND_SUFFIXES and file.is_file():
            if file.stem.lower() in stems:
                raise ValueError(f"it has two files of {file.stem!r}, {stems[file.stem.lower()].name} and {file.name}")
            stems[file.stem.lower()] = file
    if source in stems:
        return [stems[source]]
    others = [file for stem, file in stems.items() if stem not in ("vocals", MIXTURE)]
    if source != "accompaniment" or not others:
        raise ValueError(f"it has no {source}, but {', '.join(stems)}")
    return others


class Crops:
    """Random crops of remixed stems: the same for the same seed and step, whoever asks.

    Every source has its own gain, from -6 to +3 dB, and may have left and right exchanged. With probability
    ``remix`` the sources come from different places of different tracks; otherwise they sound together as they should.
    """

    def __init__(self, tracks: Sequence[Track], length: int, seed: int, remix: float = 0.5) -> None:
        self.tracks, self.length, self.seed, self.remix = list(tracks), length, seed, remix

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Tensor:
        """Cut the ``(batch, sources, 2, length)`` of a step, of which process ``rank`` gets every ``world``-th."""
        numbers = range(step * batch_size, (step + 1) * batch_size)
        return torch.stack([self.crop(number) for number in numbers[rank::world]])

    def crop(self, number: int) -> Tensor:
        """Cut one ``(sources, 2, length)``."""
        choice = random.Random(f"{self.seed} {number}")
        stems = self._cut(choice)
        if choice.random() < self.remix:
            stems = torch.stack([stems[0], *(self._cut(choice)[i] for i in range(1, len(stems)))])
        for i in range(len(stems)):
            stem = stems[i].flip(0) if choice.random() < 0.5 else stems[i]
            stems[i] = stem * 10 ** (choice.uniform(-6, 3) / 20)
        return stems

    def _cut(self, choice: random.Random) -> Tensor:
        """Cut all sources of a place; long tracks have more of them."""
        track = choice.choices(self.tracks, [track.length for track in self.tracks])[0]
        return track.crop(choice.randint(0, max(0, track.length - self.length)), self.length).clone()


Segment = tuple[Track, int]
"""A piece of a track: the track, and the number of its first sample."""


def segments_of(tracks: Sequence[Track], length: int) -> list[Segment]:
    """List the segments of ``length`` samples that tracks are tested on.

    They follow one another; a rest at the end is left out, but a track shorter than a segment makes one, with silence.
    """
    return [(track, i * length) for track in tracks for i in range(max(1, track.length // length))]

"""What is encoded: the files of a folder or of a list, a map-style data set, or one of Hugging Face.

A source has a fixed order, and can be pickled for other processes.
"""

import abc
import hashlib
import operator
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codec import CodecConfig
from ..files import (
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    VOLUME_SUFFIXES,
    find_files,
    load_soundfile,
    read_signal,
    read_volume,
)
from ..safe import listed
from ..signals import Modality
from .records import NO_LABEL

__all__ = ["Sample", "Source", "open_source"]

_SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES, "volume": VOLUME_SUFFIXES}
_SIGNALS = {
    "image": ("image", "img", "pixel_values"),
    "audio": ("audio", "waveform", "array"),
    "volume": ("video", "volume", "clip"),
}
_FEATURES = {"image": "Image", "audio": "Audio", "volume": "Video"}  # of Hugging Face
_LABELS = ("label", "labels", "target", "class")
_HUB = "hf:"


class Sample(NamedTuple):
    """What a source holds under one number.

    Attributes:
        signal: A PIL image, or a tensor ``(C, H, W)``, ``(C, T)`` or ``(C, T, H, W)``.
        label: Index of the class, or ``NO_LABEL``.
        sample_rate: Of a sound, in Hz; None if it is not known.
        of_file: Whether the signal is what a file holds.
    """

    signal: Any
    label: int = NO_LABEL
    sample_rate: int | None = None
    of_file: bool = False


class Source(abc.ABC):
    """Samples by number.

    Attributes:
        keys: What names each sample.
        classes: Names of the classes, by label; empty if there are no labels, or their names are not known.
        reads_files: Whether samples are files, and the same whenever they are read.
    """

    keys: Sequence[str]
    classes: tuple[str, ...] = ()
    reads_files = True

    def __len__(self) -> int:
        return len(self.keys)

    @abc.abstractmethod
    def load(self, number: int) -> Sample:
        """Read a sample.

        Raises:
            OSError: There is no such file, or it cannot be read.
            ValueError: It is damaged.
            TypeError: It is not what a source is expected to hold.
        """

    def settings(self) -> dict[str, Any]:
        """Tell sources apart, wherever they lie: two that differ make different data sets."""
        digest = hashlib.sha256()
        for key in self.keys:
            digest.update(key.encode("utf-8", "surrogateescape") + b"\0")
        return {"source": type(self).__name__, "keys": digest.hexdigest()}


def open_source(source: Any, config: CodecConfig) -> Source:
    """Open a source.

    Args:
        source: A folder, with a folder of each class in it or without any; a text file that lists files; paths of
            files; ``"hf:NAME"`` or ``"hf:NAME:SPLIT"``, or a data set of Hugging Face; or a map-style data set.
        config: Of the codec: images, sounds or volumes are looked for.

    Raises:
        FileNotFoundError: There is no such folder or file, or nothing to encode in it.
        ValueError: A folder holds files and folders, or a data set does not say which column is meant.
        TypeError: It is none of these.
        ImportError: A package is missing.
    """
    if config.modality == "audio":
        load_soundfile()
    opened = _open(source, config)
    if not len(opened):
        what = source if isinstance(source, (str, os.PathLike)) else f"an empty {type(source).__name__}"
        raise FileNotFoundError(f"there is nothing to encode in {what}")
    return opened


def _open(source: Any, config: CodecConfig) -> Source:
    if isinstance(source, str) and source.startswith(_HUB):
        return _Columns(_load_hub(source), config)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return _of_folder(path, config)
        if path.suffix.lower() == ".txt":
            return _of_list(path, config)
        what = "is neither a folder nor a .txt file of paths" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {what}: expected one of these, or hf:NAME of a data set of the hub")
    if isinstance(source, (list, tuple)) and source and all(isinstance(x, (str, os.PathLike)) for x in source):
        return _Files(Path(), [Path(file).as_posix() for file in source], None, (), config)
    if hasattr(source, "features") and hasattr(source, "select_columns"):
        return _Columns(source, config)
    if not hasattr(source, "__getitem__") or not hasattr(source, "__len__") or isinstance(source, (Mapping, bytes)):
        raise TypeError(
            "expected a folder, a .txt file of paths, hf:NAME, or a data set with a length whose samples have numbers, "
            f"got {type(source).__name__}"
        )
    return _Indexed(source, config)


class _Files(Source):
    """Files below a folder; ``labels`` of each of them, or None."""

    def __init__(
        self, root: Path, keys: list[str], labels: list[int] | None, classes: tuple[str, ...], config: CodecConfig
    ) -> None:
        self.root = root.absolute()  # workers may stand elsewhere
        self.keys, self.labels, self.classes = keys, labels, classes
        self.modality: Modality = config.modality
        self.channels = config.signal_channels

    def load(self, number: int) -> Sample:
        """Read a file."""
        signal, rate = _read(self.root / self.keys[number], self.modality, self.channels)
        return Sample(signal, self.labels[number] if self.labels else NO_LABEL, rate, of_file=True)

    def settings(self) -> dict[str, Any]:
        """Tell sources apart, by their labels too."""
        labels = hashlib.sha256(str(self.labels).encode()).hexdigest() if self.labels else None
        return {**super().settings(), "source": "files", "labels": labels}


def _read(file: Path, modality: Modality, channels: int) -> tuple[Tensor, int | None]:
    """Read a file; what is wrong with it is said without its folder, which may be another one the next time."""
    try:
        if modality != "volume":
            return read_signal(file, modality, channels)
        with read_volume(file, channels) as volume:
            frames = list(volume.frames)
        if not frames:
            raise ValueError(f"there are no frames in {file.name}")
        return torch.cat(frames, 1), None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        folder = f"{file.parent}{os.sep}"
        raise ValueError(str(error).replace(folder, "").replace(repr(folder)[1:-1], "")) from error  # Pillow quotes it


def _of_folder(folder: Path, config: CodecConfig) -> Source:
    """Take the folders in a folder for classes, as torchvision's ``ImageFolder`` does, or files without a class."""
    suffixes = _SUFFIXES[config.modality]
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in suffixes and entry.is_file()]
    # One call for each, as links to folders are followed there alone; links to the folders of classes are usual.
    found = {entry.name: [path for _, path in find_files([entry], suffixes)] for entry in entries if entry.is_dir()}
    classes = tuple(found)
    if files and (other := next((name for name, paths in found.items() if paths), None)):
        raise ValueError(
            f"{folder} holds files, such as {files[0].name}, and folders of files, such as {other}: expected either "
            "files, or a folder for each class. A .txt file can list any files"
        )
    if files:
        return _Files(folder, [file.name for file in files], None, (), config)
    if not any(found.values()):
        raise FileNotFoundError(f"there is nothing to encode in {folder}: looked for {', '.join(suffixes)}")
    keys = [f"{name}/{path.as_posix()}" for name, paths in found.items() for path in paths]
    labels = [label for label, paths in enumerate(found.values()) for _ in paths]
    return _Files(folder, keys, labels, classes, config)


def _of_list(file: Path, config: CodecConfig) -> Source:
    """Read lines ``PATH`` or ``PATH<TAB>LABEL``; paths are relative to the file."""
    lines = file.read_text("utf-8-sig", "surrogateescape").split("\n")
    pairs = [line.rstrip("\r").partition("\t") for line in lines if line.strip()]
    keys, names = [key for key, _, _ in pairs], [name.strip() for _, _, name in pairs]
    given = sorted({name for name in names if name})
    if not given:
        return _Files(file.parent, keys, None, (), config)
    if all(name.removeprefix("-").isdecimal() for name in given):  # labels as they are, and no class has a name
        labels, classes = [int(name) if name else NO_LABEL for name in names], ()
        if min(labels) < NO_LABEL:
            raise ValueError(f"{file}: labels are whole numbers from 0 on, or {NO_LABEL} for none, got {min(labels)}")
    else:
        labels, classes = [given.index(name) if name else NO_LABEL for name in names], tuple(given)
    return _Files(file.parent, keys, labels, classes, config)


class _Indexed(Source):
    """A map-style data set of ``(signal, label)``, of dicts, or of signals alone."""

    reads_files = False

    def __init__(self, data: Any, config: CodecConfig) -> None:
        self.modality: Modality = config.modality
        self.data, self.channels = data, config.signal_channels
        self.keys = [str(number) for number in range(len(data))]
        self.classes = _class_names(data)

    def load(self, number: int) -> Sample:
        """Fetch a sample."""
        sample = self.data[number]
        label: Any = None
        if isinstance(sample, Mapping):
            signal = _entry(sample, _SIGNALS[self.modality], number)
            label = next((sample[name] for name in _LABELS if name in sample), None)
            rate = sample.get("sample_rate", sample.get("sampling_rate"))
        else:
            pair = sample if isinstance(sample, (tuple, list)) else (sample,)
            if not 1 <= len(pair) <= 2:  # those of torchaudio, for one: a sample rate is second, and no label
                entries = ', "sample_rate": ...' if self.modality == "audio" else ""
                raise TypeError(
                    f"sample {number} has {len(pair)} entries: expected (signal, label), or a dict, such as "
                    f'{{"{_SIGNALS[self.modality][0]}": ..., "label": ...{entries}}}, which tells what is what'
                )
            signal, label, rate = pair[0], pair[1] if len(pair) > 1 else None, None
        of_file = isinstance(signal, (str, os.PathLike))  # ImageFolder(...).samples, for one
        if of_file:
            signal, rate = _read(Path(signal), self.modality, self.channels)
        return Sample(signal, _label(label, number), rate, of_file)

    def settings(self) -> dict[str, Any]:
        """Tell sources apart by class and length; what is behind the numbers is not looked at."""
        return {**super().settings(), "source": type(self.data).__qualname__}


def _entry(sample: Mapping[str, Any], names: tuple[str, ...], number: int) -> Any:
    for name in names:
        if name in sample:
            return sample[name]
    raise TypeError(f"sample {number} must have an entry {' or '.join(names)}, got {listed([*map(str, sample)])}")


def _label(label: Any, number: int) -> int:
    if label is None:
        return NO_LABEL
    try:
        return operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError, RuntimeError):
        form = f" of shape {tuple(label.shape)}" if hasattr(label, "shape") else ""
        raise TypeError(f"the label of sample {number} must be an integer, got {type(label).__name__}{form}") from None


def _class_names(data: Any) -> tuple[str, ...]:
    """Find the names that data sets of torchvision have, also behind ``Subset``; ImageNet has several of a class."""
    names = getattr(data, "classes", None)
    if names is None:
        return _class_names(data.dataset) if hasattr(data, "dataset") else ()
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, list, tuple)) for name in names):
        return ()
    return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in names)


def _load_hub(name: str) -> Any:
    """Load ``hf:NAME`` or ``hf:NAME:SPLIT``."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f'data sets of the hub need datasets ({error}): pip install "walloc_transforms[data]"'
        ) from error
    repo, _, split = name.removeprefix(_HUB).partition(":")
    loaded: Any = datasets.load_dataset(repo, split=split or None)
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) > 1 and "train" not in loaded:
        raise ValueError(f"{name} has the splits {listed([*map(str, loaded)])}: expected {_HUB}{repo}:SPLIT")
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))


class _Columns(Source):
    """A data set of Hugging Face, whose images, sounds or videos are read and refused as files are."""

    def __init__(self, data: Any, config: CodecConfig) -> None:
        if not hasattr(data, "__len__"):
            raise TypeError("expected a data set with a length, not a streamed one")
        self.modality: Modality = config.modality
        self.channels = config.signal_channels
        self.column = _column(data.features, _FEATURES[config.modality])
        classes = [name for name, feature in data.features.items() if type(feature).__name__ == "ClassLabel"]
        self.label = next((name for name in _LABELS if name in data.features), None)
        if classes and self.label not in classes:
            self.label = _column(data.features, "ClassLabel")
        self.classes = tuple(data.features[self.label].names) if self.label in classes else ()
        data = data.select_columns([self.column, *([self.label] if self.label else [])]).with_format(None)
        feature = type(data.features[self.column])(decode=False)
        self.data, self.keys = data.cast_column(self.column, feature), [str(number) for number in range(len(data))]

    def load(self, number: int) -> Sample:
        """Read a row."""
        row = self.data[number]
        stored = row[self.column]
        if stored is None:
            raise ValueError(f"row {number} is empty")
        name = Path(stored["path"] or "").name or str(number)
        if stored["bytes"] is None:
            signal, rate = _read(Path(stored["path"]), self.modality, self.channels)
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / name
                file.write_bytes(stored["bytes"])
                signal, rate = _read(file, self.modality, self.channels)
        return Sample(signal, _label(row[self.label] if self.label else None, number), rate, of_file=True)

    def settings(self) -> dict[str, Any]:
        """Tell data sets apart by their columns and length."""
        return {**super().settings(), "source": "hf", "columns": [self.column, self.label]}


def _column(features: Mapping[str, Any], kind: str) -> str:
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        raise ValueError(
            f"expected one column of {kind}, got {listed(found)} of {listed(list(features))}: select_columns leaves one"
        )
    return found[0]

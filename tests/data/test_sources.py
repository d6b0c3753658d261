"""What can be encoded: folders, lists, map-style data sets, those of Hugging Face, and sounds."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import walloc_transforms as wt
from walloc_transforms.data.sources import Source, open_source

CONFIG = wt.load_codec("rgb_16x").config


def save(file: Path, shade: int = 0, side: int = 16) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (shade, 0, 0)).save(file)
    return file


def shades(source: Source) -> list[tuple[int, int]]:
    """The red of every image, and its label."""
    samples = [source.load(number) for number in range(len(source))]
    return [(int(np.asarray(sample.signal).flat[0]), sample.label) for sample in samples]


def test_folder_of_classes(tmp_path: Path) -> None:
    save(tmp_path / "b" / "2.png", 3)
    save(tmp_path / "b" / "10.JPG", 2)
    save(tmp_path / "a" / "deep" / "x.png", 1)
    save(tmp_path / ".cache" / "x.png", 9)
    save(tmp_path / "b" / ".x.png", 9)
    (tmp_path / "empty").mkdir()
    (tmp_path / "elsewhere.txt").write_text("no image")
    save(tmp_path.parent / f"{tmp_path.name}_link" / "y.png", 4)
    (tmp_path / "link").symlink_to(tmp_path.parent / f"{tmp_path.name}_link")
    source = open_source(tmp_path, CONFIG)
    assert source.keys == ["a/deep/x.png", "b/10.JPG", "b/2.png", "link/y.png"]
    assert source.classes == ("a", "b", "empty", "link")
    assert [label for _, label in shades(source)] == [0, 1, 1, 3]
    save(tmp_path / "top.png")
    with pytest.raises(ValueError, match=r"holds files, such as top.png, and folders of files, such as a"):
        open_source(tmp_path, CONFIG)


def test_folder_of_files_and_lists(tmp_path: Path) -> None:
    files = [save(tmp_path / name, i) for i, name in enumerate(["b.png", "a.png", "é c.png"])]
    flat = open_source(str(tmp_path), CONFIG)
    assert (flat.keys, flat.classes, shades(flat)) == (["a.png", "b.png", "é c.png"], (), [(1, -1), (0, -1), (2, -1)])
    listed = open_source(files, CONFIG)
    assert shades(listed) == [(0, -1), (1, -1), (2, -1)] and listed.settings() != flat.settings()
    text = tmp_path / "list.txt"
    for lines, classes, labels in (
        ("b.png\r\né c.png\n\n", (), [-1, -1]),
        ("b.png\tzebra\né c.png\tant\na.png", ("ant", "zebra"), [1, 0, -1]),
        ("b.png\t12\né c.png\t7", (), [12, 7]),
        ("b.png\t-1\né c.png\t10\na.png\t2", (), [-1, 10, 2]),
    ):
        text.write_bytes(lines.encode())
        source = open_source(text, CONFIG)
        assert source.classes == classes and [label for _, label in shades(source)] == labels
        assert source.keys[:2] == ["b.png", "é c.png"]
    text.write_text("b.png\t1\né c.png\t-2")
    with pytest.raises(ValueError, match=r"list\.txt: labels are whole numbers from 0 on, or -1 for none, got -2"):
        open_source(text, CONFIG)
    text.write_text("b.png\t1\né c.png\t1")
    other = open_source(text, CONFIG).settings()
    text.write_text("b.png\t1\né c.png\t2")
    assert open_source(text, CONFIG).settings() != other


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to encode in"):
        open_source(tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match="nothing to encode in an empty list"):
        open_source([], CONFIG)
    (tmp_path / "list.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"nothing to encode in .*list\.txt"):
        open_source(tmp_path / "list.txt", CONFIG)
    with pytest.raises(FileNotFoundError, match="does not exist: expected"):
        open_source(tmp_path / "missing", CONFIG)
    with pytest.raises(FileNotFoundError, match="neither a folder nor"):
        open_source(save(tmp_path / "a.jpg"), CONFIG)
    for source in (7, {"image": 1}, iter([1])):
        with pytest.raises(TypeError, match="expected a folder"):
            open_source(source, CONFIG)


def test_samples_of_many_forms() -> None:
    red = Image.new("RGB", (16, 16), (7, 0, 0))
    samples: list[Any] = [(red, 2), (red, torch.tensor(3)), (red, np.int64(4)), (red, None), (red,), red]
    samples += [{"img": red, "label": 5}, {"pixel_values": red}, [red, 1]]
    assert [label for _, label in shades(open_source(samples, CONFIG))] == [2, 3, 4, -1, -1, -1, 5, -1, 1]
    tensors = TensorDataset(torch.full((2, 3, 16, 16), 7, dtype=torch.uint8), torch.tensor([1, 0]))
    assert shades(open_source(tensors, CONFIG)) == [(7, 1), (7, 0)]
    for label in (1.5, torch.ones(40), "cat"):
        with pytest.raises(TypeError, match="the label of sample 0 must be an integer"):
            open_source([(red, label)], CONFIG).load(0)
    with pytest.raises(TypeError, match=r'sample 0 has 3 entries: expected .*\{"image": \.\.\., "label": \.\.\.\}'):
        open_source([(red, 1, "more")], CONFIG).load(0)
    music = wt.load_codec("stereo_5x").config
    with pytest.raises(TypeError, match=r"sample 0 has 4 entries: .*sample_rate"):
        open_source([(torch.zeros(2, 99), 44100, "rock", 7)], music).load(0)
    with pytest.raises(TypeError, match=r"sample 0 must have an entry image or img .*'x'"):
        open_source([{"x": 1}], CONFIG).load(0)


def test_names_of_classes() -> None:
    class Named(list[Any]):
        classes = (("tench", "Tinca tinca"), ("goldfish",))

    assert open_source(Named([1]), CONFIG).classes == ("tench, Tinca tinca", "goldfish")


def test_hugging_face(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", 5)
    content = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 0, 0)).save(content, "PNG")
    features = datasets.Features(
        {"pic": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee"]), "text": datasets.Value("string")}
    )
    rows = {
        "pic": [
            {"path": str(file), "bytes": None},
            {"path": None, "bytes": content.getvalue()},
            None,
            {"path": None, "bytes": b"?"},
        ],
        "kind": [1, 0, 1, 1],
        "text": [""] * 4,
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    source = open_source(data, CONFIG)
    assert source.classes == ("ant", "bee") and shades(open_source(data.select([0, 1]), CONFIG)) == [(5, 1), (9, 0)]
    with pytest.raises(ValueError, match="row 2 is empty"):
        source.load(2)
    dataset = wt.encode_dataset(data, tmp_path / "out", "rgb_16x", workers=1, progress=False)
    assert dataset is not None
    assert dataset.unreadable() == [("2", "row 2 is empty"), ("3", "cannot identify image file '3'")]
    with pytest.raises(ValueError, match="one column of Image"):
        open_source(data.remove_columns("pic"), CONFIG)


def test_names_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    splits = {
        name: datasets.Dataset.from_dict({"image": [None] * n, "label": [3] * n}, features=features)
        for name, n in (("test", 1), ("train", 2), ("val", 3))
    }

    def load_dataset(name: str, split: str | None) -> Any:
        assert name == "owner/name"
        return splits[split] if split else asked

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    asked = splits
    assert len(open_source("hf:owner/name", CONFIG)) == 2
    assert len(open_source("hf:owner/name:val", CONFIG)) == 3
    asked = {"test": splits["test"]}
    assert len(open_source("hf:owner/name", CONFIG)) == 1
    asked = {"test": splits["test"], "val": splits["val"]}
    with pytest.raises(ValueError, match=r"has the splits .*'val'.*: expected hf:owner/name:SPLIT"):
        open_source("hf:owner/name", CONFIG)


def test_sounds_in_windows(tmp_path: Path) -> None:
    codec = wt.load_codec("stereo_20x")
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    stride, rate = codec.config.stride, codec.config.sample_rate
    for name, length, hertz in (
        ("a", 10 * stride + stride // 2, rate),
        ("b", 3 * stride, rate),
        ("c", 9 * stride, 8000),
    ):
        wave = np.random.RandomState(0).uniform(-0.5, 0.5, (length, 2))
        soundfile.write(sounds / f"{name}.wav", wave, hertz)
    (sounds / "bad.wav").write_bytes(b"no sound")
    dataset = wt.encode_dataset(sounds, tmp_path / "out", "stereo_20x", window=4, progress=False)
    assert dataset is not None and dataset.labels.tolist() == [-1] * 4
    assert dataset.sizes[:, 0].tolist() == [4 * stride, 4 * stride, 2 * stride + stride // 2, 3 * stride]
    as_dicts = wt.LatentDataset(tmp_path / "out", as_dict=True)
    assert [(as_dicts[i]["key"], as_dicts[i]["part"]) for i in range(4)] == [
        ("a.wav", 0),
        ("a.wav", 1),
        ("a.wav", 2),
        ("b.wav", 0),
    ]
    samples, _ = soundfile.read(sounds / "a.wav", dtype="float32")
    window = torch.from_numpy(samples.T.copy())[:, 4 * stride : 8 * stride]
    assert torch.equal(dataset[1][0].float(), codec.encode(window, rounding="round"))
    (damaged, slow) = dataset.unreadable()
    assert slow[0] == "c.wav" and "8000 Hz" in slow[1]
    assert damaged[0] == "bad.wav" and str(tmp_path) not in damaged[1]
    whole = wt.encode_dataset(sounds, tmp_path / "whole", "stereo_20x", progress=False)
    assert whole is not None and len(whole) == 2
    with pytest.raises(ValueError, match="resize is not for codec 'stereo_20x', which encodes audio"):
        wt.encode_dataset(sounds, tmp_path / "x", "stereo_20x", resize=64)

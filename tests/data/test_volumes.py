"""Latent data sets of volumes: of files, of tensors, cut, read in batches, and exchanged."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import walloc_transforms as wt
from tests.codec.test_volumes import moving
from walloc_transforms.files import write_volume


@pytest.fixture(scope="module")
def codec() -> wt.Codec:
    return wt.fit_codec([moving(seed=s) for s in range(8)], levels=(2, 3, 2), channels=24, name="clips", progress=False)


def encode(source: Any, out: Path, codec: wt.Codec, **options: Any) -> wt.LatentDataset:
    dataset = wt.encode_dataset(source, out, codec, progress=False, **options)
    assert dataset is not None
    return dataset


def rounded(codec: wt.Codec, clip: Tensor) -> Tensor:
    return codec.encode(clip, rounding="round").to(torch.int8)


def test_a_folder_of_arrays_of_several_sizes(codec: wt.Codec, tmp_path: Path) -> None:
    clips = {"left/0.npy": moving(12), "left/1.npy": moving(24, 44, seed=1), "right/2.npy": moving(12, seed=2) / 255}
    clips = {name: clip.to(torch.float32) if clip.is_floating_point() else clip for name, clip in clips.items()}
    bad = {"one": moving(1), "gray": moving(12, channels=2), "nan": moving(12) / 255 * torch.nan}
    for name, clip in {**clips, **{f"right/{name}.npy": clip for name, clip in bad.items()}}.items():
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "clips" / name, clip.numpy())
    np.save(tmp_path / "clips" / "right" / "pickle.npy", np.array([{}], object), allow_pickle=True)
    dataset = encode(tmp_path / "clips", tmp_path / "out", codec, shard_size=2, workers=1)
    assert (dataset.classes, dataset.labels.tolist()) == (("left", "right"), [0, 0, 1])
    assert dataset.sizes.tolist() == [[12, 40, 40], [24, 44, 44], [12, 40, 40]]
    assert dataset.grids.tolist() == [[3, 5, 10], [6, 6, 11], [3, 5, 10]]
    reasons = dict(dataset.unreadable())
    assert "got 1x40x40 samples, expected at least 4x8x4" in reasons["right/one.npy"]
    assert "shape (2, 12, 40, 40): expected (3, T, H, W)" in reasons["right/gray.npy"]
    assert "NaN" in reasons["right/nan.npy"]
    assert "right/pickle.npy" in reasons
    for (latents, _), clip in zip(dataset, clips.values(), strict=True):  # pyright: ignore[reportArgumentType]
        assert torch.equal(latents.as_subclass(Tensor), rounded(codec, clip))
        assert latents.signal_size == clip.shape[1:]
    prefix = wt.LatentDataset(tmp_path / "out", channels=6)
    assert prefix[1][0].shape == (6, 6, 6, 11)
    assert wt.WallocDecode(prefix.codec)(prefix[1][0]).shape == (3, 24, 44, 44)
    latents, labels = dataset[[0, 2]]
    assert (latents.shape, labels.tolist()) == ((2, 24, 3, 5, 10), [0, 1])
    with pytest.raises(ValueError, match="a batch holds records of one grid, got 2"):
        dataset[[0, 1]]
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        next(iter(DataLoader(dataset, batch_size=3)))
    sizes = {
        tuple(x.shape[2:]) for x, _ in DataLoader(dataset, sampler=wt.data.BucketSampler(dataset, 2), batch_size=None)
    }
    assert sizes == {(3, 5, 10), (6, 6, 11)}
    files = wt.data.to_parquet(dataset, tmp_path / "parquet", progress=False)
    again = wt.data.from_parquet(files, tmp_path / "again", progress=False)
    assert again.index == dataset.index


def test_crops_flips_and_windows_at_reading(codec: wt.Codec, tmp_path: Path) -> None:
    clips = [(moving(seed=seed), seed) for seed in range(3)]
    augment = [
        wt.transforms.LatentRandomHorizontalFlip(),
        wt.transforms.LatentRandomCrop((4, 6)),
        wt.transforms.LatentRandomWindow(2),
    ]
    encode(clips, tmp_path / "out", codec)
    dataset = wt.LatentDataset(tmp_path / "out", transform=v2.Compose(augment))
    latents, labels = dataset[[2, 0]]
    assert (latents.shape, latents.dtype, labels.tolist()) == ((2, 24, 2, 4, 6), torch.int8, [2, 0])
    assert latents.signal_size == (8, 32, 24)
    assert wt.WallocDecode(dataset.codec)(latents).shape == (2, 3, 8, 32, 24)


def test_options_cut_frames_and_time(codec: wt.Codec, tmp_path: Path) -> None:
    video = tv_tensors.Video(moving(27, 60).transpose(0, 1))
    dataset = encode([{"video": video, "label": 4}], tmp_path / "out", codec, resize=48, crop=(32, 40), window=3)
    resized = v2.functional.resize(video, [48], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    expected = v2.functional.center_crop(resized, [32, 40]).as_subclass(Tensor).transpose(0, 1)
    assert dataset.sizes.tolist() == [[12, 32, 40], [12, 32, 40]]  # three frames do not fill a cell
    assert torch.equal(dataset[1][0].as_subclass(Tensor), rounded(codec, expected[:, 12:24]))
    views = encode([moving()], tmp_path / "views", codec, crop=32, views=2)
    assert not torch.equal(views[0][0], views[1][0])
    with pytest.raises(ValueError, match=r"crop must be .* at least 8x4 pixels, a cell, got"):
        encode([moving()], tmp_path / "small", codec, crop=7)


def seen(clip: Tensor) -> Tensor:
    """Keep the order that files are handed over in, as plain functions do."""
    assert isinstance(clip, tv_tensors.Video)
    assert clip.shape == (12, 3, 40, 40)
    return (clip - 50) / 100


def test_transforms_of_files_get_video(codec: wt.Codec, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clip = moving(12).to(torch.int16)
    np.save(tmp_path / "clips" / "a.npy", (50 + clip / 255 * 100).round().to(torch.int16).numpy())
    with pytest.raises(TypeError, match=r"a\.npy: expected a volume of dtype uint8, uint16 or float, got torch\.int16"):
        encode(tmp_path / "clips", tmp_path / "plain", codec)
    dataset = encode(tmp_path / "clips", tmp_path / "out", codec, transform=seen)
    assert (dataset[0][0].as_subclass(Tensor) - rounded(codec, clip.to(torch.uint8))).abs().max() <= 4


def test_what_is_left_out_is_a_volume(codec: wt.Codec, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encode([(moving(12), 0), (moving(12)[:, :1], 0)], tmp_path, codec)
    assert "1 of 2 volumes are left out" in capfd.readouterr().err


def test_hugging_face(codec: wt.Codec, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", moving(8).numpy())
    features = datasets.Features({"clip": datasets.Video(), "kind": datasets.ClassLabel(names=["ant", "bee"])})
    rows = {"clip": [{"path": str(tmp_path / "a.npy"), "bytes": None}], "kind": [1]}
    dataset = encode(datasets.Dataset.from_dict(rows, features=features), tmp_path / "out", codec)
    assert (dataset.classes, dataset.labels.tolist()) == (("ant", "bee"), [1])
    assert torch.equal(dataset[0][0].as_subclass(Tensor), rounded(codec, moving(8)))


def test_video_files(codec: wt.Codec, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="video files need PyAV")
    (tmp_path / "clips").mkdir()
    for seed in range(2):
        write_volume(tmp_path / "clips" / f"{seed}.mp4", [moving(12, seed=seed) / 255], (12, 40, 40), 3, Fraction(25))
    content = (tmp_path / "clips" / "1.mp4").read_bytes()
    (tmp_path / "clips" / "cut.mp4").write_bytes(content[:-100])
    (tmp_path / "clips" / "none.mp4").write_bytes(b"")
    dataset = encode(tmp_path / "clips", tmp_path / "out", codec, workers=1)
    assert dataset.sizes.tolist() == [[12, 40, 40]] * 2
    assert [key for key, _ in dataset.unreadable()] == ["cut.mp4", "none.mp4"]
    assert "cut.mp4 is cut off" in dataset.unreadable()[0][1]
    off = dataset[1][0].as_subclass(Tensor).float() - rounded(codec, moving(12, seed=1))
    assert off.square().mean().sqrt() < 4  # H.264 loses a little

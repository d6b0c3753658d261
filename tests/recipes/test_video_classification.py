"""The recipe that classifies clips: its demo, its arms, and all of it made small."""

import csv
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch

from recipes import video_classification
from recipes.video import arms, clips, motion
from walloc_transforms.files import write_volume

SIZE = (8, 32, 32)
SMALL: dict[str, Any] = {
    "size": SIZE,
    "demo_clips": (48, 16),
    "fitted_clips": 48,
    "epochs": 1,
    "batch_size": 8,
    "width": 4,
    "seeds": 1,
}


def test_the_middle_frame_does_not_tell() -> None:
    """It is the same whatever moves, and no other frame is."""
    made = [
        motion.moving_objects(2, SIZE, training=True, seed=3, motions=(name,))[0].float() for name in motion.MOTIONS
    ]
    for other in made[1:]:
        assert torch.equal(other[:, :, SIZE[0] // 2], made[0][:, :, SIZE[0] // 2])
        assert (other[:, :, [0, -1]] - made[0][:, :, [0, -1]]).abs().amax((1, 3, 4)).min() > 20


@pytest.mark.slow
def test_motions() -> None:
    """What a class says happens."""
    made, labels = motion.moving_objects(8, (17, 64, 64), training=True, seed=3)
    again, _ = motion.moving_objects(9, (17, 64, 64), training=True, seed=3)
    other, _ = motion.moving_objects(8, (17, 64, 64), training=False, seed=3)
    assert torch.equal(made, again[:8])
    assert not torch.equal(made, other)
    assert labels.tolist() == list(range(8))
    for clip, name in zip(made.int(), motion.MOTIONS, strict=True):
        changed = [(clip[:, t] - clip[:, 8]).abs().amax(0) > 20 for t in (0, 16)]
        assert all(part.any() for part in changed), name
        columns, rows = (np.mean([np.argwhere(part.numpy())[:, axis].mean() for part in changed]) for axis in (1, 0))
        assert 0 < columns < 64
        assert 0 < rows < 64
        first, last = changed
        if name in ("left", "right"):
            means = [float(torch.argwhere(part)[:, 1].float().mean()) for part in (first, last)]
            assert (means[0] > means[1]) == (name == "left")
        if name in ("up", "down"):
            means = [float(torch.argwhere(part)[:, 0].float().mean()) for part in (first, last)]
            assert (means[0] > means[1]) == (name == "up")


@pytest.mark.parametrize("name", arms.ARMS)
def test_arms_give_as_many_values_as_they_say(name: str) -> None:
    pixels = torch.randint(0, 256, (24, 3, 16, 32, 48), dtype=torch.uint8)
    features = arms.make_arm(name, pixels)(pixels[:2])
    assert features.shape == (2, arms.values_of(name), 4, 4, 6)
    moved = arms.make_arm(name, pixels)(pixels[:2].flip(2))
    assert torch.equal(features, moved) is False


def test_a_single_frame_is_all_that_still_reads() -> None:
    pixels = torch.randint(0, 256, (1, 3, 16, 32, 32), dtype=torch.uint8)
    shuffled = pixels.clone()
    shuffled[:, :, torch.tensor([0, 7, 9, 15])] = 0
    still = arms.make_arm("still", pixels)
    assert torch.equal(still(pixels), still(shuffled))


def test_dct_is_scipys() -> None:
    pixels = torch.randint(0, 256, (1, 3, 4, 8, 8), dtype=torch.uint8)
    features = arms.make_arm("dct", pixels)(pixels).view(3, 8)
    block: Any = scipy.fft.dctn(pixels[0, 1].numpy() / 255 - 0.5, norm="ortho")
    lowest = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 0, 2), (0, 1, 1), (0, 2, 0), (1, 0, 0), (0, 0, 3)]
    assert features[1].tolist() == pytest.approx([block[f] for f in lowest], abs=1e-5)


@pytest.mark.slow
def test_all_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    config = video_classification.Config(output_dir=out, **SMALL)
    rows = {row["arm"]: row for row in video_classification.main(config)}
    assert list(rows) == list(arms.ARMS)
    assert {row["tokens"] for row in rows.values()} == {32}
    assert {row["values"] for arm, row in rows.items() if arm not in ("still", "patch")} == {32 * 24}
    assert rows["patch"]["values"] == math.prod((3, *SIZE))
    assert all(0 <= row["accuracy"] <= 100 and row["seeds"] == 1 for row in rows.values())
    table = (out / "table.md").read_text("utf-8")
    assert table.count("\n| walloc |") == 2
    assert "counterclockwise" in table
    with (out / "table.csv").open() as text:
        assert [row["arm"] for row in csv.DictReader(text)] == list(arms.ARMS)
    assert (out / "figure.png").is_file()
    assert (out / "sheet.png").is_file()
    assert len((out / "walloc_seed0" / "metrics.jsonl").read_text().splitlines()) == 1
    assert len(json.loads((out / "walloc_seed0" / "result.json").read_text())["said"]) == 16

    monkeypatch.setattr(video_classification, "train_classifier", lambda *_: pytest.fail("trained again"))
    config.resume = True
    assert [row["accuracy"] for row in video_classification.main(config)] == [row["accuracy"] for row in rows.values()]
    config.epochs += 1
    with pytest.raises(ValueError, match="holds a run with epochs 1, and is to be resumed with 2"):
        video_classification.main(config)


def save_clips(folder: Path, count: int, frames: int = 10) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        np.save(folder / f"{number}.npy", np.random.default_rng(number).integers(0, 256, (3, frames, 40, 36), np.uint8))


@pytest.mark.slow
def test_a_folder_of_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("jump", "run"):
        save_clips(tmp_path / "clips" / name, 6)
    np.save(tmp_path / "clips" / "run" / "1.npy", np.zeros((3, 5, 40, 36), np.uint8))
    (tmp_path / "clips" / "run" / "2.npy").write_bytes(b"no array")
    np.save(tmp_path / "clips" / "run" / "3.npy", np.zeros((4, 3), np.uint8))
    source = clips.open_source(str(tmp_path / "clips"), SIZE)
    assert source.classes == ["jump", "run"]
    train, held_out = clips.make_clips(source, SIZE, (0, 0), 3, 0, show=False)
    assert (train.pixels.shape, held_out.pixels.shape) == ((15, 3, *SIZE), (4, 3, *SIZE))
    assert train.labels.tolist() == [0] * 12 + [1] * 3
    said = capsys.readouterr().out
    assert said.count("skipped") == 3
    assert "it has 5 frames, expected at least 8" in said

    options = {**SMALL, "data": str(tmp_path / "clips"), "arms": ("resize", "walloc"), "output_dir": tmp_path / "out"}
    with pytest.raises(ValueError, match="20 of 20 training clips have 640 cells, a codec needs 768"):
        video_classification.main(video_classification.Config(**options))
    assert not (tmp_path / "out").exists()
    rows = video_classification.main(video_classification.Config(**options, clips_per_file=6))
    assert [row["arm"] for row in rows] == ["resize", "walloc"]


def test_videos_are_read(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="video files need PyAV")
    drifting = torch.linspace(0, 255, 48).to(torch.uint8).expand(3, 6, 32, 48)
    frames = (drifting / 255).split(1, 1)
    write_volume(tmp_path / "clip.mp4", frames, (6, 32, 48), 3, Fraction(25))
    clip = clips.read_clip(tmp_path / "clip.mp4")
    assert clip.shape == drifting.shape
    assert (clip.int() - drifting.int()).abs().float().mean() < 4


def test_bad_settings_and_data(tmp_path: Path) -> None:
    for options, message in [
        ({"size": (6, 32, 32)}, r"size must be multiples of \(4, 8, 8\), got \(6, 32, 32\)"),
        ({"size": (8, 128, 128)}, "the demo's clips have sides of at most 64 pixels, got 128x128"),
        ({"arms": ("rgb_16x",)}, "unknown arm 'rgb_16x': expected one of still, patch"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            video_classification.main(video_classification.Config(output_dir=tmp_path / "out", **{**SMALL, **options}))
    save_clips(tmp_path / "one" / "only", 2)
    with pytest.raises(FileNotFoundError, match="one subfolder of clips per class, found 1"):
        clips.open_source(str(tmp_path / "one"), SIZE)
    for name in "ab":
        save_clips(tmp_path / "few" / name, 1)
    with pytest.raises(ValueError, match=r"no clip of .* validates"):
        clips.open_source(str(tmp_path / "few"), SIZE)
    for name in "ab":
        save_clips(tmp_path / "short" / name, 2, frames=4)
    with pytest.raises(ValueError, match="none of 2 files is a clip of at least 8 frames"):
        clips.make_clips(clips.open_source(str(tmp_path / "short"), SIZE), SIZE, (0, 0), 1, 0, show=False)
    assert not (tmp_path / "out").exists()

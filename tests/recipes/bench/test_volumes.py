"""The part about volumes of the benchmark, made small."""

import pytest

from recipes.bench import volumes


def test_volumes_and_video_are_measured_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHUNK": 16, "HEIGHT": 32, "WIDTH": 48, "MEMORY_FRAMES": 16}.items():
        monkeypatch.setattr(volumes, name, value)
    monkeypatch.setattr(volumes, "in_fresh_process", lambda function, *args: function(*args))
    records = volumes.volume_part(volumes.VolumeSettings(side=64, frames=40), 1, 1, 1.0)
    assert [(r["signal"], r["call"]) for r in records] == [(s, c) for s in ("cube", "video") for c in volumes.CALLS]
    assert all(r["seconds"] > 0 for r in records)
    text = volumes.volume_report(records)
    assert "64^3, gray" in text
    assert "40 frames of 48x32, RGB" in text
    assert text.count("\n| ") == 10  # a row for each record, heads and rule


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        volumes.check_volume(volumes.VolumeSettings(side=20))


def test_resizing_and_codecs_keep_as_many_values() -> None:
    assert volumes.volume_codec(volumes.CUBE_LEVELS, 1, volumes.CUBE_SMALLER).config.dimensionality_reduction == 64
    assert volumes.volume_codec(volumes.VIDEO_LEVELS, 3, volumes.VIDEO_SMALLER).config.dimensionality_reduction == 32

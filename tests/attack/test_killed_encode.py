"""Kill ``encode_dataset`` at random moments, and run it again: the data set is that of an undisturbed run."""

import random
from pathlib import Path

import pytest

from tests.attack.killed_encode import kill_series, make_images


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # torch's threads are asleep
@pytest.mark.parametrize("workers", [0, 2])
def test_encode_is_killed_and_goes_on(tmp_path: Path, workers: int) -> None:
    outcome = kill_series(make_images(tmp_path / "images"), tmp_path / "out", 8, workers, random.Random(17))
    assert outcome["killed"] == 8 and outcome["whole shards left"]
    assert not outcome["failed"] and not outcome["left otherwise"] and not outcome["different in the end"]

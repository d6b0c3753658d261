"""A few cold starts with many threads; ``tests/attack/race.py`` makes thousands."""

from pathlib import Path

import pytest

from tests.attack.race import race
from tests.helpers import make_codec


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rgb_16x", "rgb_4x_viewing", "stereo_5x"])
def test_threads_get_what_one_gets(name: str) -> None:
    assert not race(name, starts=5)


@pytest.mark.slow
def test_stages_are_loaded_with_the_decoder_that_they_see(tmp_path: Path) -> None:
    make_codec(12, stages=3).save_pretrained(tmp_path)
    assert not race(str(tmp_path), starts=5)

"""A few cold starts with many threads; ``tests/attack/race.py`` makes thousands."""

import pytest

from tests.attack.race import race


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rgb_16x", "rgb_4x_joint", "stereo_5x"])
def test_threads_get_what_one_gets(name: str) -> None:
    assert not race(name, starts=10)

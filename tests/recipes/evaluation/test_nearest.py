"""The search for the setting that gives a file of some size."""

import math

import pytest

from recipes.evaluation.nearest import Coded, nearest_file


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_integer_settings(falling: bool) -> None:
    """Sizes rise or fall with the setting, and jump."""
    tried: list[float] = []

    def encode(setting: float) -> Coded:
        tried.append(setting)
        level = 100 - setting if falling else setting
        return Coded(bytes(round(1000 * math.exp(level / 30)) + 500 * (level > 40)), setting, 0.0)

    ends = (100, 0) if falling else (0, 100)
    for wanted in (1, 17, 40, 41, 77, 99):
        size = len(encode(100 - wanted if falling else wanted).content)
        tried.clear()
        found = nearest_file(encode, *ends, size + 3, integers=True, tries=50, tolerance=0)
        assert found.setting == (100 - wanted if falling else wanted)
        assert len(tried) <= 14
        assert all(setting == int(setting) for setting in tried)
    assert nearest_file(encode, *ends, 1, integers=True).setting == ends[0]
    assert nearest_file(encode, *ends, 10**6, integers=True).setting == ends[1]

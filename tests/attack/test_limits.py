"""SECURITY.md states the limits that the code has."""

import importlib
import re
from pathlib import Path

from walloc_transforms.zoo.checkpoints import Limits

ROW = re.compile(r"\| `([A-Z_]{4,}|Limits\.\w+)` \| ([^|]+) \| `?([^|`]+)`? \|")
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def number(text: str) -> int:
    """Read ``2^21``, ``4,000,000`` or ``64 KiB``."""
    match = re.fullmatch(r"(?:(\d+)\^(\d+)|([\d,]+) ?(\w*))", text)
    assert match, text
    if match[1]:
        return int(match[1]) ** int(match[2])
    return int(match[3].replace(",", "")) * UNITS[match[4]]


def test_limits_are_those_of_the_code() -> None:
    rows = ROW.findall((Path(__file__).parents[2] / "SECURITY.md").read_text())
    assert len(rows) == 15
    module = ""
    for name, value, place in rows:
        module = place if place.startswith("walloc_transforms.") else module
        found = getattr(Limits(), name.removeprefix("Limits.")) if "." in name else None
        found = getattr(importlib.import_module(module), name) if found is None else found
        stated = [number(part) for part in value.split(", ")]
        assert stated == ([*found.values()] if isinstance(found, dict) else [found]), name

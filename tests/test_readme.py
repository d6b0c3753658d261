"""The README's code runs as it stands, in order, and its links lead somewhere."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert sorted(os.listdir("my_codec")) == ["config.json", "weights.safetensors"]


def test_links() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_recipes_are_all_named() -> None:
    recipes = {file.stem for file in (ROOT / "recipes").glob("*.py")} - {"__init__"}
    assert recipes == set(re.findall(r"^\| `python -m recipes\.(\w+)`", README, flags=re.MULTILINE))

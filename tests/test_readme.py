"""The README's code runs as it stands, in order, and its links lead somewhere."""

import os
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from walloc_transforms.cli.app import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert {"stored", "my_model"} == set(os.listdir())


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (80, 64), "teal").save("photos/a.jpg")
    for command in block.splitlines():
        program, *arguments = shlex.split(command)
        assert program == "walloc"
        assert main(arguments) == 0, command
    with Image.open("decoded/a.png") as decoded:
        assert decoded.size == (80, 64)


def test_links() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_recipes_are_all_named() -> None:
    recipes = {file.stem for file in (ROOT / "recipes").glob("[!_]*.py")}
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    assert recipes == set(re.findall(r"^\| `python -m recipes\.(\w+)`", page, flags=re.MULTILINE))

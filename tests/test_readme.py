"""The README's code runs as it stands, in order, and its links lead somewhere."""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import walloc_transforms as wt
from tests.reference import save_checkpoint
from walloc_transforms.cli.app import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert sorted(os.listdir("my_codec")) == ["config.json", "weights.safetensors"]


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 8
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (64, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photos/a.jpg")
    save_checkpoint(tmp_path, "codec2d", "json").rename("RGB_16x.pth")
    Path("codec2d.json").rename("RGB_16x.json")
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "walloc"
        assert main(arguments) == 0, command
    made = {"a.wlc", "a.png", "filters.png", "latents/a.wlc", "decoded/a.png", "latents_of_it/a.wlc"}
    assert all(Path(name).is_file() for name in made)
    assert wt.load_latents("latents_of_it/a.wlc").latents.shape == (12, 8, 10)


def test_links() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_recipes_are_all_named() -> None:
    recipes = {file.stem for file in (ROOT / "recipes").glob("*.py")} - {"__init__"}
    assert recipes == set(re.findall(r"^\| `python -m recipes\.(\w+)`", README, flags=re.MULTILINE))

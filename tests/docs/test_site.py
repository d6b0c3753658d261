"""What Sphinx does not notice: names that no page describes, and code on a page that does not run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.reference import save_checkpoint
from tests.test_api import public_objects
from walloc_transforms.cli.app import main
from walloc_transforms.stems import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for granted: a photograph, a folder of photographs for each class, and a song."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (640, 480), "teal").save("photo.jpg")
    for number, color in enumerate(["gold", "teal"] * 2):
        Path("photos", color).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 280), color).save(f"photos/{color}/{number}.jpg")
    soundfile.write("song.wav", np.zeros((1000, 2)), 44100)
    return tmp_path


def test_every_public_name_is_described_once_and_listed() -> None:
    pages = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "api").glob("*.md")))
    described = re.findall(r"^\.\. auto(?:class|function):: walloc_transforms\.(\S+)$", pages, flags=re.MULTILINE)
    tables = re.findall(
        r"^\.\. currentmodule:: walloc_transforms(\S*)\n\n\.\. autosummary::\n.*\n\n((?:   \w+\n)+)",
        pages,
        flags=re.MULTILINE,
    )
    listed = [f"{module}.{name}".lstrip(".") for module, names in tables for name in names.split()]
    assert sorted(described) == sorted(listed) == sorted(public_objects())


@pytest.mark.parametrize(
    "page",
    [
        *("start.md", "dataloader.md", "latents.md", "own_codec.md", "sound.md", "volumes.md"),
        pytest.param("stems.md", marks=pytest.mark.slow),
    ],
)
def test_the_code_of_a_page_runs(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / page).read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {})
    assert capsys.readouterr().out.strip() in text


@pytest.mark.slow
def test_the_commands_of_the_pages_run(folder: Path) -> None:
    save_checkpoint(folder, "codec2d", "json").rename("RGB_16x.pth")
    Path("codec2d.json").rename("RGB_16x.json")
    Path("photo.jpg").rename("photos/a.jpg")
    for page in ("command.md", "published.md"):
        blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for command in "".join(blocks).splitlines():
            assert main(shlex.split(command.removeprefix("walloc "))) == 0, command
    made = {"a.wlc", "a.png", "latents/a.wlc", "decoded/a.png", "latents_of_it/a.wlc"}
    assert all(Path(name).is_file() for name in made)


def test_every_family_of_stems_is_named() -> None:
    page = " ".join((DOCS / "stems.md").read_text("utf-8").split())
    assert all(model in page for family in FAMILIES.values() for model in family.models.split(", "))

"""What Sphinx does not notice: names that no page describes, and code on a page that does not run."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.test_api import public_objects

DOCS = Path(__file__).parents[2] / "docs"


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


@pytest.mark.parametrize("page", ["start.md", "own_codec.md"])
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DOCS / page).read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (640, 480), "teal").save("photo.jpg")
    exec(compile("\n".join(blocks), page, "exec"), {})
    assert capsys.readouterr().out.strip() in text

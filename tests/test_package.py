"""What is published: the files of sdist and wheel, the page of an index, and recipes without a checkout."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import walloc_transforms as wt

ROOT = Path(__file__).parents[1]
NAME = f"walloc_transforms-{wt.__version__}"
MAX_BYTES = {"wheel": 20_000_000, "sdist": 24_000_000}  # test_embedded_weights_are_small bounds each file of weights
RELATIVE_LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


def files(folder: Path) -> set[str]:
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {file.as_posix() for file in found if "__pycache__" not in file.parts}


def build(target: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = folder.iterdir()
    assert made.stat().st_size < MAX_BYTES[target]
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    known: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before Python 3.10.12 and 3.11.4
    with tarfile.open(build("sdist", ROOT, folder / "built")) as archive:
        archive.extractall(folder, **known)
    return folder / NAME


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that an installer builds of the source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build("wheel", sdist, folder / "built")) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_wheel_has_package_weights_and_recipes(wheel: Path) -> None:
    weights = ("README.md", "config.json", "refiner.safetensors", "weights.safetensors")
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    package, recipes = files(ROOT / "walloc_transforms"), files(ROOT / "recipes")
    assert files(wheel) == {
        *(f"walloc_transforms/{file}" for file in package),
        *(f"walloc_transforms/bundled/recipes/{file}" for file in recipes),
        *(f"{NAME}.dist-info/{file}" for file in about),
    }
    assert {"py.typed", *(f"weights/{codec}/{file}" for codec in wt.available_codecs() for file in weights)} <= package
    assert "answers/adapters/lite0_rgb_16x.safetensors" in recipes
    suffixes = {Path(file).suffix for file in package | recipes}
    assert suffixes <= {".html", ".json", ".md", ".py", ".safetensors", ".typed"}


@pytest.mark.slow
def test_sdist_has_sources_and_docs(sdist: Path) -> None:
    texts = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md")
    found = {entry.name for entry in sdist.iterdir()}
    assert found == {*texts, "PKG-INFO", "pyproject.toml", ".gitignore", "docs", "recipes", "walloc_transforms"}
    links = RELATIVE_LINK.findall((sdist / "README.md").read_text("utf-8"))
    assert links and all((sdist / link).is_file() for link in links)
    suffixes = {Path(file).suffix for file in files(sdist / "docs")}
    assert suffixes <= {".css", ".html", ".jpg", ".js", ".md", ".png", ".py", ".rst", ".svg"}
    outputs = {"runs", "_build", "tests", "shared"}
    assert not any(outputs & set(file.split("/")) for file in files(sdist))


@pytest.mark.slow
def test_page_of_an_index_is_readable_without_the_files(wheel: Path) -> None:
    message = email.message_from_bytes((wheel / f"{NAME}.dist-info" / "METADATA").read_bytes())
    page = message.get_payload(decode=True)
    assert isinstance(page, bytes)
    page = page.decode()
    assert message["Description-Content-Type"] == "text/markdown"
    assert page.startswith("# walloc_transforms") and page.count("\n") > 100
    assert RELATIVE_LINK.findall(re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)) == []
    assert "-m recipes." not in page
    commands = re.findall(r"pip install[^`\n]*", page)
    assert 'pip install "walloc_transforms[recipes]" && python -m walloc_transforms.recipes pretrained' in commands
    assert [command for command in commands if "walloc_transforms" not in command] == [
        'pip install -e ".[test]" && pytest'
    ]


@pytest.mark.slow
def test_recipes_run_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "walloc_transforms.recipes", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(wheel)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    (tmp_path / "recipes").mkdir()  # of someone else
    (tmp_path / "recipes" / "__init__.py").write_text("raise ImportError")
    recipes = sorted(file.stem for file in (ROOT / "recipes").glob("[!_]*.py"))
    assert run().stdout.splitlines()[1] == f"recipes: {', '.join(recipes)}"
    done = run("evaluate_coders", "--help")
    assert done.returncode == 0, done.stderr
    assert "walloc_transforms/bundled/recipes/evaluate_coders.py" in done.stdout
    done = run("evaluate_coder")
    assert done.returncode == 1
    assert done.stderr.startswith("no recipe 'evaluate_coder': there are augmentation, ")


def test_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    entries = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert entries[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", entry) for entry in entries[1:])
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds

"""The house as docs/architecture.md draws it: its rooms, and the direction of imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "walloc_transforms"
HEAVY = {
    "constriction",
    "diffusers",
    "huggingface_hub",
    "matplotlib",
    "numba",
    "PIL",
    "pyarrow",
    "pytorch_wavelets",
    "ray",
    "soundfile",
    "timm",
    "torch._dynamo",
    "torchaudio",
    "torchvision",
}


@dataclass(frozen=True)
class Import:
    """One imported name: ``name`` of module ``target``, or the module itself."""

    source: str
    line: int
    target: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: {self.name or ''} from {self.target}"


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def files(folder: str) -> dict[str, Path]:
    return {module_of(file): file for file in sorted((ROOT / folder).rglob("*.py"))}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), str(file))


def imports(module: str, file: Path) -> Iterator[Import]:
    """All imports of a file, those in functions and those for type checkers too."""
    home = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                known = f"{target}.{alias.name}" in {**files(PACKAGE), **files("recipes"), **files("tests")}
                yield Import(
                    module, node.lineno, f"{target}.{alias.name}" if known else target, None if known else alias.name
                )


def package_imports() -> list[Import]:
    """Imports of the package's own modules by its modules; the ``__init__`` above the house has the version for all."""
    found = [i for module, file in files(PACKAGE).items() if module != PACKAGE for i in imports(module, file)]
    return [i for i in found if i.target.split(".")[0] == PACKAGE and i.name != "__version__"]


def room(module: str) -> str:
    return module.split(".")[1]


@cache
def drawing() -> dict[str, set[str]]:
    """Rooms from the top down, and the files of each that is a folder."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    picture = re.search(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert picture, "docs/architecture.md has no drawing"
    rooms: dict[str, set[str]] = {}
    for line in re.sub(r"\n  +", " ", picture[1]).splitlines():
        name, rest = re.split(r"  +", line, maxsplit=1)
        is_folder = name.endswith("/")
        rooms[name.rstrip("/")] = set(re.split(r", *", re.split(r"  +", rest)[0])) if is_folder else set()
    return rooms


def test_drawing_shows_every_module() -> None:
    built: dict[str, set[str]] = {}
    for module, file in files(PACKAGE).items():
        _, *rest = module.split(".")
        if rest:
            built.setdefault(rest[0], set()).update(rest[1:])
            assert len(rest) <= 2, f"{file} lies deeper than the drawing"
    assert drawing() == built


def test_every_room_has_a_paragraph() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    folders = {file.parent.name for file in files(PACKAGE).values()}
    described = re.findall(r"^\*\*(\w+)(/?)\*\*", text, re.MULTILINE)
    assert [name for name, _ in described] == list(drawing())
    assert all((name in folders) == bool(slash) for name, slash in described)


def test_imports_point_down() -> None:
    floors = list(drawing())
    wrong = [
        str(i)
        for i in package_imports()
        if room(i.source) != room(i.target) and floors.index(room(i.source)) > floors.index(room(i.target))
    ]
    assert wrong == [], "imports that point up: " + "; ".join(wrong)


def test_rooms_are_entered_by_their_doors() -> None:
    """Only what a folder's ``__init__`` names is used elsewhere."""
    wrong = []
    for i in package_imports():
        if room(i.source) != room(i.target):
            door = files(PACKAGE)[f"{PACKAGE}.{room(i.target)}"]
            is_folder = door.name == "__init__.py"
            if i.target.count(".") > 1 or (is_folder and i.name and i.name not in exported(door)):
                wrong.append(str(i))
    assert wrong == [], "imports past a folder's __init__: " + "; ".join(wrong)


def exported(file: Path) -> list[str]:
    for node in tree(file).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{file} has no __all__")


def test_no_circles_within_a_room() -> None:
    graph: dict[str, set[str]] = {module: set() for module in files(PACKAGE)}
    for i in package_imports():
        if room(i.source) == room(i.target):
            graph[i.source].add(i.target)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("folder", [PACKAGE, "recipes", "tests"])
def test_private_names_stay_in_their_file(folder: str) -> None:
    wrong = []
    for module, file in files(folder).items():
        ours = {}
        for i in imports(module, file):
            if i.target.split(".")[0] in (PACKAGE, "recipes", "tests"):
                ours[i.name or i.target.split(".")[-1]] = i
                if is_private(i.name or "") or any(map(is_private, i.target.split("."))):
                    wrong.append(str(i))
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and is_private(node.attr):
                known = ours.get(node.value.id)
                if known and known.name is None:
                    wrong.append(f"{module}, line {node.lineno}: {node.value.id}.{node.attr}")
    assert wrong == [], "private names used elsewhere: " + "; ".join(wrong)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_common_knows_no_recipe() -> None:
    found = [i for module, file in files("recipes").items() if ".common" in module for i in imports(module, file)]
    wrong = [str(i) for i in found if i.target.startswith("recipes.") and not i.target.startswith("recipes.common")]
    assert wrong == []


def test_import_is_light() -> None:
    code = f"import sys, walloc_transforms; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

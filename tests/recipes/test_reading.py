"""Reading reduced documents: scores worked out by hand, what is refused, what is kept, and the demo read for real."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from recipes import reading
from recipes.documents import reader as reader_module
from recipes.documents.pages import draw_demo_page, load_pages
from recipes.documents.reader import Line
from recipes.documents.report import mean_over_pages
from recipes.documents.scores import edit_distance, score_page
from recipes.documents.sheet import excerpt, line_to_show
from recipes.reading import Config

# scores


@cache
def defined_distance(a: str, b: str) -> int:
    """Levenshtein's distance as it is defined, by recursion from the front."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return defined_distance(a[1:], b[1:])
    return 1 + min(defined_distance(a[1:], b), defined_distance(a, b[1:]), defined_distance(a[1:], b[1:]))


def test_edit_distance() -> None:
    assert (edit_distance("kitten", "sitting"), edit_distance("", "abc"), edit_distance("abc", "")) == (3, 3, 3)
    choose = random.Random(0)
    for _ in range(200):
        a, b = ("".join(choose.choices("ab c", k=choose.randrange(9))) for _ in range(2))
        assert edit_distance(a, b) == defined_distance(a, b) == edit_distance(b, a)


def test_scores_worked_out_by_hand() -> None:
    """Of four lines one is right but for case and spaces, one has 1 of 5 wrong, one half wrong, one was not found."""
    annotated = ["TOTAL  7.00", "CASH:", "AB", "WWWWWWWW"]
    read = ["total7.00", "CRSH:", "AX", "further"]
    scores = score_page(annotated, read)
    assert scores["exact"] == 25
    assert scores["anls"] == pytest.approx(100 * (1 + 4 / 5 + 0 + 0) / 4)  # one half counts as nothing
    assert scores["cer"] == pytest.approx(100 * (0 + 1 + 1 + 8) / (9 + 5 + 2 + 8))  # the last is left out: 8 edits


def test_scores_of_nothing_and_of_all() -> None:
    assert score_page(["ab", "c"], []) == {"anls": 0, "exact": 0, "cer": 100}
    assert score_page(["A b", "c", "c"], ["c", "ab"]) == {"anls": 100, "exact": 100, "cer": 0}  # "c" serves twice
    assert score_page(["a"], ["a much longer line"])["cer"] == 100  # never more than leaving it out takes


def test_means_and_standard_errors() -> None:
    scores = [{"anls": 80.0, "exact": 50.0, "cer": 4.0}, {"anls": 90.0, "exact": 70.0, "cer": 2.0}]
    row = mean_over_pages([{"arm": "pixels", "values": 10 + i, **own} for i, own in enumerate(scores)])[0]
    assert (row["anls"], row["exact"], row["cer"], row["pages"]) == (85, 60, 3, 2)
    assert (row["anls se"], row["exact se"], row["cer se"]) == pytest.approx((5, 10, 1))


# pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (60, 20), "white").save(tmp_path / "scans" / f"{name}.png")
        (tmp_path / "scans" / f"{name}.txt").write_text(f"LINE {name}\n\n second line \n")
    return tmp_path / "scans"


def test_pages_of_a_folder(folder: Path) -> None:
    pages = load_pages(str(folder), None)
    assert [(page.name, page.lines) for page in pages] == [
        ("a.png", ["LINE a", "second line"]),
        ("b.png", ["LINE b", "second line"]),
    ]
    assert [page.name for page in load_pages(str(folder), 1)] == ["b.png"]


def test_demo_pages_are_always_the_same() -> None:
    (image, lines), (again, same_lines) = draw_demo_page(3), draw_demo_page(3)
    assert (image.tobytes(), lines) == (again.tobytes(), same_lines)
    assert lines != draw_demo_page(4)[1]
    assert len(lines) > 15
    assert image.convert("L").getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scans: (scans / "a.txt").unlink(), r"no lines beside .*a\.png: expected a text file .* as a\.txt"),
        (lambda scans: (scans / "a.txt").write_text(" \n\n"), r"a\.txt has no line"),
        (lambda scans: (scans / "a.txt").write_bytes(b"\xff\xfe\x00"), r"a\.txt is not UTF-8"),
        (lambda scans: [file.unlink() for file in scans.glob("*.png")], r"there is no image in .*scans"),
    ],
)
def test_folders_that_do_not_do(folder: Path, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        reading.main(Config(data=str(folder), output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# the recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ()}, "at least one arm, and each once, got none"),
        ({"arms": ("pixels", "pixels")}, "each once, got pixels, pixels"),
        ({"arms": ("thumbnail",)}, "unknown arm 'thumbnail': expected one of pixels, resized_4x"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"data": "/nowhere"}, "no folder '/nowhere'"),
    ],
)
def test_refuses_at_once(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        reading.main(Config(**options, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_says_how_to_install_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "NEEDED", ("no_such_reader",))
    with pytest.raises(ValueError, match=r"^reading needs no_such_reader: pip install -e '\.\[reading\]'$"):
        reading.main(Config(output_dir=tmp_path / "out"))


class FakeReader:
    """Reads "LINE a, second line" wherever it looks, and counts how often it does."""

    name = "a fake"
    calls = 0

    def read(self, page: Tensor) -> list[Line]:
        FakeReader.calls += 1
        assert (page.dtype, page.shape) == (torch.uint8, (3, 20, 60))
        return [Line("line A", (2, 2, 50, 8)), Line("second-line-x", (2, 10, 50, 18))]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeReader]:
    monkeypatch.setattr(reading, "Reader", FakeReader)
    monkeypatch.setattr(FakeReader, "calls", 0)
    return FakeReader


def test_tables_and_resuming(folder: Path, tmp_path: Path, fake: type[FakeReader]) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "broken.txt").write_text("LINE\n")
    config = Config(data=str(folder), arms=("pixels", "rgb_16x"), output_dir=tmp_path / "out")
    rows = reading.main(config)
    assert [(row["arm"], row["values"], row["pages"]) for row in rows] == [("pixels", 3600, 2), ("rgb_16x", 288, 2)]
    assert rows[0]["exact"] == 25  # one line of one page
    assert fake.calls == 4
    with (tmp_path / "out" / "pages.csv").open() as text:
        assert [(row["page"], row["arm"], row["annotated"], row["read"]) for row in csv.DictReader(text)] == [
            (page, arm, "2", "2") for page in ("a.png", "b.png") for arm in config.arms
        ]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "2 pages (scans) with 4 lines, read by a fake. Left out, since they are no readable images: 1." in text
    assert (tmp_path / "out" / "figure.png").is_file()

    kept = json.loads((tmp_path / "out" / "read.json").read_text())
    del kept["b.png"]["lines"]["rgb_16x"]
    (tmp_path / "out" / "read.json").write_text(json.dumps(kept))
    assert reading.main(replace(config, resume=True)) == rows
    assert fake.calls == 5
    reading.main(replace(config, arms=("pixels", "dct_4x"), resume=True))
    assert fake.calls == 7
    (tmp_path / "out" / "read.json").write_text("{")
    with pytest.raises(ValueError, match=r"read\.json is damaged: delete it"):
        reading.main(replace(config, resume=True))
    named = {*reading.WRITTEN, "config.yaml"}
    assert {file.name for file in (tmp_path / "out").iterdir()} <= named


def test_excerpts_are_of_the_same_place() -> None:
    """What was read there may be in pieces; what stands beside does not count."""
    page = torch.arange(20 * 60, dtype=torch.uint8).reshape(20, 60).expand(3, -1, -1)
    line = Line("A long LINE seven", (10, 5, 40, 15))
    lines = [Line("short", (0, 0, 9, 9)), line, Line("wrong wrong wrong", (0, 15, 9, 19))]
    assert line_to_show(["a longlineseven", "short"], lines) is line
    read = [Line("line seven", (26, 6, 40, 15)), Line("along", (11, 5, 25, 15)), Line("x", (10, 14, 40, 20))]
    shown = excerpt(page, line, read)
    assert (shown.text, shown.right) == ("along line seven", True)
    assert torch.equal(shown.image, page[:, 2:18, 7:43])
    assert excerpt(page, line, []).text == ""
    assert line_to_show(["short"], lines) is None


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    """Small type is read from all pixels, and hardly from a sixteenth of them."""
    rows = reading.main(Config(arms=("pixels", "resized_16x"), images=1, output_dir=tmp_path / "out"))
    pixels, resized = rows
    assert pixels["anls"] > 95
    assert resized["anls"] < 60
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*reading.WRITTEN, "config.yaml"}

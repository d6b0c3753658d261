"""Every page of the gallery runs offline, draws something, warns of nothing and writes nothing beside itself."""

import runpy
import tempfile
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot as plt

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
PAGES = sorted(GALLERY.glob("plot_*.py"))


def test_there_are_pages() -> None:
    assert PAGES


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")  # plt.show, where there is a screen
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(GALLERY.iterdir())
    try:
        runpy.run_path(str(page), run_name="__main__")
        assert plt.get_fignums()
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()  # layouts warn when they are drawn
    finally:
        plt.close("all")
    assert sorted(GALLERY.iterdir()) == before

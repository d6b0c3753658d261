"""The page in a browser: it takes an image and a sound, shows what came of them, and says what is wrong with others."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests.demo.browser import Browser, browser, missing
from walloc_transforms.demo import DemoServer
from walloc_transforms.demo.network import Network

WHY = f"{missing()} is not installed: the page is tried in a browser (Debian: apt install chromium chromium-driver)"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=WHY)]

SHOWN = """
    const [result, status] = ["#result", "#status"].map(each => document.querySelector(each));
    return !result.hidden && !status.textContent.endsWith("...");
"""
MESSAGE = "return document.querySelector('#message').textContent"
TITLES = "return [...document.querySelectorAll('#arms figcaption')].map(title => title.textContent)"
ANSWERS = "return [...document.querySelectorAll('.answers li')].map(answer => answer.textContent)"
LOADED = "return [...document.images].every(image => image.complete && image.naturalWidth > 1)"
WIDTHS = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"


class Unsure(torch.nn.Module):
    """Takes every picture for one of the first two classes."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.75, 0.25, *[0] * 998]).log().expand(len(image), -1)


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Browser]:
    """The page as it is first seen."""
    (tmp_path / "browser").mkdir()
    with DemoServer(network=Network(Unsure)) as server, browser(tmp_path / "browser", request.param, 850) as window:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            window.open(server.url)
            window.wait("return document.querySelectorAll('#coder option').length")
            yield window
        finally:
            server.shutdown()
            thread.join()


def test_page(page: Browser, tmp_path: Path) -> None:
    small = np.random.RandomState(0).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    Image.fromarray(small).resize((400, 304), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    time = np.arange(20_000) / 44100
    soundfile.write(tmp_path / "a.wav", np.stack([np.sin(3000 * time)] * 2, 1) / 2, 44100)
    for name in ("bad.png", "a.txt"):
        (tmp_path / name).write_bytes(b"no image")

    page.choose_file("#file", tmp_path / "a.png")
    page.wait(SHOWN)
    titles = ["original", "latents, decoded linearly", "resized to 100 x 76 and enlarged"]
    assert page.run(TITLES) == titles
    assert page.wait(LOADED)
    assert page.run("return document.querySelectorAll('#rows td').length") == 15
    assert page.run(ANSWERS) == ["tench75 %", "goldfish25 %", "great white shark0.0 %"] * 3
    scrolled, seen = page.run(WIDTHS)
    assert scrolled <= seen, "the page is wider than its window"

    page.run("const c = document.querySelector('#channels'); c.value = 3; c.dispatchEvent(new Event('change'))")
    page.wait("return document.querySelector('#rows').textContent.includes('1/64')")
    page.run("const c = document.querySelector('#reduce'); c.value = '1'; c.dispatchEvent(new Event('change'))")
    page.wait("return document.querySelector('#status').textContent.includes('224 x 224')")

    page.choose_file("#file", tmp_path / "bad.png")
    assert "cannot identify image file 'bad.png'" in page.wait(MESSAGE)
    assert page.run("return document.querySelector('#result').hidden")
    page.choose_file("#file", tmp_path / "a.txt")
    page.wait("return document.querySelector('#message').textContent.includes('This page reads images (.jpg')")

    page.choose_file("#file", tmp_path / "a.wav")
    page.wait(SHOWN)
    assert page.run("return document.querySelector('#codec').value") == "stereo_20x"
    assert page.run(ANSWERS) == []
    assert page.wait("return [...document.querySelectorAll('audio')].filter(a => a.duration > 0.4).length === 3")
    assert page.run(MESSAGE) == ""
    assert page.run(WIDTHS)[0] <= seen

    refused = page.run("""
        const sent = new XMLHttpRequest();
        sent.open("POST", "/api/compare", false);
        sent.setRequestHeader("Content-Type", "text/plain");
        sent.send("x");
        return [sent.status, sent.responseText];
    """)
    assert refused[0] == 415
    assert "error" in json.loads(refused[1])

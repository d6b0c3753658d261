"""Drive headless Chromium by ChromeDriver, whose protocol is JSON over HTTP: no package is needed."""

import base64
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Browser", "browser", "missing"]

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, by the standard
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
_PATIENCE = 60  # seconds until what a page does is there


def missing() -> str:
    """Name the program that is not installed; empty if both are."""
    if not shutil.which("chromedriver"):
        return "chromedriver"
    return "" if _chromium() else "chromium"


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """A window of Chromium.

    Args:
        port: Of ChromeDriver.
        width: Of the window, in pixels.
        height: Of the window.
        profile: An empty folder for what Chromium keeps.
    """

    def __init__(self, port: int, width: int, height: int, profile: Path) -> None:
        self.port, self.session = port, ""
        chrome = {
            "binary": _chromium(),
            "args": [*_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            "mobileEmulation": {
                "deviceMetrics": {"width": width, "height": height, "pixelRatio": 1, "mobile": width < 800}
            },
        }
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": chrome}}
        self.session = self.call("POST", "", {"capabilities": capabilities})["sessionId"]

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a command of the protocol, and return its value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        place = f"/session/{self.session}{path}" if self.session else "/session"
        connection.request(method, place, None if body is None else json.dumps(body))
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run a script in the page, and return what it returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def choose_file(self, selector: str, file: Path) -> None:
        """Choose a file in an input of the page, as a user does."""
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self.call("POST", f"/element/{found}/value", {"text": str(file)})

    def wait(self, script: str) -> Any:
        """Run a script until it returns something true."""
        return wait(lambda: self.run(script), script)

    def screenshot(self) -> bytes:
        """Return a picture of the window, a PNG."""
        return base64.b64decode(self.call("GET", "/screenshot"))


def wait(find: Callable[[], Any], what: str) -> Any:
    """Call until something true is returned."""
    end = time.monotonic() + _PATIENCE
    while not (value := find()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.05)
    return value


@contextmanager
def browser(folder: Path, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """Start a browser; ``folder`` is an empty one for what it keeps."""
    log = folder / "driver.log"
    with log.open("w") as output, subprocess.Popen(["chromedriver", "--port=0"], stdout=output) as driver:
        try:
            port = wait(lambda: log.read_text().partition("successfully on port ")[2].partition(".")[0], "chromedriver")
            window = Browser(int(port), width, height, folder / "profile")
            try:
                yield window
            finally:
                window.call("DELETE", "")
        finally:
            driver.terminate()

"""The server, asked over the network: what it answers, and whom it refuses."""

import http.client
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from walloc_transforms.cli.app import main
from walloc_transforms.cli.work import pixel_limit
from walloc_transforms.demo import DemoServer
from walloc_transforms.demo import server as module
from walloc_transforms.demo.network import Network

OTHERS = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1]", "a@localhost"]


def missing() -> torch.nn.Module:
    raise FileNotFoundError("pip install it")


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with DemoServer(network=Network(missing)) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def png(width: int = 64, height: int = 48) -> bytes:
    content = io.BytesIO()
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def ask(
    server: DemoServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Any, http.client.HTTPResponse]:
    """Send a request, as the page does; headers by their names with underscores."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    usual = {"Content-Type": "application/octet-stream"} if method == "POST" else {}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {**usual, **given})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, json.loads(content) if is_json else content.decode(), response


def test_page(server: DemoServer) -> None:
    status, page, response = ask(server, "GET", "/")
    assert status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "walloc demo" in page


def test_page_loads_nothing_from_elsewhere(server: DemoServer) -> None:
    """Nothing but data URIs and the paths of this server, which it does answer."""
    _, page, response = ask(server, "GET", "/")
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("style", "script"))
    assert style and script
    assert "url(" not in style[1] and "@import" not in style[1]
    elements = page.replace(style[1], "").replace(script[1], "")
    assert re.findall(r"(?:src|href|action)=\S*", elements) == ['href="data:,">']
    assert "://" not in page
    assert set(re.findall(r"/api/\w+", script[1])) == {"/api/choices", "/api/compare"}
    sources = re.findall(r"(\w+)-src ([^;]+)", response.headers["Content-Security-Policy"])
    assert {name for name, source in sources if "'self'" in source} == {"connect"}


def test_page_knows_every_element_and_option_that_its_script_uses(server: DemoServer) -> None:
    _, page, _ = ask(server, "GET", "/")
    assert set(re.findall(r'\$\("(\w+)"\)', page)) <= set(re.findall(r'id="(\w+)"', page))
    _, result, _ = ask(server, "POST", "/api/compare", png())
    assert set(re.findall(r"\banswer\.(\w+)", page)) <= {*result, "error"}
    assert set(re.findall(r"\barm\.(\w+)", page)) <= set(result["arms"][0])
    options = re.search(r"for \(const id of \[(.*?)\]\) options", page)
    assert options
    query = "&".join(f"{name}=" for name in re.findall(r"\w+", options[1]) if name not in ("codec", "coder"))
    assert ask(server, "POST", f"/api/compare?{query}", png())[0] == 200


def test_choices(server: DemoServer) -> None:
    status, known, _ = ask(server, "GET", "/api/choices")
    assert status == 200
    assert known["max_file"] == module.MAX_FILE
    assert known["codecs"][0]["name"] == "rgb_16x"


def test_comparison_writes_nothing(server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    path = "/api/compare?name=%2Fsome%2Fphoto.png&codec=rgb_4x&channels=12&decoder=linear&coder=webp"
    status, result, _ = ask(server, "POST", path, png(), Origin=server.url[:-1], Sec_Fetch_Site="same-origin")
    assert status == 200
    assert result["arms"][1]["stored"] == ".wlc, webp"
    assert result["arms"][1]["values"] == 12 * 6 * 8
    assert result["unanswered"] == "No network says what it sees: pip install it"
    status, result, _ = ask(server, "POST", "/api/compare?reduce=1", png(), Host="localhost:1")  # a forwarded port
    assert (status, result["size"]) == (200, "224 x 224 pixels")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("host", OTHERS)
def test_other_hosts(server: DemoServer, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/choices"), ("POST", "/api/compare")):
        status, answer, _ = ask(server, method, path, png() if method == "POST" else None, Host=host)
        assert status == 403
        assert "this page is for 127.0.0.1" in answer["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),  # another page of this machine
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "none"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "multipart/form-data"}, 415),
    ],
)
def test_other_pages(server: DemoServer, headers: dict[str, str], status: int) -> None:
    got, answer, response = ask(server, "POST", "/api/compare", png(), **headers)
    assert got == status
    assert "error" in answer
    assert "Access-Control-Allow-Origin" not in response.headers
    assert ask(server, "OPTIONS", "/api/compare", Origin="http://evil.example")[0] == 501


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("?name=a.png", b"", "a.png is empty"),
        ("?name=a.png", b"GIF89a", "a.png"),
        ("?name=%1b%5b31m.png", b"no image", "cannot identify"),
        ("?codec=%2Fetc", png(), "unknown codec '/etc'"),
        ("?channels=many", png(), "channels must be a number, got 'many'"),
        ("?channels=0", png(), "channels"),
        ("?channels=99", png(), "99"),
        ("?folder=x", png(), "unknown option 'folder'"),
        ("?" + "name=a&" * 11, png(), "fields"),
    ],
)
def test_bad_requests(server: DemoServer, path: str, body: bytes, message: str) -> None:
    status, answer, _ = ask(server, "POST", f"/api/compare{path}", body)
    assert status == 400
    assert message in answer["error"]
    assert "Traceback" not in answer["error"]
    assert answer["error"].isprintable()


def test_places_that_are_not_there(server: DemoServer) -> None:
    assert ask(server, "GET", "/../../etc/passwd")[0] == 404
    assert ask(server, "GET", "/api/compare")[0] == 404
    assert ask(server, "POST", "/", png())[0] == 404


def test_bomb(server: DemoServer) -> None:
    content = io.BytesIO()
    Image.new("L", (400, 400)).save(content, "PNG")
    with pixel_limit(100_000):
        status, answer, _ = ask(server, "POST", "/api/compare?name=a.png", content.getvalue())
    assert status == 400
    assert "--max-pixels" in answer["error"]


def test_body_of_bounded_length(server: DemoServer) -> None:
    status, answer, _ = ask(server, "POST", "/api/compare", None, Content_Length=str(10**12))
    assert status == 413
    assert "1,000,000,000,000 bytes" in answer["error"]
    assert ask(server, "POST", "/api/compare", None, Content_Length="-1")[0] == 411
    assert ask(server, "POST", "/api/compare", None, Transfer_Encoding="chunked")[0] == 411


def test_bug_is_told_without_its_traceback(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bug(*args: object, **options: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(module, "compare", bug)
    status, answer, _ = ask(server, "POST", "/api/compare", png())
    assert (status, answer) == (500, {"error": "KeyError, which is a bug: the terminal shows where"})
    assert "KeyError: 'secret'" in capsys.readouterr().err


def test_ports(server: DemoServer, capsys: pytest.CaptureFixture[str]) -> None:
    taken = server.server_address[1]
    assert main(["demo", "--port", str(taken)]) == 1
    assert f"port {taken} cannot be used" in capsys.readouterr().err
    assert main(["demo", "--port", "70000"]) == 1
    assert "65535, got 70000" in capsys.readouterr().err


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is the way to end it."""
    opened: list[str] = []

    def interrupted(server: DemoServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DemoServer, "serve_forever", interrupted)
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["demo"]) == 0
    assert opened == []
    assert main(["demo", "--open"]) == 0
    assert opened[0] in capsys.readouterr().out

"""The page of ``walloc demo`` and what it asks for, for browsers on this machine alone.

    GET  /                                                              the page
    GET  /api/choices                                                   codecs, coders, suffixes, the largest file
    POST /api/compare?name=&codec=&channels=&decoder=&coder=&reduce=    a file as it is; see ``compare.py``

Pages of strangers in the same browser can send requests here too, also under a name of their own that they let point
here. So requests must be addressed to a name of this machine, and files must come from the page itself. No file is
written, and none is read but those of the package and of the network that it shows pictures.
"""

import contextlib
import json
import re
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from ..files import DEFAULT_CODER, READ_ERRORS
from ..safe import escaped, shown
from .compare import choices, compare
from .network import Network

__all__ = ["MAX_FILE", "DemoServer"]

MAX_FILE = 2**26
"""The largest file, in bytes, that the page may send."""

_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII)  # any port: it may be forwarded, as by ssh
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_PAGE = Path(__file__).parent / "page.html"
_BUSY = threading.Lock()  # one comparison at a time: each takes all cores, and memory by the pixel
_Answer = tuple[str, bytes]  # the type of the content, and the content


class DemoServer(ThreadingHTTPServer):
    """The server, which listens from now on; ``serve_forever`` answers.

    Args:
        port: Of 127.0.0.1; 0 takes a free one.
        network: Says what it takes images for. Default: a trained one, loaded when the first image is there.

    Raises:
        ValueError: There is no such port.
        OSError: It is taken, or only an administrator may use it.
    """

    def __init__(self, port: int = 0, network: Network | None = None) -> None:
        if not 0 <= port < 2**16:
            raise ValueError(f"port must be from 0, for any free one, to 65535, got {port}")
        self.network = network or Network()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise OSError(f"port {port} cannot be used ({error}): give another one, or 0 for any free one") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _RefusedError(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds without a byte
    unread = 0

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing about requests: they name the user's files."""

    def _get(self) -> _Answer:
        self._check_host()
        path = urlsplit(self.path).path
        if path == "/":
            return "text/html; charset=utf-8", _PAGE.read_bytes()
        if path == "/api/choices":
            return _json({**choices(), "max_file": MAX_FILE})
        raise _RefusedError(404, f"there is nothing at {shown(path)}")

    def _post(self) -> _Answer:
        host = self._check_host()
        # Browsers send at least one of these headers, and let no page of another site send files of this type.
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise _RefusedError(403, "only the page itself may send files here, not another site")
        if self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise _RefusedError(403, "only the page itself may send files here, not another site")
        if self.headers.get_content_type() != "application/octet-stream":
            raise _RefusedError(415, "expected a file as application/octet-stream")
        url = urlsplit(self.path)
        if url.path != "/api/compare":
            raise _RefusedError(404, f"there is nothing at {shown(url.path)}")
        given = dict(parse_qsl(url.query, max_num_fields=10))
        if unknown := given.keys() - {"name", "codec", "channels", "decoder", "coder", "reduce"}:
            raise ValueError(f"unknown option {shown(min(unknown))}")
        channels = given.get("channels", "")
        if not re.fullmatch(r"\d{0,6}", channels, re.ASCII):
            raise ValueError(f"channels must be a number, got {shown(channels)}")
        name = Path(given.get("name", "")[-200:]).name or "the file"
        content = self._read_file()
        if not content:
            raise ValueError(f"{name} is empty")
        assert isinstance(self.server, DemoServer)
        with _BUSY:
            result = compare(
                content,
                name,
                codec=given.get("codec", "rgb_16x"),
                channels=int(channels) if channels else None,
                decoder=given.get("decoder"),
                coder=given.get("coder", DEFAULT_CODER),
                reduce=bool(given.get("reduce")),
                network=self.server.network,
            )
        return _json(result)

    def _check_host(self) -> str:
        host = self.headers.get_all("Host", [])
        if len(host) != 1 or not _HOST.fullmatch(host[0]):
            raise _RefusedError(403, f"this page is for 127.0.0.1 and localhost, not for {shown(', '.join(host))}")
        return host[0]

    def _read_file(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,15}", length, re.ASCII):
            raise _RefusedError(411, "the request does not say how long the file is")
        if int(length) > MAX_FILE:
            raise _RefusedError(413, f"the file has {int(length):,} bytes: expected at most {MAX_FILE:,}")
        content = self.rfile.read(int(length))
        self.unread -= len(content)
        if len(content) < int(length):
            raise ValueError("the file did not arrive in full")
        return content

    def _answer(self, find: Callable[[], _Answer]) -> None:
        """Send what was asked for, or a message as JSON that says why not."""
        length = self.headers.get("Content-Length", "")
        self.unread = int(length) if re.fullmatch(r"\d{1,15}", length, re.ASCII) else 0
        status = 200
        try:
            kind, content = find()
        except _RefusedError as error:
            status, (kind, content) = error.status, _message(error)
        except READ_ERRORS as error:
            status, (kind, content) = 400, _message(error)
        except Exception as error:
            traceback.print_exc()
            status = 500
            kind, content = _message(RuntimeError(f"{type(error).__name__}, which is a bug: the terminal shows where"))
        with contextlib.suppress(OSError):  # the page may have asked for something else in the meantime
            self.send_response(status)
            for header, value in {**_HEADERS, "Content-Type": kind, "Content-Length": len(content)}.items():
                self.send_header(header, str(value))
            self.end_headers()
            self.wfile.write(content)
            # A browser that is still sending when the connection is closed does not show the answer.
            while 0 < self.unread <= MAX_FILE and (piece := self.rfile.read(min(self.unread, 2**16))):
                self.unread -= len(piece)


def _json(value: object) -> _Answer:
    return "application/json", json.dumps(value, allow_nan=False).encode()


def _message(error: Exception) -> _Answer:
    return _json({"error": escaped(str(error) or type(error).__name__)})

"""The command that shows in a browser what latents keep."""

import webbrowser

from .work import pixel_limit

__all__ = ["demo"]


def demo(*, port: int = 0, open: bool = False, max_pixels: int = 50_000_000) -> None:
    """Serve a page that compares latents with resizing, on an image or a sound that you drop on it.

    Only browsers on this machine can open it. Nothing is written. Ctrl-C ends it.

    Args:
        port: The page is http://127.0.0.1:PORT/; 0 takes a free port.
        open: Open the page in a browser.
        max_pixels: Refuse images of more pixels, and sounds of more samples per channel.
    """
    from ..demo import DemoServer

    with pixel_limit(max_pixels), DemoServer(port) as server:
        print(f"walloc demo: {server.url} (Ctrl-C ends it)", flush=True)
        if open:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # the way to end it
            print()

"""The command ``walloc``."""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command. It may be interrupted even while it is imported, which takes a second."""
    try:
        from .app import main
    except KeyboardInterrupt:
        print("walloc: interrupted", file=sys.stderr)
        return 130
    return main()

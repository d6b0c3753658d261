"""Run the command line, as ``walloc`` or as ``python -m walloc_transforms``."""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command ``walloc``. It may be interrupted even while it is imported, which takes a second."""
    try:
        from .cli.app import main
    except KeyboardInterrupt:
        print("walloc: interrupted", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(main())

"""Run the command ``walloc`` as ``python -m walloc_transforms``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

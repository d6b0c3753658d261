"""Run a recipe of an installed wheel, where there is no checkout.

    python -m walloc_transforms.recipes                       # which recipes there are
    python -m walloc_transforms.recipes pretrained --help
    torchrun --nproc-per-node 2 -m walloc_transforms.recipes classification

In a checkout ``python -m recipes.pretrained`` does the same. The scripts import each other as ``recipes``. Other
projects use this name too, so the wheel keeps the scripts in a folder of this package, which is found only here.
"""

import runpy
import sys
from pathlib import Path

HOMES = (Path(__file__).parent / "bundled", Path(__file__).parents[1])
"""What holds the folder ``recipes``: in an installed wheel, and in a checkout."""


def main() -> None:
    """Run the recipe that the first argument of the process names; the others are its own."""
    home = next(folder for folder in HOMES if (folder / "recipes").is_dir())
    names = sorted(file.stem for file in (home / "recipes").glob("[!_]*.py"))
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: python -m walloc_transforms.recipes RECIPE [--help]\nrecipes: {', '.join(names)}")
        return
    if name not in names:
        sys.exit(f"no recipe {name!r}: there are {', '.join(names)}")
    del sys.argv[1]
    sys.path.insert(0, str(home))
    runpy.run_module(f"recipes.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""Kill the encoding of a data set at random moments, and run it again until it is done: the files are those of one run.

    python -m tests.attack.killed_encode --kills 50

Of every series the last run is left alone. Workers outlive a killed run by moments; the next run must not mind.
"""

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from walloc_transforms.data import encode_dataset

CONTEXT = multiprocessing.get_context("fork")  # a run starts in milliseconds, with all that the first one has loaded
IMAGES, SHARD_SIZE, SIDE = 40, 3, 64


def make_images(folder: Path) -> Path:
    """Make a folder of classes; some of the files cannot be read."""
    for i in range(IMAGES):
        file = folder / f"{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((SIDE + i, SIDE), Image.Resampling.BICUBIC).save(file)
        if i % 9 == 0:
            file.write_bytes(file.read_bytes()[:300])
    return folder


def _encode(images: Path, out: Path, workers: int) -> None:
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115  (it stays open until the process ends)
    encode_dataset(images, out, "rgb_16x", views=2, crop=32, shard_size=SHARD_SIZE, workers=workers, progress=False)


def _start(images: Path, out: Path, workers: int) -> Any:
    run = CONTEXT.Process(target=_encode, args=(images, out, workers))
    run.start()
    return run


def sums(folder: Path) -> dict[str, str]:
    """Hash all files of a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def kill_series(images: Path, folder: Path, kills: int, workers: int, chance: random.Random) -> Counter[str]:
    """Kill runs, each into what the one before has left, until one is done or enough are killed; then let one finish.

    Returns:
        How many were killed, by how many files they left, and what was wrong in the end.
    """
    whole, killed, outcome = folder / "whole", folder / "killed", Counter[str]()
    with contextlib.redirect_stderr(io.StringIO()):
        encode_dataset(images, folder / "first", "rgb_16x", progress=False)  # load what children shall find loaded
    begin = time.perf_counter()
    _finish(_start(images, whole, workers))
    seconds, expected = time.perf_counter() - begin, sums(whole)
    print(f"a run takes {seconds:.2f} s", flush=True)
    count = 0
    while outcome["killed"] < kills:
        count += 1
        out = killed / f"{count}"
        while outcome["killed"] < kills:
            run = _start(images, out, workers)
            run.join(chance.uniform(0, seconds))
            if run.exitcode is not None:
                outcome["failed"] += run.exitcode != 0
                break
            run.kill()
            run.join()
            outcome["killed"] += 1
            left = sums(out) if out.exists() else {}
            outcome["whole shards left"] += sum(name.startswith("shard") for name in left)
            outcome["left otherwise"] += any(
                left[name] != expected.get(name) for name in left if not Path(name).name.startswith(".")
            )
        _finish(_start(images, out, workers))
        outcome["series"] += 1
        outcome["different in the end"] += sums(out) != expected
    return outcome


def _finish(run: Any) -> None:
    run.join()
    if run.exitcode != 0:
        raise RuntimeError(f"a run that nobody killed ended with {run.exitcode}")


def main() -> None:
    """Kill, and print what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50, help="for each number of workers")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    for workers in asked.workers:
        with tempfile.TemporaryDirectory() as folder:
            images = make_images(Path(folder) / "images")
            outcome = kill_series(images, Path(folder) / "out", asked.kills, workers, random.Random(asked.seed))
        print(f"{workers} workers: {dict(outcome)}", flush=True)


if __name__ == "__main__":
    main()

"""Kill ``walloc encode`` at random moments, and run it again until it is done."""

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from walloc_transforms.cli.app import main
from walloc_transforms.cli.outputs import JOURNAL

PHOTOS, KILLS = 96, 6  # far more than are encoded until the last kill, also where it comes late
MORE = 6  # files to wait for, at most, before a kill
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([main.__module__, "torchvision.transforms.v2"])


def command(args: tuple[str, ...], out: Path, enough: int, delay: float) -> None:
    """Run the command in a process that kills itself: another would come too late on a busy machine."""

    def kill() -> None:
        while len(list(out.rglob("*.wlc"))) < enough:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    sys.exit(main(args))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def kill_on_the_way(args: tuple[str, ...], out: Path, chance: random.Random) -> bool:
    """Run the command until it has made a few files more, kill it, and return whether it was done before."""
    enough = len(list(out.rglob("*.wlc"))) + chance.randrange(MORE)
    child = _CONTEXT.Process(target=command, args=(args, out, enough, chance.random() * 0.02))
    child.start()
    child.join()
    return child.exitcode == 0


@pytest.mark.slow
def test_encode_is_killed_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos, chance = tmp_path / "photos", random.Random(17)
    for index in range(PHOTOS):
        file = photos / f"{index % 3}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(index).randint(0, 256, (24, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((256, 192), Image.Resampling.BICUBIC).save(file)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["encode", str(photos), "-o", str(whole)]) == 0
    for _ in range(KILLS):
        assert not kill_on_the_way(("encode", str(photos), "-o", str(killed)), killed, chance)
    assert 0 < len(list(killed.rglob("*.wlc"))) < PHOTOS
    capfd.readouterr()
    assert main(["encode", str(photos), "-o", str(killed)]) == 0
    assert "finished before" in capfd.readouterr().err
    expected, found = contents(whole), contents(killed)
    assert expected.pop(JOURNAL) and found.pop(JOURNAL)
    assert found == expected and len(found) == PHOTOS

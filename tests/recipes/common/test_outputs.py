"""The output folder of a run: no other run's files are touched, and none before everything is checked."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recipes.common.outputs import claim
from recipes.common.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
FILES = ("result.json", "checkpoint.pt", "a_seed[0-9]*/checkpoint.pt")


@dataclass
class Group:
    """Settings within settings."""

    width: int | None = None
    checkpoint_every: int = 10


@dataclass
class Config:
    """Settings as recipes have them."""

    output_dir: Path
    lr: float = 1e-5
    names: tuple[str, ...] = ("a", "b")
    seeds: int = 1
    data_root: Path = Path("data")
    group: Group = field(default_factory=Group)
    resume: bool = False
    overwrite: bool = False


def run(config: Config, *, recipe: str = "tests", results: bool = True) -> None:
    with claim(recipe, config, ALONE, FILES) as begin:
        begin()
        if results:
            write_results(config.output_dir)


def write_results(folder: Path) -> None:
    (folder / "a_seed0").mkdir(exist_ok=True)
    for name in ("result.json", "checkpoint.pt", "a_seed0/checkpoint.pt"):
        (folder / name).write_text("precious")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_run_is_not_touched_without_being_asked(tmp_path: Path) -> None:
    run(Config(tmp_path / "out"))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="out holds a run of tests: go on with it by --resume, replace it by --overwr"):
        run(Config(tmp_path / "out"))
    with pytest.raises(ValueError, match="out holds a run of tests: expected a new or an empty folder for others"):
        run(Config(tmp_path / "out", overwrite=True), recipe="others")
    with pytest.raises(ValueError, match="expected one of them"):
        run(Config(tmp_path / "out", overwrite=True, resume=True))
    for folder in (tmp_path, tmp_path / "out" / "a_seed0"):  # they hold what is no run's
        option: dict[str, Any]
        for option in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(ValueError, match="which no recipe wrote: expected a new or an empty folder"):
                run(Config(folder, **option))
    with pytest.raises(NotADirectoryError, match="is a file"):
        run(Config(tmp_path / "out" / "result.json", overwrite=True))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True, "lr": 1.0}])
def test_nothing_is_touched_by_a_run_that_does_not_begin(options: dict[str, Any], tmp_path: Path) -> None:
    run(Config(tmp_path / "out"))
    before = contents(tmp_path)
    for folder in (tmp_path / "out", tmp_path / "new" / "deep" / "TIME"):
        with pytest.raises(FileNotFoundError, match="no data"), claim("tests", Config(folder, **options), ALONE, FILES):
            raise FileNotFoundError("no data")
        options = {"lr": 2.0}
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_overwriting_removes_what_the_recipe_wrote_and_nothing_else(tmp_path: Path) -> None:
    run(Config(tmp_path))
    (tmp_path / "notes.txt").touch()
    run(Config(tmp_path, overwrite=True, lr=1.0), results=False)
    assert {f.name for f in tmp_path.iterdir()} == {"config.yaml", "notes.txt"}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["lr"] == 1.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 2e-5}, "lr 1e-05, and is to be resumed with 2e-05"),
        ({"names": ("a",)}, r"names \['a', 'b'\], and is to be resumed with \['a'\]"),
        ({"group": Group(width=0)}, "group.width None, and is to be resumed with 0"),
        ({"group": Group(checkpoint_every=3), "seeds": 5, "data_root": Path("elsewhere")}, None),
    ],
)
def test_a_run_is_resumed_with_its_own_settings(tmp_path: Path, changed: dict[str, Any], message: str | None) -> None:
    run(Config(tmp_path, resume=True))  # nothing there yet
    before = contents(tmp_path)
    if message is None:
        run(Config(tmp_path, resume=True, **changed), results=False)
        assert contents(tmp_path).keys() == before.keys()
        return
    with pytest.raises(ValueError, match=f"holds a run with {message}: resume it with the same settings"):
        run(Config(tmp_path, resume=True, **changed))
    assert contents(tmp_path) == before


def test_runs_with_default_folders_do_not_meet(tmp_path: Path) -> None:
    folders: set[Path] = set()
    for _ in range(3):
        config = Config(tmp_path / "tests" / "TIME")
        run(config)
        folders.add(config.output_dir)
    assert len(folders) == len(list((tmp_path / "tests").iterdir())) == 3
    with pytest.raises(ValueError, match="--resume needs --output-dir, the folder of the run to go on with, such as "):
        run(Config(tmp_path / "tests" / "TIME", resume=True))


HOLDER = """
import os, sys, time
from pathlib import Path
from tests.recipes.common.test_outputs import ALONE, FILES, Config, claim, write_results

with claim("tests", Config(Path(sys.argv[1]), resume=True), ALONE, FILES) as begin:
    begin()
    write_results(Path(sys.argv[1]))
    if os.fork() == 0:  # as loader workers, which outlive their parent for a while
        time.sleep(30)
        os._exit(0)
    print("holding", os.getpid(), flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """Nor does a killed one keep others out, even if its workers live on."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")], stdout=subprocess.PIPE, start_new_session=True
    )
    assert holder.stdout is not None
    try:
        assert b"holding" in holder.stdout.readline()
        before = contents(tmp_path)
        options: dict[str, Any]
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(ValueError, match="another process is writing to"):
                run(Config(tmp_path / "out", **options))
        assert contents(tmp_path) == before
        holder.kill()
        holder.wait()
        run(Config(tmp_path / "out", resume=True))
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot write to"):
        run(Config(tmp_path))

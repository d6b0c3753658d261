"""Checkpoints, and the loop over arms and seeds: every run once, results kept, finished ones read."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from recipes.common.comparison import check_comparison, compare, first_runs
from recipes.common.ranks import Ranks
from recipes.common.runs import Run, UnusableCheckpoint, finished_or_new, load_checkpoint

ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclass
class Config:
    """Settings of a comparison."""

    output_dir: Path
    arms: tuple[str, ...] = ("a", "b")
    seeds: int = 2
    resume: bool = False
    steps: int = 5


def test_every_arm_with_every_seed(tmp_path: Path) -> None:
    done: list[tuple[str, int, str]] = []

    def train(arm: str, seed: int, run: Run) -> dict[str, object]:
        done.append((arm, seed, run.folder.name))
        return {"macs": ord(arm), "rows": [{"seed": seed}]}

    config = Config(tmp_path)
    results = compare(config, ALONE, train, lambda result: f"{result['macs']} MACs")
    assert done == [(arm, seed, f"{arm}_seed{seed}") for seed in (0, 1) for arm in "ab"]
    assert results[1] == {"arm": "b", "seed": 0, "macs": 98, "rows": [{"seed": 0}]}
    assert first_runs(results, ("macs",)) == {"a": {"macs": 97}, "b": {"macs": 98}}
    assert json.loads((tmp_path / "a_seed0" / "result.json").read_text())["macs"] == 97

    (tmp_path / "b_seed1" / "result.json").unlink()
    config.resume = True
    assert compare(config, ALONE, train, lambda _: "") == results
    assert done[4:] == [("b", 1, "b_seed1")]


@pytest.mark.parametrize("damage", ["cut off", "garbled", "a pickle", "of another network"])
def test_an_unusable_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    run, network = Run(tmp_path, ALONE, resume=True), torch.nn.Linear(2, 2)
    run.save({"model": network}, [])
    whole = run.checkpoint.read_bytes()
    if damage == "cut off":
        run.checkpoint.write_bytes(whole[: len(whole) // 2])
    elif damage == "garbled":
        run.checkpoint.write_bytes(b"\x80\x02garbled")
    elif damage == "a pickle":
        torch.save({"model": network}, run.checkpoint)
    else:
        network = torch.nn.Linear(3, 2)
    with pytest.raises(UnusableCheckpoint, match=r"checkpoint\.pt is .*: delete .*checkpoint\.pt, and --resume begins"):
        run.load({"model": network})


def test_advice_on_the_checkpoint_of_a_finished_run(tmp_path: Path) -> None:
    """--resume reads its result: it must go too."""
    run = Run(tmp_path / "a_seed0", ALONE, resume=True)
    with pytest.raises(UnusableCheckpoint, match=r"checkpoint\.pt is missing: delete .*a_seed0.checkpoint\.pt, and"):
        load_checkpoint(run.checkpoint, {}, ALONE.device)
    finished_or_new(run, lambda: {})
    with pytest.raises(UnusableCheckpoint, match=r"checkpoint\.pt is missing: delete .*a_seed0, and --resume begins"):
        load_checkpoint(run.checkpoint, {}, ALONE.device)


def test_a_comparison_of_nothing_is_refused(tmp_path: Path) -> None:
    for config in (Config(tmp_path, arms=()), Config(tmp_path, seeds=0)):
        with pytest.raises(ValueError, match="nothing to run"):
            check_comparison(config, ())
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        check_comparison(Config(tmp_path, steps=0), ("steps",))

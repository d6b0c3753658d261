"""A recipe that is killed again and again, at moments that a seed draws, and resumed gives what it would have given."""

import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from recipes import classification

# The server imports what all runs need, so that a run starts in milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([classification.__name__, __name__])
KILLS = 8
RATES = ("step_rate", "pipeline_rate")  # they depend on the machine's mood


def save_images(folder: Path) -> None:
    for name, color in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.effect_noise((48, 40), 30 + i).convert("RGB").save(folder / name / f"{i:02}.png")
            with Image.open(folder / name / f"{i:02}.png") as noise:
                Image.blend(noise, Image.new("RGB", noise.size, color), 0.1).save(folder / name / f"{i:02}.png")


def work(config: classification.Config) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as in a process started by itself
    torch.set_num_threads(1)
    classification.main(config)


def start(data: Path, folder: Path) -> Any:
    config = classification.Config(
        data=str(data),
        arm="resize_16x",
        image_size=32,
        epochs=5,
        batch_size=8,
        stages=2,
        workers=2,
        resume=True,
        output_dir=folder,
    )
    run = CONTEXT.Process(target=work, args=(config,))
    run.start()
    return run


def outcome(folder: Path) -> tuple[Any, ...]:
    """What a run has left, but for its rates."""
    result = json.loads((folder / "result.json").read_text("utf-8"))
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    for record in (result, *log):
        for rate in RATES:
            record.pop(rate, None)
    return result, log, torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    save_images(tmp_path / "data")
    server = CONTEXT.Process(target=int)
    server.start()
    server.join()
    begin = time.perf_counter()
    whole = start(tmp_path / "data", tmp_path / "whole")
    whole.join()
    seconds = time.perf_counter() - begin
    assert whole.exitcode == 0

    moments, kills = random.Random(17), 0
    while True:
        run = start(tmp_path / "data", tmp_path / "killed")
        run.join(moments.uniform(0, seconds) if kills < KILLS else None)
        if run.exitcode is not None:
            break
        run.kill()
        run.join()
        kills += 1
    assert run.exitcode == 0
    assert kills
    (result, log, model), (expected, expected_log, expected_model) = (
        outcome(tmp_path / name) for name in ("killed", "whole")
    )
    assert (result, log) == (expected, expected_log)
    assert model.keys() == expected_model.keys()
    assert all(torch.equal(model[name], value) for name, value in expected_model.items())
    files = {file.name for file in (tmp_path / "killed").iterdir()}
    assert files == {"config.yaml", "metrics.jsonl", "checkpoint.pt", "result.json", "curve.png"}

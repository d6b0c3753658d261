"""Recipes as commands: mistakes are told in one line, bugs keep their traceback."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.common import outputs
from recipes.common.command import run_command
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import UnusableCheckpoint


@dataclass
class Config:
    """Settings."""

    output_dir: Path = Path("TIME")
    resume: bool = False
    overwrite: bool = False


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (ValueError("no such arm"), None, "no such arm"),
        (FileNotFoundError("no such folder"), None, "no such folder"),
        (KeyboardInterrupt(), None, "interrupted"),
        (None, KeyboardInterrupt(), "interrupted: --output-dir out --resume goes on"),
        (None, UnusableCheckpoint("cut off"), "cut off"),
        (None, ValueError("a bug"), None),
        (None, OSError("disk full"), None),
        (TypeError("a bug"), None, None),
        ("library", None, None),
    ],
)
def test_mistakes_and_bugs(
    before: Any,
    after: Any,
    told: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["recipe", "--output-dir", "out"])
    monkeypatch.setattr(outputs, "_begun_in", None)
    monkeypatch.setitem(globals(), "__name__", "recipes.failing")  # whose errors are raised on purpose

    def main(config: Config) -> None:
        with claim("tests", config, Ranks(0, 1, torch.device("cpu")), ()) as begin:
            if before == "library":
                json.loads("no json")  # a ValueError that nobody here raised
            elif before is not None:
                raise before
            begin()
            raise after

    error = json.JSONDecodeError if before == "library" else type(before or after)
    with pytest.raises(error if told is None else SystemExit) as raised:
        run_command(Config, main, None)
    said = capsys.readouterr().err
    assert said == ("" if told is None else f"{told}\n")
    if told is not None:
        assert raised.value.code == (130 if "interrupted" in told else 1)  # type: ignore[attr-defined]  # of SystemExit

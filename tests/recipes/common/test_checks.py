"""Checks of settings."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes import colorization, learned_codec, source_separation
from recipes.common.checks import check_batch
from recipes.common.ranks import Ranks


def test_batches_are_shared_evenly() -> None:
    two = Ranks(0, 2, torch.device("cpu"))
    check_batch(6, two)
    with pytest.raises(ValueError, match="batch_size 3 must be a multiple of the 2 processes"):
        check_batch(3, two)


@pytest.mark.parametrize("recipe", [colorization, learned_codec, source_separation])
def test_recipes_refuse_other_batches(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "start", lambda: Ranks(0, 5, torch.device("cpu")))
    config = recipe.Config(output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="must be a multiple of the 5 processes"):
        recipe.main(config)
    assert not (tmp_path / "out").exists()

"""The loop over steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.common import loop
from recipes.common.ranks import Ranks
from recipes.common.runs import Run


class First(Ranks):
    """The first of two processes; the other one's losses are 4 higher."""

    def sum(self, values: Tensor) -> Tensor:
        return values.add_(values + 4)


def test_a_schedule_is_told_the_mean_loss_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "DistributedDataParallel", lambda model: model)
    told: list[float] = []
    schedule: Any = SimpleNamespace(step=told.append, state_dict=dict)
    model = nn.Linear(1, 1)
    loop.train_steps(
        model,
        torch.optim.SGD(model.parameters(), 0.0),
        lambda first: [torch.full((1,), float(step)) for step in range(first, 3)],
        lambda parallel, batch, _: 0 * parallel(batch).sum() + batch.sum(),
        Run(tmp_path, First(0, 2, torch.device("cpu")), resume=False),
        steps=3,
        checkpoint_every=3,
        schedule=lambda _: schedule,
    )
    assert told == [2, 3, 4]

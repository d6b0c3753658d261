"""The file that keeps a training of ``distill_stem``: a safetensors file, with what is trained and the optimizer.

Its metadata tell what else must be the same when the training goes on, and how far it has come.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..safe import atomic_file, check_shapes, listed

__all__ = ["load_training", "save_training"]

FORMAT = "walloc_transforms.distillation.1"


def save_training(
    file: Path,
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    about: Mapping[str, Any],
    *,
    step: int,
    seconds: float,
) -> None:
    """Write a training; a file that is there is replaced by a whole one.

    Args:
        file: The file.
        trained: What training changes in the student.
        optimizer: Its state is kept too.
        about: The settings of the training, as JSON has them.
        step: Steps that are done.
        seconds: That they took.
    """
    tensors = {f"student.{name}": value.detach().contiguous() for name, value in trained.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value.contiguous() for name, value in state.items()}
    facts = {"format": FORMAT, "about": json.dumps(about), "step": f"{step}", "seconds": f"{seconds}"}
    with atomic_file(file, durable=True) as opened:
        opened.write(safetensors.torch.save(tensors, facts))


def load_training(
    file: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, about: Mapping[str, Any]
) -> tuple[int, float]:
    """Put back what :func:`save_training` wrote, in place; returns the steps that are done, and seconds.

    Raises:
        ValueError: The file is damaged, of something else, or of a training with other settings.
    """
    try:
        with safetensors.safe_open(file, "pt") as opened:
            facts = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is no whole checkpoint of distill_stem: {error}") from error
    if facts.get("format") != FORMAT or not {"about", "step", "seconds"} <= facts.keys():
        raise ValueError(f"{file} is no checkpoint of distill_stem")
    if facts["about"] != json.dumps(about):
        theirs = json.loads(facts["about"])
        other = [name for name, value in json.loads(json.dumps(about)).items() if value != theirs.get(name)]
        raise ValueError(f"{file} is of a training with other settings: {listed(other)}")
    found = {name: tuple(value.shape) for name, value in tensors.items() if name.startswith("student.")}
    check_shapes(found, {f"student.{name}": tuple(value.shape) for name, value in trained.items()}, str(file))
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(tensors[f"student.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, number, rest = name.split(".", 2)
        if kind == "optimizer":
            state.setdefault(int(number), {})[rest] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(facts["step"]), float(facts["seconds"])

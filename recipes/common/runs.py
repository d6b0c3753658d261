"""One training run: its log, its checkpoints and its result."""

import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.common.ranks import Ranks
from walloc_transforms.safe import atomic_file, remove_leftovers, write_atomically

FILES = ("metrics.jsonl", "checkpoint.pt", "result.json")
"""What a run leaves in its folder."""


@dataclass(frozen=True)
class Run:
    """One training: where it is kept and who works on it.

    Attributes:
        folder: Gets ``metrics.jsonl`` and ``checkpoint.pt``; it must be there. It is held by :func:`claim`.
        ranks: This process among others.
        resume: Go on from the checkpoint, if there is one.
        name: For the progress bar.
    """

    folder: Path
    ranks: Ranks
    resume: bool
    name: str = "train"

    @property
    def checkpoint(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / "checkpoint.pt"

    def load(self, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Restore a model, an optimizer and so on from the checkpoint of a run that is resumed.

        Returns:
            All that the checkpoint holds; None where there is none, or the run is not resumed.
        """
        if not (self.resume and self.checkpoint.is_file()):
            return None
        return load_checkpoint(self.checkpoint, parts, self.ranks.device)

    def save(self, parts: Mapping[str, Any], log: Sequence[Mapping[str, Any]], **facts: Any) -> None:
        """Write the log, a record per line, and a checkpoint of models, optimizers and so on; the first process does.

        Args:
            parts: What has a ``state_dict``, by name.
            log: The records so far; the checkpoint holds them too.
            facts: What else the checkpoint is to hold.
        """
        if self.ranks.first:
            text = "".join(json.dumps(record) + "\n" for record in log)
            write_atomically(self.folder / "metrics.jsonl", text.encode(), durable=True)
            with atomic_file(self.checkpoint, durable=True) as file:
                torch.save({**{name: part.state_dict() for name, part in parts.items()}, "log": log, **facts}, file)


class UnusableCheckpoint(ValueError):
    """A checkpoint that cannot be read, or is of something else."""


def load_checkpoint(file: Path, parts: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Restore models, optimizers and so on, by name, from a checkpoint; returns all that it holds.

    Raises:
        UnusableCheckpoint: The file is missing or damaged, holds a pickle, or does not fit the parts.
    """
    finished = (file.parent / "result.json").is_file()  # --resume would read that and train nothing
    advice = f"delete {file.parent if finished else file}, and --resume begins this training again"
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UnusableCheckpoint(f"{file} is missing: {advice}") from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise UnusableCheckpoint(f"{file} is no whole checkpoint of tensors (cut off, or changed): {advice}") from error
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise UnusableCheckpoint(f"{file} is of another network or optimizer: {advice}") from error
    return state


def finished_or_new(run: Run, work: Callable[[], Any]) -> Any:
    """Do a run and keep its result, or read the result of one that is resumed and finished.

    Args:
        run: Its folder is made, and gets ``result.json``.
        work: Does the run; gives what JSON can hold.
    """
    file = run.folder / "result.json"
    if run.resume and file.is_file():
        return json.loads(file.read_text("utf-8"))
    if run.ranks.first:
        run.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run.folder)
    result = work()
    if run.ranks.first:
        write_atomically(file, (json.dumps(result, indent=2) + "\n").encode(), durable=True)
    return result


def lr_factor(step: int, steps: int) -> float:
    """Learning rate of a step as a fraction of the peak: linear warm-up over the first tenth, then half a cosine."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

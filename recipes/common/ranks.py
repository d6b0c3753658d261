"""The processes of a run, and the settings that it keeps.

Under ``torchrun`` every process trains on its share of the data (NCCL on GPUs, gloo on CPUs); only rank 0 writes.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from walloc_transforms.safe import write_atomically

T = TypeVar("T")

# What may differ when a run is resumed: where things are, how often they are saved or shown, what else is run.
_NOT_OF_A_RUN = {"resume", "output_dir", "data_root", "memory_gb", "checkpoint_every", "sheet_images", "seeds", "arms"}


@dataclass
class Ranks:
    """This process among those that ``torchrun`` started; alone without it."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def start(cls) -> "Ranks":
        """Join the group that the environment names, once."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        gpu = torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
        if gpu:
            torch.cuda.set_device(device)
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if gpu else "gloo")
        return cls(rank, world, device)

    @property
    def first(self) -> bool:
        """Whether this process writes and shows progress."""
        return self.rank == 0

    def share(self, indices: Tensor, *, even: bool) -> list[int]:
        """Return every ``world``-th index; ``even`` drops the remainder, so that every process has the same number."""
        if even:
            indices = indices[: len(indices) // self.world * self.world]
        return indices[self.rank :: self.world].tolist()

    def sum(self, values: Tensor) -> Tensor:
        """Add up over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, items: Sequence[T]) -> list[T]:
        """Collect what every process has made of its ``items[rank::world]``, in the order of the items."""
        if self.world == 1:
            return list(items)
        shares: list[list[T]] = [[]] * self.world
        dist.all_gather_object(shares, list(items))
        return [shares[i % self.world][i // self.world] for i in range(sum(map(len, shares)))]


def save_config(folder: Path, config: Any, *, resume: bool = False, file: str = "config.yaml") -> None:
    """Write a run's settings as it begins.

    Args:
        folder: Of the run; made if it is not there.
        config: A dataclass.
        resume: The run goes on from what the folder holds, which must have been made with the same settings. Otherwise
            ``result.json`` and ``checkpoint.pt`` of an earlier run are removed: they may be of other settings.
        file: Name of the file.

    Raises:
        ValueError: The folder holds a run with other settings.
    """
    settings = _plain(asdict(config))
    if resume and (folder / file).is_file():
        now = _flat(settings)
        for name, before in _flat(yaml.safe_load((folder / file).read_text("utf-8"))).items():
            if name.split(".")[-1] not in _NOT_OF_A_RUN and now.get(name, before) != before:
                raise ValueError(
                    f"{folder} holds a run with {name} {before}, and is to be resumed with {now[name]}: "
                    "resume it with the same settings, or start in another folder"
                )
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in ("result.json", "checkpoint.pt"):
            (folder / old).unlink(missing_ok=True)
    write_atomically(folder / file, yaml.safe_dump(settings, sort_keys=False).encode())


def _plain(value: Any) -> Any:
    """Replace paths and tuples by what YAML knows, in groups of settings too."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _flat(settings: dict[str, Any], group: str = "") -> dict[str, Any]:
    """Name settings of groups ``group.name``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{group}{name}.") if isinstance(value, dict) else {f"{group}{name}": value}
    return flat

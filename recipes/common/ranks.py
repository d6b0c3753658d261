"""The processes of a run.

Under ``torchrun`` every process trains on its share of the data (NCCL on GPUs, gloo on CPUs); only rank 0 writes.
"""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
            atexit.register(dist.destroy_process_group)  # its threads may abort a process that exits beside them
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

    def agree(self, value: T) -> T:
        """Return the value that the first process has."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gather(self, items: Sequence[T]) -> list[T]:
        """Collect what every process has made of its ``items[rank::world]``, in the order of the items."""
        if self.world == 1:
            return list(items)
        shares: list[list[T]] = [[]] * self.world
        dist.all_gather_object(shares, list(items))
        return [shares[i % self.world][i // self.world] for i in range(sum(map(len, shares)))]

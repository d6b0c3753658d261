"""What the tests of a cluster encode, and the driver that does it: ``python -m tests.data.slow_images OUT SEEN``."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from walloc_transforms.data import encode_dataset

SHARD_SIZE = 2


class SlowImages(Dataset[Any]):
    """Random images that take their time; one cannot be read.

    Args:
        count: Number of images.
        seen: Folder in which the nodes that read images leave their names; None: nowhere.
        seconds: Per image.
    """

    classes = ("cats", "dogs")

    def __init__(self, count: int, seen: Path | None = None, seconds: float = 0.0) -> None:
        self.count, self.seen, self.seconds = count, seen, seconds

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if self.seen is not None:
            import ray

            (self.seen / ray.get_runtime_context().get_node_id()).touch()
        time.sleep(self.seconds)
        if number == 3:
            raise ValueError("cut off")
        return torch.rand(3, 16, 24 + number), number % 2


def main() -> None:
    """Encode on the cluster of ``RAY_ADDRESS``."""
    out, seen, count, seconds = sys.argv[1:]
    source = SlowImages(int(count), Path(seen), float(seconds))
    encode_dataset(source, out, "rgb_16x", shard_size=SHARD_SIZE, engine="ray")


if __name__ == "__main__":
    main()

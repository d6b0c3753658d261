"""Batches of records that fit together."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from .dataset import LatentDataset

__all__ = ["BucketSampler"]


class BucketSampler(Sampler[list[int]]):
    """Batches of records of one size, for a :class:`LatentDataset` that holds several, or one.

    Each process of a distributed training gets other batches, and all get the same number. Batches left over are
    dropped: others in every epoch, if they are shuffled and :meth:`set_epoch` is called.

    Args:
        dataset: The data set.
        batch_size: Records per batch.
        shuffle: Draw the order of the records of a size, and of the batches: another one for each epoch that
            :meth:`set_epoch` names, and the same without it.
        drop_last: Drop batches with fewer records: at most one per size.
        seed: Of the order; the same in all processes.
        rank: Number of this process.
        world: Number of processes.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import tempfile, torch, walloc_transforms as wt
        >>> from torch.utils.data import DataLoader
        >>> images = [torch.rand(3, 64, 64 + 32 * (i % 2)) for i in range(6)]
        >>> dataset = wt.encode_dataset([(x, 0) for x in images], tempfile.mkdtemp(), "rgb_16x", progress=False)
        >>> sampler = wt.data.BucketSampler(dataset, batch_size=3, shuffle=False)
        >>> for latents, labels in DataLoader(dataset, sampler=sampler, batch_size=None):
        ...     print(tuple(latents.shape), labels.tolist())
        (3, 12, 8, 8) [0, 0, 0]
        (3, 12, 8, 12) [0, 0, 0]
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be from 0 to world - 1, got rank={rank} and world={world}")
        self.batch_size, self.shuffle, self.drop_last, self.seed = batch_size, shuffle, drop_last, seed
        self.rank, self.world, self.epoch = rank, world, 0
        _, kinds = np.unique(dataset.sizes, axis=0, return_inverse=True)
        order = np.argsort(kinds.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(kinds.reshape(-1)))
        self._buckets = np.split(order, ends[:-1])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, as ``DistributedSampler.set_epoch`` does: call it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.drop_last:
            batches = sum(len(bucket) // self.batch_size for bucket in self._buckets)
        else:
            batches = sum(-(-len(bucket) // self.batch_size) for bucket in self._buckets)
        return batches // self.world

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        batches: list[np.ndarray] = []
        for bucket in self._buckets:
            order = random.permutation(bucket) if self.shuffle else bucket
            batches += [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        if self.drop_last:
            batches = [batch for batch in batches if len(batch) == self.batch_size]
        if self.shuffle:
            batches = [batches[i] for i in random.permutation(len(batches))]
        for batch in batches[self.rank : len(self) * self.world : self.world]:
            yield batch.tolist()

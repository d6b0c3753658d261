"""The same records as a latent data set, in the stores of others and as one array, and loaders that read them."""

import dataclasses
from collections.abc import Callable, Iterator
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes.bench.loading import JPEGs
from recipes.bench.rivals import RIVALS
from recipes.common.timing import in_fresh_process
from walloc_transforms.data import BucketSampler, Record, pack_shard, shard_name, write_plan
from walloc_transforms.safe import write_atomically

CROP, STORED, STRIDE, BATCH = 256, 288, 8, 64
"""Sides in pixels of what a network sees and of what is stored, pixels per cell, and samples per batch."""
SHARD = 1024  # records

_LATENTS = "`LatentDataset`"

Loader = Callable[[], Any]


class Stores:
    """Records of one size, repeated until they fill so many bytes, in every store that is installed.

    Every record is labeled by its number.

    Args:
        encoded: The records.
        folder: Where the stores are written.
        megabytes: Their size.

    Raises:
        AssertionError: A store does not give back what was written.
    """

    def __init__(self, encoded: wt.LatentDataset, folder: Path, megabytes: float) -> None:
        self.folder, self.codec = folder, encoded.codec
        self._kept = [encoded[i][0].numpy() for i in range(len(encoded))]
        self.shape = self._kept[0].shape
        self.count = max(1, round(megabytes * 1e6 / self._kept[0].nbytes / BATCH)) * BATCH
        self.rivals = {name: rival for name, rival in RIVALS.items() if rival.installed}
        self.counts = {name: max(BATCH, self.count // rival.fewer) for name, rival in self.rivals.items()}
        self._write_latents(encoded)
        np.save(folder / "array.npy", np.stack([*self._arrays(self.count)]))
        for name, rival in self.rivals.items():
            (folder / name).mkdir()
            rival.write(self._arrays(self.counts[name]), folder / name)
        in_fresh_process(self.check)  # litdata keeps what it has read mapped, and that is never forgotten

    def _arrays(self, count: int) -> Iterator[np.ndarray]:
        return (self._kept[i % len(self._kept)] for i in range(count))

    def _write_latents(self, encoded: wt.LatentDataset) -> None:
        (self.folder / "latents").mkdir()
        plan = dataclasses.replace(encoded.index.plan, classes=(), samples=self.count, shard_size=SHARD)
        write_plan(self.folder / "latents", plan)
        arrays = self._arrays(self.count)
        for number in range(plan.shards):
            records = [Record(next(arrays), (STORED, STORED), str(i), i) for i in plan.range(number)]
            content = pack_shard(records, plan=plan, number=number)
            write_atomically(self.folder / "latents" / shard_name(number), content)
        wt.merge_dataset(self.folder / "latents", progress=False)

    def check(self) -> None:
        """Raise an AssertionError for a store that does not give back what was written."""
        for name, make in self.stored({}).items():
            latents, numbers = next(iter(make()))
            expected = torch.from_numpy(np.stack([self._kept[i % len(self._kept)] for i in numbers.tolist()]))
            assert latents.dtype == torch.int8 and torch.equal(latents.as_subclass(Tensor), expected), name

    def files_of(self, loader: str) -> list[Path]:
        """List the files that a loader of that name reads; none if it reads JPEG files."""
        names = [
            name for name in ("latents", *self.rivals) if loader.startswith(_LATENTS if name == "latents" else name)
        ]
        return [file for name in names for file in (self.folder / name).rglob("*") if file.is_file()]

    def samples(self, loader: str) -> int:
        """Count the samples in a pass of a loader of that name: fewer, where they are slow to read."""
        if loader.startswith(_LATENTS):
            return self.count if "by batch" in loader else self._fewer()
        return self.counts[loader]

    def _fewer(self) -> int:
        return max(BATCH, self.count // 4)

    def stored(self, options: dict[str, Any]) -> dict[str, Loader]:
        """Make loaders of records as they are stored, by name; each is made when it is called.

        Args:
            options: Of ``DataLoader``.
        """
        own = {f"{name}, as stored": loader for name, loader in self._latents(None, options).items()}
        others = {
            name: lambda name=name, rival=rival: rival.load(self.folder / name, self.shape, BATCH, options)
            for name, rival in self.rivals.items()
        }
        return {**own, **others}

    def augmented(self, options: dict[str, Any]) -> dict[str, Loader]:
        """Make loaders of random crops of the latents, and of crops that are flipped as often as not."""
        crop, flip = wt.transforms.LatentRandomCrop(CROP // STRIDE), wt.transforms.LatentRandomHorizontalFlip()
        ways = {"crop": crop, "crop and flip": v2.Compose([crop, flip])}
        return {
            f"{name}, {way}": loader
            for way, transform in ways.items()
            for name, loader in self._latents(transform, options).items()
        }

    def _latents(self, transform: Any, options: dict[str, Any]) -> dict[str, Loader]:
        def items() -> Any:
            dataset = self.dataset(transform)
            return DataLoader(dataset, BATCH, sampler=RandomSampler(dataset, num_samples=self._fewer()), **options)

        def batches() -> Any:
            dataset = self.dataset(transform)
            return DataLoader(dataset, sampler=BucketSampler(dataset, BATCH), batch_size=None, **options)

        return {_LATENTS: items, f"{_LATENTS}, by batch": batches}

    def dataset(self, transform: Any = None) -> wt.LatentDataset:
        """Open the latent data set."""
        return wt.LatentDataset(self.folder / "latents", transform=transform)

    def array(self) -> np.ndarray:
        """Map the records as one array: what a few lines of one's own would do, without any check."""
        return np.load(self.folder / "array.npy", mmap_mode="r")


def from_jpegs(files: list[Path], codec: wt.Codec, options: dict[str, Any]) -> dict[str, Loader]:
    """Make loaders of JPEG files: thumbnails, and crops that are encoded, all cut at random and flipped.

    The first is what others are compared with.
    """
    flip = v2.RandomHorizontalFlip()
    same = round(CROP / codec.config.dimensionality_reduction**0.5)
    arms = {
        f"JPEG files, `RandomResizedCrop({side})`": v2.Compose([v2.RandomResizedCrop(side), flip, v2.PILToTensor()])
        for side in dict.fromkeys((64, same))
    }
    encode = wt.WallocEncode(codec, quantize=True)
    arms[f"JPEG files, `RandomResizedCrop({CROP})`, encoded"] = v2.Compose([v2.RandomResizedCrop(CROP), flip, encode])
    return {
        name: lambda arm=arm: DataLoader(JPEGs(files, arm), BATCH, shuffle=True, **options)
        for name, arm in arms.items()
    }


def with_workers(workers: int) -> dict[str, Any]:
    """Return the options of loaders whose workers stay; they are not forked from this process, which has threads."""
    if not workers:
        return {}
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["recipes.bench.stores"])
    return {"num_workers": workers, "persistent_workers": True, "multiprocessing_context": context}

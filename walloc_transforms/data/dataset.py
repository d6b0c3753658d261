"""``LatentDataset``: read what ``encode_dataset`` has stored, record by record or batch by batch."""

import itertools
import operator
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..codec import Codec
from ..latents import Latents, remember_codec
from ..safe import escaped
from ..zoo import find_embedded, load_codec
from .index import CODEC_FOLDER, hash_of, read_index
from .shards import Shard, shard_name

__all__ = ["LatentDataset"]


_CACHED = ("codec", "_origin", "labels", "sizes", "grids")  # what each process makes for itself


class LatentDataset(Dataset[Any]):
    """Latents that were encoded once, as a map-style data set.

    A record is read out of a mapped file: nothing is decoded, and all workers share the pages. ``dataset[i]`` gives one
    record. ``dataset[[3, 1, 4]]`` gives a batch of records of one grid, which is faster: a
    ``DataLoader(dataset, sampler=BucketSampler(dataset, 64), batch_size=None)`` reads so.

    Args:
        path: The folder.
        channels: How many channels to read, from the first on: only their bytes are touched. Default: all.
        transform: Applied to the latents of a record; to those of a whole batch, if the data set is indexed by a list.
            Transforms of ``wt.transforms`` draw for each record of a batch, those of torchvision once.
        as_dict: Give a dict of ``latents``, ``label``, ``key`` and ``part`` instead of a pair.

    Attributes:
        path: The folder.
        index: What ``dataset.json`` says.
        classes: Names of the classes, by label.
        channels: Channels that are read.

    Raises:
        FileNotFoundError: There is no data set, or it is not complete.
        ValueError: ``dataset.json`` is damaged, ``channels`` is out of range; on reading, a shard is damaged.

    Example:
        >>> import tempfile, torch, walloc_transforms as wt
        >>> images = [(torch.rand(3, 64, 96), i % 2) for i in range(4)]
        >>> dataset = wt.encode_dataset(images, tempfile.mkdtemp(), "rgb_16x", progress=False)
        >>> latents, label = dataset[1]
        >>> tuple(latents.shape), latents.dtype, latents.codec, label
        ((12, 8, 12), torch.int8, 'rgb_16x', 1)
        >>> latents, labels = dataset[[0, 3]]
        >>> tuple(latents.shape), labels.tolist()
        ((2, 12, 8, 12), [0, 1])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        channels: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        as_dict: bool = False,
    ) -> None:
        self.path, self.transform, self.as_dict = Path(path), transform, as_dict
        if "://" in os.fspath(path):
            raise ValueError(f"a data set is mapped into memory: copy {os.fspath(path)} to a local folder first")
        self.index = read_index(self.path)
        config = self.index.plan.codec
        self.channels = config.channels if channels is None else channels
        self._ends = list(itertools.accumulate(shard.records for shard in self.index.shards))
        self._maps: dict[int, Shard] = {}
        if channels not in (None, config.channels):
            self._origin  # noqa: B018  (what is no prefix is refused here, not in a worker)

    def __getstate__(self) -> dict[str, Any]:
        """Leave maps and tables behind: the other process makes its own when it needs them."""
        return {**{name: value for name, value in self.__dict__.items() if name not in _CACHED}, "_maps": {}}

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label; empty if there are none."""
        return self.index.plan.classes

    @cached_property
    def codec(self) -> Codec:
        """The codec that has encoded the records, or its prefix of ``channels`` channels; read when it is first used.

        Raises:
            ValueError: It is neither embedded nor in the folder, or it is another one.
        """
        plan, folder = self.index.plan, self.path / CODEC_FOLDER
        if folder.is_dir():  # also of an embedded encoder, if its statistics are the user's own
            codec = load_codec(folder)
        else:
            codec = find_embedded(plan.fingerprint, plan.codec.channels, plan.codec.name)
        if codec is None or codec.fingerprint() != plan.fingerprint:
            where = f"is not the one in {folder}" if codec else f"is neither embedded nor in {folder}"
            raise ValueError(f"codec {plan.codec.name!r} (fingerprint {plan.fingerprint[:8]}) of {self.path} {where}")
        return codec.prefix(self.channels)

    @cached_property
    def _origin(self) -> tuple[str, str]:
        """Name and fingerprint that the latents carry."""
        plan = self.index.plan
        if self.channels == plan.codec.channels and not (self.path / CODEC_FOLDER).is_dir():
            return plan.codec.name, plan.fingerprint  # embedded: flips find it
        return plan.codec.name, remember_codec(self.codec)

    def __getitem__(self, index: Any) -> Any:
        """Read a record by its number, or a batch by a sequence of numbers.

        Args:
            index: From ``-len(self)`` to ``len(self) - 1``, or a list, tuple, array or tensor of such numbers.

        Returns:
            ``(latents, label)``; of a batch ``(N, D, *grid)`` and int64 ``(N,)``. A record of no class has label -1.

        Raises:
            IndexError: There is no such record.
            ValueError: The records of a batch are of several grids, or a shard is damaged.
            TypeError: Neither a whole number nor several.
        """
        if isinstance(index, (Sequence, np.ndarray)) or (isinstance(index, Tensor) and index.ndim):
            return self._batch(np.asarray(index))
        if isinstance(index, slice):
            raise TypeError("records are read by number, or by a list of numbers: list(range(...)) instead of a slice")
        return self._sample(*self._find(operator.index(index)))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Read several records, which may be of several grids, as a list of samples; called by ``DataLoader``."""
        return [self._sample(*self._find(operator.index(index))) for index in indices]

    def _find(self, index: int) -> tuple[Shard, int]:
        """Return the shard of a record, and its number there."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} records, got index {index}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        shard = self._shard(number)
        return shard, index - self._ends[number] + len(shard)

    def _shard(self, number: int) -> Shard:
        """Return a shard, mapped when it is first needed."""
        if (known := self._maps.get(number)) is not None:
            return known
        file, entry = self.path / shard_name(number), self.index.shards[number]
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {self.path} lists it")
        shard = Shard(file, self.index.plan, number)
        if (len(shard), file.stat().st_size) != (entry.records, entry.bytes):
            raise ValueError(f"{file} is not the shard that {self.path} lists: expected {entry.records} records")
        self._maps[number] = shard
        return shard

    def _sample(self, shard: Shard, i: int) -> Any:
        size = tuple(shard.sizes[i].tolist())
        latents: Any = self._wrap(torch.from_numpy(shard.latents(i)[: self.channels].copy()), size)
        latents = latents if self.transform is None else self.transform(latents)
        label = int(shard.labels[i])
        if self.as_dict:
            return {"latents": latents, "label": label, "key": shard.key(i), "part": int(shard.parts[i])}
        return latents, label

    def _batch(self, numbers: np.ndarray) -> Any:
        if numbers.ndim != 1 or not numbers.size or numbers.dtype.kind not in "iu":
            raise TypeError(
                f"a batch is indexed by a list of whole numbers, got {numbers.dtype} of shape {numbers.shape}"
            )
        places = [self._find(number) for number in numbers.tolist()]
        arrays = [shard.latents(i) for shard, i in places]
        shapes = {array.shape for array in arrays}
        if len(shapes) != 1:
            raise ValueError(
                f"a batch holds records of one grid, got {len(shapes)}: {sorted(shapes)[:3]}; BucketSampler makes such "
                "batches"
            )
        out = np.empty((len(arrays), self.channels, *arrays[0].shape[1:]), arrays[0].dtype)
        for place, array in zip(out, arrays, strict=True):
            place[...] = array[: self.channels]
        size = np.minimum.reduce([shard.sizes[i] for shard, i in places])  # what all of them hold
        latents: Any = self._wrap(torch.from_numpy(out), tuple(size.tolist()))
        latents = latents if self.transform is None else self.transform(latents)
        labels = torch.tensor([int(shard.labels[i]) for shard, i in places])
        if self.as_dict:
            keys = [shard.key(i) for shard, i in places]
            parts = torch.tensor([int(shard.parts[i]) for shard, i in places])
            return {"latents": latents, "label": labels, "key": keys, "part": parts}
        return latents, labels

    def _wrap(self, tensor: Tensor, size: tuple[int, ...]) -> Latents:
        codec, fingerprint = self._origin
        return Latents(tensor, codec=codec, fingerprint=fingerprint, signal_size=size)

    def _table(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(shard, name) for shard in map(self._shard, range(len(self.index.shards)))])

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of all records, int64; -1 is none."""
        return self._table("labels")

    @cached_property
    def sizes(self) -> np.ndarray:
        """Sizes of all signals, int64: ``(len(self), 2)`` of images, ``(len(self), 1)`` of sounds, or 3 of volumes."""
        return self._table("sizes")

    @cached_property
    def grids(self) -> np.ndarray:
        """Cells per axis of all records, of the form of ``sizes``."""
        return self._table("grids")

    def key(self, index: int) -> str:
        """Return what names the sample of a record in its source, such as a path below the folder."""
        shard, i = self._find(index)
        return shard.key(i)

    def unreadable(self) -> list[tuple[str, str]]:
        """List the samples that could not be read when the data set was made, each with the reason."""
        return [pair for shard in map(self._shard, range(len(self.index.shards))) for pair in shard.unreadable]

    def verify(self, *, progress: bool = True) -> None:
        """Read every file and compare its hash with the one in ``dataset.json``.

        Args:
            progress: Show a progress bar.

        Raises:
            ValueError: A file was changed; it is named.
            FileNotFoundError: One is missing.
        """
        for number, entry in enumerate(tqdm(self.index.shards, "verify", unit="shard", disable=not progress)):
            file = self.path / shard_name(number)
            if hash_of(file) != entry.sha256:
                raise ValueError(f"{file} is damaged: its SHA-256 is not the one that {self.path} lists")

    def check_codec(self, user: Any) -> None:
        """Refuse a codec, decoder or model that is for other latents.

        Args:
            user: A codec or the name of one, or whatever has a codec: ``WallocDecode``, a ``WallocStem``, or a model
                with such a stem.

        Raises:
            ValueError: Its codec is another one.
            TypeError: It has no codec.
        """
        codec = load_codec(user) if isinstance(user, (str, os.PathLike)) else _codec_in(user)
        if codec.fingerprint() != self._origin[1]:
            raise ValueError(
                f"{self.path} holds latents of {self.channels} channels of codec {self.index.plan.codec.name!r} "
                f"(fingerprint {self._origin[1][:8]}), got codec {codec.config.name!r} of "
                f"{codec.config.channels} channels ({codec.fingerprint()[:8]})"
            )

    def __repr__(self) -> str:
        c, index = self.index.plan.codec, self.index
        return (
            f"{type(self).__name__}({escaped(str(self.path))!r}: {len(self):,} records, {self.channels} of "
            f"{c.channels} channels of {c.name!r}, {len(self.classes)} classes, {index.bytes / 1e6:,.1f} MB)"
        )


def _codec_in(user: Any) -> Codec:
    modules = user.modules() if isinstance(user, nn.Module) else (user,)
    for module in modules:
        for found in (module, getattr(module, "codec", None)):
            if isinstance(found, Codec):
                return found
    raise TypeError(f"expected a codec, a decoder, or a model whose stem reads latents, got {type(user).__name__}")

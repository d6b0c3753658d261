"""Other stores of the same arrays, for the benchmark of latent data sets. None is needed: what is not installed is left
out.

Every store holds int8 arrays of one shape, each labeled by its number, and is read in batches of tensors, in an order
of its own kind of shuffling.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

_FILE = 4 << 20  # bytes per file of webdataset and litdata: workers share files


@dataclass(frozen=True)
class Rival:
    """A store of arrays.

    Attributes:
        package: What must be installed.
        write: Writes arrays into a folder.
        load: Opens the folder as a loader of batches, given their shape, the batch size and options of ``DataLoader``.
        fewer: How many times fewer arrays it is given, because it is slow.
    """

    package: str
    write: Callable[[Iterable[np.ndarray], Path], None]
    load: Callable[[Path, tuple[int, ...], int, dict[str, Any]], Iterable[tuple[Tensor, Tensor]]]
    fewer: int = 1

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return find_spec(self.package) is not None


def _write_tars(arrays: Iterable[np.ndarray], folder: Path) -> None:
    webdataset: Any = import_module("webdataset")
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=_FILE, verbose=0) as writer:
        for i, array in enumerate(arrays):
            writer.write({"__key__": f"{i:08}", "npy": array, "cls": i})


def _load_tars(folder: Path, shape: tuple[int, ...], batch: int, options: dict[str, Any]) -> Any:
    webdataset: Any = import_module("webdataset")
    files = sorted(map(str, folder.glob("*.tar")))
    samples = webdataset.WebDataset(files, shardshuffle=len(files), empty_check=False).shuffle(1000, initial=1000)
    batches = samples.decode().to_tuple("npy", "cls").batched(batch, collation_fn=default_collate)
    return webdataset.WebLoader(batches, batch_size=None, **options)


def _write_chunks(arrays: Iterable[np.ndarray], folder: Path) -> None:
    cache = import_module("litdata.streaming").Cache(str(folder), chunk_bytes=_FILE)
    for i, array in enumerate(arrays):
        cache[i] = (array, i)
    cache.done()
    cache.merge()


def _load_chunks(folder: Path, shape: tuple[int, ...], batch: int, options: dict[str, Any]) -> Any:
    litdata: Any = import_module("litdata")
    dataset = litdata.StreamingDataset(str(folder), shuffle=True)
    return litdata.StreamingDataLoader(dataset, batch_size=batch, **options)


def _write_table(arrays: Iterable[np.ndarray], folder: Path, *, as_bytes: bool) -> None:
    datasets: Any = import_module("datasets")
    kept = list(arrays)
    kind = datasets.Value("binary") if as_bytes else datasets.Array3D(kept[0].shape, "int8")
    values = [array.tobytes() for array in kept] if as_bytes else kept
    features = datasets.Features({"latents": kind, "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict({"latents": values, "label": range(len(kept))}, features)
    datasets.disable_progress_bars()
    table.save_to_disk(str(folder))


def _load_table(folder: Path, shape: tuple[int, ...], batch: int, options: dict[str, Any]) -> Any:
    datasets: Any = import_module("datasets")
    table = datasets.load_from_disk(str(folder)).with_format("torch")
    return DataLoader(table, batch, shuffle=True, collate_fn=_pairs, **options)


def _load_bytes(folder: Path, shape: tuple[int, ...], batch: int, options: dict[str, Any]) -> Any:
    datasets: Any = import_module("datasets")
    table = datasets.load_from_disk(str(folder))  # its format "numpy" drops zeros at the end of bytes
    return DataLoader(table, batch, shuffle=True, collate_fn=_Unpack(shape), **options)


def _pairs(rows: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    latents = torch.stack([row["latents"] for row in rows])  # int64, whatever the table says
    return latents.to(torch.int8), torch.stack([row["label"] for row in rows])


class _Unpack:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __call__(self, rows: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        whole = bytearray(b"".join(row["latents"] for row in rows))
        latents = torch.frombuffer(whole, dtype=torch.int8).view(len(rows), *self.shape)
        return latents, torch.tensor([row["label"] for row in rows])


RIVALS = {
    "webdataset": Rival("webdataset", _write_tars, _load_tars, fewer=4),
    "litdata": Rival("litdata", _write_chunks, _load_chunks),
    "datasets, an array column": Rival("datasets", partial(_write_table, as_bytes=False), _load_table, fewer=8),
    "datasets, a column of bytes": Rival("datasets", partial(_write_table, as_bytes=True), _load_bytes),
}

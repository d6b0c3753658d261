"""Latent data sets beside the JPEG files they are made of, and beside other stores of the same arrays.

Images are stored at 288x288 pixels and cropped to 32x32 cells, the latents of 256x256 pixels: as many values as a
thumbnail of 64x64 pixels has (128x128 with a codec that keeps a quarter).
"""

import gc
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

import walloc_transforms as wt
from recipes.bench.cold import forget
from recipes.bench.loading import one_pass, write_jpegs
from recipes.bench.stores import BATCH, STORED, Stores, from_jpegs, with_workers
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.timing import in_fresh_process, median_seconds

TIMED = 512  # images at most whose encoding is timed
SHARED = 64  # images per shard there: Ray's tasks are whole shards
PASSED = 256  # JPEG files at most per pass of a loader
ROUNDS = 3  # of what is timed cold, and of encoding


@dataclass
class DataSettings:
    """How much the data part reads and writes."""

    images: int = 1024
    """JPEG files that are encoded: their sizes are compared."""
    megabytes: float = 100
    """Size of the stores that are read, which repeat the records."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Worker processes of a loader."""
    ray: bool = False
    """Time encoding on a Ray cluster of this machine, too."""
    epochs: tuple[int, ...] = (1, 10, 50)
    """After which the memory of workers is measured."""


def check_data(settings: DataSettings) -> None:
    """Raise a ValueError for settings that cannot be run."""
    check_at_least(settings, 1, ("images", "epochs"))
    check_at_least(settings, 0, ("workers",))
    check_above_zero(settings, ("megabytes",))
    if not settings.workers or not settings.epochs:
        raise ValueError("workers and epochs must each have a number")


def data_part(codecs: Sequence[str], settings: DataSettings, repeats: int, row_seconds: float) -> dict[str, Any]:
    """Measure all tables of the part; returns the records of each."""
    torch.set_num_threads(1)  # workers have one in any case
    results: dict[str, Any] = {"settings": {"stored": STORED, "batch": BATCH, "megabytes": settings.megabytes}}
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "jpegs").mkdir()
        files = write_jpegs(folder / "jpegs", settings.images)
        results["encoding"] = encoding(files, folder, codecs, settings)
        results["sizes"], results["loading"], results["reads"], results["memory"] = [], [], [], []
        for name in codecs:
            encoded = encode(folder / "jpegs", folder / name, name, max(settings.workers))
            sizes = {"JPEG files": size_of(folder / "jpegs"), "latent data set": size_of(folder / name)}
            results["sizes"].append({"codec": name, "images": len(encoded), "bytes": sizes})
            with TemporaryDirectory(dir=folder) as own:
                stores = Stores(encoded, Path(own), settings.megabytes)
                rates = loading_cold(stores, files[:PASSED])
                results["loading"].append({"codec": name, "workers": 0, "cache": "cold", "rates": rates})
                for workers in tqdm(settings.workers, desc=f"loading, {name}", unit="row"):
                    rates = loading(stores, files[:PASSED], workers, repeats, row_seconds)
                    results["loading"].append({"codec": name, "workers": workers, "cache": "warm", "rates": rates})
                results["reads"].append({"codec": name, "rates": reads(stores, repeats, row_seconds)})
                if max(settings.workers) and name == codecs[0]:
                    measured = memory_of_workers(stores, max(settings.workers), settings.epochs)
                    results["memory"].append({"codec": name, "workers": max(settings.workers), "after": measured})
    return results


def encode(source: Any, out: Path, codec: str, workers: int, **options: Any) -> Any:
    """Make a latent data set of image files."""
    return wt.encode_dataset(
        source, out, codec, resize=STORED, crop=STORED, workers=workers, overwrite=True, progress=False, **options
    )


def encoding(files: list[Path], folder: Path, codecs: Sequence[str], settings: DataSettings) -> list[Any]:
    """Rates of the whole pipeline from JPEG files to shards, in images per second; calls take turns."""
    files = files[:TIMED]
    engines: dict[str, dict[str, Any]] = {
        f"{n} worker{'s' * (n > 1)}" if n else "in process": {"workers": n} for n in settings.workers
    }
    cluster: Any = nullcontext()
    if settings.ray:
        n = max(1, *settings.workers)
        engines[f"Ray, {n} task{'s' * (n > 1)} at a time"] = {"workers": n, "engine": "ray"}
        cluster = import_module("ray").init("local", num_cpus=n, logging_level="ERROR", log_to_driver=False)
    seconds: dict[tuple[str, str], list[float]] = {(codec, engine): [] for codec in codecs for engine in engines}
    with cluster:
        for _ in tqdm(range(ROUNDS), desc="encoding", unit="round"):
            for codec, engine in seconds:
                start = time.perf_counter()
                encode(files, folder / "timed", codec, shard_size=SHARED, **engines[engine])
                seconds[codec, engine].append(time.perf_counter() - start)
    median = {call: len(files) / statistics.median(own) for call, own in seconds.items()}
    return [{"codec": c, "images": len(files), "rates": {e: median[c, e] for e in engines}} for c in codecs]


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def loading(stores: Stores, files: list[Path], workers: int, repeats: int, row_seconds: float) -> dict[str, float]:
    """Samples per second through a ``DataLoader``; the loaders take turns."""
    options = with_workers(workers)
    makers = {**from_jpegs(files, stores.codec, options), **stores.augmented(options), **stores.stored(options)}
    loaders = {name: make() for name, make in makers.items()}
    samples = {name: samples_of(name, files, stores) for name in loaders}
    seconds = median_seconds({n: partial(one_pass, loader) for n, loader in loaders.items()}, repeats, row_seconds)
    return {name: samples[name] / s for name, s in seconds.items()}


def loading_cold(stores: Stores, files: list[Path]) -> dict[str, float]:
    """Samples per second in one process where every file must be read from the disk; empty if that cannot be had."""
    rounds = [in_fresh_process(cold_seconds, stores, files) for _ in tqdm(range(ROUNDS), desc="cold", unit="round")]
    return {
        name: samples_of(name, files, stores) / statistics.median(own[name] for own in rounds)
        for name in rounds[0]
        if all(name in own for own in rounds)
    }


def cold_seconds(stores: Stores, files: list[Path]) -> dict[str, float]:
    """Seconds of one pass of each loader in this process, which has not read the files yet."""
    torch.set_num_threads(1)
    seconds: dict[str, float] = {}
    for name, make in {**from_jpegs(files, stores.codec, {}), **stores.augmented({}), **stores.stored({})}.items():
        gc.collect()  # what is mapped is not forgotten
        loader = make()
        if forget(stores.files_of(name) or files):
            start = time.perf_counter()
            one_pass(loader)
            seconds[name] = time.perf_counter() - start
        del loader
    return seconds


def samples_of(name: str, files: list[Path], stores: Stores) -> int:
    """Samples in a pass of a loader."""
    return stores.samples(name) if stores.files_of(name) else len(files)


def reads(stores: Stores, repeats: int, row_seconds: float) -> dict[str, float]:
    """Random reads per second in this process, without a loader."""
    dataset, array = stores.dataset(), stores.array()
    numbers = torch.randperm(stores.count, generator=torch.Generator().manual_seed(0))
    batches, items = [batch.tolist() for batch in numbers.split(BATCH)], numbers.tolist()
    calls: dict[str, Callable[[], object]] = {
        "`dataset[[...]]`": lambda: [dataset[batch] for batch in batches],
        "`dataset[i]`": lambda: [dataset[i] for i in items],
        "a mapped array, by batch": lambda: [torch.from_numpy(array[batch]) for batch in batches],
    }
    return {name: stores.count / s for name, s in median_seconds(calls, repeats, row_seconds).items()}


def memory_of_workers(stores: Stores, workers: int, epochs: Sequence[int]) -> list[dict[str, Any]]:
    """Bytes that the workers of one loader hold after so many epochs, all of them together."""
    loader = stores.augmented(with_workers(workers))["`LatentDataset`, by batch, crop and flip"]()
    found: list[dict[str, Any]] = []
    for epoch in tqdm(range(1, max(epochs) + 1), desc="memory", unit="epoch"):
        one_pass(loader)
        if epoch in epochs and (held := held_by([process.pid for process in active_children()])):
            found.append({"epoch": epoch, **held})
    return found


def held_by(processes: Sequence[int | None]) -> dict[str, int]:
    """Bytes of memory of processes, each page divided among those that share it; Linux says so."""
    held = {"anonymous": 0, "files": 0}
    for process in processes:
        file = Path(f"/proc/{process}/smaps_rollup")
        if not file.exists():
            return {}
        kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", file.read_text(), re.MULTILINE))
        held["anonymous"] += 1024 * int(kilobytes["Pss_Anon"])
        held["files"] += 1024 * (int(kilobytes["Pss_File"]) + int(kilobytes["Pss_Shmem"]))
    return held

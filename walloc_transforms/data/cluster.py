"""Encode a latent data set on a Ray cluster: every task makes a whole shard, and writes it where all machines see it.

Only the numbers of shards, and what is to be reported of them, pass through the driver. Tasks have no state, so Ray
repeats those of a worker or machine that dies on others. A driver that dies leaves whole shards, and the next one does
the rest.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..safe import remove_leftovers
from .progress import Progress
from .shards import shard_name
from .storage import Storage
from .work import Unreadable, Work

if TYPE_CHECKING:
    import ray

__all__ = ["encode_on_ray"]


def encode_on_ray(work: Work, storage: Storage, shards: Sequence[int], workers: int, progress: Progress) -> None:
    """Let the tasks of a Ray cluster encode shards: that which this program has joined, or one on this machine.

    Args:
        work: What is to be done; it is pickled for the workers.
        storage: Where shards are written: a folder that all machines see at the same path, or a URL.
        shards: Their numbers.
        workers: The most tasks at a time, of a core each; 0 for as many as the cluster has cores.
        progress: What is told of finished shards.

    Raises:
        ImportError: Ray is not installed.
        TypeError: The source gives something else than signals and labels.
        OSError: A machine is in trouble.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f'engine="ray" needs Ray ({error}): pip install "walloc_transforms[ray]"') from error
    if not shards:
        return
    task: Any = _encode  # Ray's annotation forgets the arguments of fn_kwargs
    if storage.folder is not None:
        storage = Storage(storage.folder.absolute())  # workers may stand elsewhere
    with _joined(), _as_here():
        # Ray repeats tasks whose worker died, as often as it takes, and none that raise an error.
        numbers = ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
        numbers.context.enable_progress_bars = False
        numbers.context.raise_original_map_exception = True
        done = numbers.map_batches(
            task,
            batch_size=1,
            fn_kwargs={"work": ray.put(work), "storage": storage, "pixels": Image.MAX_IMAGE_PIXELS},
            compute=ray.data.TaskPoolStrategy(size=workers or None),
            num_cpus=1,
        )
        for row in done.iter_rows():
            progress.add(
                row["samples"], row["written"], [(key, reason) for key, reason in json.loads(row["unreadable"])]
            )
    if storage.folder is not None:
        remove_leftovers(storage.folder)  # of workers that died while they wrote


@contextlib.contextmanager
def _joined() -> Iterator[None]:
    """Join a cluster, if the program has not: that of ``RAY_ADDRESS``, one on this machine, or a new one."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init()
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _as_here() -> Iterator[None]:
    """Raise what a task has raised as if it had been raised here."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _encode(
    batch: dict[str, np.ndarray], work: "ray.ObjectRef[Work]", storage: Storage, pixels: int | None
) -> dict[str, Any]:
    """Encode a shard and write it: the task."""
    torch.set_num_threads(1)
    Image.MAX_IMAGE_PIXELS = pixels
    todo, number = _fetched(work), int(batch["shard"][0])
    unreadable: list[tuple[str, str]] = []

    def results() -> Iterator[Any]:
        for sample in todo.plan.range(number):
            result = todo.attempt(sample)
            if isinstance(result, Unreadable):
                unreadable.append((result.key, result.reason))
            yield result

    content = todo.pack(number, results())
    storage.write(shard_name(number), content)
    row = {"samples": len(todo.plan.range(number)), "written": len(content), "unreadable": json.dumps(unreadable)}
    return {name: np.array([value]) for name, value in row.items()}


@lru_cache(maxsize=1)
def _fetched(work: "ray.ObjectRef[Work]") -> Work:
    """Unpickle the work once in a worker, whose tasks then have the codec ready."""
    import ray

    return ray.get(work)

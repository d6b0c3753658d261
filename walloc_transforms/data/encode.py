"""``encode_dataset``: make a latent data set, in this process and its workers, or on a cluster.

The plan is written first, then shards, each when it is whole, and the index last. So whatever stops a run, the same
call goes on with the shards that are missing.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..codec import statistics_fingerprint
from ..safe import escaped
from ..sealed import writing
from ..zoo import CodecLike, find_embedded
from .codec_folder import holds_codec
from .dataset import LatentDataset
from .index import CODEC_FOLDER, INDEX_FILE, merge_dataset, missing_shards
from .plan import PLAN_FILE, Plan, read_plan, write_plan
from .progress import Progress
from .records import Record
from .shards import Shard, shard_name, shard_number
from .storage import LOCK_FILE, Storage
from .work import Unreadable, Work

__all__ = ["Engine", "encode_dataset"]

Engine = Literal["local", "ray"]

_CHUNK = 8  # samples that a worker sends at once


def encode_dataset(
    source: Any,
    out: str | os.PathLike[str],
    codec: CodecLike,
    *,
    resize: int | None = None,
    crop: int | Sequence[int] | None = None,
    transform: Callable[[Any], Any] | None = None,
    views: int = 1,
    window: int | None = None,
    shard_size: int = 1024,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
    seed: int = 0,
    engine: Engine = "local",
    overwrite: bool = False,
    progress: bool = True,
) -> LatentDataset | None:
    """Encode images, sounds or volumes once, to train on their rounded latents many times.

    A run that was stopped, by whatever, goes on where it was when it is called again. The bytes of a data set depend on
    the source, the codec and the options that are named first, up to ``shard_size``, and on ``seed``: not on workers,
    parts, the engine or interruptions. Samples that cannot be read or encoded are named and left out, and stand in the
    data set with the reason.

    Args:
        source: A folder that has a folder of files for each class, as torchvision's ``ImageFolder`` reads, or only
            files; a ``.txt`` file of paths, one a line, relative to it, with a class behind a tab or without; a list of
            paths; a data set of Hugging Face, or ``"hf:NAME"`` or ``"hf:NAME:SPLIT"``; or any data set with a length,
            whose samples are ``(signal, label)``, dicts of ``image``, ``audio`` or ``video`` and ``label``, or signals.
            Files of volumes are arrays, ``.npy``, or video files (extra ``video``).
        out: A folder that is new, empty, or holds what an earlier run has left.
        codec: The codec, or its name. If it does not come with the package, it is saved in the data set.
        resize: Resize images, and the frames of volumes, so that their shorter side has so many pixels (bicubic, with
            antialiasing).
        crop: Crop images and frames to ``S`` or ``(H, W)`` pixels around their middle. Default: records are of the
            images' sizes.
        transform: Called with each signal, before ``resize`` and ``crop``; random if it likes, as its random numbers
            are seeded. It gets images of files as PIL images, of 16 bits as tensors, sounds as tensors ``(C, T)``, and
            volumes as ``tv_tensors.Video`` ``(T, C, H, W)``, an order that it keeps.
        views: Records of each sample, each transformed anew. Without a ``transform`` they are random resized crops of
            size ``crop``, flipped at random.
        window: Cut sounds and volumes along time into records of so many frames of latents; the last one has fewer.
            Default: a record is a whole signal.
        shard_size: Samples per file.
        workers: Processes that encode, beside this one; with ``engine="ray"`` tasks at a time, or 0 for one per core.
        part: ``(i, n)``: do the shards whose number is i modulo n. Runs of other parts do the others, at the same time
            or later, on this machine or on others that share the folder.
        seed: Of what is random.
        engine: ``"local"``, or ``"ray"`` for a Ray cluster (extra ``ray``), of which ``out`` may be a URL.
        overwrite: Replace the data set that is there.
        progress: Show a progress bar.

    Returns:
        The data set; None while shards of other parts are missing, or if ``out`` is a URL.

    Raises:
        ValueError: Options contradict each other or the codec; the folder holds a data set made otherwise, or something
            else; another process is at work in it; or no sample could be read.
        FileNotFoundError: There is nothing to encode.
        TypeError: The source gives something else than signals and labels.
        OSError: The disk is full, for one. What is finished stays.
        ImportError: The source or the engine needs a package that is missing.

    Example:
        >>> import tempfile, torch, walloc_transforms as wt
        >>> images = [(torch.rand(3, 72, 96), i % 2) for i in range(4)]
        >>> dataset = wt.encode_dataset(images, tempfile.mkdtemp(), "rgb_16x", crop=64, progress=False)
        >>> latents, label = dataset[3]
        >>> tuple(latents.shape), latents.dtype, label
        ((12, 8, 8), torch.int8, 1)
    """
    number, parts = _check_part(part)
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be 'local' or 'ray', got {engine!r}")
    if overwrite and parts > 1:
        raise ValueError("overwrite replaces the whole data set: expected no part of it")
    storage = Storage(out)
    if storage.folder is not None and isinstance(source, (str, os.PathLike)):
        _check_apart(Path(source), storage.folder)
    work = Work(
        source,
        codec,
        resize=resize,
        crop=crop,
        transform=transform,
        views=views,
        window=window,
        shard_size=shard_size,
        seed=seed,
    )
    with storage.held((number, parts)):
        _begin(work, storage, overwrite)
        own = range(number, work.plan.shards, parts)
        missing, unreadable = _missing(work.plan, storage, own)
        if missing:  # an index that is there lists other shards than those this run will make
            storage.remove(INDEX_FILE)
        total, todo = (sum(len(work.plan.range(shard)) for shard in shards) for shards in (own, missing))
        with Progress(work.plan, total, total - todo, unreadable, progress) as shown:
            if engine == "ray":
                from .cluster import encode_on_ray

                encode_on_ray(work, storage, missing, workers, shown)
            else:
                _encode_here(work, storage, missing, workers, shown)
        return _finish(work.plan, storage, bool(missing), progress)


def _check_part(part: tuple[int, int]) -> tuple[int, int]:
    number, parts = part
    if not 0 <= number < parts:
        raise ValueError(f"part must be (i, n), number i of n parts from 0 to n - 1, got {part!r}")
    return number, parts


def _check_apart(source: Path, out: Path) -> None:
    """Refuse a data set in the folder it is made of, where the next run would take it for a class."""
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out} lies in {source}, which is to be encoded: expected a folder beside it")


def _begin(work: Work, storage: Storage, overwrite: bool) -> None:
    """Compare the plan with the one that is there, or write it, and the codec before it."""
    with writing(storage.folder) if storage.folder is not None else contextlib.nullcontext():  # parts may begin at once
        storage.remove_staged()
        names = storage.names()
        foreign = sorted(name for name in names if not _is_ours(name))
        if PLAN_FILE not in names and foreign:
            raise ValueError(f"{storage} holds {escaped(foreign[0])}, and no latent data set: expected a new folder")
        if PLAN_FILE in names and not overwrite:
            with storage.local(PLAN_FILE) as file:
                plan = read_plan(file.parent)
            if differences := plan.differences(work.plan):
                raise ValueError(
                    f"{storage} holds a latent data set that was made otherwise ({'; '.join(differences)}): "
                    "overwrite=True, or --force, replaces it"
                )
            work.plan = plan  # the shards that are there name it as it was written
            return
        holds_data = any(name in (PLAN_FILE, INDEX_FILE) or shard_number(name) is not None for name in names)
        if holds_data and not overwrite:
            raise ValueError(
                f"{storage} holds shards, but no {PLAN_FILE}: restore it, or replace all by overwrite=True"
            )
        held, embedded = holds_codec(storage, work.codec), _is_embedded(work)
        if held is False and not holds_data:
            raise ValueError(
                f"{storage} holds a folder {CODEC_FOLDER} that is not codec {work.codec.config.name!r}, and no latent "
                "data set: expected a new folder"
            )
        # The codec first, as it may be read from the very folder that is replaced. That of a data set is replaced even
        # if it has the same encoder and statistics, as its decoder may be another.
        if not embedded and not (held and not holds_data):
            storage.save(CODEC_FOLDER, work.codec.save_pretrained)
        # The index first and the plan last: a run that is killed on the way leaves what no other run takes for whole.
        ours = {name for name in names if _is_ours(name)} - {LOCK_FILE, CODEC_FOLDER}
        if embedded and held is False:
            ours.add(CODEC_FOLDER)
        for name in sorted(ours, key=lambda name: (name == PLAN_FILE, name != INDEX_FILE)):
            storage.remove(name)
        storage.save("", lambda folder: write_plan(folder, work.plan))


def _is_ours(name: str) -> bool:
    return (
        name in (INDEX_FILE, PLAN_FILE, CODEC_FOLDER, LOCK_FILE)
        or shard_number(name) is not None
        or (name.startswith(".walloc-") and name.endswith(".partial"))
    )


def _is_embedded(work: Work) -> bool:
    c = work.codec.config
    found = find_embedded(work.plan.fingerprint, c.channels, c.name)
    return found is not None and statistics_fingerprint(found) == statistics_fingerprint(work.codec)


def _missing(plan: Plan, storage: Storage, own: Sequence[int]) -> tuple[list[int], int]:
    """List the shards that are still to be done, damaged ones too, and count the unreadable samples of the others."""
    names, missing, unreadable = storage.names(), [], 0
    for number in own:
        if shard_name(number) not in names:
            missing.append(number)
        elif storage.folder is not None:
            try:
                unreadable += len(Shard(storage.folder / shard_name(number), plan, number).unreadable)
            except ValueError:
                missing.append(number)
    return missing, unreadable


class _Samples(Dataset[Any]):
    """What the workers of a loader do."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __getitem__(self, number: int) -> list[Record] | Unreadable:
        return self.work.attempt(number)


def _limit_pixels(pixels: int | None, worker: int) -> None:
    """Give a worker, which may have been started anew, the limit of this process."""
    Image.MAX_IMAGE_PIXELS = pixels


def _encode_here(work: Work, storage: Storage, shards: Sequence[int], workers: int, progress: Progress) -> None:
    """Let workers encode samples, and write the shards in order."""
    samples = [work.plan.range(shard) for shard in shards]
    chunks: Any = [own[i : i + _CHUNK] for own in samples for i in range(0, len(own), _CHUNK)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in workers: sums of several threads may round otherwise
    try:
        loader = DataLoader(
            _Samples(work),
            batch_sampler=chunks,
            collate_fn=list,
            num_workers=workers,
            worker_init_fn=partial(_limit_pixels, Image.MAX_IMAGE_PIXELS),
            generator=torch.Generator(),  # its seeds are not to be taken from the program's random numbers
        )
        results = itertools.chain.from_iterable(loader)
        for shard, own in zip(shards, samples, strict=True):
            done: list[list[Record] | Unreadable] = []
            for result in itertools.islice(results, len(own)):
                done.append(result)
                failed = [(result.key, result.reason)] if isinstance(result, Unreadable) else []
                progress.add(1, unreadable=failed)
            content = work.pack(shard, done)
            storage.write(shard_name(shard), content)
            progress.add(written=len(content))
    finally:
        torch.set_num_threads(threads)


def _finish(plan: Plan, storage: Storage, made: bool, progress: bool) -> LatentDataset | None:
    """Write the index if all shards are there, and it is not or this run has made shards."""
    if missing_shards(storage.names(), plan):
        return None
    if made or INDEX_FILE not in storage.names():
        merge_dataset(storage.url, progress=progress)
    return None if storage.folder is None else LatentDataset(storage.folder)

"""The commands that work on latent data sets: encode one, join its parts, and describe one."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..data import LatentDataset, encode_dataset, merge_dataset, missing_shards, read_plan
from ..safe import escaped
from .work import pixel_limit

__all__ = ["describe_dataset", "encode_data", "is_dataset", "merge"]

_SHOWN = 10  # names of classes, and of samples that are left out


def encode_data(
    source: tyro.conf.Positional[str],
    /,
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])],
    *,
    codec: str = "rgb_16x",
    resize: int | None = None,
    crop: tuple[int, ...] = (),
    views: int = 1,
    window: int | None = None,
    shard_size: int = 1024,
    workers: int = 0,
    shard: str = "0/1",
    seed: int = 0,
    engine: Literal["local", "ray"] = "local",
    max_pixels: int | None = None,
    force: bool = False,
) -> None:
    """Encode a latent data set. A run that was stopped goes on where it was; what cannot be read is named and left out.

    Args:
        source: A folder with a folder for each class, or of files; a .txt file of paths, with a class behind a tab or
            without; or hf:NAME or hf:NAME:SPLIT of the Hugging Face hub.
        output: Folder of the data set, or a URL of fsspec, such as s3://bucket/latents.
        codec: A name, a folder, a .pth file or a hub repository.
        resize: Pixels of the shorter side of images and frames.
        crop: Pixels, S or H W, cut from the middle of images and frames; with --views, the size of random crops.
        views: Random crops of each image, flipped at random.
        window: Frames of latents of a record of sound or video.
        shard_size: Samples per file.
        workers: Processes that encode.
        shard: i/n, to do part i of n, from 0 on; other runs, also on other machines, do the others.
        seed: Of random crops.
        engine: `ray` encodes on a Ray cluster.
        max_pixels: Leave out images and volumes of more pixels, and sounds of more samples per channel. Default: 179
            million.
        force: Replace the data set that is there.
    """
    part = re.fullmatch(r"(\d+)/(\d+)", shard)
    if part is None:
        raise ValueError(f"--shard must be i/n, such as 0/8, got {shard!r}")
    size = crop[0] if len(crop) == 1 else crop or None
    with pixel_limit(max_pixels):
        dataset = encode_dataset(
            source,
            output,
            codec,
            resize=resize,
            crop=size,
            views=views,
            window=window,
            shard_size=shard_size,
            workers=workers,
            part=(int(part[1]), int(part[2])),
            seed=seed,
            engine=engine,
            overwrite=force,
            progress=sys.stderr.isatty(),
        )
    others = "" if "://" in output else ", others are not"
    print(f"{output}: shard {shard} is done{others}" if dataset is None else dataset)


def merge(folder: tyro.conf.Positional[str]) -> None:
    """Join the parts of a latent data set that were encoded apart, and copied into one folder.

    Args:
        folder: With plan.json and all shards, or its URL.
    """
    merge_dataset(folder, progress=sys.stderr.isatty())
    print(f"{folder}: the data set is complete" if "://" in folder else LatentDataset(folder))


def is_dataset(target: str) -> bool:
    """Whether a folder holds a latent data set, complete or not."""
    return any(os.path.isfile(os.path.join(target, name)) for name in ("dataset.json", "plan.json"))


def describe_dataset(folder: Path) -> dict[str, Any]:
    """Say what a latent data set holds; of one that is not complete, what it is to hold."""
    if not (folder / "dataset.json").is_file():
        plan = read_plan(folder)
        missing = len(missing_shards(set(os.listdir(folder)), plan))
        held = {"shards": f"{plan.shards - missing:,} of {plan.shards:,}: not complete"}
    else:
        dataset = LatentDataset(folder)
        plan, index = dataset.index.plan, dataset.index
        least, most = ("x".join(map(str, sides)) for sides in (dataset.sizes.min(0), dataset.sizes.max(0)))
        left_out = [f"{key} ({reason})" for key, reason in dataset.unreadable()]
        held = {
            "shards": f"{len(index.shards):,}",
            "records": f"{len(dataset):,}",
            "unreadable": f"{len(left_out):,}" + (f": {_first(left_out)}" if left_out else ""),
            "sizes": least if least == most else f"{least} to {most}",
            "bytes": f"{index.bytes:,}, {index.bytes / len(dataset):,.0f} per record",
        }
    c = plan.codec
    fields = {
        "codec": f"{c.name}, {c.channels} channels, stride {c.shown_stride}",
        "fingerprint": plan.fingerprint,
        "samples": f"{plan.samples:,}",
        "classes": f"{len(plan.classes):,}" + (f": {_first(plan.classes)}" if plan.classes else ""),
        **held,
    }
    return {**fields, **{name: value for name, value in plan.settings.items() if name not in fields}}


def _first(names: "list[str] | tuple[str, ...]") -> str:
    more = [f"and {len(names) - _SHOWN:,} more"] if len(names) > _SHOWN else []
    return ", ".join([*(escaped(name)[:200] for name in names[:_SHOWN]), *more])

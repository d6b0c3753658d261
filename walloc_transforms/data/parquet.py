"""Latent data sets as Parquet, for other programs: a file for each shard, and a binary column per group of channels.

A file says all that its shard says, so that the way back gives the same data set. Hugging Face's ``datasets`` reads the
names of the classes from it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..safe import listed, remove_leftovers, write_atomically
from ..zoo import load_codec
from .codec_folder import save_codec
from .dataset import LatentDataset
from .index import CODEC_FOLDER, INDEX_FILE, merge_dataset
from .parquet_file import Header, check_prefixes, is_written, read_header, read_records, write_file
from .plan import PLAN_FILE, Plan, read_plan, write_plan
from .shards import Shard, pack_shard, shard_name

__all__ = ["from_parquet", "to_parquet"]


def to_parquet(
    dataset: LatentDataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    prefixes: Sequence[int] | None = None,
    row_group: int = 128,
    progress: bool = True,
) -> list[Path]:
    """Write a latent data set as Parquet: a file for each shard.

    The columns are ``key``, ``label``, ``part``, ``size`` (of the signal), ``grid`` (cells per axis), and a binary one
    for each group of channels, such as ``latents_0_3`` and ``latents_3_12``: channels 0 to 2, and 3 to 11, as int8
    (int16 of a codec of more than 8 bits) in the order channel, row, column. Whoever needs few channels reads few
    columns. A second call goes on where the first was interrupted.

    Args:
        dataset: The data set, or its folder. All its channels are written, and its transform is not applied.
        out: The folder to write to.
        prefixes: Numbers of channels that can be read without the rest. Default: a quarter, half and all of them.
        row_group: Records that are read at once by readers of single records.
        progress: Show a progress bar.

    Returns:
        The files, in order.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        FileNotFoundError: There is no such data set.
        ValueError: ``prefixes`` do not rise to the number of channels, ``row_group`` is not positive, the data set is
            damaged, a key is no UTF-8, or ``out`` holds other files of the same names.

    Example:
        >>> import tempfile, torch, walloc_transforms as wt
        >>> import pyarrow.parquet as pq
        >>> images = [(torch.rand(3, 64, 96), i % 2) for i in range(4)]
        >>> dataset = wt.encode_dataset(images, tempfile.mkdtemp(), "rgb_16x", progress=False)
        >>> files = wt.data.to_parquet(dataset, tempfile.mkdtemp(), prefixes=[3, 12], progress=False)
        >>> table = pq.read_table(files[0], columns=["latents_0_3", "grid"])
        >>> len(table["latents_0_3"][0].as_py()), table["grid"][0].as_py()
        (288, [8, 12])
    """
    dataset = LatentDataset(dataset.path if isinstance(dataset, LatentDataset) else dataset)
    plan, out = dataset.index.plan, Path(out)
    c = plan.codec.channels
    prefixes = tuple(prefixes or sorted({-(-c // 4), -(-c // 2), c}))
    check_prefixes(prefixes, c)
    if row_group < 1:
        raise ValueError(f"row_group must be positive, got {row_group}")
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    if (dataset.path / CODEC_FOLDER).is_dir() or (out / CODEC_FOLDER).exists():
        save_codec(out, dataset.codec)
    files = []
    for number, entry in enumerate(tqdm(dataset.index.shards, "to Parquet", unit="shard", disable=not progress)):
        shard = Shard(dataset.path / shard_name(number), plan, number)
        header = Header(plan, number, entry.sha256, prefixes, shard.unreadable)
        files.append(out / Path(shard_name(number)).with_suffix(".parquet"))
        if not is_written(files[-1], header):
            write_file(files[-1], shard, header, row_group)
    return files


def from_parquet(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    progress: bool = True,
) -> LatentDataset:
    """Make a latent data set of the files that :func:`to_parquet` has written.

    If nothing was changed in between, its files are those of the first data set, byte for byte. Rows may be removed and
    relabeled, and columns added, by programs that keep the metadata of the schema, as pyarrow does. A second call goes
    on where the first was interrupted.

    Args:
        files: The folder, or all files.
        out: The folder to write to.
        progress: Show a progress bar.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        FileNotFoundError: There are no such files.
        ValueError: A file is damaged, lacks a column or the metadata, or some are missing or of several data sets; or
            ``out`` holds another data set.

    Example:
        >>> import tempfile, torch, walloc_transforms as wt
        >>> images = [(torch.rand(3, 64, 96), i % 2) for i in range(4)]
        >>> dataset = wt.encode_dataset(images, tempfile.mkdtemp(), "rgb_16x", progress=False)
        >>> files = wt.data.to_parquet(dataset, tempfile.mkdtemp(), progress=False)
        >>> again = wt.data.from_parquet(files, tempfile.mkdtemp(), progress=False)
        >>> again.index == dataset.index
        True
    """
    paths, out = _listed(files), Path(out)
    headers = [read_header(path) for path in paths]
    plan = headers[0].plan
    for path, header in zip(paths, headers, strict=True):
        if header.plan != plan:
            raise ValueError(f"{path} and {paths[0]} are of two data sets: {'; '.join(plan.differences(header.plan))}")
    by_number = dict(sorted((header.number, (path, header)) for path, header in zip(paths, headers, strict=True)))
    if len(by_number) != len(paths) or len(paths) != plan.shards:
        raise ValueError(f"expected {plan.shards} files, a different one for each shard, got {len(paths)}")
    if (out / INDEX_FILE).exists():
        raise ValueError(f"{out} holds a data set: expected a new folder, or one in which this call was interrupted")
    _begin(out, plan, paths[0].parent / CODEC_FOLDER)
    for number, (path, header) in tqdm(by_number.items(), "from Parquet", unit="shard", disable=not progress):
        if not (out / shard_name(number)).is_file():
            records = list(read_records(path, header))
            try:
                content = pack_shard(records, plan=plan, number=number, unreadable=header.unreadable)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            write_atomically(out / shard_name(number), content, durable=True)
    merge_dataset(out, progress=progress)
    return LatentDataset(out)


def _listed(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List the files that are meant, in the order of their names if it is a folder."""
    if isinstance(files, (str, os.PathLike)):
        folder = Path(files)
        files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    paths = [Path(file) for file in files]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"there are no files {listed(missing)}")
    if not paths:
        raise FileNotFoundError("expected files of to_parquet, or a folder that holds some, got none")
    return paths


def _begin(out: Path, plan: Plan, codec: Path) -> None:
    """Make the folder of a data set, or check that an interrupted call has made it for the same one."""
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    if (out / PLAN_FILE).is_file():
        if differences := plan.differences(read_plan(out)):
            raise ValueError(f"{out} holds a part of another data set: {'; '.join(differences)}")
        return
    if codec.is_dir():
        save_codec(out, load_codec(codec))
    write_plan(out, plan)

"""Latent data sets as Parquet: there and back, as other programs read it, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import walloc_transforms as wt
from tests.data.test_dataset import make_records, write
from walloc_transforms.data import LatentDataset, from_parquet, to_parquet


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    (folder := tmp_path / "stored").mkdir()
    write(folder, make_records(10))
    return folder


@pytest.fixture
def exported(stored: Path, tmp_path: Path) -> Path:
    to_parquet(stored, tmp_path / "exported", progress=False)
    return tmp_path / "exported"


def test_there_and_back(stored: Path, exported: Path, tmp_path: Path) -> None:
    assert sorted(file.name for file in exported.iterdir()) == [f"shard-0000{i}.parquet" for i in range(3)]
    dataset = from_parquet(exported, tmp_path / "again", progress=False)
    assert contents(dataset.path) == contents(stored)


def test_both_ways_go_on_where_they_were_interrupted(stored: Path, exported: Path, tmp_path: Path) -> None:
    (exported / "shard-00001.parquet").unlink()
    done = {file: file.stat().st_mtime_ns for file in exported.iterdir()}
    to_parquet(stored, exported, progress=False)
    assert {file: file.stat().st_mtime_ns for file in done} == done
    again = from_parquet(exported, tmp_path / "again", progress=False).path
    with pytest.raises(ValueError, match="holds a data set"):
        from_parquet(exported, again, progress=False)
    for name in ("dataset.json", "shard-00002.safetensors"):
        (again / name).unlink()
    from_parquet(sorted(exported.iterdir()), again, progress=False)
    assert contents(again) == contents(stored)


def test_codecs_that_are_not_embedded_go_along(tmp_path: Path) -> None:
    codec = wt.load_codec("rgb_16x").prefix(5)
    (folder := tmp_path / "stored").mkdir()
    codec.save_pretrained(folder / "codec")
    write(folder, make_records(3, channels=5), codec=codec)
    to_parquet(folder, tmp_path / "exported", progress=False)
    dataset = from_parquet(tmp_path / "exported", tmp_path / "again", progress=False)
    assert dataset.codec.fingerprint() == codec.fingerprint()
    assert contents(dataset.path) == contents(folder)


def test_codecs_of_the_user_are_not_overwritten(stored: Path, exported: Path, tmp_path: Path) -> None:
    wt.load_codec("rgb_16x").save_pretrained(exported / "codec")
    works: list[Callable[[Path], Any]] = [
        lambda out: to_parquet(stored, out, progress=False),
        lambda out: from_parquet(exported, out, progress=False),
    ]
    for number, work in enumerate(works):
        out = tmp_path / str(number)
        wt.load_codec("rgb_16x", channels=6).save_pretrained(out / "codec")
        before = contents(out)
        with pytest.raises(ValueError, match="codec is another codec, or something else"):
            work(out)
        assert contents(out) == before


def test_a_prefix_is_some_of_the_columns(stored: Path, tmp_path: Path) -> None:
    files = to_parquet(stored, tmp_path / "out", prefixes=[1, 5, 12], row_group=3, progress=False)
    assert pq.ParquetFile(files[0]).num_row_groups == 2
    rows = pq.read_table(files[0], columns=["latents_0_1", "latents_1_5", "grid"]).to_pylist()
    for row, record in zip(rows, make_records(10), strict=False):
        prefix = np.frombuffer(row["latents_0_1"] + row["latents_1_5"], np.int8).reshape(5, *row["grid"])
        assert np.array_equal(prefix, record.latents[:5])


def test_hugging_face_reads_it(exported: Path, tmp_path: Path) -> None:
    files: list[Any] = [str(file) for file in sorted(exported.iterdir())]
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(found, datasets.Dataset)
    assert found.features["label"].names == ["cats", "dogs"]
    for row, record in zip(found, make_records(10), strict=True):
        assert isinstance(row, dict)
        latents = b"".join(row[name] for name in ("latents_0_3", "latents_3_6", "latents_6_12"))
        assert latents == record.latents.tobytes()
        assert (row["key"], row["label"], row["part"]) == (record.key, record.label, record.part)
        assert (tuple(row["size"]), tuple(row["grid"])) == (record.size, record.latents.shape[1:])


def test_rows_may_be_changed(exported: Path, tmp_path: Path) -> None:
    """As other programs do: rows removed and relabeled, columns added, types widened."""
    file = exported / "shard-00001.parquet"
    table = pq.read_table(file).slice(1, 2)
    labels = pa.array([1, 1], pa.int32())
    table = table.set_column(table.schema.get_field_index("label"), "label", labels)
    pq.write_table(table.append_column("split", pa.array(["train", "test"])), file)
    dataset = from_parquet(exported, tmp_path / "again", progress=False)
    assert [dataset.key(i) for i in range(len(dataset))] == [f"cats/é{i}.jpg" for i in (0, 1, 2, 3, 5, 6, 8, 9)]
    assert dataset.labels.tolist() == [-1, 0, 1, -1, 1, 1, 1, -1]


def change(**columns: Callable[[list], list]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        for name, change in columns.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(change(table[name].to_pylist())))
        return table

    return changed


DAMAGE = {
    "lacks the metadata 'walloc'": lambda table: table.replace_schema_metadata({}),
    "metadata 'walloc' is damaged: expected the fields": lambda table: table.replace_schema_metadata({"walloc": "{}"}),
    "metadata 'walloc' is damaged: Expecting": lambda table: table.replace_schema_metadata({"walloc": "cut"}),
    r"lacks columns \['grid', 'latents_3_6'\]": lambda table: table.drop_columns(["grid", "latents_3_6"]),
    "column latents_0_3 lacks values": change(latents_0_3=lambda values: [None, *values[1:]]),
    "column latents_0_3 has 3 bytes of cats/é4.jpg": change(latents_0_3=lambda values: [b"abc", *values[1:]]),
    "grid of cats/é4.jpg must be positive": change(grid=lambda values: [[-8, -8], *values[1:]]),
    "size of cats/é4.jpg must be positive": change(size=lambda values: [[None, 64], *values[1:]]),
    "must be int8 of shape": change(size=lambda values: [[640, 64], *values[1:]]),
    "the label of cats/é4.jpg must be": change(label=lambda values: [2, *values[1:]]),
    "Failed to parse string": change(label=lambda values: ["cats" for _ in values]),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_foreign_files_are_refused(exported: Path, tmp_path: Path, message: str) -> None:
    file = exported / "shard-00001.parquet"
    pq.write_table(DAMAGE[message](pq.read_table(file)), file)
    with pytest.raises(ValueError, match=f"shard-00001.parquet.*{message}"):
        from_parquet(exported, tmp_path / "again", progress=False)


def test_damaged_files_are_refused(exported: Path, tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed: a data set, or a ValueError."""
    file, random = exported / "shard-00001.parquet", np.random.default_rng(0)
    whole = file.read_bytes()
    for i in range(60):
        place = int(random.integers(len(whole) if i % 2 else 3000))
        damaged = bytearray(whole)
        damaged[-place] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged[:place] if i % 3 == 0 else damaged)
        try:
            from_parquet(exported, tmp_path / f"again{i}", progress=False)
        except ValueError as error:
            assert "shard-00001.parquet" in str(error)


def test_sets_of_files_are_checked(stored: Path, exported: Path, tmp_path: Path) -> None:
    files = sorted(exported.iterdir())
    with pytest.raises(ValueError, match="expected 3 files, a different one for each shard, got 2"):
        from_parquet(files[:2], tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="expected 3 files, a different one for each shard, got 3"):
        from_parquet([*files[:2], files[0]], tmp_path / "out", progress=False)
    with pytest.raises(FileNotFoundError, match="or a folder that holds some"):
        from_parquet(stored, tmp_path / "out", progress=False)
    (other := tmp_path / "other").mkdir()
    write(other, make_records(9))
    others = to_parquet(other, tmp_path / "others", progress=False)
    with pytest.raises(ValueError, match="of two data sets: samples: 10, not 9"):
        from_parquet([*files[:2], others[2]], tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match=r"shard-00000\.parquet is there, and is of another data set"):
        to_parquet(other, exported, progress=False)
    with pytest.raises(ValueError, match="prefixes must rise to 12"):
        to_parquet(LatentDataset(stored), tmp_path / "out", prefixes=[3, 6], progress=False)

"""Latent data sets as they are read: shards, index, samples, batches and samplers."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler
from torchvision.transforms import v2

import walloc_transforms as wt
from walloc_transforms.data import (
    BucketSampler,
    LatentDataset,
    Plan,
    Record,
    merge_dataset,
    pack_shard,
    shard_name,
    write_plan,
)
from walloc_transforms.data.shards import Shard

SIZES = [(64, 64), (64, 90)]


def make_records(count: int, sizes: Sequence[tuple[int, int]] = SIZES, channels: int = 12) -> list[Record]:
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        height, width = sizes[i % len(sizes)]
        latents = random.integers(-127, 128, (channels, -(-height // 8), -(-width // 8)), dtype=np.int8)
        made.append(Record(latents, (height, width), f"cats/é{i}.jpg", label=i % 3 - 1, part=i % 2))
    return made


def write(folder: Path, records: Sequence[Record], shard_size: int = 4, codec: wt.Codec | None = None) -> Plan:
    codec = codec or wt.load_codec("rgb_16x")
    plan = Plan(codec.config, codec.fingerprint(), len(records), shard_size, ("cats", "dogs"), {"seed": 0})
    write_plan(folder, plan)
    for number in range(plan.shards):
        own = [records[i] for i in plan.range(number)]
        content = pack_shard(own, plan=plan, number=number, unreadable=[("bad\n.jpg", "cut off")] * (number == 1))
        (folder / shard_name(number)).write_bytes(content)
    merge_dataset(folder, progress=False)
    return plan


@pytest.fixture
def records() -> list[Record]:
    return make_records(10)


@pytest.fixture
def folder(tmp_path: Path, records: list[Record]) -> Path:
    write(tmp_path, records)
    return tmp_path


def test_gives_what_was_written(folder: Path, records: list[Record]) -> None:
    dataset = LatentDataset(folder)
    assert (len(dataset), dataset.classes, dataset.unreadable()) == (10, ("cats", "dogs"), [("bad\\n.jpg", "cut off")])
    for i, record in enumerate(records):
        latents, label = dataset[i]
        assert (latents.dtype, latents.signal_size, latents.codec) == (torch.int8, record.size, "rgb_16x")
        assert np.array_equal(latents.numpy(), record.latents)
        assert (label, dataset.key(i)) == (record.label, record.key)
    assert torch.equal(dataset[-1][0], dataset[9][0])
    assert [tuple(size) for size in dataset.sizes] == [record.size for record in records]
    sample = LatentDataset(folder, as_dict=True)[3]
    assert (sample["label"], sample["key"], sample["part"]) == (records[3].label, records[3].key, 1)


def test_batches_are_the_samples(folder: Path) -> None:
    dataset = LatentDataset(folder)
    latents, labels = dataset[[8, 0, -4]]
    assert isinstance(latents, wt.Latents)
    assert torch.equal(latents, torch.stack([dataset[i][0].as_subclass(torch.Tensor) for i in (8, 0, 6)]))
    assert labels.tolist() == [dataset[i][1] for i in (8, 0, 6)]
    assert dataset[torch.tensor([1, 3])][0].signal_size == (64, 90)
    batch = LatentDataset(folder, as_dict=True)[np.array([1, 3])]
    assert (batch["key"], batch["part"].tolist()) == (["cats/é1.jpg", "cats/é3.jpg"], [1, 1])
    with pytest.raises(ValueError, match=r"of one grid, got 2.*BucketSampler"):
        dataset[[0, 1]]
    for wrong in ([], [0.5], [[0]]):
        with pytest.raises(TypeError, match="list of whole numbers"):
            dataset[wrong]
    for index in (10, -11, [0, 10]):
        with pytest.raises(IndexError, match="10 records"):
            dataset[index]


def test_a_batch_of_several_sizes_has_the_smallest(tmp_path: Path) -> None:
    write(tmp_path, make_records(4, [(64, 60), (59, 64)]))
    assert LatentDataset(tmp_path)[[0, 1]][0].signal_size == (59, 60)


def test_prefix_is_that_of_the_codec(folder: Path, records: list[Record]) -> None:
    dataset, codec = LatentDataset(folder, channels=5), wt.load_codec("rgb_16x", channels=5)
    latents, _ = dataset[1]
    assert np.array_equal(latents.numpy(), records[1].latents[:5])
    assert latents.fingerprint == codec.fingerprint() == dataset.codec.fingerprint()
    assert wt.WallocDecode(codec)(latents).shape == (3, 64, 90)
    assert torch.equal(dataset[[1, 3]][0][0], latents.as_subclass(torch.Tensor))
    for channels in (0, 13):
        with pytest.raises(ValueError, match="from 1 to 12"):
            LatentDataset(folder, channels=channels)


def test_prefix_touches_no_other_pages(tmp_path: Path) -> None:
    if not (table := Path("/proc/self/smaps")).exists():
        pytest.skip("the system does not say which pages are in memory")
    write(tmp_path, make_records(1, [(8192, 8192)]), shard_size=1)  # 1 MiB per channel

    def touched(channels: int) -> int:
        """MiB of the shard that this process has in memory after reading the record."""
        dataset = LatentDataset(tmp_path, channels=channels)
        dataset[0]
        file, *_ = [text for text in table.read_text().split(f"{shard_name(0)}\n")[1:] if text]
        return int(file.split("Rss:")[1].split()[0]) // 1024

    assert touched(2) <= 2 + 4  # the kernel maps up to 2 MiB on both sides
    assert touched(12) >= 12


def test_transforms_see_a_record_or_a_batch(folder: Path) -> None:
    flip = v2.RandomHorizontalFlip(p=1)
    dataset, flipped = LatentDataset(folder), LatentDataset(folder, transform=flip)
    assert torch.equal(flipped[0][0], flip(dataset[0][0]))
    assert torch.equal(flipped[[0, 2]][0], flip(dataset[[0, 2]][0]))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # fork, as users do it
def test_loaders(folder: Path, method: str) -> None:
    dataset = LatentDataset(folder)
    dataset[0]  # the maps of this process stay here
    assert len(pickle.dumps(dataset)) < 3000
    sampler = BucketSampler(dataset, 3, seed=1)
    loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=1, multiprocessing_context=method)
    batches = list(loader)
    assert all(isinstance(latents, wt.Latents) for latents, _ in batches)
    assert sorted(len(labels) for _, labels in batches) == [2, 2, 3, 3]
    expected = [dataset[numbers] for numbers in sampler]
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(batches, expected, strict=True))


def test_samplers_of_torch(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    one_size = tmp_path_factory.mktemp("one")
    write(one_size, make_records(10, [(64, 64)]))
    dataset = LatentDataset(one_size)
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=False)
        (latents, labels), *_ = DataLoader(dataset, batch_size=5, sampler=sampler)
        assert latents.shape == (5, 12, 8, 8)
        assert labels.tolist() == dataset.labels[rank::2].tolist()
    loader = DataLoader(dataset, sampler=BatchSampler(RandomSampler(dataset), 4, drop_last=True), batch_size=None)
    assert [tuple(latents.shape) for latents, _ in loader] == [(4, 12, 8, 8)] * 2


def test_bucket_sampler(folder: Path) -> None:
    dataset = LatentDataset(folder)
    sampler = BucketSampler(dataset, 2, seed=3)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler) == 6
        assert sorted(i for batch in orders[-1] for i in batch) == list(range(10))
        assert all(len({i % 2 for i in batch}) == 1 for batch in orders[-1])
    assert orders[0] != orders[1]
    assert list(BucketSampler(dataset, 2, shuffle=False)) == [[0, 2], [4, 6], [8], [1, 3], [5, 7], [9]]
    assert len(list(BucketSampler(dataset, 2, drop_last=True))) == 4
    shares = [list(BucketSampler(dataset, 2, drop_last=True, rank=rank, world=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    assert len({i for share in shares for batch in share for i in batch}) == 6
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BucketSampler(dataset, 0)
    with pytest.raises(ValueError, match="rank=1 and world=1"):
        BucketSampler(dataset, 2, rank=1)


def test_codec_of_the_users_own_travels_along(tmp_path: Path) -> None:
    codec = wt.fit_codec(torch.rand(4, 3, 64, 64), levels=3, channels=6, progress=False)
    plan = Plan(codec.config, codec.fingerprint(), 1, 1)
    codec.save_pretrained(tmp_path / "codec")
    write_plan(tmp_path, plan)
    record = make_records(1, channels=6)[0]
    (tmp_path / shard_name(0)).write_bytes(pack_shard([Record(record.latents, (64, 64), "a")], plan=plan, number=0))
    merge_dataset(tmp_path, progress=False)
    dataset = pickle.loads(pickle.dumps(LatentDataset(tmp_path)))
    latents, _ = dataset[0]
    assert torch.equal(v2.functional.horizontal_flip(latents), v2.functional.horizontal_flip(latents.clone()))
    dataset.check_codec(codec)
    wt.load_codec("rgb_16x", channels=6).save_pretrained(tmp_path / "codec")
    with pytest.raises(ValueError, match=r"fingerprint .* is not the one in"):
        LatentDataset(tmp_path)[0]


class Subclass(wt.LatentDataset):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.more = 5


def test_subclasses_are_pickled_with_what_they_hold(folder: Path) -> None:
    dataset = Subclass(folder)
    labels, _ = dataset.labels.tolist(), dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    assert (again.more, again._maps) == (5, {})
    assert not {"labels", "_origin"} & again.__dict__.keys()
    assert again.labels.tolist() == labels


def test_numbers_of_records_are_whole(folder: Path) -> None:
    dataset = wt.LatentDataset(folder)
    assert torch.equal(dataset[torch.tensor(1)][0], dataset[np.int64(1)][0])
    for index in (1.9, torch.tensor(1.7), "1"):
        with pytest.raises((TypeError, ValueError)):
            dataset[index]
    with pytest.raises(TypeError, match=r"instead of a slice"):
        dataset[:2]


def test_names_of_many_unreadable_samples_fit_the_header(tmp_path: Path) -> None:
    plan = Plan(wt.load_codec("rgb_16x").config, "a" * 64, 100_000, 100_000)
    unreadable = [(f"images/n01440764_{i}.JPEG", 'it is "damaged" é ' * 10) for i in range(100_000)]
    content = pack_shard([], plan=plan, number=0, unreadable=unreadable)
    (tmp_path / shard_name(0)).write_bytes(content)
    held = Shard(tmp_path / shard_name(0), plan, 0).unreadable
    assert [key for key, _ in held] == [key for key, _ in unreadable]
    assert all(reason.startswith('it is "dam') and reason.endswith("...") for _, reason in held)
    assert pack_shard([], plan=plan, number=0, unreadable=held) == content
    with pytest.raises(ValueError, match=r"100,000 unreadable samples have longer names .* smaller shard_size"):
        pack_shard([], plan=plan, number=0, unreadable=[("k" * 200, "")] * 100_000)


def test_check_codec(folder: Path) -> None:
    import timm

    dataset = LatentDataset(folder)
    model = wt.replace_stem(timm.create_model("resnet18"), "rgb_16x", input="latents")
    for user in ("rgb_16x", wt.load_codec("rgb_16x"), wt.WallocDecode("rgb_16x"), model):
        dataset.check_codec(user)
    for user in ("rgb_4x", wt.load_codec("rgb_16x", channels=3), wt.WallocDecode("rgb_4x")):
        with pytest.raises(ValueError, match=r"12 channels of codec 'rgb_16x' .*, got codec"):
            dataset.check_codec(user)
    with pytest.raises(TypeError, match="got Linear"):
        dataset.check_codec(torch.nn.Linear(1, 1))


def test_verify_reads_everything(folder: Path) -> None:
    dataset = LatentDataset(folder)
    dataset.verify(progress=False)
    file = folder / shard_name(2)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00002.* is damaged"):
        dataset.verify(progress=False)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="shard-00002"):
        dataset.verify(progress=False)
    with pytest.raises(FileNotFoundError, match=r"shard-00002.* is missing"):
        dataset[9]


def test_a_shard_of_another_data_set_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / shard_name(1)).replace(folder / shard_name(0))
    with pytest.raises(ValueError, match="belongs to another data set, or was renamed"):
        LatentDataset(folder)[0]
    other = tmp_path_factory.mktemp("other")
    write(other, make_records(10), shard_size=5)
    (other / shard_name(1)).replace(folder / shard_name(1))
    with pytest.raises(ValueError, match="belongs to another data set, or was renamed"):
        LatentDataset(folder)[5]


def test_incomplete_folders(tmp_path: Path, records: list[Record]) -> None:
    with pytest.raises(FileNotFoundError, match="no latent data set"):
        LatentDataset(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no plan\.json in .*nowhere"):
        merge_dataset(tmp_path / "nowhere")
    write(tmp_path, records)
    before = (tmp_path / "dataset.json").read_bytes()
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match="is not complete"):
        LatentDataset(tmp_path)
    merge_dataset(tmp_path, progress=False)
    assert (tmp_path / "dataset.json").read_bytes() == before
    (tmp_path / shard_name(1)).unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 shards: \['shard-00001.safetensors'\]"):
        merge_dataset(tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"copy .* to a local folder"):
        LatentDataset("s3://bucket/latents")


def test_records_that_do_not_belong_are_refused(records: list[Record]) -> None:
    codec = wt.load_codec("rgb_16x")
    plan = Plan(codec.config, codec.fingerprint(), 1, 1, ("cats",))
    latents = records[0].latents
    for record, said in (
        (Record(latents[:6], (64, 64), "a"), r"must be int8 of shape \(12, 8, 8\), got int8 of shape \(6, 8, 8\)"),
        (Record(latents.astype(np.int16), (64, 64), "a"), "got int16"),
        (Record(latents, (65, 64), "a"), r"of shape \(12, 9, 8\)"),
        (Record(latents, (64, 64), "a", label=1), "index of 1 classes, or -1, got 1"),
    ):
        with pytest.raises(ValueError, match=said):
            pack_shard([record], plan=plan, number=0)


def test_the_same_records_make_the_same_bytes(folder: Path, records: list[Record]) -> None:
    plan = LatentDataset(folder).index.plan
    made = {pack_shard(records, plan=plan, number=0, unreadable=[("a", "b")]) for _ in range(20)}
    assert len(made) == 1


def test_files_are_what_the_description_says(folder: Path, records: list[Record]) -> None:
    """Readable by anything that reads safetensors and JSON."""
    tensors = load_file(folder / shard_name(0))
    size = records[0].latents.size
    assert np.array_equal(tensors["records"][:size].reshape(12, 8, 8), records[0].latents)
    assert json.loads((folder / "dataset.json").read_text())["plan"]["codec"]["name"] == "rgb_16x"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sizes", [[64, 64], [64, 640]], "grids are not those of signals"),
        ("sizes", [[64, 64], [64, 0]], "no samples"),
        ("labels", [0, 2], "indices of 2 classes"),
        ("key_ends", [20, 9], "out of order"),
        ("records", [0] * 5, "expected 1920 latents"),
        ("parts", [0], "'parts' of the shard have another form"),
        ("records", 7, "'records' of the shard have another form"),
        ("keys", 7, "'keys' of the shard have another form"),
    ],
)
def test_shards_that_contradict_themselves(tmp_path: Path, name: str, value: Any, said: str) -> None:
    write(tmp_path, make_records(2))
    file = tmp_path / shard_name(0)
    with safe_open(str(file), "np") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors[name] = np.array(value, tensors[name].dtype)
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match=said):
        merge_dataset(tmp_path, progress=False)

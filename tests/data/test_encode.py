"""Encoding a latent data set: what a record is, what is left out, and that the options alone decide the bytes."""

import json
import multiprocessing
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import walloc_transforms as wt
from tests.helpers import STARTS, make_codec
from walloc_transforms.data.plan import read_plan
from walloc_transforms.data.shards import Shard, pack_shard
from walloc_transforms.data.storage import LOCK_FILE, Storage
from walloc_transforms.data.work import Work
from walloc_transforms.sealed import seal

# Python warns of forks beside the threads of torch, which are asleep.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

CLASSES = ("ant", "bee", "cow")


def make_images(folder: Path, count: int = 9, size: tuple[int, int] = (90, 72)) -> Path:
    for i in range(count):
        file = folder / CLASSES[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def encode(source: Any, out: Path, codec: Any = "rgb_16x", **options: Any) -> wt.LatentDataset:
    found = wt.encode_dataset(source, out, codec, progress=False, **options)
    assert found is not None
    return found


def test_records_are_the_latents_of_cropped_images(images: Path, tmp_path: Path) -> None:
    dataset = encode(images, tmp_path / "out", resize=64, crop=(64, 56), shard_size=4)
    assert dataset.classes == CLASSES
    assert [dataset.key(i) for i in range(3)] == ["ant/0.png", "ant/3.png", "ant/6.png"]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    codec = wt.load_codec("rgb_16x")
    for i in (0, 4, 8):
        with Image.open(images / dataset.key(i)) as image:
            pixels = F.pil_to_tensor(image)
        pixels = F.resize(pixels, [64], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
        expected = codec.encode(F.center_crop(pixels, [64, 56]), rounding="round")
        assert torch.equal(dataset[i][0].float(), expected)
        assert dataset[i][0].signal_size == (64, 56)
    assert set(contents(tmp_path / "out")) == {
        "plan.json",
        "dataset.json",
        *(f"shard-0000{i}.safetensors" for i in "012"),
    }


def test_bytes_do_not_depend_on_workers_or_parts(images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"views": 3, "crop": 32, "shard_size": 2}
    expected, state = encode(images, tmp_path / "0", **options), torch.get_rng_state()
    views = [expected[i][0] for i in range(3)]
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[1], views[2])
    for workers in (1, 2):
        encode(images, tmp_path / f"{workers}", workers=workers, **options)
        assert contents(tmp_path / f"{workers}") == contents(tmp_path / "0")
    assert torch.equal(torch.get_rng_state(), state)
    assert wt.encode_dataset(images, tmp_path / "parts", "rgb_16x", part=(1, 2), progress=False, **options) is None
    encode(images, tmp_path / "parts", part=(0, 2), **options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "0")
    encode(images, tmp_path / "seed", seed=1, **options)
    assert contents(tmp_path / "seed")["shard-00000.safetensors"] != contents(tmp_path / "0")["shard-00000.safetensors"]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("start", STARTS, indirect=True)
def test_workers_of_any_start(images: Path, tmp_path: Path, start: str) -> None:
    codec = make_codec()
    encode(images, tmp_path / "here", codec)
    encode(images, tmp_path / start, codec, workers=1)
    assert contents(tmp_path / start) == contents(tmp_path / "here")
    assert {"codec/config.json", "codec/weights.safetensors"} < set(contents(tmp_path / start))
    assert wt.LatentDataset(tmp_path / start).codec.fingerprint() == codec.fingerprint()


class Drawn(Dataset[Any]):
    """A data set whose samples are random, and which counts how often it is read."""

    classes = CLASSES

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
        self.read += 1
        drawn = torch.rand(3, 16, 16) + float(np.random.rand()) + random.random()
        return drawn / 3, index % 3


def test_run_goes_on_with_missing_shards(tmp_path: Path) -> None:
    data, out = Drawn(10), tmp_path / "out"
    expected = contents(encode(data, out, shard_size=4).path)
    (out / "shard-00001.safetensors").unlink()
    (out / "shard-00002.safetensors").write_bytes(expected["shard-00002.safetensors"][:-1])
    (out / "dataset.json").unlink()
    (out / ".walloc-0123456789abcdef.partial").write_bytes(b"killed")
    assert data.read == 10
    encode(data, out, shard_size=4)
    assert data.read == 16
    assert contents(out) == expected
    encode(data, out, shard_size=4)
    assert data.read == 16


def test_transform_is_given_images_and_its_random_numbers(images: Path, tmp_path: Path) -> None:
    given: list[Any] = []

    def transform(image: Image.Image) -> Image.Image:
        given.append(image)
        return image.rotate(random.uniform(0, 90)) if len(given) < 99 else image

    dataset = encode(images, tmp_path / "1", transform=transform, views=2, crop=64)
    again = encode(images, tmp_path / "2", transform=transform, views=2, crop=64)
    assert len(dataset) == 18 and isinstance(given[0], Image.Image) and given[0].mode == "RGB"
    assert not torch.equal(dataset[0][0], dataset[1][0])
    assert contents(dataset.path) == contents(again.path)


def test_transform_is_given_the_files_of_a_list_as_those_of_a_folder(images: Path, tmp_path: Path) -> None:
    given: list[str] = []

    def transform(image: Any) -> Any:
        given.append(type(image).__name__)
        return image

    file = images / "ant" / "0.png"
    encode([file], tmp_path / "1", transform=transform)
    encode([(file, 0)], tmp_path / "2", transform=transform)
    encode([(torch.rand(3, 16, 16), 0)], tmp_path / "3", transform=transform)
    assert given == ["Image", "Image", "Tensor"]


@pytest.mark.parametrize("start", STARTS, indirect=True)
def test_workers_keep_the_limit_of_pixels(
    images: Path, tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="none of 9 samples could be read"):
        encode(images, tmp_path / start, workers=1)


def test_what_cannot_be_encoded_is_left_out(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (images / "ant" / "0.png").write_bytes((images / "ant" / "0.png").read_bytes()[:200])
    Image.new("RGB", (40, 90)).save(images / "bee" / "1.png")
    Image.new("RGBA", (90, 90), (0, 0, 0, 9)).save(images / "cow" / "2.png")
    dataset = encode(images, tmp_path / "out", crop=64, shard_size=4)
    reasons = dict(dataset.unreadable())
    assert list(reasons) == ["ant/0.png", "bee/1.png", "cow/2.png"]
    assert "cannot be read" in reasons["ant/0.png"] or "truncated" in reasons["ant/0.png"]
    assert "90x40 pixels are too few" in reasons["bee/1.png"] and "transparent" in reasons["cow/2.png"]
    assert [dataset.key(i) for i in range(len(dataset))] == [f"{CLASSES[i % 3]}/{i}.png" for i in (3, 6, 4, 7, 5, 8)]
    printed = capfd.readouterr().err
    assert "left out bee/1.png: 90x40" in printed and "3 of 9 images are left out" in printed
    with pytest.raises(ValueError, match="none of 9 samples could be read"):
        encode(images, tmp_path / "none", crop=128)
    with pytest.raises(ValueError, match="none of 2 samples"):
        encode([(torch.rand(3, 32, 32) * 255, 0)] * 2, tmp_path / "floats")
    assert "got values from" in capfd.readouterr().err


def test_reasons_do_not_name_the_machine(tmp_path: Path) -> None:
    for folder in (tmp_path / "he\nre", tmp_path / "the\nre"):
        make_images(folder, 1)
        (folder / "ant" / "1.png").write_bytes(b"no image")
        (folder / "ant" / "2.wav").write_bytes(b"no sound")
        (folder / "list.txt").write_bytes("\ufeffant/0.png\nant/1.png\nant/2.wav\nant/3.png".encode())
    dataset = encode(tmp_path / "he\nre" / "list.txt", tmp_path / "1")
    assert [key for key, _ in dataset.unreadable()] == ["ant/1.png", "ant/2.wav", "ant/3.png"]
    encode(tmp_path / "the\nre" / "list.txt", tmp_path / "2")
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_trouble_of_the_machine_ends_the_run(tmp_path: Path) -> None:
    class Broken(Drawn):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            if index == 5:
                raise OSError(5, "Input/output error")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="5: Input/output error"):
        encode(Broken(8), tmp_path / "out", shard_size=2)
    assert sum(name.startswith("shard") for name in contents(tmp_path / "out")) == 2


def test_folder_of_something_else_is_refused(images: Path, tmp_path: Path) -> None:
    out, codec = tmp_path / "out", make_codec()
    encode(images, out, codec, crop=64)
    with pytest.raises(ValueError, match=r"made otherwise.*crop: \[64, 64\], not \[56, 56\].*overwrite=True"):
        encode(images, out, codec, crop=56)
    with pytest.raises(ValueError, match="expected no part"):
        encode(images, out, crop=56, part=(0, 2), overwrite=True)
    assert encode(images, out, crop=56, overwrite=True)[0][0].shape[1:] == (7, 7)
    assert not (out / "codec").exists()
    (out / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards, but no plan\.json"):
        encode(images, out, crop=56)
    assert "shard-00000.safetensors" in contents(out)
    with pytest.raises(ValueError, match="holds ant, and no latent data set"):
        encode(Drawn(2), images, overwrite=True)
    with pytest.raises(ValueError, match=r"lies in .*images, which is to be encoded"):
        encode(images, images / "latents")
    assert len(contents(images)) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 2}, "needs crop="),
        ({"views": 2, "crop": 64, "resize": 80}, "expected no resize"),
        ({"crop": 4}, "at least 8x8 pixels"),
        ({"window": 8}, "window is not for codec 'rgb_16x'"),
        ({"resize": 0}, "resize must be"),
        ({"part": (2, 2)}, "part must be"),
        ({"shard_size": 0}, "shard_size must be"),
        ({"engine": "spark"}, "engine must be"),
    ],
)
def test_wrong_options(images: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(images, tmp_path / "out", **options)
    assert not contents(tmp_path / "out")


def in_a_child(work: Callable[[Any], None]) -> str:
    """Run something in a child that sends what it has to say."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(theirs,))
    child.start()
    said = ours.recv()
    child.join()
    return said


def test_two_runs_refuse_each_other_and_parts_do_not(tmp_path: Path) -> None:
    def enter(part: tuple[int, int]) -> str:
        def work(pipe: Any) -> None:
            try:
                with Storage(tmp_path).held(part):
                    pipe.send("entered")
            except ValueError as error:
                pipe.send(str(error))

        return in_a_child(work)

    with Storage(tmp_path).held():
        assert "another process is encoding" in enter((0, 1))
        assert "another process is encoding" in enter((1, 2))
    with Storage(tmp_path).held((0, 2)):
        assert enter((1, 2)) == "entered"
        assert (tmp_path / LOCK_FILE).exists()
        assert "another process is encoding" in enter((0, 2))
        assert "another process is encoding" in enter((0, 1))
    assert not os.listdir(tmp_path)


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the length of files stands for it: the first shard is below it, the second is not."""
    data = [(torch.full((3, side, side), 0.5), 0) for side in (64, 64, 256, 256)]

    def work(pipe: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        try:
            encode(data, tmp_path / "out", shard_size=2)
        except OSError as error:
            pipe.send(str(error))

    said = in_a_child(work)
    assert "shard-00001.safetensors needs 2" in said and "no space" in said and "goes on" in said
    assert set(contents(tmp_path / "out")) == {"plan.json", "shard-00000.safetensors"}
    encode(data, tmp_path / "out", shard_size=2)
    encode(data, tmp_path / "whole", shard_size=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_url(images: Path, tmp_path: Path) -> None:
    place, codec = Storage("memory://bucket/data"), make_codec()
    assert place.names() == set()
    assert wt.encode_dataset(images, place.url, codec, shard_size=4, progress=False) is None
    encode(images, tmp_path / "out", codec, shard_size=4)
    local = contents(tmp_path / "out")
    assert {name: place.read(name) for name in local} == local
    place.remove("dataset.json")
    wt.merge_dataset(place.url, progress=False)
    assert place.read("dataset.json") == local["dataset.json"]
    place.remove("shard-00000.safetensors")
    assert "shard-00000.safetensors" not in place.names() and {"plan.json", "codec"} < place.names()


def test_statistics_of_the_user_are_kept(images: Path, tmp_path: Path) -> None:
    codec = wt.fit_statistics(wt.load_codec("rgb_16x"), [torch.rand(3, 64, 64)], progress=False)
    dataset = encode(images, tmp_path / "out", codec)
    assert torch.equal(dataset.codec.latent_mean, codec.latent_mean)


def test_codec_folder_of_the_user_is_kept_or_refused(tmp_path: Path) -> None:
    mine, data = make_codec(), Drawn(2)
    mine.save_pretrained(tmp_path / "codec")
    (tmp_path / "codec" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(
            ValueError, match="holds a folder codec that is not codec 'rgb_16x', and no latent data set"
        ):
            encode(data, tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == before
    dataset = encode(data, tmp_path, mine)
    assert before.items() <= contents(tmp_path).items()
    assert dataset.codec.fingerprint() == mine.fingerprint()


@pytest.mark.parametrize("own", [False, True])
def test_codec_is_read_from_the_folder_of_the_data_set(tmp_path: Path, own: bool) -> None:
    """It has a refiner, which is read when it is saved; with its own statistics it does not come with the package."""
    codec = wt.load_codec("rgb_16x", channels=6)
    if own:
        codec = wt.fit_statistics(codec, [torch.rand(3, 64, 64)], progress=False)
    codec.save_pretrained(tmp_path / "codec")
    before = contents(tmp_path / "codec")
    for overwrite in (False, True):
        dataset = encode(Drawn(2), tmp_path, tmp_path / "codec", seed=int(overwrite), overwrite=overwrite)
        assert contents(tmp_path / "codec") == before
        assert dataset.codec.load_refiner()


def test_codec_that_cannot_be_saved_costs_no_data_set(tmp_path: Path) -> None:
    encode(Drawn(2), tmp_path / "out", make_codec())
    before = contents(tmp_path / "out")
    wt.load_codec("rgb_16x", channels=6).save_pretrained(tmp_path / "codec")
    codec = wt.fit_statistics(wt.load_codec(tmp_path / "codec"), [torch.rand(3, 64, 64)], progress=False)
    (tmp_path / "codec" / "refiner.safetensors").unlink()
    codec.refiner, codec.sources = None, wt.load_codec(tmp_path / "codec").sources
    with pytest.raises(FileNotFoundError, match="refiner"):
        encode(Drawn(2), tmp_path / "out", codec, overwrite=True)
    assert contents(tmp_path / "out") == before


def test_killed_while_the_codec_was_saved(tmp_path: Path) -> None:
    codec = make_codec()
    codec.save_pretrained(tmp_path / ".walloc-0123456789abcdef.partial")
    encode(Drawn(2), tmp_path, codec)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "codec",
        "dataset.json",
        "plan.json",
        "shard-00000.safetensors",
    ]
    place = Storage("memory://killed/data")
    place.write("codec/weights.safetensors", b"killed")
    assert wt.encode_dataset(Drawn(2), place.url, codec, progress=False) is None
    assert place.read("codec/config.json") == (tmp_path / "codec" / "config.json").read_bytes()
    place.remove("plan.json")
    place.remove("dataset.json")
    place.remove("shard-00000.safetensors")
    with pytest.raises(ValueError, match="holds a folder codec that is not codec 'rgb_16x'"):
        wt.encode_dataset(Drawn(2), place.url, "rgb_16x", progress=False)


def test_index_follows_shards_that_are_made_again(tmp_path: Path) -> None:
    class Ailing(Drawn):
        ill = True

        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            if self.ill and index == 1:
                raise ValueError("not now")
            return super().__getitem__(index)

    data = Ailing(4)
    assert len(encode(data, tmp_path, shard_size=2)) == 3
    (tmp_path / "shard-00000.safetensors").unlink()
    data.ill = False
    dataset = encode(data, tmp_path, shard_size=2)
    assert len(dataset) == 4
    dataset.verify(progress=False)


def test_plan_that_lacks_a_field_of_the_codec(tmp_path: Path) -> None:
    """As an older release wrote it: the shards name the hash of what it wrote."""
    data = Drawn(4)
    encode(data, tmp_path / "out", shard_size=2)
    (tmp_path / "out" / "dataset.json").unlink()
    fields = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert fields["codec"].pop("pad") == 0
    (tmp_path / "out" / "plan.json").write_text(json.dumps(seal(fields)))
    (tmp_path / "out" / "shard-00001.safetensors").unlink()
    plan = read_plan(tmp_path / "out")
    records = [Shard(tmp_path / "out" / "shard-00000.safetensors", Work(data, "rgb_16x", shard_size=2).plan, 0)]
    content = pack_shard([records[0].record(i) for i in range(2)], plan=plan, number=0)
    (tmp_path / "out" / "shard-00000.safetensors").write_bytes(content)
    seal_of_plan = seal({name: value for name, value in fields.items() if name not in ("format", "version")})
    assert plan.hash == seal_of_plan["config_sha256"]
    data.read = 0
    dataset = encode(data, tmp_path / "out", shard_size=2)
    assert (data.read, len(dataset)) == (2, 4)
    assert "pad" not in json.loads((tmp_path / "out" / "dataset.json").read_text())["plan"]["codec"]
    dataset.verify(progress=False)


def test_classes_of_a_subset(tmp_path: Path) -> None:
    dataset = encode(Subset(Drawn(6), [4, 2]), tmp_path / "out")
    assert dataset.classes == CLASSES and dataset.labels.tolist() == [1, 2]


def test_every_sample_and_view_draws_for_itself(tmp_path: Path) -> None:
    image = torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(0))
    dataset = wt.encode_dataset([(image, 0)] * 4, tmp_path, "rgb_16x", views=2, crop=32, progress=False)
    assert dataset is not None
    assert len({dataset[i][0].numpy().tobytes() for i in range(8)}) == 8

"""The benchmark, made small: every part runs and is reported, and nothing wrong is timed."""

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import walloc_transforms as wt
from recipes import benchmark
from recipes.bench import cold, data, images, loading, reference, rivals, stores
from recipes.bench import report as reports
from recipes.bench.augmentation import AugmentationSettings
from recipes.common import timing


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process takes seconds to import torch."""
    for module in (benchmark, data, stores):
        monkeypatch.setattr(module, "in_fresh_process", lambda function, *args: function(*args))


@pytest.fixture(autouse=True)
def small_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published network takes seconds for a whole one."""
    monkeypatch.setattr(benchmark, "DECODED", (48, 64))


def tiny(folder: Path, **options: Any) -> benchmark.Config:
    settings: dict[str, Any] = {
        "parts": ("image", "decoders", "audio", "loader", "memory"),
        "shapes": ((1, 48, 64), (2, 40, 40)),
        "waveforms": ((1, 2048), (2, 1280)),
        "threads": (1,),
        "workers": (0,),
        "loader_samples": 32,
        "megapixels": 0.05,
        "repeats": 1,
        "output_dir": folder,
    }
    return benchmark.Config(**{**settings, **options})


@pytest.mark.slow
@pytest.mark.usefixtures("same_process")
def test_parts_are_measured_and_reported(tmp_path: Path) -> None:
    text = benchmark.main(tiny(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["machine", "settings", "image", "decoders", "audio", "loader", "memory"]
    assert results["machine"]["torch"] == torch.__version__
    assert {"cpu", "cpu_count", "cpu_capability", "gpu", "numba"} <= results["machine"].keys()
    assert results["settings"]["shapes"] == [[1, 48, 64], [2, 40, 40]]

    on_cpu = [r for r in results["image"] if r["device"] == "cpu"]
    assert [(r["codec"], r["batch"]) for r in on_cpu] == [
        (codec, shape) for codec in ("rgb_16x", "rgb_4x") for shape in ([1, 48, 64], [2, 40, 40])
    ]
    calls = {"reference encode", "patch convolution", "reference decode", "decode"}
    calls |= {f"{call} {kind}" for call in ("encode", "convolve", "resize") for kind in reports.INPUTS}
    assert all(r["rates"].keys() - {"ptwt encode"} == calls for r in on_cpu)
    has_network = importlib.util.find_spec("diffusers") is not None
    decoders = ["linear", "refiner", *["published network"] * has_network]
    assert [(r["codec"], [*r["rates"]]) for r in results["decoders"]] == [(c, decoders) for c in ("rgb_16x", "rgb_4x")]
    assert [(r["codec"], r["batch"]) for r in results["audio"]] == [
        (codec, shape) for codec in ("stereo_5x", "stereo_20x") for shape in ([1, 2048], [2, 1280])
    ]
    (loader,) = results["loader"]
    assert loader["sides"] == {"rgb_16x": 64, "rgb_4x": 128}
    latents = {f"{way} {name}" for way in ("latents", "batches of latents") for name in ("rgb_16x", "rgb_4x")}
    assert loader["rates"].keys() == {"crop 256", "crop 64", "crop 128"} | latents
    rates = [
        rate for part in ("image", "decoders", "audio", "loader") for r in results[part] for rate in r["rates"].values()
    ]
    assert min(rates) > 0
    names = ("rgb_16x", "rgb_4x", "stereo_5x", "stereo_20x")
    assert {(r["codec"], r["call"], r["dtype"]) for r in results["memory"]} == {
        *((name, call, "float32") for name in names for call in ("encode", "decode")),
        *((name, "encode", "uint8") for name in names[:2]),
    }
    assert {tuple(r["size"]) for r in results["memory"]} == {(224, 224), (49920,)}

    assert [line for line in text.splitlines() if line.startswith("## ")][:1] == ["## Images: megapixels per second"]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 4 * len(on_cpu) + len(on_cpu) + 2 + 4 + 2 + 10 + sum(
        len(r["rates"]) for r in results["image"] if r["device"] == "cuda"
    )
    with Image.open(tmp_path / "benchmark.png") as figure:
        assert min(figure.size) > 300


@pytest.mark.slow
def test_one_part_alone(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    text = benchmark.main(tiny(tmp_path, parts=("audio",), threads=(2,)))
    assert text.startswith("## Stereo sound")
    assert torch.get_num_threads() == threads
    assert {f.name for f in tmp_path.iterdir()} == {"config.yaml", "results.json"}


@pytest.mark.slow
@pytest.mark.usefixtures("same_process")
def test_latent_data_sets_are_measured_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "RIVALS", {})
    settings = data.DataSettings(images=3, megabytes=0.5, workers=(0, 1), epochs=(1, 2))
    text = benchmark.main(tiny(tmp_path, parts=("data",), codecs=("rgb_4x",), data=settings))
    found = json.loads((tmp_path / "results.json").read_text())["data"]
    ours = [f"`LatentDataset`{way}" for way in ("", ", by batch")]
    arms = [f"JPEG files, `RandomResizedCrop({side})`" for side in (64, 128)]
    arms += ["JPEG files, `RandomResizedCrop(256)`, encoded"]
    arms += [f"{name}, {how}" for how in ("crop", "crop and flip", "as stored") for name in ours]
    warm = [r for r in found["loading"] if r["cache"] == "warm"]
    assert [(r["workers"], [*r["rates"]]) for r in warm] == [(0, arms), (1, arms)]
    assert [(r["codec"], r["images"]) for r in found["sizes"]] == [("rgb_4x", 3)]
    assert [*found["encoding"][0]["rates"]] == ["in process", "1 worker"]
    rates = [
        r for part in ("loading", "encoding", "reads") for found_in in found[part] for r in found_in["rates"].values()
    ]
    assert min(rates) > 0
    if os.path.exists("/proc/self/smaps_rollup"):
        assert [held["epoch"] for held in found["memory"][0]["after"]] == [1, 2]
        assert min(min(held["anonymous"], held["files"]) for held in found["memory"][0]["after"]) > 1 << 20
    assert text.startswith("## Latent data sets")
    assert text.count("not installed") == len(rivals.RIVALS) * len(found["loading"])


@pytest.mark.slow
@pytest.mark.filterwarnings(  # webdataset leaves the files that it has opened to the collector
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("name", rivals.RIVALS)
def test_rivals_hold_the_same_arrays(tmp_path: Path, name: str) -> None:
    rival = rivals.RIVALS[name]
    pytest.importorskip(rival.package, reason="rivals are timed where they are installed")
    arrays = torch.randint(-128, 128, (70, 2, 3, 4), dtype=torch.int8)
    rival.write(iter(arrays.numpy()), tmp_path)
    seen: list[int] = []
    for latents, numbers in rival.load(tmp_path, (2, 3, 4), 16, {}):
        assert torch.equal(latents, arrays[numbers])
        seen += numbers.tolist()
    assert sorted(seen) == [*range(70)]


def test_what_a_store_gives_back_wrongly_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "in_fresh_process", lambda function, *args: function(*args))
    wrong = rivals.Rival(
        "torch", lambda arrays, folder: None, lambda *_: [(torch.zeros(2, 12, 8, 8).char(), torch.arange(2))]
    )
    monkeypatch.setattr(stores, "RIVALS", {"wrong": wrong})
    images = wt.encode_dataset([torch.rand(3, 64, 64)] * 2, tmp_path / "data", "rgb_16x", progress=False)
    assert images is not None
    (tmp_path / "stores").mkdir()
    monkeypatch.setattr(stores, "STORED", 64)
    with pytest.raises(AssertionError, match="wrong"):
        stores.Stores(images, tmp_path / "stores", 0.1)


def test_files_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    cold.forget([tmp_path / "file"])  # whether it can be depends on the system
    assert (tmp_path / "file").stat().st_size == 1 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": data.DataSettings(workers=())}, "workers and epochs must each have a number"),
        ({"data": data.DataSettings(images=0)}, "images must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1 .* got 0 and 32"),
        ({"loader_samples": 40}, "loader_samples a multiple of 32, got 1 and 40"),
        ({"codecs": ("rgb_16x", "rgb_5x")}, "rgb_5x"),
        ({"augmentation": AugmentationSettings(most=0)}, "most must be at least 1, got 0"),
        ({"augmentation": AugmentationSettings(photographs=Path("/nowhere"))}, "no folder '/nowhere'"),
        ({"augmentation": AugmentationSettings(sounds=Path("/nowhere"))}, "no folder '/nowhere'"),
    ],
)
def test_wrong_options_fail_at_once(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        benchmark.main(tiny(tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


# what is timed must be right


def shifted(function: Callable[..., Tensor], by: float, **only: Any) -> Callable[..., Tensor]:
    """A function whose result is off, if called with certain options."""

    def wrong(*args: Any, **options: Any) -> Tensor:
        result = function(*args, **options)
        return result + by if all(options.get(k, False) == v for k, v in only.items()) else result

    return wrong


@pytest.mark.parametrize(
    ("part", "function", "by", "only"),
    [
        ("image", "encode_image", 0.01, {"quantize": False}),
        ("image", "encode_image", 1, {"quantize": True}),
        ("image", "decode_image", 1e-3, {}),
        ("decoders", "decode_image", 1e-3, {}),
        ("decoders", "decode_image", 1e-3, {"decoder": "refiner"}),
        ("audio", "encode_waveform", 0.01, {"quantize": False}),
        ("audio", "decode_waveform", 1e-3, {}),
    ],
)
def test_what_is_wrong_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, function: str, by: float, only: dict[str, Any]
) -> None:
    monkeypatch.setattr(wt.functional, function, shifted(getattr(wt.functional, function), by, **only))
    with pytest.raises(AssertionError, match=r"Tensor-likes are not close|rounded latents differ, by up to 1"):
        benchmark.main(tiny(tmp_path, parts=(part,)))
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(("places", "by", "right"), [(10, 1, True), (11, 1, False), (1, 2, False)])
def test_rounding_may_differ_by_one_in_few_places(places: int, by: int, right: bool) -> None:
    def encode(signal: Tensor, quantize: bool = False) -> Tensor:
        if not quantize:
            return signal
        result = signal.round()
        result[:places] += by
        return result

    latents = torch.arange(10000.0) - 0.3
    if right:
        reference.check_latents(encode, latents, latents)
    else:
        with pytest.raises(AssertionError, match=f"^{places} of 10000 rounded latents differ, by up to {by}$"):
            reference.check_latents(encode, latents, latents)


@pytest.mark.parametrize("size", [(64, 80), (40, 48)])
def test_ptwt_gives_the_same_latents(size: tuple[int, int]) -> None:
    pytest.importorskip("ptwt", reason="ptwt is a column of the benchmark only where it is installed")
    codec, images = wt.load_codec("rgb_16x"), torch.rand(2, 3, *size)
    encode = reference.ptwt_encoder(codec)
    assert encode is not None
    torch.testing.assert_close(encode(images), reference.reference_encoder(codec)(images), atol=1e-3, rtol=0)


def test_without_ptwt_its_column_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ptwt_encoder", lambda _: None)
    text = benchmark.main(tiny(tmp_path, parts=("image",), codecs=("rgb_16x",), shapes=((1, 40, 40),)))
    assert "ptwt is not installed and left out" in text
    assert "ptwt encode" not in text
    monkeypatch.setattr(reference.importlib.util, "find_spec", lambda _: None)
    assert reference.ptwt_encoder(wt.load_codec("rgb_16x")) is None


def test_without_numba_there_is_one_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_both = tiny(tmp_path / "both", parts=("image",), codecs=("rgb_16x",), shapes=((1, 40, 40),))
    assert "encode / convolutions" in benchmark.main(with_both)
    monkeypatch.setattr(images, "missing", lambda _: "numba is not installed")
    text = benchmark.main(dataclasses.replace(with_both, output_dir=tmp_path / "one"))
    assert "encode / reference" in text
    assert "convolutions" not in text


def test_published_network_has_the_papers_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """57.13 million parameters with 48 latent channels, as the published file of that codec has."""
    pytest.importorskip("diffusers", reason="builds the network")
    codec = wt.load_codec("rgb_4x")
    network = reference.published_network(codec)
    assert network is not None
    assert sum(p.numel() for p in network.load_decoder().parameters()) == 57_132_480
    assert network.decode(torch.zeros(1, 48, 4, 4)).shape == (1, 3, 32, 32)
    assert codec.decoder is not network.decoder
    monkeypatch.setattr(reference.importlib.util, "find_spec", lambda _: None)
    assert reference.published_network(codec) is None


def test_decoders_that_are_not_there_are_left_empty() -> None:
    records = [
        {"codec": "a", "threads": 2, "rates": {"linear": 20.0, "refiner": 4.0, "published network": 0.097}},
        {"codec": "b", "threads": 2, "rates": {"linear": 20.0, "published network": 0.5}},
    ]
    text = reports.report({"decoders": records})
    assert "| `a` | 2 | 20.0 | 4.0 | 0.097 | 41.2 |" in text
    assert "| `b` | 2 | 20.0 |  | 0.5 |  |" in text
    assert "random weights" in text
    assert "diffusers, which is not installed" in reports.report({"decoders": [{**records[1], "rates": {"linear": 2}}]})


# how it is measured


def test_calls_take_turns_until_the_time_is_up() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    assert timing.median_seconds(calls, repeats=2, budget=0).keys() == {"a", "b"}
    assert "".join(order) == "ab" * 3
    order.clear()
    timing.median_seconds(calls, repeats=9, budget=0)
    assert "".join(order) == "ab" * 4
    order.clear()
    timing.median_seconds(calls, repeats=9, budget=1000)
    assert "".join(order) == "ab" * 10


def rise_of_64_mb() -> tuple[int, int]:
    torch.ones(32, 1 << 20).sum()  # an earlier, higher peak of 128 MB
    return timing.memory_rise(lambda: torch.ones(16, 1 << 20).sum()), timing.max_rss()


@pytest.mark.slow
def test_memory_rise_is_that_of_the_call() -> None:
    """In a process of its own, as in the benchmark: what others have freed here could serve the call without a rise."""
    rise, most = timing.in_fresh_process(rise_of_64_mb)
    assert 60 << 20 < rise < 100 << 20
    assert most > 100 << 20


def test_fresh_process() -> None:
    assert timing.in_fresh_process(os.getppid) == os.getpid()


def test_tf32_is_switched_and_restored() -> None:
    backends: Any = torch.backends
    before = backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision
    for allow, value in ((True, "tf32"), (False, "ieee")):
        with timing.use_tf32(allow):
            assert (backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision) == (value, value)
    assert (backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision) == before


def test_crops_are_photographs_of_500x375(tmp_path: Path) -> None:
    files = loading.write_jpegs(tmp_path, 9)
    images = [Image.open(file) for file in files]
    assert {(image.format, image.size) for image in images} == {("JPEG", (500, 375))}
    assert len({image.tobytes() for image in images}) == 9


def test_batches_are_encoded_as_images_are(tmp_path: Path) -> None:
    files, encode = loading.write_jpegs(tmp_path, 3), wt.WallocEncode("rgb_16x")
    alone, images = loading.JPEGs(files, encode), loading.JPEGs(files, lambda image: image)
    loader = DataLoader(images, 2, num_workers=1, collate_fn=loading.EncodeBatch(encode))
    batches = [*loader]
    assert [type(batch) for batch in batches] == [wt.Latents] * 2
    assert batches[0].signal_size == (375, 500)
    torch.testing.assert_close(torch.cat(batches), torch.stack([*alone]), rtol=0, atol=0)


def test_gpu_rows(tmp_path: Path) -> None:
    """Without a GPU: what the report makes of its records."""
    calls = ["reference encode", "reference decode", "decode"]
    calls += [f"{call} {kind}" for call in ("encode", "convolve", "resize") for kind in reports.INPUTS]
    records = [
        {
            "codec": "rgb_16x",
            "batch": [8, 64, 64],
            "device": device,
            "threads": 1,
            "tf32": tf32,
            "rates": dict.fromkeys(calls, 500.0) | {"patch convolution": 700.0},
            "bytes_per_second": dict.fromkeys([*calls, "patch convolution"], 2e9),
        }
        for device, tf32 in (("cpu", False), ("cuda", False), ("cuda", True))
    ]
    text = reports.report({"image": records})
    assert "| `rgb_16x` | 8x64x64 | decode | on | 500 | 2.0 |" in text
    assert "| `rgb_16x` | 8x64x64 | patch convolution | off | 700 | 2.0 |" in text
    reports.draw(records, tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").exists()

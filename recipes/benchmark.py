"""Speed and memory of encoding and decoding, beside other ways to the same latents and the resize they replace.

    python -m recipes.benchmark

Figures are medians over calls that take turns in one run, and before they are timed, ours and the reference must give
the same. The reference is ``pytorch_wavelets`` (periodized bior4.4, one level at a time, every band split again), a 1x1
convolution with the same weights and companding; to decode, the same codec level by level. Resizing is torchvision's,
antialiased and bicubic, to as many values. With a GPU the image part runs there too. Refiners are timed beside the
decoder network of the codecs that the WaLLoC paper published, 57 million parameters, here random ones. The part
`augmentation` is not timed: it measures the error of augmenting latents in the place of signals.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

import walloc_transforms as wt
from recipes.bench.augmentation import AugmentationSettings, augmentation_part, check_augmentation
from recipes.bench.data import DataSettings, check_data, data_part
from recipes.bench.images import Timed, image_part
from recipes.bench.loading import EncodeBatch, JPEGs, one_pass, write_jpegs
from recipes.bench.reference import (
    check_decoded,
    check_latents,
    published_network,
    reference_decoder,
    reference_encoder,
)
from recipes.bench.report import draw, report
from recipes.bench.volumes import VolumeSettings, check_volume, volume_part
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.timing import in_fresh_process, machine, median_seconds, memory_rise
from walloc_transforms.safe import write_atomically

AUDIO = ("stereo_5x", "stereo_20x")
BATCH = 32  # of the loader
CROP = 256  # pixels per side, of the loader
DECODED = (512, 768)  # pixels, of the decoders

Part = Literal["image", "decoders", "audio", "loader", "memory", "augmentation", "data", "volume"]


@dataclass
class Config:
    """Time encoders, decoders, resizing and loading, and measure memory."""

    parts: tuple[Part, ...] = ("image", "decoders", "audio", "loader", "memory", "data")
    """What to measure."""
    codecs: tuple[str, ...] = ("rgb_16x", "rgb_4x")
    """Image codecs: names, folders or hub repositories."""
    shapes: tuple[tuple[int, int, int], ...] = ((1, 512, 768), (32, 256, 256), (8, 1080, 1920))
    """Batch size, height and width."""
    waveforms: tuple[tuple[int, int], ...] = ((1, 2**18), (8, 2**17))
    """Batch size and length of stereo waveforms."""
    threads: tuple[int, ...] = (1, 2)
    """Threads of torch; loader workers have one each."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Worker processes of the loader."""
    loader_samples: int = 256
    """JPEG files per pass of the loader, a multiple of 32."""
    data: DataSettings = field(default_factory=DataSettings)
    volume: VolumeSettings = field(default_factory=VolumeSettings)
    megapixels: float = 25
    """Size of the image whose encoding and decoding memory is measured; for audio, millions of samples per channel."""
    repeats: int = 11
    """Rounds at most; where they take long, at least three."""
    row_seconds: float = 12
    """Seconds after which no further round of a row begins."""
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    """What latents are augmented of, by the part that is not timed: their error is measured."""
    overwrite: bool = False
    """Put this benchmark in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/benchmark/TIME")
    """A new or empty folder, which gets results.json, with every figure and the machine's facts, and benchmark.png, of
    the image part. TIME stands for date and time."""


def main(config: Config) -> str:
    """Measure, write results.json and the figure; returns Markdown tables."""
    if config.repeats < 1 or config.loader_samples < BATCH or config.loader_samples % BATCH:
        raise ValueError(
            f"repeats must be at least 1 and loader_samples a multiple of {BATCH}, "
            f"got {config.repeats} and {config.loader_samples}"
        )
    for name in config.codecs:
        wt.load_codec(name)  # a misspelt name fails now
    check_at_least(config, 1, ("threads",))
    check_at_least(config, 0, ("workers",))
    check_data(config.data)
    check_volume(config.volume)
    check_augmentation(config.augmentation, AUDIO[0])
    check_above_zero(config, ("megapixels", "row_seconds"))
    with claim("benchmark", config, Ranks.start(), ("results.json", "benchmark.png")) as begin:
        begin()
        return measure_parts(config)


def measure_parts(config: Config) -> str:
    """Measure, write results.json and the figure; returns Markdown tables."""
    settings = json.loads(json.dumps(asdict(config), default=str))
    results: dict[str, Any] = {"machine": machine(), "settings": settings}
    measure = {
        "image": lambda config: image_part(
            config.codecs, config.shapes, config.threads, config.repeats, config.row_seconds
        ),
        "decoders": decoder_part,
        "audio": audio_part,
        "loader": loader_part,
        "memory": memory_part,
        "augmentation": lambda config: augmentation_part(config.codecs, AUDIO[:1], config.augmentation),
        "data": lambda config: data_part(config.codecs, config.data, config.repeats, config.row_seconds),
        "volume": lambda config: volume_part(config.volume, max(config.threads), config.repeats, config.row_seconds),
    }
    threads = torch.get_num_threads()
    try:
        for part in config.parts:
            results[part] = measure[part](config)
            write_atomically(
                config.output_dir / "results.json", (json.dumps(results, indent=2) + "\n").encode(), durable=True
            )
    finally:
        torch.set_num_threads(threads)
    if results.get("image"):
        draw(results["image"], config.output_dir / "benchmark.png")
    return report(results)


def _time(calls: Timed, config: Config) -> dict[str, float]:
    bound = {name: partial(function, x) for name, (function, x) in calls.items()}
    return median_seconds(bound, config.repeats, config.row_seconds)


def decoder_part(config: Config) -> list[dict[str, Any]]:
    """Rates of all decoders for the rounded latents of one image, in megapixels per second, a record per codec."""
    records: list[dict[str, Any]] = []
    torch.set_num_threads(max(config.threads))
    for name in tqdm(config.codecs, desc="decoders", unit="row"):
        codec = wt.load_codec(name)
        network = published_network(codec)
        latents = codec.encode(torch.rand(1, 3, *DECODED), rounding="round")
        decode = wt.functional.decode_image
        calls: Timed = {"linear": (partial(decode, codec=codec), latents)}
        if codec.config.refiner_width:
            calls["refiner"] = (partial(decode, codec=codec, decoder="refiner"), latents)
        for call, (function, x) in calls.items():
            check_decoded(function, x, reference_decoder(codec, call == "refiner")(x))
        if network is not None:
            calls["published network"] = (partial(decode, codec=network), latents)
        rates = {call: math.prod(DECODED) / 1e6 / s for call, s in _time(calls, config).items()}
        records.append({"codec": name, "threads": max(config.threads), "rates": rates})
    return records


# audio


def audio_part(config: Config) -> list[dict[str, Any]]:
    """Rates in megasamples per second, those of both channels counted."""
    jobs = [(threads, name, shape) for threads in config.threads for name in AUDIO for shape in config.waveforms]
    records: list[dict[str, Any]] = []
    for threads, name, (n, length) in tqdm(jobs, desc="audio", unit="row"):
        torch.set_num_threads(threads)
        codec, waveforms = wt.load_codec(name), torch.rand(n, 2, length) * 2 - 1
        encode = partial(wt.functional.encode_waveform, codec=codec)
        decode = partial(wt.functional.decode_waveform, codec=codec)
        reference, reference_decode = reference_encoder(codec), reference_decoder(codec)
        latents = reference(waveforms)
        check_latents(encode, waveforms, latents)
        check_decoded(decode, latents, reference_decode(latents))
        calls: Timed = {
            "reference encode": (reference, waveforms),
            "encode": (encode, waveforms),
            "reference decode": (reference_decode, latents),
            "decode": (decode, latents),
        }
        rates = {call: waveforms.numel() / 1e6 / s for call, s in _time(calls, config).items()}
        records.append({"codec": name, "batch": (n, length), "threads": threads, "rates": rates})
    return records


# loading


def loader_part(config: Config) -> list[dict[str, Any]]:
    """Samples per second through a ``DataLoader``, a record per number of workers; all see the same crops."""
    torch.set_num_threads(1)  # workers have one in any case
    transforms: dict[str, Any] = {f"crop {CROP}": v2.Compose([v2.RandomResizedCrop(CROP), v2.PILToTensor()])}
    collates: dict[str, Any] = {}
    sides: dict[str, int] = {}
    for name in config.codecs:
        codec = wt.load_codec(name)
        sides[name] = side = round(CROP / math.sqrt(codec.config.dimensionality_reduction))
        transforms[f"latents {name}"] = v2.Compose([v2.RandomResizedCrop(CROP), wt.WallocEncode(codec)])
        transforms[f"batches of latents {name}"] = v2.RandomResizedCrop(CROP)
        collates[f"batches of latents {name}"] = EncodeBatch(wt.WallocEncode(codec))
        transforms[f"crop {side}"] = v2.Compose([v2.RandomResizedCrop(side), v2.PILToTensor()])
    records: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        files = write_jpegs(Path(folder), config.loader_samples)
        for workers in tqdm(config.workers, desc="loader", unit="row"):
            # Workers are spawned: forking a process whose thread pools are at work is not safe.
            options: dict[str, Any] = {"persistent_workers": True, "multiprocessing_context": "spawn"}
            loaders = {
                name: DataLoader(
                    JPEGs(files, transform),
                    BATCH,
                    drop_last=True,
                    num_workers=workers,
                    collate_fn=collates.get(name),
                    generator=torch.Generator().manual_seed(0),
                    **(options if workers else {}),
                )
                for name, transform in transforms.items()
            }
            passes = {name: partial(one_pass, loader) for name, loader in loaders.items()}
            seconds = median_seconds(passes, config.repeats, config.row_seconds)
            rates = {name: len(files) / s for name, s in seconds.items()}
            records.append({"workers": workers, "threads": 1, "sides": sides, "rates": rates})
    return records


# memory


def memory_part(config: Config) -> list[dict[str, Any]]:
    """Rise of memory while one large signal is encoded or decoded, each in a process of its own."""
    jobs = [(name, *call) for name in config.codecs for call in (("encode", "uint8"), ("encode", "float32"))]
    jobs += [(name, "encode", "float32") for name in AUDIO]
    jobs += [(name, "decode", "float32") for name in (*config.codecs, *AUDIO)]
    records: list[dict[str, Any]] = []
    for name, call, dtype in tqdm(jobs, desc="memory", unit="row"):
        figures = in_fresh_process(memory_of, name, call, dtype, config.megapixels, max(config.threads))
        records.append({"codec": name, "call": call, "dtype": dtype, **figures})
    return records


def memory_of(name: str, call: str, dtype: str, megapixels: float, threads: int) -> dict[str, Any]:
    """Measure one call in this process, which should be fresh; a small call goes before, to load and compile."""
    torch.set_num_threads(threads)
    codec = wt.load_codec(name)
    c = codec.config
    suffix = "waveform" if name in AUDIO else "image"
    function = getattr(wt.functional, f"{call}_{suffix}")
    side = max(1, round((megapixels * 1e6) ** (1 / c.dims) / c.stride))  # in latents
    for cells in (8, side):
        size = [cells * c.stride] * c.dims
        if call == "decode":
            x = torch.empty(1, c.channels, *[cells] * c.dims).uniform_(-100, 100)
        elif dtype == "uint8":
            x = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8).movedim(-1, 1)  # as decoded files are
        else:
            x = torch.empty(1, c.signal_channels, *size).uniform_()
        rise = memory_rise(lambda x=x: function(x, codec))
    signal = 4 * c.signal_channels * math.prod(size)
    return {"size": size, "signal_bytes": signal, "rise_bytes": rise, "ratio": rise / signal}


if __name__ == "__main__":
    config, tables = run_command(Config, main, __doc__)
    print(tables)
    print(f"\nwritten to {config.output_dir}")

"""Fit a codec to folders of photographs or of music in closed form, and train it further by gradient descent.

    python -m recipes.train_codec --data PHOTOS --channels 12 --name my_codec --output-dir my_codec
    python -m recipes.train_codec --data MUSIC --modality audio --levels 8 --channels 108 --relative
    python -m recipes.train_codec --data PHOTOS --codec rgb_16x --training.steps 14000                       # a refiner
    python -m recipes.train_codec --data PHOTOS --codec rgb_16x --training.steps 9000 --training.projection  # and more

The output folder holds the codec, which ``walloc_transforms.load_codec`` reads, a model card with the command that made
it, and ``training.yaml``, the settings. Training adds ``metrics.jsonl``, ``validation.png``, ``checkpoint.pt`` and
``start``, the codec that it began with.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

import walloc_transforms as wt
from recipes.codec.crops import Crops
from recipes.codec.training import Training, train
from recipes.codec.validation import measure
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.demo_music import demo_track
from recipes.common.outputs import claim
from recipes.common.photographs import ImageFiles, demo_photographs, image_files
from recipes.common.ranks import Ranks
from recipes.common.runs import Run
from recipes.common.sounds import SoundFiles, full_scale, sound_files
from recipes.common.tables import Record
from walloc_transforms.safe import write_atomically

CODEC = ("config.json", "weights.safetensors", "refiner.safetensors")
WRITTEN = (
    *CODEC,
    *(f"start/{file}" for file in CODEC),
    "README.md",
    "metrics.jsonl",
    "checkpoint.pt",
    "validation.png",
)


@dataclass
class Config:
    """Fit a codec to photographs or music, and train it."""

    data: tuple[str, ...] = ("demo",)
    """Folders of images or sound, read recursively, or `demo`: the photographs that scikit-image and scikit-learn
    install, or generated music."""
    exclude: tuple[str, ...] = ()
    """Files to leave out, such as those of a test: patterns for the ends of their paths, like `kodim*`, `test/*/*`."""
    codec: str | None = None
    """Begin with this codec, a name or a folder, instead of fitting one. Options of fitting are ignored then."""
    modality: Literal["image", "audio"] = "image"
    """Photographs, or sound, which is read as stereo."""
    output_dir: Path = Path("runs/train_codec/TIME")
    """Where the codec goes: a new or empty folder. TIME stands for date and time."""
    name: str = "custom"
    """Name of the codec."""
    channels: int = 12
    """Latent channels: 12 at 3 levels are a dimensionality reduction of 16 for images, 27 at 8 of 19 for sound."""
    levels: int = 3
    """Wavelet levels J; a latent covers 2^J pixels per side, or 2^J samples. Usual for sound: 8."""
    rounding_loss: float = 0.25
    """How many dB of PSNR rounding the latents may cost."""
    relative: bool = False
    """Weigh the error of every file relative to the error of resizing it to as many values: for music, whose pieces
    differ more in loudness and bandwidth than photographs do."""
    sample_rate: int = 44100
    """Of the codec for sound, in Hz; files of other rates are resampled."""
    source: str = ""
    """Where the data come from, in a sentence, for the model card. Default: what the --codec says, if there is one."""
    training: Training = field(default_factory=Training)
    """Gradient descent; all signals are kept in memory for it, and in a GPU's, a byte per value of an image, four of
    sound."""
    resume: bool = False
    """Go on with the training that --output-dir holds, which must have the same settings, without fitting again."""
    overwrite: bool = False
    """Put this codec in the place of the one that this recipe left in --output-dir."""


CARD = """# {name}

{channels} latent channels, {levels} wavelet levels (stride {stride}), dimensionality reduction {reduction:.3g}.

* Data: {count} {files} ({source}){preparation}
{how}
* Order: channels are ordered by variance, so a prefix of them is a codec (`load_codec({name!r}, channels=n)`).
* Files: `weights.safetensors` (float32), `config.json` (with the SHA-256 of the other files){refiner}.
"""

FITTED = """* Fitted in closed form in {seconds:.0f} s by

      {command}

* Rounding the latents was allowed to cost {rounding_loss:g} dB of PSNR."""

TRAINED = """* {begun}, then trained for {steps} steps by

      {command}"""


class Music:
    """Sounds at full scale and without their mean: codecs are fitted to them and measured on them like that."""

    def __init__(self, sounds: SoundFiles | list[tuple[str, Tensor]]) -> None:
        self.sounds = sounds

    def __len__(self) -> int:
        return len(self.sounds)

    def __iter__(self) -> Iterator[Tensor]:
        return (full_scale(sound) for _, sound in self.sounds)


def signals_of(config: Config) -> tuple[list[Image.Image] | ImageFiles | Music, ImageFiles | SoundFiles]:
    """Return the signals to fit to, and the files that they come from."""
    is_image = config.modality == "image"
    find = image_files if is_image else sound_files
    found = [file for folder in config.data if folder != "demo" for file in find(folder)]
    kept = [f for f in found if not any(f.match(pattern) for pattern in config.exclude)]
    if is_image:
        images = ImageFiles(kept)
        return [*demo_photographs()] if "demo" in config.data else images, images
    sounds = SoundFiles(kept, config.sample_rate)
    if "demo" not in config.data:
        return Music(sounds), sounds
    tracks = (demo_track(seed, 20.0, config.sample_rate) for seed in range(8))
    return Music([("demo", sum(track.values(), Tensor([0.0]))) for track in tracks]), sounds


def fit(config: Config, signals: list[Image.Image] | ImageFiles | Music, source: str) -> wt.Codec:
    """Fit a codec in closed form."""
    rate = None if config.modality == "image" else config.sample_rate
    return wt.fit_codec(
        signals,
        levels=config.levels,
        channels=config.channels,
        rounding_loss=config.rounding_loss,
        relative=config.relative,
        name=config.name,
        source=source,
        sample_rate=rate,
    )


def main(config: Config) -> wt.Codec:
    """Fit or load, train, save, and write the model card."""
    if "demo" in config.data and len(config.data) > 1:
        raise ValueError(f"demo stands alone: got --data {' '.join(config.data)}")
    check_at_least(config, 1, ("channels", "levels", "sample_rate"))
    check_above_zero(config, ("rounding_loss",))
    start_from = wt.load_codec(config.codec) if config.codec is not None else None
    if start_from is not None:
        check(start_from, config)
        if Path(config.codec or "").resolve().is_relative_to(config.output_dir.resolve()):
            raise ValueError(
                f"--codec {config.codec} lies in --output-dir {config.output_dir}: expected another folder"
            )
        config = dataclasses.replace(
            config, modality=start_from.config.modality, sample_rate=start_from.config.sample_rate or config.sample_rate
        )
    ranks = Ranks.start()
    with claim("train_codec", config, ranks, WRITTEN, settings="training.yaml") as begin:
        return fit_and_train(config, start_from, ranks, begin)


def fit_and_train(config: Config, start_from: wt.Codec | None, ranks: Ranks, begin: Callable[[], None]) -> wt.Codec:
    """Fit if there is no codec to start from, train, save, and write the model card."""
    s, folder = config.training, config.output_dir
    signals, files = signals_of(config)
    if s.steps:
        hold_out(s.held_out, len(signals))
    source = describe_source(config, start_from)
    start = time.perf_counter()
    resuming = config.resume and s.steps > 0 and (folder / "checkpoint.pt").is_file()
    codec = wt.load_codec(folder / "start") if resuming else start_from or fit(config, signals, source)
    seconds, record = time.perf_counter() - start, {}
    tensors = [*as_tensors(signals)] if s.steps else []
    if s.steps:
        Crops(tensors, s.crop, codec, s.seed)  # refuses signals that are too short
    begin()
    if s.steps:
        if ranks.first and not resuming:
            codec.save_pretrained(folder / "start")
        codec, record = train_further(codec, s, tensors, Run(folder, ranks, config.resume))
        codec.config = dataclasses.replace(codec.config, name=config.name, source=source)
    if ranks.first:
        codec.save_pretrained(folder)
        card = model_card(codec, config, record, len(signals) - files.skipped, source, seconds)
        write_atomically(folder / "README.md", card.encode(), durable=True)
        print(
            f"{folder}: {codec.config.channels} channels, {'loaded' if start_from else 'fitted'} in {seconds:.0f} s; "
            f"{files.skipped} unreadable files skipped"
        )
    return codec


def train_further(codec: wt.Codec, settings: Training, signals: list[Tensor], run: Run) -> tuple[wt.Codec, Record]:
    """Train a codec by gradient descent on all signals but those held out; returns it and the last record."""
    held = hold_out(settings.held_out, len(signals))
    validation = [signals[i] for i in sorted(held)]
    sheet = run.folder / "validation.png"
    return train(
        codec,
        [signal for i, signal in enumerate(signals) if i not in held],
        settings,
        run,
        validate=lambda codec: measure(codec, validation, sheet) if validation else {},
    )


def describe_source(config: Config, start_from: wt.Codec | None) -> str:
    """Say where the data come from, for the model card."""
    is_image = config.modality == "image"
    if config.source:
        return config.source
    if start_from is not None:
        return start_from.config.source
    if "demo" in config.data:
        return "photographs of scikit-image and scikit-learn" if is_image else "generated music"
    return "own images" if is_image else "own music"


def check(codec: wt.Codec, config: Config) -> None:
    """Check that a codec can be trained with these settings.

    Raises:
        ValueError: The codec is not linear, is not for RGB or stereo, has no statistics, or there is nothing to do.
    """
    c = codec.config
    if not (c.is_linear and c.statistics) or c.signal_channels != (3 if c.modality == "image" else 2):
        raise ValueError(
            f"--codec {config.codec}: expected a linear codec of RGB images or stereo sound, with the "
            "statistics of its latents"
        )
    if not config.training.steps:
        raise ValueError("--codec takes the place of fitting: there is nothing to do without --training.steps")


def hold_out(held: int, count: int) -> set[int]:
    """Choose which signals to validate on, evenly spread.

    Raises:
        ValueError: None would be left to train on.
    """
    if held >= count:
        raise ValueError(f"held_out {held} leaves none of {count} signals to train on")
    return {count * i // held for i in range(held)}


def as_tensors(signals: list[Image.Image] | ImageFiles | Music) -> Iterator[Tensor]:
    """Yield images ``(3, H, W)`` uint8, waveforms ``(2, T)`` as they are."""
    for signal in tqdm(signals, desc="read", unit="file", leave=False):
        yield pil_to_tensor(signal.convert("RGB")) if isinstance(signal, Image.Image) else signal


def model_card(codec: wt.Codec, config: Config, record: Record, count: int, source: str, seconds: float) -> str:
    """Say what the codec is and how it came about."""
    c, s, is_image = codec.config, config.training, codec.config.modality == "image"
    command = shlex.join(["python", "-m", "recipes.train_codec", *sys.argv[1:]])
    how = FITTED.format(seconds=seconds, command=command, rounding_loss=config.rounding_loss)
    if s.steps:
        begun = f"Begun as `{config.codec}`" if config.codec else f"Fitted in closed form in {seconds:.0f} s"
        figures = ", ".join(
            f"{key.replace('psnr_', 'PSNR ')} {record[key]:.2f}{' dB' if 'psnr' in key else ''}"
            for key in ("psnr_linear", "psnr_refiner", "bits")
            if key in record
        )
        how = TRAINED.format(begun=begun, steps=s.steps, command=command)
        how += f"\n\n* On {s.held_out} held-out signals: {figures}." if figures else ""
    preparation = "" if is_image else f", at {c.sample_rate} Hz, without their means, at full scale"
    return CARD.format(
        name=c.name,
        channels=c.channels,
        levels=c.levels,
        stride=c.stride,
        reduction=c.dimensionality_reduction,
        count=count,
        files="images" if is_image else "pieces",
        source=source,
        preparation=preparation + (", errors relative to those of resampling" if config.relative else ""),
        how=how,
        refiner=", `refiner.safetensors` (float16)" if c.refiner_width else "",
    )


if __name__ == "__main__":
    run_command(Config, main, __doc__)

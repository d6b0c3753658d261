"""Fit a codec to folders of photographs or of music, in closed form.

    python -m recipes.train_codec --data PHOTOS --channels 12 --name my_codec --output-dir my_codec
    python -m recipes.train_codec --data MUSIC --modality audio --levels 8 --channels 108 --relative

The folder that comes out holds the codec, which ``walloc_transforms.load_codec`` reads, and a model card with the
command that made it.
"""

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from PIL import Image
from torch import Tensor

import walloc_transforms as wt
from recipes.common.demo_music import demo_track
from recipes.common.photographs import ImageFiles, demo_photographs, image_files
from recipes.common.sounds import SoundFiles, full_scale, sound_files


@dataclass
class Config:
    """Fit a codec to photographs or music, in closed form."""

    data: tuple[str, ...] = ("demo",)
    """Folders of images or sound, read recursively, or `demo`: the photographs that scikit-image and scikit-learn
    install, or generated music."""
    exclude: tuple[str, ...] = ()
    """Files to leave out, such as those of a test: patterns for the end of their paths, as `kodim*` or `test/*/*`."""
    modality: Literal["image", "audio"] = "image"
    """Photographs, or sound, which is read as stereo."""
    output_dir: Path = Path("runs/codec")
    """Where the codec goes."""
    name: str = "custom"
    """Name of the codec."""
    channels: int = 12
    """Latent channels: 12 at 3 levels are a dimensionality reduction of 16 for images, 27 at 8 of 19 for sound."""
    levels: int = 3
    """Wavelet levels J; a latent covers 2^J pixels per side, or 2^J samples. Usual for sound: 8."""
    rounding_loss: float = 0.25
    """How many dB of PSNR rounding the latents may cost."""
    relative: bool = False
    """Weigh the error of every file relative to that of resizing it to as many values: for music, which differs more
    in loudness and bandwidth than photographs do."""
    sample_rate: int = 44100
    """Of the codec for sound, in Hz; files of other rates are resampled."""
    source: str = ""
    """Where the data come from, in a sentence, for the model card."""


CARD = """# {name}

{channels} latent channels, {levels} wavelet levels (stride {stride}), dimensionality reduction {reduction:.3g}.

* Data: {count} {files} ({source}){preparation}
* Fitted in closed form in {seconds:.0f} s by

      {command}

* Rounding the latents was allowed to cost {rounding_loss:g} dB of PSNR.
* Order: channels are ordered by variance, so a prefix of them is a codec (`load_codec({name!r}, channels=n)`).
* Files: `weights.safetensors` (float32), `config.json` (with the SHA-256 of the weights).
"""


class Music:
    """Sounds as codecs are fitted to them and measured: without their mean and at full scale."""

    def __init__(self, sounds: SoundFiles | list[tuple[str, Tensor]]) -> None:
        self.sounds = sounds

    def __len__(self) -> int:
        return len(self.sounds)

    def __iter__(self) -> Iterator[Tensor]:
        return (full_scale(sound) for _, sound in self.sounds)


def signals_of(config: Config) -> tuple[list[Image.Image] | ImageFiles | Music, ImageFiles | SoundFiles]:
    """Return what to fit to, and the files that it comes from."""
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


def main(config: Config) -> wt.Codec:
    """Fit, save, and write the model card."""
    if "demo" in config.data and len(config.data) > 1:
        raise ValueError(f"demo stands alone: got --data {' '.join(config.data)}")
    signals, files = signals_of(config)
    is_image = config.modality == "image"
    source = config.source or (
        ("photographs of scikit-image and scikit-learn" if is_image else "generated music")
        if "demo" in config.data
        else f"own {'images' if is_image else 'music'}"
    )
    start = time.perf_counter()
    codec = wt.fit_codec(signals, levels=config.levels, channels=config.channels, rounding_loss=config.rounding_loss,
                         relative=config.relative, name=config.name, source=source,
                         sample_rate=None if is_image else config.sample_rate)  # fmt: skip
    seconds = time.perf_counter() - start
    c = codec.config
    codec.save_pretrained(config.output_dir)
    preparation = "" if is_image else f", at {c.sample_rate} Hz, without their means, at full scale"
    card = CARD.format(
        name=c.name, channels=c.channels, levels=c.levels, stride=c.stride, reduction=c.dimensionality_reduction,
        count=len(signals) - files.skipped, files="images" if is_image else "pieces", source=source, seconds=seconds,
        preparation=preparation + (", errors relative to those of resampling" if config.relative else ""),
        rounding_loss=config.rounding_loss,
        command=shlex.join(["python", "-m", "recipes.train_codec", *sys.argv[1:]]),
    )  # fmt: skip
    (config.output_dir / "README.md").write_text(card, "utf-8")
    print(f"{config.output_dir}: {c.channels} channels, fitted in {seconds:.0f} s; {files.skipped} unreadable files "
          "skipped")  # fmt: skip
    return codec


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

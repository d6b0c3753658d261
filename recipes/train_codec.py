"""Fit a codec to a folder of photographs, in closed form.

    python -m recipes.train_codec --data PHOTOS --channels 12 --name my_codec --output-dir my_codec

The folder that comes out holds the codec, which ``walloc_transforms.load_codec`` reads, and a model card with the
command that made it.
"""

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

import walloc_transforms as wt
from recipes.common.photographs import ImageFiles, demo_photographs, image_files


@dataclass
class Config:
    """Fit a codec to photographs, in closed form."""

    data: str = "demo"
    """A folder of images, read recursively, or `demo`: the photographs that scikit-image and scikit-learn install."""
    output_dir: Path = Path("runs/codec")
    """Where the codec goes."""
    name: str = "custom"
    """Name of the codec."""
    channels: int = 12
    """Latent channels; 12 at 3 levels are a dimensionality reduction of 16."""
    levels: int = 3
    """Wavelet levels J; a latent covers 2^J pixels per side."""
    rounding_loss: float = 0.25
    """How many dB of PSNR rounding the latents may cost."""
    source: str = ""
    """Where the images come from, in a sentence, for the model card."""


CARD = """# {name}

{channels} latent channels, {levels} wavelet levels (stride {stride}), dimensionality reduction {reduction:g}.

* Data: {images} images ({source})
* Fitted in closed form in {seconds:.0f} s by

      {command}

* Rounding the latents was allowed to cost {rounding_loss:g} dB of PSNR.
* Order: channels are ordered by variance, so a prefix of them is a codec (`load_codec({name!r}, channels=n)`).
* Files: `weights.safetensors` (float32), `config.json` (with the SHA-256 of the weights).
"""


def main(config: Config) -> wt.Codec:
    """Fit, save, and write the model card."""
    images: list[Image.Image] | ImageFiles = (
        demo_photographs() if config.data == "demo" else ImageFiles(image_files(config.data))
    )
    source = config.source or (
        "photographs of scikit-image and scikit-learn" if config.data == "demo" else "own images"
    )
    start = time.perf_counter()
    codec = wt.fit_codec(images, levels=config.levels, channels=config.channels, rounding_loss=config.rounding_loss,
                         name=config.name, source=source)  # fmt: skip
    seconds = time.perf_counter() - start
    skipped = images.skipped if isinstance(images, ImageFiles) else 0
    c = codec.config
    codec.save_pretrained(config.output_dir)
    card = CARD.format(
        name=c.name, channels=c.channels, levels=c.levels, stride=c.stride, reduction=c.dimensionality_reduction,
        images=len(images) - skipped, source=source, seconds=seconds,
        rounding_loss=config.rounding_loss,
        command=shlex.join(["python", "-m", "recipes.train_codec", *sys.argv[1:]]),
    )  # fmt: skip
    (config.output_dir / "README.md").write_text(card, "utf-8")
    print(f"{config.output_dir}: {c.channels} channels, fitted in {seconds:.0f} s; {skipped} unreadable images skipped")
    return codec


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

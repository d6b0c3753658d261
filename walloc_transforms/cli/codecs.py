"""The commands that work on codecs: list, fit, import and draw them."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import tyro
from torch import Tensor

from ..files import load_soundfile
from ..safe import write_atomically
from ..wavelets import levels_of_axes
from ..zoo import available_codecs, codec_info, load_codec
from .convert import SUFFIXES
from .volumes import read_volumes
from .work import Output, Report, check_new, check_signals, find_or_fail, pixel_limit, read_signals

__all__ = ["fit", "import_", "inspect", "list_codecs"]


def list_codecs() -> None:
    """List the codecs that come with the package, and what each is for."""
    infos = [codec_info(name) for name in available_codecs()]
    width = max(len(info.name) for info in infos) + 2
    print(f"{'name':<{width}}{'modality':<10}{'channels':>9}{'stride':>8}{'DR':>7}  {'decoders':<17}for")
    for info in infos:
        print(
            f"{info.name:<{width}}{info.modality:<10}{info.channels:>9}{info.stride!s:>8}"
            f"{info.dimensionality_reduction:>7.3g}  {', '.join(info.decoders):<17}{info.purpose}"
        )


def fit(
    folder: tyro.conf.Positional[Path],
    /,
    output: Output,
    *,
    channels: int = 12,
    levels: tuple[int, ...] = (3,),
    name: str = "custom",
    rounding_loss: float = 0.25,
    audio: bool = False,
    volumes: bool = False,
    window: tuple[float, float] | None = None,
    relative: bool = False,
    max_pixels: int | None = None,
    force: bool = False,
) -> int:
    """Fit a codec to a folder of images, sound or volumes, in closed form.

    Args:
        folder: The folder; files that cannot be read are named and left out.
        output: Folder of the codec.
        channels: Latent channels; 12 at 3 levels are a dimensionality reduction of 16.
        levels: Wavelet levels J; a latent covers 2^J pixels per side, or 2^J samples. Or a number for each axis: 2 3 3.
        name: Name of the codec.
        rounding_loss: How many dB of PSNR rounding the latents may cost.
        audio: Fit to sound files. All must have the sample rate and the number of channels of the first.
        volumes: Fit to arrays and video files. All must have the number of channels of the first.
        window: Of scans, the values that mean black and white, such as -1350 150. Default: the range of the dtype.
        relative: Weigh the error of every file relative to that of resizing it to the same number of values: for music.
        max_pixels: Refuse images and volumes of more pixels, and sounds of more samples per channel. Default: 179
            million.
        force: Overwrite an existing codec.
    """
    from ..codec import fit_codec

    if audio and volumes:
        raise ValueError("a codec is for sound or for volumes: leave out --audio or --volumes")
    if window is not None and not (volumes and window[0] < window[1]):
        raise ValueError(f"--window is for --volumes, and has the lower number first, got {window}")
    _check_new_codec(output, force)
    report = Report()
    modality, dims = ("audio", 1) if audio else ("volume", 3) if volumes else ("image", 2)
    axes = levels_of_axes(levels[0] if len(levels) == 1 else levels, dims)
    if audio:
        load_soundfile()
    files = [file for file, _ in find_or_fail([folder], SUFFIXES[modality], report)]
    rates: list[int | None] = []

    def signals() -> Iterator[Tensor]:
        read = read_volumes(files, report, window) if volumes else read_signals(files, modality, report)
        for signal, rate in check_signals(read, modality, [2**level for level in axes], report):
            rates.append(rate)
            yield signal

    with pixel_limit(max_pixels):
        codec = fit_codec(
            signals(),
            levels=axes,
            channels=channels,
            rounding_loss=rounding_loss,
            relative=relative,
            name=name,
            progress=False,
        )
    codec.config = dataclasses.replace(codec.config, source=f"fitted to {len(rates)} files", sample_rate=rates[0] or 0)
    codec.save_pretrained(output)
    print(f"{output}: {channels} channels, {codec.config.source}")
    return report.exit_code()


def import_(checkpoint: tyro.conf.Positional[Path], /, output: Output, *, force: bool = False) -> None:
    """Convert a checkpoint of the reference implementation to safetensors and JSON; no pickle is run.

    Args:
        checkpoint: The .pth file; its settings are looked for in the .json file beside it.
        output: Folder of the codec.
        force: Overwrite an existing codec.
    """
    _check_new_codec(output, force)
    codec = load_codec(checkpoint)
    codec.save_pretrained(output)
    print(f"{output}: {codec}")


def _check_new_codec(output: Path, force: bool) -> None:
    if output.parts in {(name,) for name in available_codecs()}:
        raise ValueError(f"{str(output)!r} names an embedded codec, which would be loaded instead: choose another name")
    check_new(output / "config.json", force)


def inspect(
    codec: tyro.conf.Positional[str],
    /,
    output: Output,
    *,
    data: tuple[Path, ...] = (),
    max_pixels: int | None = None,
    force: bool = False,
) -> int:
    """Draw the impulse response of every latent channel and the histogram of the latents.

    Args:
        codec: A name, a folder, a .pth file or a hub repository.
        output: The picture, such as fig.png.
        data: Files or folders whose latents are counted. Default: the photograph that matplotlib comes with; noise for
            sound and for images that are not of three colors.
        max_pixels: Refuse images of more pixels, and sounds of more samples per channel. Default: 179 million.
        force: Overwrite an existing picture, but never one of the data.
    """
    try:
        from .figures import inspect_codec, sample_signal
    except ImportError as error:
        raise ImportError(f'pictures need matplotlib ({error}): pip install "walloc_transforms[plots]"') from error
    check_new(output, force)
    loaded, report = load_codec(codec), Report()
    c = loaded.config
    if c.modality == "volume":
        raise ValueError(f"codec {c.name!r} is for volumes, which are not drawn")
    if data:
        files = [file for file, _ in find_or_fail(data, SUFFIXES[c.modality], report)]
        check_new(output, force, files)
        signals, source = read_signals(files, c.modality, report, c.signal_channels), f"{len(files)} files"
    else:
        source = "matplotlib's photograph" if (c.modality, c.signal_channels) == ("image", 3) else "noise"
        signals = iter([(Path(source), sample_signal(loaded), None)])

    def latents() -> Iterator[Tensor]:
        for file, signal, _ in signals:
            with report.noted(file):
                yield loaded.encode(signal, rounding="round")

    content = io.BytesIO()
    with pixel_limit(max_pixels):
        figure = inspect_codec(loaded, latents(), source)
    figure.savefig(content, format=output.suffix[1:] or "png", dpi=150)
    write_atomically(output, content.getvalue())
    return report.exit_code()

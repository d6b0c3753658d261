"""The command line, ``walloc``: encode and decode files, fit, import and look at codecs.

A command that works through many files does what it can, names every file that it could not do, and then exits with 1.
Files that exist are not overwritten without ``--force``, and none is ever half written.
"""

import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from ..codec import Codec
from ..files import (
    DEFAULT_CODER,
    IMAGE_SUFFIXES,
    READ_ERRORS,
    SOUND_SUFFIXES,
    get_coder,
    load_latents,
    read_header,
    read_signal,
    save_latents,
    stored_codec,
    write_signal,
)
from ..safe import write_atomically
from ..zoo import available_codecs, codec_info, load_codec
from .work import DEBUG, Failures, Targets, check_new, check_signals, find_or_fail, read_signals

__all__ = ["main"]

app = tyro.extras.SubcommandApp()

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Inputs = tyro.conf.Positional[tuple[Path, ...]]

SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The arguments. Default: those of the process.

    Returns:
        The exit code: 0, 1 if anything could not be done, 2 for wrong arguments, 130 if interrupted.
    """
    args = list(sys.argv[1:] if args is None else args)
    options = args[: args.index("--")] if "--" in args else args
    debug = "--debug" in options
    if debug:
        args.remove("--debug")
    token = DEBUG.set(debug)
    try:
        return int(
            app.cli(
                prog="walloc",
                description="Wavelet latents of images and sound. With --debug, errors show where they come from.",
                args=args,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            or 0
        )
    except KeyboardInterrupt:
        print("walloc: interrupted", file=sys.stderr)
        return 130
    except READ_ERRORS as error:
        if debug:
            raise
        print(f"walloc: {error}", file=sys.stderr)
        return 1
    finally:
        DEBUG.reset(token)


@app.command(name="list")
def list_codecs() -> None:
    """List the codecs that come with the package."""
    infos = [codec_info(name) for name in available_codecs()]
    width = max(len(info.name) for info in infos) + 2
    print(f"{'name':<{width}}{'modality':<10}{'channels':>9}{'stride':>8}{'DR':>7}  decoders")
    for info in infos:
        print(
            f"{info.name:<{width}}{info.modality:<10}{info.channels:>9}{info.stride:>8}"
            f"{info.dimensionality_reduction:>7.3g}  {', '.join(info.decoders)}"
        )


@app.command
def info(target: tyro.conf.Positional[str]) -> None:
    """Describe a `.wlc` file or a codec.

    Args:
        target: A `.wlc` file, or a codec: a name, a folder, a .pth file or a hub repository.
    """
    if target.lower().endswith(".wlc"):
        header = read_header(target)
        size, unit = Path(target).stat().st_size, "pixel" if len(header.size) == 2 else "sample"
        rate = 8 * size / torch.Size(header.size).numel()
        fields = {
            **vars(header),
            "stream_lengths": f"{sum(header.stream_lengths)} bytes in all",
            "file": f"{size} bytes, {rate:.3f} bits per {unit}",
        }
    else:
        codec = load_codec(target)
        c = codec.config
        fields = {
            **dataclasses.asdict(c),
            "stride": c.stride,
            "dimensionality_reduction": c.dimensionality_reduction,
            "fingerprint": codec.fingerprint(),
        }
    for name, value in fields.items():
        print(f"{name + ':':<26}{value}")


@app.command
def encode(
    inputs: Inputs, /, output: Output, *, codec: str = "rgb_16x", coder: str = DEFAULT_CODER, force: bool = False
) -> int:
    """Encode images or sound to `.wlc` files.

    Args:
        inputs: Files, and folders of them.
        output: A folder, or for a single file the `.wlc` file.
        codec: A name, a folder, a .pth file or a hub repository.
        coder: How latents are packed: zlib or webp; with the extra `coders` also ans or jpegls.
        force: Overwrite existing files.
    """
    get_coder(coder)  # a wrong name fails before any file is read
    loaded = load_codec(codec)
    c = loaded.config
    failures, targets = Failures(), Targets(inputs, output, force)
    clipped: list[int] = []
    for source, relative in tqdm(find_or_fail(inputs, SUFFIXES[c.modality]), unit="file", disable=None):
        with failures.noted(source):
            target = targets.make(source, relative, ".wlc")
            signal, rate = read_signal(source, c.modality, c.signal_channels)
            latents = loaded.encode(signal, rounding="round")
            save_latents(target, latents, loaded, size=signal.shape[1:], sample_rate=rate, coder=coder)
            if c.modality == "audio":
                clipped.append(int((signal.abs() > 1).sum()))
    if any(clipped):
        print(
            f"walloc: {sum(clipped)} samples of {sum(n > 0 for n in clipped)} files are beyond full scale: decoding "
            "clips them",
            file=sys.stderr,
        )
    return failures.exit_code()


@app.command
def decode(
    inputs: Inputs,
    /,
    output: Output,
    *,
    codec: str | None = None,
    decoder: str | None = None,
    tile: int | None = None,
    force: bool = False,
) -> int:
    """Decode `.wlc` files to images or sound.

    Args:
        inputs: `.wlc` files, and folders of them.
        output: A folder, where images become .png and sound .wav; or for a single file the file.
        codec: The codec. Default: the embedded one that made the file. Others must be named: a file may lie.
        decoder: `refiner`, for codecs that have one: slower than the linear decoder, and nearer to the original.
        tile: Decode images in tiles of this side in pixels, where the decoder is a network.
        force: Overwrite existing files.
    """
    failures, targets = Failures(), Targets(inputs, output, force)
    codecs: dict[str, Codec] = {}  # by fingerprint
    for source, relative in tqdm(find_or_fail(inputs, (".wlc",)), unit="file", disable=None):
        with failures.noted(source):
            stored = load_latents(source)
            target = targets.make(source, relative, ".png" if len(stored.size) == 2 else ".wav")
            if stored.fingerprint not in codecs:
                codecs[stored.fingerprint] = stored_codec(stored, codec)
            loaded = codecs[stored.fingerprint]
            progress = (decoder or loaded.config.decoder) != "linear" and sys.stderr.isatty()
            signal = loaded.decode(stored.latents, size=stored.size, decoder=decoder, tile=tile, progress=progress)
            write_signal(target, signal, stored.sample_rate)
    return failures.exit_code()


@app.command
def fit(
    folder: tyro.conf.Positional[Path],
    /,
    output: Output,
    *,
    channels: int = 12,
    levels: int = 3,
    name: str = "custom",
    rounding_loss: float = 0.25,
    audio: bool = False,
    relative: bool = False,
    force: bool = False,
) -> int:
    """Fit a codec to a folder of images or sound, in closed form.

    Args:
        folder: The folder; files that cannot be read are named and left out.
        output: Folder of the codec.
        channels: Latent channels; 12 at 3 levels are a dimensionality reduction of 16.
        levels: Wavelet levels J; a latent covers 2^J pixels per side, or 2^J samples.
        name: Name of the codec.
        rounding_loss: How many dB of PSNR rounding the latents may cost.
        audio: Fit to sound files. All must have the sample rate and the number of channels of the first.
        relative: Weigh the error of every file relative to that of resizing it to the same number of values: for music.
        force: Overwrite an existing codec.
    """
    from ..codec import fit_codec

    check_new(output / "config.json", force)
    modality, failures = "audio" if audio else "image", Failures()
    files = [file for file, _ in find_or_fail([folder], SUFFIXES[modality])]
    rates: list[int | None] = []

    def signals() -> Iterator[Tensor]:
        for signal, rate in check_signals(read_signals(files, modality, failures), 2**levels, failures):
            rates.append(rate)
            yield signal

    codec = fit_codec(
        signals(),
        levels=levels,
        channels=channels,
        rounding_loss=rounding_loss,
        relative=relative,
        name=name,
        progress=False,
    )
    codec.config = dataclasses.replace(codec.config, source=f"fitted to {len(rates)} files", sample_rate=rates[0] or 0)
    codec.save_pretrained(output)
    print(f"{output}: {channels} channels, {codec.config.source}")
    return failures.exit_code()


@app.command(name="import")
def import_(checkpoint: tyro.conf.Positional[Path], /, output: Output, *, force: bool = False) -> None:
    """Convert a checkpoint of the reference implementation to safetensors and JSON; no pickle is run.

    Args:
        checkpoint: The .pth file; its settings are looked for in the .json file beside it.
        output: Folder of the codec.
        force: Overwrite an existing codec.
    """
    check_new(output / "config.json", force)
    codec = load_codec(checkpoint)
    codec.save_pretrained(output)
    print(f"{output}: {codec}")


@app.command
def inspect(
    codec: tyro.conf.Positional[str], /, output: Output, *, data: tuple[Path, ...] = (), force: bool = False
) -> int:
    """Draw the impulse response of every latent channel and the histogram of the latents.

    Args:
        codec: A name, a folder, a .pth file or a hub repository.
        output: The picture, such as fig.png.
        data: Files or folders whose latents are counted. Default: the photograph that matplotlib comes with; noise for
            sound.
        force: Overwrite an existing picture.
    """
    try:
        from .figures import inspect_codec, sample_signal
    except ImportError as error:
        raise ImportError(f'pictures need matplotlib ({error}): pip install "walloc_transforms[plots]"') from error
    check_new(output, force)
    loaded, failures = load_codec(codec), Failures()
    c = loaded.config
    if data:
        files = [file for file, _ in find_or_fail(data, SUFFIXES[c.modality])]
        signals, source = read_signals(files, c.modality, failures, c.signal_channels), f"{len(files)} files"
    else:
        source = "matplotlib's photograph" if c.modality == "image" else "noise"
        signals = iter([(Path(source), sample_signal(loaded), None)])

    def latents() -> Iterator[Tensor]:
        for file, signal, _ in signals:
            with failures.noted(file):
                yield loaded.encode(signal, rounding="round")

    content = io.BytesIO()
    inspect_codec(loaded, latents(), source).savefig(content, format=output.suffix[1:] or "png", dpi=150)
    write_atomically(output, content.getvalue())
    return failures.exit_code()

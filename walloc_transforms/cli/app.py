"""The command line, ``walloc``: encode and decode files, fit, import and look at codecs.

A command that works through many files does what it can, names every file that it could not do, and then exits with 1.
Files that exist are not overwritten without ``--force``, and none is ever half written.
"""

import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Sequence
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
    find_files,
    load_latents,
    read_header,
    read_signal,
    save_latents,
    stored_codec,
    write_signal,
)
from ..functional import encode_image, encode_waveform
from ..safe import write_atomically
from ..wavelets import check_size
from ..zoo import available_codecs, codec_info, load_codec

app = tyro.extras.SubcommandApp()

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Inputs = tyro.conf.Positional[tuple[Path, ...]]


def main(args: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 if anything could not be done, 2 for wrong arguments."""
    try:
        return int(
            app.cli(
                prog="walloc",
                description="Wavelet latents of images and sound.",
                args=args,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            or 0
        )
    except KeyboardInterrupt:
        print("walloc: interrupted", file=sys.stderr)
        return 130
    except READ_ERRORS as error:
        print(f"walloc: {error}", file=sys.stderr)
        return 1


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
    """Tell what a `.wlc` file or a codec is.

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
    loaded = load_codec(codec)
    is_image = loaded.config.modality == "image"
    clipped: list[int] = []

    def work(source: Path, target: Path) -> None:
        signal, sample_rate = read_signal(source, loaded.config.modality, loaded.config.signal_channels)
        dtype = torch.int8 if loaded.config.latent_bits <= 8 else torch.int16
        if is_image:
            latents = encode_image(signal, loaded, quantize=True, dtype=dtype)
        else:
            latents = encode_waveform(signal, loaded, quantize=True, dtype=dtype, sample_rate=sample_rate)
        save_latents(target, latents, loaded, size=signal.shape[1:], sample_rate=sample_rate, coder=coder)
        if not is_image and (beyond := int((signal.abs() > 1).sum())):
            clipped.append(beyond)

    suffixes = IMAGE_SUFFIXES if is_image else SOUND_SUFFIXES
    code = _work_through(inputs, output, suffixes, lambda _: ".wlc", force, work)
    if clipped:
        print(
            f"walloc: {sum(clipped)} samples of {len(clipped)} files are beyond full scale: decoding clips them",
            file=sys.stderr,
        )
    return code


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
        codec: The codec, where the name in the file does not lead to it.
        decoder: `refiner`, for codecs that have one: slower than the linear decoder, and nearer to the original.
        tile: Decode images in tiles of so many pixels, where the decoder is a network.
        force: Overwrite existing files.
    """
    codecs: dict[str, Codec] = {}

    def work(source: Path, target: Path) -> None:
        stored = load_latents(source)
        if stored.fingerprint not in codecs:
            codecs[stored.fingerprint] = stored_codec(stored, codec)
        loaded = codecs[stored.fingerprint]
        progress = (decoder or loaded.config.decoder) != "linear" and sys.stderr.isatty()
        signal = loaded.decode(stored.latents, size=stored.size, decoder=decoder, tile=tile, progress=progress)
        write_signal(target, signal, stored.sample_rate)

    def suffix(source: Path) -> str:
        return ".png" if len(read_header(source).size) == 2 else ".wav"

    return _work_through(inputs, output, (".wlc",), suffix, force, work)


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
        audio: Fit to sound files, all with as many channels, and of the same sample rate, as the first.
        relative: Weigh the error of every file relative to that of resizing it to as many values: for music.
        force: Overwrite an existing codec.
    """
    from ..codec import fit_codec

    _check_new(output / "config.json", force)
    suffixes = SOUND_SUFFIXES if audio else IMAGE_SUFFIXES
    files = [file for file, _ in find_files([folder], suffixes)]
    if not files:
        raise FileNotFoundError(f"there is nothing in {str(folder)!r} to fit to: looked for {', '.join(suffixes)}")
    failed: list[Path] = []
    first: dict[str, int | None] = {}

    def check(signal: Tensor, rate: int | None) -> None:
        check_size(signal.shape[1:], 2**levels)
        if not torch.isfinite(signal).all():
            raise ValueError("it holds NaN or infinite values")
        for what, given in (("channels", len(signal)), ("Hz", rate)):
            if first.setdefault(what, given) != given:
                raise ValueError(f"it has {given} {what}, but the first file {first[what]}")

    signals = _signals(files, "audio" if audio else "image", failed, check=check)
    codec = fit_codec(
        signals,
        levels=levels,
        channels=channels,
        rounding_loss=rounding_loss,
        relative=relative,
        name=name,
        progress=False,
    )
    codec.config = dataclasses.replace(
        codec.config, source=f"fitted to {len(files) - len(failed)} files", sample_rate=first["Hz"] or 0
    )
    codec.save_pretrained(output)
    print(f"{output}: {channels} channels, {codec.config.source}")
    return _summary(failed)


@app.command(name="import")
def import_(checkpoint: tyro.conf.Positional[Path], /, output: Output, *, force: bool = False) -> None:
    """Convert a checkpoint of the reference implementation to safetensors and JSON; no pickle is run.

    Args:
        checkpoint: The .pth file; its settings are looked for in the .json file beside it.
        output: Folder of the codec.
        force: Overwrite an existing codec.
    """
    from ..zoo.published import read_published

    _check_new(output / "config.json", force)
    codec = read_published(checkpoint)
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
    _check_new(output, force)
    loaded = load_codec(codec)
    c, failed = loaded.config, []
    signals, source = iter([sample_signal(loaded)]), "matplotlib's photograph" if c.modality == "image" else "noise"
    if data:
        files = [file for file, _ in find_files(data, IMAGE_SUFFIXES if c.modality == "image" else SOUND_SUFFIXES)]
        signals, source = _signals(files, c.modality, failed, c.signal_channels), f"{len(files)} files"
    content = io.BytesIO()
    inspect_codec(loaded, signals, source).savefig(content, format=output.suffix[1:] or "png", dpi=150)
    write_atomically(output, content.getvalue())
    return _summary(failed)


def _work_through(
    inputs: Sequence[Path],
    output: Path,
    suffixes: tuple[str, ...],
    suffix: Callable[[Path], str],
    force: bool,
    work: Callable[[Path, Path], None],
) -> int:
    """Call ``work(source, target)`` for every file, and go on after those that fail."""
    files = list(find_files(inputs, suffixes))
    if not files:
        where = ", ".join(map(str, inputs)) or "no file or folder at all"
        raise FileNotFoundError(f"there is nothing to do in {where}: looked for {', '.join(suffixes)}")
    single = len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir()
    failed: list[Path] = []
    written: dict[Path, Path] = {}
    for source, relative in tqdm(files, unit="file", disable=None):
        try:
            target = output if single else (output / relative).with_suffix(suffix(source))
            if target in written:
                raise ValueError(f"{target} has been written from {written[target]} just now")
            _check_new(target, force)
            target.parent.mkdir(parents=True, exist_ok=True)
            work(source, target)
            written[target] = source
        except READ_ERRORS as error:
            _report(source, error, failed)
    return _summary(failed)


def _signals(
    files: Sequence[Path],
    modality: str,
    failed: list[Path],
    channels: int = 3,
    check: Callable[[Tensor, int | None], None] = lambda signal, rate: None,
) -> Iterator[Tensor]:
    """Read files; those that cannot be, or that ``check`` does not pass, are named and left out."""
    for file in tqdm(files, unit="file", disable=None):
        try:
            signal, rate = read_signal(file, modality, channels)
            check(signal, rate)
        except READ_ERRORS as error:
            _report(file, error, failed)
        else:
            yield signal


def _check_new(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists: --force overwrites it")


def _report(file: Path, error: Exception, failed: list[Path]) -> None:
    failed.append(file)
    tqdm.write(f"walloc: {file}: {error}", file=sys.stderr)


def _summary(failed: Sequence[Path]) -> int:
    if failed:
        print(f"walloc: {len(failed)} files could not be done", file=sys.stderr)
    return 1 if failed else 0

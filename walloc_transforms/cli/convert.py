"""The commands that work on files: encode and decode them, and describe one."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from ..codec import Codec
from ..files import (
    DEFAULT_CODER,
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    VOLUME_SUFFIXES,
    LatentHeader,
    get_coder,
    load_latents,
    load_soundfile,
    read_header,
    read_signal,
    rounding_steps,
    save_latents,
    stored_codec,
    write_signal,
)
from ..functional import check_window
from ..safe import escaped
from ..zoo import available_codecs, load_codec
from .datasets import describe_dataset, is_dataset
from .learned import SUFFIX, checkpoint_of, compress, decompress, describe_compressed, describe_model
from .outputs import Outputs, state_of
from .volumes import decode_volume, encode_volume
from .work import Output, Report, find_or_fail, pixel_limit

__all__ = ["SUFFIXES", "Inputs", "decode", "encode", "info"]

Inputs = tyro.conf.Positional[tuple[Path, ...]]

SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES, "volume": VOLUME_SUFFIXES}


def info(target: tyro.conf.Positional[str]) -> None:
    """Describe a `.wlc` or `.wcv` file, a latent data set or a codec.

    Args:
        target: A `.wlc` or `.wcv` file, the folder of a data set, or a codec: a name, a folder, a .pth file, a hub
            repository, or weconvene:CHECKPOINT.
    """
    if (checkpoint := checkpoint_of(target)) is not None:
        fields = describe_model(checkpoint)
    elif target.lower().endswith(SUFFIX):
        fields = describe_compressed(Path(target))
    elif target.lower().endswith(".wlc"):
        header = read_header(target)
        size, unit = Path(target).stat().st_size, "sample" if len(header.size) == 1 else "pixel"
        rate = 8 * size / torch.Size(header.size).numel()
        fields = {
            **vars(header),
            "stream_lengths": f"{sum(header.stream_lengths)} bytes in all",
            "steps": header.steps and f"{min(header.steps):.4g} to {max(header.steps):.4g}",
            "file": f"{size} bytes, {rate:.3f} bits per {unit}",
        }
    elif is_dataset(target):
        fields = describe_dataset(Path(target))
    else:
        codec = load_codec(target)
        c = codec.config
        fields = {
            **dataclasses.asdict(c),
            "stride": c.shown_stride,
            "dimensionality_reduction": c.dimensionality_reduction,
            "fingerprint": codec.fingerprint(),
        }
    for name, value in fields.items():
        text = str(value)  # of a stranger's file, as the name of a setting may be
        print(f"{escaped(name[:1000]) + ':':<26}{escaped(text if len(text) <= 1000 else f'{text[:1000]}...')}")


def encode(
    inputs: Inputs,
    /,
    output: Output,
    *,
    codec: str = "rgb_16x",
    coder: str = DEFAULT_CODER,
    loss: float | None = None,
    window: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    force: bool = False,
) -> int:
    """Encode images, sound or volumes to `.wlc` files, or images by WeConvene to `.wcv`. Finished files are skipped.

    Args:
        inputs: Files, and folders of them.
        output: A folder, or for a single file the `.wlc` or `.wcv` file.
        codec: A name, a folder, a .pth file or a hub repository; or weconvene:CHECKPOINT, a folder or a .pth file.
        coder: How latents are packed: zlib or webp; with the extra `coders` also ans or jpegls.
        loss: PSNR in dB that rounding may cost each file, such as 0.2. Default: latents are rounded to integers.
        window: Of scans, the values that mean black and white, such as -1350 150. Default: the range of the dtype.
        max_pixels: Refuse images and volumes of more pixels, and sounds of more samples per channel. Default: 179
            million.
        force: Overwrite existing files, but never one that is read.
    """
    if (checkpoint := checkpoint_of(codec)) is not None:
        if coder != DEFAULT_CODER:
            raise ValueError(f"WeConvene has a coder of its own, got --coder {coder}")
        if loss is not None:
            raise ValueError(f"WeConvene rounds as it was trained to, got --loss {loss}")
        if window is not None:
            raise ValueError("WeConvene reads images: leave out --window, which is for volumes")
        return compress(inputs, output, checkpoint, max_pixels=max_pixels, force=force)
    if loss is not None and not loss > 0:
        raise ValueError(f"--loss must be above 0 dB, got {loss}")
    # What is wrong or missing fails before any file is read.
    get_coder(coder).encode(np.zeros((1, 1, 1), np.int8))
    loaded = load_codec(codec)
    c = loaded.config
    if window is not None:
        check_window(window, c)
    if c.modality == "audio":
        load_soundfile()
    report = Report()
    sources = find_or_fail(inputs, SUFFIXES[c.modality], report)
    settings = {"codec": loaded.fingerprint(), "name": c.name, "coder": coder, "loss": loss, "window": window}
    outputs = Outputs(sources, inputs, output, settings, force, report)
    if outputs.single and output.suffix.lower() != ".wlc":
        raise ValueError(f"latents are stored in .wlc files, got --output {output}: to name a folder, make it first")

    def write(source: Path, target: Path) -> None:
        if c.modality == "volume":
            encode_volume(source, target, loaded, coder, loss, window, report)
            return
        if source.suffix.lower() in VOLUME_SUFFIXES:
            raise ValueError(
                f"codec {c.name!r} is for modality {c.modality!r}: name a codec of volumes, --codec FOLDER"
            )
        signal, rate = read_signal(source, c.modality, c.signal_channels, report.notices)
        steps = None if loss is None else rounding_steps(signal, loaded, loss=loss)
        latents = loaded.encode(signal, rounding="round" if steps is None else "none")
        save_latents(target, latents, loaded, size=signal.shape[1:], sample_rate=rate, coder=coder, steps=steps)
        if c.modality == "audio" and bool((signal.abs() > 1).any()):
            report.notices["samples beyond full scale, which decoding clips"] += 1

    with pixel_limit(max_pixels):
        for source, relative in tqdm(sources, unit="file", disable=None):
            with report.noted(source):
                outputs.make(source, relative, ".wlc", lambda target, source=source: write(source, target))
    return report.exit_code()


def decode(
    inputs: Inputs,
    /,
    output: Output,
    *,
    codec: str | None = None,
    decoder: str | None = None,
    tile: int | None = None,
    window: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    force: bool = False,
) -> int:
    """Decode `.wlc` files to images, sound or volumes, or `.wcv` files to images. Finished files are skipped.

    Args:
        inputs: `.wlc` files, and folders of them; with --codec weconvene:CHECKPOINT, `.wcv` files.
        output: A folder, where images become .png, sound .wav, video .mp4 and other volumes .npy; or for a single file
            the file.
        codec: The codec. Default: the embedded one that encoded the file. A `.wcv` file needs weconvene:CHECKPOINT.
        decoder: `refiner`, for codecs that have one: slower than the linear decoder, and nearer to the original.
        tile: Decode images in tiles of this side in pixels, where the decoder is a network.
        window: What black and white become in .npy files, as for encode. Default: 0 and 1.
        max_pixels: Refuse images and volumes of more pixels, and sounds of more samples per channel. Default: 179
            million.
        force: Overwrite existing files, but never one that is read.
    """
    if (checkpoint := checkpoint_of(codec)) is not None:
        if decoder is not None or tile is not None or window is not None:
            raise ValueError(
                "WeConvene decodes images, in one way and one piece: leave out --decoder, --tile and --window"
            )
        return decompress(inputs, output, checkpoint, max_pixels=max_pixels, force=force)
    if compressed := [file for file in inputs if file.suffix.lower() == SUFFIX]:
        raise ValueError(f"{compressed[0]} was compressed by WeConvene: name its model, --codec weconvene:CHECKPOINT")
    named = None if codec is None else load_codec(codec)
    report = Report()
    sources = find_or_fail(inputs, (".wlc",), report)
    report.left_out.clear()  # whoever decodes a folder means its latents
    settings = {"codec": _described(codec), "decoder": decoder, "tile": tile, "window": window}
    outputs = Outputs(sources, inputs, output, settings, force, report)
    codecs: dict[str, Codec] = {}  # by fingerprint

    def write(source: Path, target: Path) -> None:
        stored = load_latents(source)
        if stored.fingerprint not in codecs:
            codecs[stored.fingerprint] = stored_codec(stored, named)
        loaded = codecs[stored.fingerprint]
        if window is not None:
            check_window(window, loaded.config)
        if loaded.config.modality == "volume":
            loaded.config.check_tile(tile, decoder)
            decode_volume(stored, target, loaded, decoder, window)
            return
        progress = (decoder or loaded.config.decoder) != "linear" and sys.stderr.isatty()
        signal = loaded.decode(stored.latents, size=stored.size, decoder=decoder, tile=tile, progress=progress)
        write_signal(target, signal, stored.sample_rate)

    with pixel_limit(max_pixels):
        for source, relative in tqdm(sources, unit="file", disable=None):
            with report.noted(source):
                suffix = _suffix_of(read_header(source))
                if suffix == ".wav":
                    load_soundfile()
                outputs.make(source, relative, suffix, lambda target, source=source: write(source, target))
    return report.exit_code()


def _suffix_of(header: LatentHeader) -> str:
    if len(header.size) == 3:
        return ".npy" if header.frame_rate is None else ".mp4"
    return ".png" if len(header.size) == 2 else ".wav"


def _described(codec: str | None) -> object:
    """Tell codecs apart, also by their decoders: the latents have only one encoder, and need no name of it."""
    if codec is None or codec in available_codecs():
        return None
    path = Path(codec)
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return [state_of(file) for file in files] or codec

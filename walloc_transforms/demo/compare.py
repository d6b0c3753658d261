"""Compare what latents keep of a file with what resizing to the same number of values keeps."""

import dataclasses
import io
import math
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..codec import Codec
from ..files import (
    CODERS,
    DEFAULT_CODER,
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    get_coder,
    load_soundfile,
    pack_latents,
    read_signal,
)
from ..safe import shown
from ..signals import to_float
from ..wavelets import check_size
from ..zoo import available_codecs, codec_info, load_codec
from .pictures import latent_picture, picture, sound, spectrogram, to_pil

__all__ = ["choices", "compare"]

_SIDE = 1024  # pixels: the middle of larger images is taken, since resizing them would change what is compared
_SECONDS = 10
_BEST = 100.0  # dB; a JSON number is finite


def choices() -> dict[str, Any]:
    """Tell what :func:`compare` can be asked for: codecs, coders that are installed, and suffixes of files."""
    return {
        "codecs": [dataclasses.asdict(codec_info(name)) for name in available_codecs()],
        "coders": [name for name in CODERS if _is_installed(name)],
        "suffixes": {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES},
    }


def _is_installed(coder: str) -> bool:
    try:
        get_coder(coder).encode(np.zeros((1, 1, 1), np.int8))
    except ImportError:
        return False
    return True


def compare(
    content: bytes,
    name: str,
    *,
    codec: str,
    channels: int | None = None,
    decoder: str | None = None,
    coder: str = DEFAULT_CODER,
) -> dict[str, Any]:
    """Encode and decode the middle of an image or a sound, and resize it to the same number of values.

    Args:
        content: The file.
        name: Its name, for messages and for the few formats that only a suffix tells.
        codec: An embedded codec. It decides whether the file is an image or a sound.
        channels: How many latent channels are kept. Default: all.
        decoder: Default: the codec's own.
        coder: What packs the latents.

    Returns:
        What the page shows, ready for JSON: ``size`` and ``notes``, texts; ``unit`` of rates; ``arms``, the original,
        the latents and the resized copy, each with a title, a picture, a sound or None, values, psnr in dB or None,
        bytes and rate or None, and what these bytes are; and ``latents``, a title and a picture.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, too large or too small, of another kind than the codec's, or holds NaN; or there is
            no such codec, decoder or coder, or fewer channels.
        ImportError: The file is a sound and soundfile is not installed, or the coder is not.
    """
    if codec not in available_codecs():  # load_codec would take folders and repositories too
        raise ValueError(f"unknown codec {shown(codec)}: expected one of {', '.join(available_codecs())}")
    get_coder(coder)
    own = _load(codec, channels)
    own.config.check_decoder(decoder)
    notices: Counter[str] = Counter()
    signal, rate = read_signal(Path(name), own.config.modality, own.config.signal_channels, notices, content)
    notes = [f"Not read: {notice}." for notice in notices]
    if rate is None:
        result = _compare_image(own, signal, decoder, coder, notes)
    else:
        result = _compare_sound(own, signal, rate, decoder, coder, notes)
    if not notes:  # the file and what was encoded are the same
        original = result["arms"][0]
        original.update(bytes=len(content), rate=result["factor"] * len(content), stored="the file")
    return result


@lru_cache(maxsize=16)
def _load(codec: str, channels: int | None) -> Codec:
    return load_codec(codec, channels=channels)


def _compare_image(codec: Codec, image: Tensor, decoder: str | None, coder: str, notes: list[str]) -> dict[str, Any]:
    c = codec.config
    check_size(image.shape[1:], c.stride)
    height, width = (min(side, _SIDE) for side in image.shape[1:])
    if (height, width) != image.shape[1:]:
        notes.append(f"Only the middle {width} x {height} of {image.shape[2]} x {image.shape[1]} pixels are looked at.")
        top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
        image = image[:, top : top + height, left : left + width]
    original = to_pil(to_float(image, "image"))
    pixels = _pixels(original)
    latents = codec.encode(pixels, rounding="round")
    decoded = to_pil(codec.decode(latents, size=(height, width), decoder=decoder))
    shape = [max(1, round(side / math.sqrt(c.dimensionality_reduction))) for side in (width, height)]
    small = original.resize((shape[0], shape[1]), Image.Resampling.BICUBIC)
    resized = small.resize(original.size, Image.Resampling.BICUBIC)
    png, factor = io.BytesIO(), 8 / (width * height)
    small.save(png, "PNG", optimize=True)

    def arm(title: str, seen: Image.Image, values: int, **more: Any) -> dict[str, Any]:
        quality = None if seen is original else _psnr(pixels, _pixels(seen), 1)
        return _arm(title, picture(seen), None, values, quality, factor, **more)

    channels, rows, columns = latents.shape
    return {
        "size": f"{width} x {height} pixels",
        "unit": "bits per pixel",
        "factor": factor,
        "notes": notes,
        "arms": [
            arm("original", original, image.numel()),
            arm(_title(codec, decoder), decoded, latents.numel(), **_packed(codec, latents, pixels, None, coder)),
            arm(
                f"resized to {small.width} x {small.height} and enlarged",
                resized,
                c.signal_channels * small.width * small.height,
                bytes=len(png.getvalue()),
                stored="PNG",
            ),
        ],
        "latents": {
            "title": f"The latents: {channels} channels of {columns} x {rows} cells, each stretched to its own range",
            "picture": picture(latent_picture(latents)),
        },
    }


def _compare_sound(
    codec: Codec, waveform: Tensor, rate: int, decoder: str | None, coder: str, notes: list[str]
) -> dict[str, Any]:
    c = codec.config
    total, length = waveform.shape[1], min(waveform.shape[1], _SECONDS * rate)
    if length < total:
        notes.append(f"Only the middle {_SECONDS} of {total / rate:.1f} s are heard.")
        waveform = waveform[:, (total - length) // 2 :][:, :length]
    check_size([length], c.stride)
    if c.sample_rate not in (0, rate):
        notes.append(f"Resampled from {rate} to {c.sample_rate} Hz, the rate of the codec.")
        waveform, rate = _resample(waveform, max(1, round(length * c.sample_rate / rate))), c.sample_rate
    if len(waveform) == 1 < c.signal_channels:
        notes.append(f"The one channel of the file stands for {c.signal_channels}.")
        waveform = waveform.expand(c.signal_channels, -1).contiguous()
    latents = codec.encode(waveform, rounding="round")
    length = waveform.shape[1]
    decoded = codec.decode(latents, size=length, decoder=decoder)
    small = _resample(waveform, max(1, round(length / c.dimensionality_reduction)))
    resampled = _resample(small, length).clamp(-1, 1)
    less, flac, factor = round(rate * small.shape[1] / length), io.BytesIO(), 8 / 1000 * rate / length
    load_soundfile().write(flac, small.T.numpy(), less, format="FLAC", subtype="PCM_16")
    loudest = float(waveform.abs().max())

    def arm(title: str, heard: Tensor, values: int, **more: Any) -> dict[str, Any]:
        quality = None if heard is waveform else _psnr(waveform, heard, 2)
        return _arm(title, picture(spectrogram(heard, loudest)), sound(heard, rate), values, quality, factor, **more)

    channels, frames = latents.shape
    return {
        "size": f"{len(waveform)} channels, {length / rate:.2f} s at {rate} Hz; pictures go up to {rate // 2} Hz",
        "unit": "kbit/s",
        "factor": factor,
        "notes": notes,
        "arms": [
            arm("original", waveform, waveform.numel()),
            arm(_title(codec, decoder), decoded, latents.numel(), **_packed(codec, latents, waveform, rate, coder)),
            arm(
                f"resampled to {less} Hz and back",
                resampled,
                small.numel(),
                bytes=len(flac.getvalue()),
                stored="FLAC",
            ),
        ],
        "latents": {
            "title": f"The latents: {channels} channels of {frames} frames, a row each, stretched to its own range",
            "picture": picture(latent_picture(latents)),
        },
    }


def _pixels(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels.view(*pixels.shape[:2], -1).permute(2, 0, 1).float() / 255


def _resample(waveform: Tensor, samples: int) -> Tensor:
    """Change the number of samples of a whole waveform by its spectrum: an ideal low-pass where they get fewer."""
    return torch.fft.irfft(torch.fft.rfft(waveform)[..., : samples // 2 + 1], samples) * (samples / waveform.shape[-1])


def _psnr(original: Tensor, other: Tensor, peak: float) -> float:
    error = float((original - other).double().square().mean())
    return min(10 * math.log10(peak**2 / error), _BEST) if error else _BEST


def _title(codec: Codec, decoder: str | None) -> str:
    ways = {"linear": "linearly", "refiner": "by the refiner"}
    kind = decoder or codec.config.decoder
    return f"latents, decoded {ways.get(kind, f'by {kind}')}"


def _packed(codec: Codec, latents: Tensor, signal: Tensor, rate: int | None, coder: str) -> dict[str, Any]:
    c, size = codec.config, tuple(signal.shape[1:])
    content = pack_latents(
        latents, codec=c.name, fingerprint=codec.fingerprint(), size=size, sample_rate=rate, coder=coder
    )
    return {"bytes": len(content), "stored": f".wlc, {coder}"}


def _arm(
    title: str,
    picture: dict[str, str | int],
    sound: str | None,
    values: int,
    psnr: float | None,
    factor: float,
    *,
    bytes: int | None = None,
    stored: str = "",
) -> dict[str, Any]:
    return {
        "title": title,
        "picture": picture,
        "sound": sound,
        "values": values,
        "psnr": psnr,
        "bytes": bytes,
        "rate": None if bytes is None else bytes * factor,
        "stored": stored,
    }

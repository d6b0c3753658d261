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
from .network import Network, as_read
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
    reduce: bool = False,
    network: Network | None = None,
) -> dict[str, Any]:
    """Encode and decode the middle of an image or a sound, and resize it to the same number of values.

    Args:
        content: The file.
        name: Its name, for messages and for the few formats that only a suffix tells.
        codec: An embedded codec. It decides whether the file is an image or a sound.
        channels: How many latent channels are kept. Default: all.
        decoder: Default: the codec's own.
        coder: What packs the latents.
        reduce: Reduce an image to what the network reads first, so that each pixel counts for what the network says.
        network: Says what it takes images for. Default: nothing is said.

    Returns:
        What the page shows, ready for JSON: ``size``, a text; ``notes``, texts; ``unit`` of rates; ``arms``, the
        original, the latents and the resized copy, each with a title, a picture, a sound or None, values, psnr in dB or
        None, bytes and rate or None, what these bytes are, and ``answers``, names of classes with their probabilities;
        ``unanswered``, why there are none; and ``latents``, a title and a picture.

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
        original = _middle(signal, own, notes, reduce)
        latents = own.encode(original, rounding="round")
        decoded = _pixels(to_pil(own.decode(latents, size=original.shape[1:], decoder=decoder)))
        copy = _resized(original, own)
    else:
        original, rate = _excerpt(signal, rate, own, notes)
        latents = own.encode(original, rounding="round")
        decoded = own.decode(latents, size=original.shape[1], decoder=decoder)
        copy = _resampled(original, rate, own)
    packed = pack_latents(
        latents,
        codec=own.config.name,
        fingerprint=own.fingerprint(),
        size=tuple(original.shape[1:]),
        sample_rate=rate,
        coder=coder,
    )
    whole = not notes  # what is looked at is what the file holds, so the file's bytes can be compared
    arms = [
        _Arm("original", original, original.numel(), content if whole else None, "the file" if whole else ""),
        _Arm(_title(own, decoder), decoded, latents.numel(), packed, f".wlc, {coder}"),
        copy,
    ]
    return {
        **(_show_images(arms, network) if rate is None else _show_sounds(arms, rate)),
        "notes": notes,
        "latents": {"title": _latents_title(latents), "picture": picture(latent_picture(latents))},
    }


@dataclasses.dataclass(frozen=True)
class _Arm:
    title: str
    signal: Tensor  # images in [0, 1], of 8 bits; sounds in [-1, 1]
    values: int
    content: bytes | None
    stored: str  # what the content is


@lru_cache(maxsize=16)
def _load(codec: str, channels: int | None) -> Codec:
    return load_codec(codec, channels=channels)


def _middle(image: Tensor, codec: Codec, notes: list[str], reduce: bool) -> Tensor:
    """Take what is looked at of an image, in [0, 1] and of 8 bits."""
    height, width = image.shape[1:]
    if reduce:
        image = _pixels(as_read(to_pil(to_float(image, "image"))))
        notes.append(f"The middle of {width} x {height} pixels is looked at as the network reads it.")
    check_size(image.shape[1:], codec.config.strides)
    if max(image.shape) > _SIDE:
        top, left = (max(0, side - _SIDE) // 2 for side in (height, width))
        image = image[:, top : top + _SIDE, left : left + _SIDE]
        rows, columns = image.shape[1:]
        notes.append(f"Only the middle {columns} x {rows} of {width} x {height} pixels are looked at.")
    return _pixels(to_pil(to_float(image, "image")))


def _resized(image: Tensor, codec: Codec) -> _Arm:
    """Reduce an image to about as few values as the codec gives, and enlarge it again."""
    original, less = to_pil(image), math.sqrt(codec.config.dimensionality_reduction)
    width, height = (max(1, round(side / less)) for side in original.size)
    small, png = original.resize((width, height), Image.Resampling.BICUBIC), io.BytesIO()
    small.save(png, "PNG", optimize=True)
    again = _pixels(small.resize(original.size, Image.Resampling.BICUBIC))
    return _Arm(
        f"resized to {width} x {height} and enlarged", again, len(image) * height * width, png.getvalue(), "PNG"
    )


def _show_images(arms: list[_Arm], network: Network | None) -> dict[str, Any]:
    images = [to_pil(arm.signal) for arm in arms]
    answers: list[list[tuple[str, float]]] = [[] for _ in arms]
    unanswered = ""
    if network:
        try:
            answers = network.answers(images)
        except (ImportError, OSError, ValueError) as error:
            unanswered = f"No network says what it sees: {error}"
    width, height = images[0].size
    return {
        "size": f"{width} x {height} pixels",
        "unit": "bits per pixel",
        "unanswered": unanswered,
        "arms": [
            {**_figures(arm, arms[0], 1, width * height), "picture": picture(image), "sound": None, "answers": said}
            for arm, image, said in zip(arms, images, answers, strict=True)
        ],
    }


def _excerpt(waveform: Tensor, rate: int, codec: Codec, notes: list[str]) -> tuple[Tensor, int]:
    """Take what is looked at of a sound, as the codec reads it, and its sample rate."""
    c = codec.config
    total, length = waveform.shape[1], min(waveform.shape[1], _SECONDS * rate)
    if length < total:
        notes.append(f"Only the middle {_SECONDS} of {total / rate:.1f} s are heard.")
        waveform = waveform[:, (total - length) // 2 :][:, :length]
    check_size([length], c.strides)
    if c.sample_rate not in (0, rate):
        notes.append(f"Resampled from {rate} to {c.sample_rate} Hz, the rate of the codec.")
        waveform, rate = _resample(waveform, max(1, round(length * c.sample_rate / rate))), c.sample_rate
    if len(waveform) == 1 < c.signal_channels:
        notes.append(f"The one channel of the file stands for {c.signal_channels}.")
        waveform = waveform.expand(c.signal_channels, -1).contiguous()
    return waveform, rate


def _resampled(waveform: Tensor, rate: int, codec: Codec) -> _Arm:
    """Leave a sound about as few values as the codec gives, and resample it back."""
    length = waveform.shape[1]
    small = _resample(waveform, max(1, round(length / codec.config.dimensionality_reduction)))
    less, flac = round(rate * small.shape[1] / length), io.BytesIO()
    load_soundfile().write(flac, small.T.numpy(), less, format="FLAC", subtype="PCM_16")
    again = _resample(small, length).clamp(-1, 1)
    return _Arm(f"resampled to {less} Hz and back", again, small.numel(), flac.getvalue(), "FLAC")


def _show_sounds(arms: list[_Arm], rate: int) -> dict[str, Any]:
    original = arms[0].signal
    channels, length = original.shape
    loudest = float(original.abs().max())
    return {
        "size": f"{channels} channels, {length / rate:.2f} s at {rate} Hz; "
        f"pictures go up to {rate // 2} Hz, on the mel scale",
        "unit": "kbit/s",
        "unanswered": "",
        "arms": [
            {
                **_figures(arm, arms[0], 2, 1000 * length / rate),
                "picture": picture(spectrogram(arm.signal, rate, loudest)),
                "sound": sound(arm.signal, rate),
                "answers": [],
            }
            for arm in arms
        ],
    }


def _figures(arm: _Arm, original: _Arm, peak: float, units: float) -> dict[str, Any]:
    """Return the row of the table, whose rate is the bits per unit."""
    size = None if arm.content is None else len(arm.content)
    return {
        "title": arm.title,
        "values": arm.values,
        "psnr": None if arm is original else _psnr(original.signal, arm.signal, peak),
        "bytes": size,
        "rate": None if size is None else 8 * size / units,
        "stored": arm.stored,
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


def _latents_title(latents: Tensor) -> str:
    channels, *grid = latents.shape
    cells = f"{grid[1]} x {grid[0]} cells, each" if len(grid) == 2 else f"{grid[0]} frames, a row each,"
    return f"The latents: {channels} channels of {cells} stretched to its own range"

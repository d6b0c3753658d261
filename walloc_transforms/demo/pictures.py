"""Pictures and sound as a browser takes them: data URIs, which need no file."""

import base64
import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files import load_soundfile

__all__ = ["latent_picture", "picture", "sound", "spectrogram", "to_pil"]

_WINDOW = 1024  # samples of a column of a spectrogram
_COLUMNS = 1000
_RANGE = 80  # dB below the loudest that a spectrogram shows
_MEL = 700  # Hz: the scale is even below and logarithmic above
# From silent to loud; brightness rises evenly.
_COLORS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]])


def to_pil(image: Tensor) -> Image.Image:
    """Round an image ``(C, H, W)`` in [0, 1], of 1 or 3 channels, to 8 bits."""
    pixels = image.mul(255).round().clamp(0, 255).to(torch.uint8).movedim(0, -1).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))


def picture(image: Image.Image) -> dict[str, str | int]:
    """Return the image as a PNG in a data URI, ``uri``, with its ``width`` and ``height`` in pixels."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return {"uri": _uri("image/png", content.getvalue()), "width": image.width, "height": image.height}


def sound(waveform: Tensor, rate: int) -> str:
    """Return a waveform ``(C, T)`` in [-1, 1] as a WAV file of 16 bits in a data URI."""
    content = io.BytesIO()
    load_soundfile().write(content, waveform.T.numpy(), rate, format="WAV", subtype="PCM_16")
    return _uri("audio/wav", content.getvalue())


def spectrogram(waveform: Tensor, rate: int, loudest: float) -> Image.Image:
    """Draw the magnitudes of a waveform ``(C, T)``, mean over channels: time to the right, frequency upward.

    Frequencies go from 0 to half the rate on the mel scale, which has room where ears tell tones apart.

    Args:
        waveform: The waveform, in [-1, 1].
        rate: Its sample rate, in Hz.
        loudest: The amplitude that gets the brightest color: the same one makes pictures comparable.
    """
    window = torch.hann_window(_WINDOW, device=waveform.device)
    step = max(_WINDOW // 4, waveform.shape[-1] // _COLUMNS)
    spectra = torch.stft(waveform, _WINDOW, step, window=window, pad_mode="constant", return_complex=True)
    level = 20 * torch.log10(spectra.abs().mean(0) / window.sum() / max(loudest, 1e-4) + 1e-9)
    mels = torch.linspace(math.log1p(rate / 2 / _MEL), 0, len(level))
    rows = (_MEL * mels.expm1() * _WINDOW / rate).round().long().clamp(max=len(level) - 1)
    share = (level[rows] / _RANGE + 1).clamp(0, 1).numpy()
    stops = np.linspace(0, 1, len(_COLORS))
    colors = np.stack([np.interp(share, stops, _COLORS[:, channel]) for channel in range(3)], -1)
    return Image.fromarray(colors.round().astype(np.uint8))


def latent_picture(latents: Tensor) -> Image.Image:
    """Draw latents with gray for 0, every channel stretched to its own range, which later ones hardly leave gray.

    Args:
        latents: ``(D, h, w)``, a tile for each channel, row by row; or ``(D, t)``, a row for each channel.
    """
    reach = latents.flatten(1).abs().quantile(0.99, 1).clamp(min=1)
    tiles = (latents / reach.view(-1, *[1] * (latents.ndim - 1))).mul(127).add(128).clamp(0, 255).to(torch.uint8)
    if tiles.ndim == 3:
        channels, height, width = tiles.shape
        columns = math.isqrt(channels - 1) + 1
        rows = -(-channels // columns)
        tiles = torch.cat([tiles, tiles.new_full((rows * columns - channels, height, width), 128)])
        tiles = tiles.view(rows, columns, height, width).transpose(1, 2).reshape(rows * height, columns * width)
    return Image.fromarray(tiles.numpy())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

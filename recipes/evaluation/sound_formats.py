"""Other ways to fewer values or bytes of sound: resampling, Opus, Vorbis and MP3; and the SI-SDR of what they give.

Waveforms are ``(channels, time)``, float32, in [-1, 1], as ``recipes.common.sounds.full_scale`` makes them.
"""

import inspect
import io
import math
import time
from dataclasses import dataclass
from fractions import Fraction

import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from recipes.evaluation.nearest import Coded, nearest_file

_BLOCK = 1 << 16  # frames; encoders of Vorbis have run out of stack where they got minutes at once
_EXCERPT = 1 << 20  # samples: 24 s at 44.1 kHz
_SILENT = 1e-10  # mean square: -100 dB of full scale


def si_sdr(sound: Tensor, decoded: Tensor) -> float:
    """Scale-invariant SDR in dB, mean over channels; silent channels, for which it is undefined, are left out.

    Raises:
        ValueError: The shapes differ.
    """
    if sound.shape != decoded.shape:
        raise ValueError(f"the decoded sound has shape {tuple(decoded.shape)}, the original {tuple(sound.shape)}")
    heard = sound.square().mean(1) > _SILENT
    if not heard.any():
        return math.nan
    ratios = scale_invariant_signal_distortion_ratio(decoded[heard].double(), sound[heard].double())
    return float(ratios.mean())


def resample_sinc(sound: Tensor, share: Fraction) -> Tensor:
    """Resample to a share of the values and back, with long windowed-sinc filters."""
    high, low = share.denominator, share.numerator
    if high == low:
        return sound
    # These keep more of the band than torchaudio's defaults, which would be a weak rival by up to a decibel.
    down, up = (Resample(a, b, lowpass_filter_width=64, rolloff=0.999) for a, b in ((high, low), (low, high)))
    return up(down(sound))[..., : sound.shape[-1]].clamp(-1, 1)


def resample_fourier(sound: Tensor, share: Fraction) -> Tensor:
    """Keep the lowest share of the frequencies of the whole sound, an ideal low-pass."""
    if share == 1:
        return sound
    samples = sound.shape[-1]
    spectrum = torch.fft.rfft(sound)
    spectrum[..., math.ceil(samples * share / 2) :] = 0
    return torch.fft.irfft(spectrum, samples).clamp(-1, 1)


RESAMPLERS = {"resampling, sinc": resample_sinc, "resampling, Fourier": resample_fourier}


def find_delay(sound: Tensor, decoded: Tensor, most: int = 4096, excerpt: int = _EXCERPT) -> int:
    """Find by how many samples ``decoded`` lags behind ``sound``: where their cross-correlation is highest.

    Args:
        sound: ``(channels, T)``.
        decoded: ``(channels, T')``.
        most: The largest lag looked at, in either direction.
        excerpt: Samples around the loudest one that are compared.
    """
    first = max(0, int(sound.abs().amax(0).argmax()) - excerpt // 2)
    sound, decoded = (x[:, first : first + excerpt] for x in (sound, decoded))
    length = 1 << (max(sound.shape[-1], decoded.shape[-1]) + most).bit_length()
    product = torch.fft.rfft(sound, length).conj() * torch.fft.rfft(decoded, length)
    correlation = torch.fft.irfft(product.sum(0), length)
    near = torch.cat([correlation[-most:], correlation[: most + 1]])
    return int(near.argmax()) - most


def align(decoded: Tensor, delay: int, samples: int) -> Tensor:
    """Take a delay away, and cut or fill up with silence to ``samples``."""
    decoded = decoded[..., delay:] if delay >= 0 else torch.nn.functional.pad(decoded, (-delay, 0))
    return torch.nn.functional.pad(decoded, (0, max(0, samples - decoded.shape[-1])))[..., :samples]


@dataclass(frozen=True)
class Format:
    """A lossy file format of libsndfile, steered by ``compression_level``.

    Attributes:
        container: Format of the file.
        subtype: What it holds.
        highest: The highest compression level that it accepts.
        mode: How its encoder keeps to a rate.
        rates: Sample rates that it knows, the best last; empty if any will do.
    """

    container: str
    subtype: str
    highest: float = 1.0
    mode: str | None = None
    rates: tuple[int, ...] = ()

    def missing(self) -> str:
        """Say why the installed soundfile cannot write it; empty if it can."""
        if "compression_level" not in inspect.signature(soundfile.SoundFile).parameters:
            return f"soundfile {soundfile.__version__} cannot set a rate: 0.13 can"
        writable = soundfile.check_format(self.container, self.subtype)
        return "" if writable else f"not in libsndfile {soundfile.__libsndfile_version__}"


FORMATS = {
    "Opus": Format("OGG", "OPUS", rates=(8000, 12000, 16000, 24000, 48000)),
    "Vorbis": Format("OGG", "VORBIS"),
    "MP3": Format("MP3", "MPEG_LAYER_III", highest=0.999, mode="AVERAGE"),  # which reaches half the rate of VARIABLE
}


class LossyFile:
    """A sound in a format of libsndfile at the rates asked for; what was encoded once is kept.

    Args:
        sound: ``(channels, T)`` in [-1, 1].
        sample_rate: In Hz.
        format: The format; where it does not know the sample rate, the sound is resampled there and back.
    """

    def __init__(self, sound: Tensor, sample_rate: int, format: Format) -> None:
        self.sound, self.sample_rate, self.format = sound, sample_rate, format
        known = format.rates
        self.file_rate = sample_rate if not known or sample_rate in known else known[-1]
        self._coded: dict[float, Coded] = {}

    def _resample(self, sound: Tensor, old: int, new: int) -> Tensor:
        return sound if old == new else Resample(old, new, lowpass_filter_width=64, rolloff=0.999)(sound)

    def encode(self, level: float) -> Coded:
        """Encode at a compression level, from 0, the best quality.

        Raises:
            soundfile.SoundFileError: The encoder refuses, such as the sample rate.
        """
        if level not in self._coded:
            start = time.perf_counter()
            samples = self._resample(self.sound, self.sample_rate, self.file_rate).T.numpy()
            content, f = io.BytesIO(), self.format
            with soundfile.SoundFile(
                content,
                "w",
                self.file_rate,
                samples.shape[1],
                f.subtype,
                format=f.container,
                compression_level=level,
                bitrate_mode=f.mode,
            ) as file:
                for first in range(0, len(samples), _BLOCK):
                    file.write(samples[first : first + _BLOCK])
            self._coded[level] = Coded(content.getvalue(), level, time.perf_counter() - start)
        return self._coded[level]

    def nearest(self, size: int) -> Coded:
        """Find the compression level whose file has nearest to ``size`` bytes; out of reach, the end of the range.

        Raises:
            soundfile.SoundFileError: The encoder refuses.
        """
        return nearest_file(self.encode, self.format.highest, 0.0, size)

    def decode(self, coded: Coded) -> tuple[Tensor, int, float]:
        """Decode.

        Returns:
            The sound, aligned with the original and as long, in [-1, 1]; the delay in samples that this took away; the
            seconds that decoding took.
        """
        start = time.perf_counter()
        samples, rate = soundfile.read(io.BytesIO(coded.content), dtype="float32", always_2d=True)
        decoded = self._resample(torch.from_numpy(samples.T.copy()), int(rate), self.sample_rate)
        seconds = time.perf_counter() - start
        delay = find_delay(self.sound, decoded)
        return align(decoded, delay, self.sound.shape[-1]).clamp(-1, 1), delay, seconds

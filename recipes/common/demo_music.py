"""A small procedural band for trying source separation without data: voice, drums, bass and chords, in stereo.

    python -c "from recipes.common.demo_music import demo_track; print(demo_track(0, 10)['vocals'].shape)"

It is no music to enjoy, but separates the way music does: the voice glides, quivers, changes its vowel and pauses; the
rest plays in the same key and on the same beat, and overlaps with it in frequency.
"""

import math
import random

import torch
from torch import Tensor
from torch.fft import irfft, rfft

STEMS = ("vocals", "drums", "bass", "other")

# Center frequencies of the first five formants in Hz (Peterson and Barney 1952 for the lower three), and bandwidths.
_VOWELS = (
    (730, 1090, 2440, 3400, 4500),  # a
    (530, 1840, 2480, 3500, 4500),  # e
    (300, 2290, 3010, 3600, 4600),  # i
    (570, 840, 2410, 3300, 4400),  # o
    (320, 870, 2240, 3300, 4400),  # u
)
_BANDWIDTHS = (80, 100, 130, 180, 250)
_SCALE = (0, 2, 4, 5, 7, 9, 11)
_PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (1, 4, 0, 5))  # scale degrees of the roots
_LEVELS = {"vocals": -17.0, "drums": -22.0, "bass": -23.0, "other": -23.0}  # dB of the root mean square, +-2


def demo_track(seed: int, seconds: float, sample_rate: int = 44100) -> dict[str, Tensor]:
    """Play a tune; the same for the same arguments.

    Args:
        seed: Chooses key, tempo, chords, melody and timbres.
        seconds: Length, from 1 s.
        sample_rate: In Hz, from 16,000.

    Returns:
        Stems ``vocals``, ``drums``, ``bass`` and ``other``, each ``(2, seconds * sample_rate)``, float32; none of them,
        nor their sum, reaches 1.

    Raises:
        ValueError: Too short, or too low a sample rate.
    """
    if seconds < 1 or sample_rate < 16000:
        raise ValueError(f"expected at least 1 s at 16000 Hz, got {seconds} s at {sample_rate} Hz")
    band = _Band(seed, round(seconds * sample_rate), sample_rate)
    stems = {"vocals": band.vocals(), "drums": band.drums(), "bass": band.bass(), "other": band.chords()}
    for name, stem in stems.items():
        level = 10 ** ((_LEVELS[name] + band.choice.uniform(-2, 2)) / 20)
        stems[name] = stem * (level / stem.square().mean().sqrt().clamp(min=1e-6))
    peak = max(float(stem.abs().max()) for stem in (*stems.values(), sum(stems.values(), torch.zeros(()))))
    return {name: (stem * min(1.0, 0.95 / peak)).float() for name, stem in stems.items()}


def _fast(samples: int) -> int:
    """Round up to a length whose Fourier transform is quick."""
    unit = 1 << max(0, samples.bit_length() - 5)
    return -(-samples // unit) * unit


class _Band:
    """What the players agree on: key, tempo and chords. Each plays ``(2, samples)``."""

    def __init__(self, seed: int, samples: int, rate: int) -> None:
        self.choice = random.Random(seed)
        self.noise_source = torch.Generator().manual_seed(seed)
        self.samples, self.rate = samples, rate
        self.beat = 60 / self.choice.uniform(85, 130)  # seconds
        self.tonic = self.choice.randint(45, 56)  # MIDI note, about A2 to A flat 3
        self.roots = self.choice.choice(_PROGRESSIONS)

    def vocals(self) -> Tensor:
        """Glottal pulses with portamento and vibrato, through formants; phrases of some notes with pauses between."""
        pitch, loudness = torch.zeros(self.samples), torch.zeros(self.samples)
        vowels = torch.zeros(len(_VOWELS), self.samples)
        register = self.tonic + self.choice.choice((7, 12, 17))
        place, left, degree = self.choice.uniform(0, 2) * self.beat, self.choice.randint(5, 9), 2
        vibrato = self.choice.uniform(0.15, 0.4) * torch.sin(2 * math.pi * self.choice.uniform(5, 6.2) * self._time())
        while (first := round(place * self.rate)) < self.samples:
            length = self.beat * self.choice.choice((0.5, 0.5, 1, 1, 1.5, 2))
            last = min(self.samples, round((place + length) * self.rate))
            degree = max(-3, min(8, degree + self.choice.choice((-2, -1, -1, 0, 1, 1, 2))))
            pitch[first:] = register + self._semitones(degree)  # also through the pause: nothing to glide back from
            pause = left == 0
            loudness[first:last] = 0 if pause else self.choice.uniform(0.6, 1)
            vowels[:, first:] = 0
            vowels[self.choice.randrange(len(_VOWELS)), first:] = 1
            left = self.choice.randint(4, 9) if pause else left - 1
            place += length
        pitch = self._smooth(pitch - register, 0.06) + register
        loudness, vowels = self._smooth(loudness, 0.05), self._smooth(vowels, 0.07)
        phase = self._phase(440 * 2 ** ((pitch + vibrato - 69) / 12))
        breath = 0.02 * self._noise(self.samples)
        size = _fast(self.samples + round(0.1 * self.rate))  # what a formant rings on does not come round
        source = rfft((6.75 * phase.square() * (1 - phase) - 0.5625 + breath) * loudness, n=size)
        source *= torch.linspace(0, 1, len(source)) * 1j  # the lips radiate the derivative of the flow
        turn = torch.linspace(0, math.pi, len(source))
        delay = torch.polar(torch.ones_like(turn), -turn)  # z^-1, up to the Nyquist frequency
        shorter = self.choice.uniform(0.92, 1.15)  # vocal tract: its formants lie higher
        sung = torch.zeros(self.samples)
        for formants, weight in zip(_VOWELS, vowels, strict=True):
            damping = torch.ones_like(delay)
            for center, width in zip(formants, _BANDWIDTHS, strict=True):
                damping *= self._damping(delay, center * shorter, width)
            sung += irfft(source / damping, n=size)[: self.samples] * weight
        return self._room(sung, pan=self.choice.uniform(-0.15, 0.15), wet=self.choice.uniform(0.05, 0.2))

    def drums(self) -> Tensor:
        """Kick, snare and hi-hat on a grid of eighths."""
        t = torch.arange(round(0.3 * self.rate)) / self.rate
        sweep = 2 * math.pi * (50 * t + 120 * 0.03 * (1 - torch.exp(-t / 0.03)))
        kick = torch.sin(sweep) * torch.exp(-t / 0.09)
        snare = (0.6 * self._noise(len(t)) + torch.sin(2 * math.pi * 185 * t)) * torch.exp(-t / 0.06)
        hiss = self._noise(len(t))
        hat = torch.diff(torch.diff(hiss, prepend=hiss[:1]), prepend=hiss[:1]) * torch.exp(-t / 0.025) * 0.25
        busy = self.choice.random() < 0.5
        lines = {"kick": kick, "snare": snare * 0.7, "hat": hat}
        played = {name: torch.zeros(self.samples) for name in lines}
        for eighth in range(int(self.samples / self.rate / self.beat * 2) + 1):
            hits = {"kick": eighth % 8 in ((0, 3, 4) if busy else (0, 4)), "snare": eighth % 4 == 2, "hat": True}
            hits["kick"] = hits["kick"] or self.choice.random() < 0.08
            for name, hit in hits.items():
                if hit:
                    self._add(played[name], lines[name] * self.choice.uniform(0.6, 1), eighth * self.beat / 2)
        return (
            self._room(played["kick"], pan=0, wet=0.02)
            + self._room(played["snare"], pan=0.1, wet=0.1)
            + self._room(played["hat"], pan=-0.4, wet=0.02)
        )

    def bass(self) -> Tensor:
        """A plucked sawtooth with few harmonics on the roots."""
        played = torch.zeros(self.samples)
        step = self.choice.choice((0.5, 1, 1)) * self.beat
        bright = self.choice.uniform(0.3, 0.6)
        for i in range(int(self.samples / self.rate / step) + 1):
            note = self.tonic - 12 + self._semitones(self._root(i * step)) % 12 + self.choice.choice((0, 0, 0, 12))
            t = torch.arange(round(step * 0.9 * self.rate)) / self.rate
            cycles = 440 * 2 ** ((note - 69) / 12) * t
            tone = sum((bright**h * torch.sin(2 * math.pi * (h + 1) * cycles) for h in range(6)), torch.zeros(()))
            self._add(played, self._faded(tone) * torch.exp(-t / 0.4) * self.choice.uniform(0.7, 1), i * step)
        return self._room(played, pan=self.choice.uniform(-0.1, 0.1), wet=0.02)

    def chords(self) -> Tensor:
        """Three tones per bar, each twice and a little apart in pitch, one to the left and one to the right."""
        played = torch.zeros(2, self.samples)
        bar = 4 * self.beat
        bright, decay = self.choice.uniform(0.4, 0.7), self.choice.uniform(0.5, 2.5)
        detune = self.choice.uniform(0.001, 0.005)
        strikes = self.choice.choice((1, 2, 4))
        t = torch.arange(round(bar / strikes * self.rate)) / self.rate
        envelope = self._faded(torch.exp(-t / decay))
        harmonics = torch.arange(1, 6)[:, None]
        known: dict[tuple[int, float], Tensor] = {}  # tones come again in every chord that holds them
        for i in range(int(self.samples / self.rate / bar * strikes) + 1):
            root = self._root(i * bar / strikes)
            for third in (0, 2, 4):
                note = self.tonic + 12 + self._semitones(root + third) % 12
                for channel, side in enumerate((1 - detune, 1 + detune)):
                    if (note, side) not in known:
                        turns = 440 * 2 ** ((note - 69) / 12) * side * t * harmonics + self.choice.random()
                        known[note, side] = (bright**harmonics * torch.sin(2 * math.pi * turns)).sum(0) * envelope
                    self._add(played[channel], known[note, side], i * bar / strikes)
                    self._add(played[1 - channel], known[note, side] * 0.3, i * bar / strikes)
        return self._room(played, pan=0, wet=0.1)

    def _root(self, seconds: float) -> int:
        return self.roots[int(seconds / (4 * self.beat) + 1e-6) % len(self.roots)]

    @staticmethod
    def _semitones(degree: int) -> int:
        return 12 * (degree // 7) + _SCALE[degree % 7]

    def _time(self) -> Tensor:
        return torch.arange(self.samples) / self.rate

    def _noise(self, samples: int) -> Tensor:
        return torch.randn(samples, generator=self.noise_source)

    def _phase(self, hertz: Tensor) -> Tensor:
        """Phase in cycles, from 0 to 1; summed in double precision, which minutes of it need."""
        return (torch.cumsum(hertz.double(), 0) / self.rate % 1).float()

    def _smooth(self, x: Tensor, seconds: float) -> Tensor:
        """Raised-cosine average over ``seconds``; starts and ends are held."""
        half = round(seconds * self.rate / 2)
        window = torch.hann_window(2 * half + 1, periodic=False)
        padded = torch.nn.functional.pad(x.view(-1, 1, x.shape[-1]), (half, half), mode="replicate")[:, 0]
        size = _fast(padded.shape[-1])
        smooth = irfft(rfft(padded, n=size) * rfft(window / window.sum(), n=size), n=size)
        return smooth[:, 2 * half : 2 * half + x.shape[-1]].reshape(x.shape)

    def _damping(self, delay: Tensor, center: float, width: float) -> Tensor:
        """Inverse of the response of a two-pole digital resonator of gain 1 at 0 Hz (Klatt 1980)."""
        radius = math.exp(-math.pi * width / self.rate)
        b, c = 2 * radius * math.cos(2 * math.pi * center / self.rate), -(radius**2)
        return (1 - (b + c * delay) * delay) / (1 - b - c)

    def _faded(self, tone: Tensor) -> Tensor:
        """Start within 5 ms and end within 20 ms, without clicks."""
        rise, fall = round(0.005 * self.rate), round(0.02 * self.rate)
        ramp = torch.ones(len(tone))
        ramp[:rise] = torch.linspace(0, 1, rise)
        ramp[-fall:] *= torch.linspace(1, 0, fall)
        return tone * ramp

    def _add(self, line: Tensor, sound: Tensor, seconds: float) -> None:
        first = round(seconds * self.rate)
        length = min(len(sound), len(line) - first)
        if length > 0:
            line[first : first + length] += sound[:length]

    def _room(self, dry: Tensor, *, pan: float, wet: float) -> Tensor:
        """Place a line between left (-1) and right (1), with reverberation that differs between the ears."""
        angle = (pan + 1) * math.pi / 4
        placed = dry if dry.ndim == 2 else torch.stack([math.cos(angle) * dry, math.sin(angle) * dry])
        tail = round(0.6 * self.rate)
        echo = self._noise(2 * tail).view(2, tail) * torch.exp(-torch.arange(tail) / (0.12 * self.rate))
        echo = wet * echo / echo.square().sum(1, keepdim=True).sqrt()
        size = _fast(self.samples + tail)
        return placed + irfft(rfft(placed, n=size) * rfft(echo, n=size), n=size)[:, : self.samples]

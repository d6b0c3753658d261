"""What a separation network may read instead of a waveform, at one frame per 256 samples: the arms of the comparison.

    front = make_front_end("walloc_5x")
    carrier = front.analyze(mixture)          # what the masks multiply: linear in the waveform
    waveform = front.synthesize(carrier)      # the way back, linear and differentiable

Per frame, that is for 512 values of a stereo waveform at 44.1 kHz:

    resample_5x, resample_20x  the waveform at 9,302 or 2,326 Hz                                108 or 27 values
    conv                       the full-rate waveform through a learned strided convolution     512
    stft                       complex spectrum, window 512: its bins are masked                514 magnitudes
    walloc_5x, walloc_20x      latents                                                          108 or 27
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import resample

import walloc_transforms as wt
from recipes.common.codecs import impulse_responses
from walloc_transforms.codec import compand

HOP = 256
"""Samples per frame."""
UNIT = 512
"""Waveforms must be a multiple of this number of samples long: two frames, which ``resample_20x`` needs."""
_REACH = 4  # frames to either side that a latent is decoded to: 8 levels of the 9/7 wavelet span 1,941 samples
_ZERO_CROSSINGS = 32  # of the resampling filter, to either side: an audibly transparent one


class FrontEnd(nn.Module):
    """Analysis and synthesis of waveforms ``(batch, 2, time)``, ``time`` a multiple of 512.

    Attributes:
        values: Numbers per frame.
        group: Frames that one column of the carrier holds.
        fixed: Whether nothing in it is trained.
        linear: Whether the carrier is mapped to and from mask features by a learned matrix; else it is masked itself.
    """

    values: int
    group = 1
    fixed = True
    linear = True

    def analyze(self, waveform: Tensor) -> Tensor:
        """Map to the carrier, ``(batch, values * group, frames / group)``."""
        raise NotImplementedError

    def synthesize(self, carrier: Tensor) -> Tensor:
        """Map a carrier back to a waveform."""
        raise NotImplementedError

    def features(self, carrier: Tensor) -> Tensor:
        """Show the network the carrier in another way, real and of the same shape."""
        return carrier


class Resampled(FrontEnd):
    """The waveform at ``values / 512`` of its rate; samples of both channels lie side by side."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.group = 1 + values % 2  # an odd number of values is no whole number of samples per channel

    def analyze(self, waveform: Tensor) -> Tensor:
        """Resample, cut into frames."""
        low = resample(waveform, UNIT, self.values, lowpass_filter_width=_ZERO_CROSSINGS)
        samples = self.values * self.group // 2
        return low.unflatten(-1, (-1, samples)).transpose(-1, -2).flatten(1, 2)

    def synthesize(self, carrier: Tensor) -> Tensor:
        """Join the frames, resample."""
        low = carrier.unflatten(1, (2, -1)).transpose(-1, -2).flatten(2)
        return resample(low, self.values, UNIT, lowpass_filter_width=_ZERO_CROSSINGS)


class Convolution(FrontEnd):
    """All samples, through a learned convolution over two frames, and back through a learned transposed one.

    Each channel has filters of its own; the network's matrices join them. Both convolutions start as the modified
    discrete cosine transform, 256 frequencies per channel, with which they reconstruct perfectly: from random filters,
    as in Conv-TasNet, a short training would not get far.
    """

    values = 2 * HOP
    fixed = False

    def __init__(self) -> None:
        super().__init__()
        n, k = torch.arange(2 * HOP, dtype=torch.float64), torch.arange(HOP, dtype=torch.float64)[:, None]
        window = torch.sin(math.pi * (n + 0.5) / (2 * HOP))
        basis = math.sqrt(2 / HOP) * window * torch.cos(math.pi / HOP * (n + 0.5 + HOP / 2) * (k + 0.5))
        self.analysis = nn.Parameter(basis.float().repeat(2, 1, 1))
        self.synthesis = nn.Parameter(basis.float().repeat(2, 1, 1))

    def analyze(self, waveform: Tensor) -> Tensor:
        """Convolve; the last frame wraps around to the first samples, so that there is one per 256 samples."""
        wrapped = torch.cat([waveform, waveform[..., :HOP]], -1)
        # A product of matrices: on a CPU, strided convolutions take several times as long.
        return (self.analysis @ wrapped.unfold(-1, 2 * HOP, HOP).transpose(-1, -2)).flatten(1, 2)

    def synthesize(self, carrier: Tensor) -> Tensor:
        """Overlap and add."""
        frames = carrier.unflatten(1, (2, -1)).transpose(-1, -2) @ self.synthesis
        first, second = frames.chunk(2, -1)
        return (first + second.roll(1, -2)).flatten(-2)


class Spectrum(FrontEnd):
    """Complex spectrum of both channels. The network reads logarithms of magnitudes and masks bins."""

    values = 2 * (HOP + 1)
    linear = False
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(2 * HOP), persistent=False)

    def analyze(self, waveform: Tensor) -> Tensor:
        """Transform; one frame more than other arms have, as they are centered on the first and last sample."""
        spectrum = torch.stft(waveform.flatten(0, 1), 2 * HOP, HOP, window=self.window, return_complex=True)
        return spectrum.unflatten(0, waveform.shape[:2]).flatten(1, 2)

    def synthesize(self, carrier: Tensor) -> Tensor:
        """Transform back."""
        spectrum = carrier.unflatten(1, (2, -1)).flatten(0, 1)
        waveform = torch.istft(spectrum, 2 * HOP, HOP, window=self.window)
        return waveform.unflatten(0, (-1, 2))

    def features(self, carrier: Tensor) -> Tensor:
        """Compress magnitudes, which are about 1 for quiet sounds."""
        return torch.log1p(carrier.abs())


class Latents(FrontEnd):
    """Latents of a codec. The carrier is the expanded latents, less those of silence; the network reads latents.

    The codec's linear decoder is folded into one convolution over frames. It decodes what is expanded already:
    companding first would only limit the carrier and its gradient.
    """

    silence: Tensor
    decoder: Tensor

    def __init__(self, codec: wt.Codec) -> None:
        super().__init__()
        self.codec = codec
        self.values = codec.config.channels
        silent = codec.expand(codec.encode(torch.zeros(2, UNIT)))[:, :1]
        self.register_buffer("silence", silent, persistent=False)
        self.register_buffer("decoder", self._responses(), persistent=False)

    def _responses(self) -> Tensor:
        """Decoder as a convolution kernel, ``(2 * 256, values, frames)``: what a latent adds to its surroundings."""

        def decode(values: Tensor) -> Tensor:
            return 2 * self.codec.synthesis(self.codec.load_decoder()(values))  # a codec's own range is 1 wide

        waveforms = impulse_responses(decode, self.values, _REACH, axes=1)
        return waveforms.unflatten(-1, (-1, HOP)).permute(1, 3, 0, 2).flatten(0, 1).flip(-1).contiguous()

    def analyze(self, waveform: Tensor) -> Tensor:
        """Encode and expand."""
        return self.codec.expand(self.codec.encode(waveform)) - self.silence

    def synthesize(self, carrier: Tensor) -> Tensor:
        """Decode, periodic as the codec is."""
        blocks = F.conv1d(torch.cat([carrier[..., -_REACH:], carrier, carrier[..., :_REACH]], -1), self.decoder)
        return blocks.unflatten(1, (2, HOP)).transpose(-1, -2).flatten(2)

    def features(self, carrier: Tensor) -> Tensor:
        """Compand."""
        return compand(carrier + self.silence, self.codec.config.latent_bits)


ARMS = {
    "resample_5x": lambda: Resampled(108),
    "resample_20x": lambda: Resampled(27),
    "conv": Convolution,
    "stft": Spectrum,
    "walloc_5x": lambda: Latents(wt.load_codec("stereo_5x")),
    "walloc_20x": lambda: Latents(wt.load_codec("stereo_20x")),
}


def make_front_end(name: str) -> FrontEnd:
    """Build an arm's front end by name.

    Raises:
        ValueError: There is no such arm.
    """
    if name not in ARMS:
        raise ValueError(f"unknown arm {name!r}: expected one of {', '.join(ARMS)}")
    return ARMS[name]()

"""Brightness, contrast, colors, gain, noise and missing channels of stored latents; every cell stays where it is.

What these do to a signal is linear, or affine, and so is a codec's projection. Latents are expanded, changed and
companded again; ``codec/mixing.py`` has the arithmetic. Signals are clipped to their range, and latents are not.
"""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..codec import Codec, mean_signal, mix, packet_noise
from .records import ValueTransform, between, check_probability, count_of

__all__ = [
    "LatentChannelDropout",
    "LatentColorJitter",
    "LatentGain",
    "LatentNoise",
    "LatentPolarity",
    "LatentSwapChannels",
]

_GRAY = (0.299, 0.587, 0.114)  # what torchvision weighs red, green and blue by


class LatentColorJitter(ValueTransform):
    """Change brightness, contrast and saturation of every record by factors of its own, as ``v2.ColorJitter``.

    Brightness multiplies the pixels; contrast moves them away from the image's mean gray or towards it, saturation from
    or to their own grays. Brightness and contrast are exact, but for the clipping of pixels; colors are mixed as far as
    the latents hold them. There is no hue: it is not linear. The mean gray of a volume is that of all its frames, where
    ``v2.ColorJitter`` takes each for itself.

    Args:
        brightness: Factors are drawn from ``[max(0, 1 - brightness), 1 + brightness]``, or between two given ones.
        contrast: The same.
        saturation: The same; for codecs of red, green and blue.

    Shapes:
        ``Latents`` ``(..., D, h, w)`` or ``(..., D, t, h, w)`` to the same.

    Raises:
        ValueError: A factor would be negative. On call: the codec's encoder is not one linear projection, it is not
            known in this process, or ``saturation`` is named and the codec's images are not of three channels.
        TypeError: On call: the sample has no ``Latents``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.WallocEncode("rgb_16x")(torch.full((3, 64, 64), 0.5))
        >>> darker = wt.transforms.LatentColorJitter(brightness=(0.6, 0.6))(latents)
        >>> round(wt.WallocDecode("rgb_16x")(darker).mean().item(), 2)
        0.3
    """

    _sides = (2, 3)

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        self.brightness = between(brightness, "brightness", 1, 0)
        self.contrast = between(contrast, "contrast", 1, 0)
        self.saturation = between(saturation, "saturation", 1, 0)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factors; called by torchvision."""
        count = count_of(flat_inputs)
        return {name: _uniform(getattr(self, name), count) for name in ("brightness", "contrast", "saturation")}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change latents; called by torchvision."""
        brightness, contrast, saturation = (params[name].to(inpt.device) for name in params)

        def change(raw: Tensor, codec: Codec) -> Tensor:
            channels = codec.config.signal_channels
            gray = torch.tensor(_GRAY if channels == 3 else [1 / channels] * channels, device=raw.device)
            if channels != 3 and self.saturation != (1, 1):
                raise ValueError(f"saturation needs 3 channels of color, codec {codec.config.name!r} has {channels}")
            z = codec.expand(raw)
            # In the codec's range black is -0.5. The three changes commute, as long as nothing is clipped.
            constant = (brightness - 1) / 2 + (1 - contrast) * brightness * (mean_signal(z, codec) * gray).sum(-1)
            one, to_gray = torch.eye(channels, device=raw.device), gray.expand(channels, channels)
            colors = saturation[:, None, None] * one + (1 - saturation)[:, None, None] * to_gray
            matrices = (contrast * brightness)[:, None, None] * colors
            return codec.compand(mix(z, codec, matrices, constant[:, None].expand(-1, channels)))

        return self.change(inpt, None, change)


class LatentNoise(ValueTransform):
    """Add to every record what white Gaussian noise on its signal would add, as ``v2.GaussianNoise``.

    Args:
        sigma: Standard deviation of the noise, where images and volumes are in [0, 1] and waveforms in [-1, 1].

    Shapes:
        ``Latents`` of any signals to the same.

    Raises:
        ValueError: ``sigma`` is negative. On call: the codec's encoder is not one linear projection, or it is not known
            in this process.
        TypeError: On call: the sample has no ``Latents``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.WallocEncode("rgb_16x")(torch.zeros(3, 64, 64))
        >>> noisy = wt.transforms.LatentNoise(0.1)(latents)
        >>> bool((noisy != latents).all())
        True
    """

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        if not sigma >= 0:
            raise ValueError(f"sigma is a standard deviation, at least 0, got {sigma}")
        self.sigma = float(sigma)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change latents; called by torchvision."""

        def change(raw: Tensor, codec: Codec) -> Tensor:
            z = codec.expand(raw)
            spread = self.sigma / 2 if codec.config.modality == "audio" else self.sigma  # in the codec's own range
            return codec.compand(z + packet_noise(z, codec, spread))

        return self.change(inpt, None, change)


class LatentChannelDropout(ValueTransform):
    """Keep the first channels of some records and set the others to zero, so that networks learn to read prefixes.

    Zero is what decoding takes a missing channel for: the latents decode to what ``codec.prefix(k)`` decodes its k
    channels to. In normalized latents it is minus the channel's mean over its spread.

    Args:
        p: Probability that a record loses channels.
        least: Channels that are always kept; how many are kept is drawn from ``least`` to all but one.

    Shapes:
        ``Latents`` of any signals to the same.

    Raises:
        ValueError: ``p`` is no probability, or ``least`` below 1. On call: the latents have no channel to lose, or
            their codec is not known in this process.
        TypeError: On call: the sample has no ``Latents``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.WallocEncode("rgb_16x")(torch.rand(3, 64, 64))
        >>> short = wt.transforms.LatentChannelDropout(p=1, least=6)(latents)
        >>> bool((short[:6] == latents[:6]).all()), bool((short[-1] == 0).all())
        (True, True)
    """

    def __init__(self, p: float = 0.5, least: int = 1) -> None:
        super().__init__()
        if not isinstance(least, int) or least < 1:
            raise ValueError(f"least counts channels, at least 1, got {least}")
        self.p, self.least = check_probability(p), least

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the records, and which share of the channels they keep; called by torchvision."""
        count = count_of(flat_inputs)
        return {"chosen": torch.rand(count) < self.p, "share": torch.rand(count)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change latents; called by torchvision."""
        channels = inpt.shape[-len(inpt.signal_size) - 1]
        if channels <= self.least:
            raise ValueError(f"codec {inpt.codec!r} has {channels} channels, of which least={self.least} are kept")
        kept = self.least + (params["share"] * (channels - self.least)).long()
        chosen = params["chosen"].nonzero()[:, 0]
        lost = (torch.arange(channels) >= kept[chosen, None]).view(-1, channels, *[1] * len(inpt.signal_size))
        chosen, lost = chosen.to(inpt.device), lost.to(inpt.device)
        return self.change(inpt, chosen, lambda raw, codec: raw.to(torch.float32).masked_fill(lost, 0))


class LatentGain(ValueTransform):
    """Make every record of sound louder or softer by a gain of its own; exact, but for the clipping of signals.

    Args:
        decibels: Gains are drawn from ``[-decibels, decibels]``, or between two given ones.

    Shapes:
        ``Latents`` ``(..., D, t)`` to the same.

    Raises:
        ValueError: ``decibels`` is one negative number, or not two in order. On call: the codec's encoder is not one
            linear projection, or it is not known in this process.
        TypeError: On call: the sample has no ``Latents``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.WallocEncode("stereo_5x")(torch.rand(2, 4096) - 0.5)
        >>> softer = wt.transforms.LatentGain((-6, -6))(latents)
        >>> bool(softer.std() < latents.std())
        True
    """

    _sides = (1,)

    def __init__(self, decibels: float | Sequence[float] = 6.0) -> None:
        super().__init__()
        self.decibels = between(decibels, "decibels", 0)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the gains; called by torchvision."""
        return {"factor": 10 ** (_uniform(self.decibels, count_of(flat_inputs)) / 20)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change latents; called by torchvision."""

        def change(raw: Tensor, codec: Codec) -> Tensor:
            one = torch.eye(codec.config.signal_channels, device=raw.device)
            return _mixed(raw, codec, params["factor"].to(raw.device)[:, None, None] * one)

        return self.change(inpt, None, change)


class _Sometimes(ValueTransform, abc.ABC):
    """Base of what happens to a record of sound with a probability ``p``, or does not."""

    _sides = (1,)

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_probability(p)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the records; called by torchvision."""
        return {"chosen": (torch.rand(count_of(flat_inputs)) < self.p).nonzero()[:, 0]}

    @abc.abstractmethod
    def matrix(self, codec: Codec) -> Tensor:
        """Return what a sample of the signal is multiplied by."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change latents; called by torchvision."""

        def change(raw: Tensor, codec: Codec) -> Tensor:
            return _mixed(raw, codec, self.matrix(codec).to(raw.device).expand(len(raw), -1, -1))

        return self.change(inpt, params["chosen"].to(inpt.device), change)


class LatentPolarity(_Sometimes):
    """Turn the sign of some records of sound, which nobody hears; exact.

    Args:
        p: Probability that the sign of a record is turned.

    Shapes:
        ``Latents`` ``(..., D, t)`` to the same.

    Raises:
        ValueError: ``p`` is no probability. On call: the codec's encoder is not one linear projection, or it is not
            known in this process.
        TypeError: On call: the sample has no ``Latents``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> sound = torch.rand(2, 4096) - 0.5
        >>> turned = wt.transforms.LatentPolarity(p=1)(wt.WallocEncode("stereo_5x")(sound))
        >>> bool(((turned - wt.WallocEncode("stereo_5x")(-sound)).abs() < 0.01).all())
        True
    """

    def matrix(self, codec: Codec) -> Tensor:
        """Return minus one for every channel of the signal."""
        return -torch.eye(codec.config.signal_channels)


class LatentSwapChannels(_Sometimes):
    """Swap left and right in some records of stereo sound, as far as the latents hold both.

    Args:
        p: Probability that the channels of a record are swapped.

    Shapes:
        ``Latents`` ``(..., D, t)`` to the same.

    Raises:
        ValueError: ``p`` is no probability. On call: the codec is not for stereo sound, its encoder is not one linear
            projection, or it is not known in this process.
        TypeError: On call: the sample has no ``Latents``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> sound = torch.stack([torch.linspace(-0.5, 0.5, 4096), torch.zeros(4096)])
        >>> swapped = wt.transforms.LatentSwapChannels(p=1)(wt.WallocEncode("stereo_5x")(sound))
        >>> wt.WallocDecode("stereo_5x")(swapped).std(-1).round(decimals=1)
        tensor([0.0000, 0.3000])
    """

    def matrix(self, codec: Codec) -> Tensor:
        """Return the matrix that exchanges two channels."""
        if codec.config.signal_channels != 2:
            raise ValueError(
                f"codec {codec.config.name!r} is for {codec.config.signal_channels} channels, not for stereo"
            )
        return torch.eye(2).flip(0)


def _uniform(bounds: tuple[float, float], count: int) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count)


def _mixed(raw: Tensor, codec: Codec, matrices: Tensor) -> Tensor:
    z = codec.expand(raw)
    return codec.compand(mix(z, codec, matrices, z.new_zeros(len(z), codec.config.signal_channels)))

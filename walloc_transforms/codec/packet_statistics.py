"""``PacketStatistics``: what fitting a codec needs to know of packets, gathered one signal at a time."""

import math
import statistics

import torch
from torch import Tensor

from ..wavelets import WaveletPacketAnalysis, band_frequencies
from .config import CodecConfig

__all__ = ["PacketStatistics"]

MAX_PACKETS = 1 << 14
"""Most packets that a codec is fitted to: matrices between them hold the square of that, 2 GB each."""

_LEAST_ERROR = 2.0**-32 / 12  # mean squared error of rounding to 16 bits: below it all signals count alike


class PacketStatistics:
    """Mean, covariance and a uniform random sample of packet vectors, in memory that does not grow.

    Args:
        config: The geometry.
        relative: Also keep the covariance in which every signal is weighted by the inverse of its error when resized.
        sample_size: Packet vectors that are kept.

    Raises:
        ValueError: There are more packets than ``MAX_PACKETS``.
    """

    def __init__(self, config: CodecConfig, relative: bool = False, sample_size: int = 1 << 16) -> None:
        if config.packets > MAX_PACKETS:
            raise ValueError(
                f"{config.levels} levels of {config.signal_channels} signal channels make {config.packets:,} packets, "
                f"too many to fit a codec to: expected at most {MAX_PACKETS:,} "
                "(walloc_transforms.codec.packet_statistics.MAX_PACKETS)"
            )
        self.config, self.relative, self.sample_size = config, relative, sample_size
        self.analysis = WaveletPacketAnalysis(config.wavelet, config.levels, config.dims)
        self.sum = torch.zeros(config.packets, dtype=torch.float64)
        self.products = torch.zeros(config.packets, config.packets, dtype=torch.float64)
        self.weighted_sum, self.weighted_products = torch.zeros_like(self.sum), torch.zeros_like(self.products)
        self.signals = self.count = 0
        self.weighted_count = 0.0
        self.lost: list[float] = []  # error of resizing, per cell: one number for every signal
        self.sample = torch.empty(config.packets, 0, dtype=torch.float32)
        self.keys = torch.empty(0, dtype=torch.float32)
        self.random = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def add(self, signal: Tensor) -> None:
        """Take up a signal ``(C, H, W)``, ``(C, T)`` or ``(C, T, H, W)`` in [-0.5, 0.5].

        Raises:
            ValueError: Another number of channels or axes, NaN or infinite values, or a side that is too short.
        """
        c = self.config
        if (signal.ndim - 1, len(signal)) != (c.dims, c.signal_channels):
            raise ValueError(
                f"expected signals of {c.signal_channels} channels and {c.dims} axes like the first, "
                f"got shape {tuple(signal.shape)}"
            )
        vectors = self.analysis(signal[None])[0].flatten(1)
        if not torch.isfinite(vectors).all():
            raise ValueError("the signal holds NaN or infinite values")
        self.signals += 1
        total, products = vectors.double().sum(1), (vectors @ vectors.T).double()
        self.count += vectors.shape[1]
        self.sum += total
        self.products += products
        if self.relative:
            lost = float(products.diagonal()[self._lost_bands()].sum()) / vectors.shape[1]
            self.lost.append(max(lost, len(total) * _LEAST_ERROR))
            self.weighted_count += vectors.shape[1] / self.lost[-1]
            self.weighted_sum += total / self.lost[-1]
            self.weighted_products += products / self.lost[-1]
        # Every vector draws a random key; the sample is the vectors with the smallest keys.
        keys = torch.rand(vectors.shape[1], generator=self.random)
        if self.keys.numel() == self.sample_size:
            drawn = keys < self.keys.max()
            keys, vectors = keys[drawn], vectors[:, drawn]
        keys, sample = torch.cat([self.keys, keys]), torch.cat([self.sample, vectors], 1)
        if keys.numel() > self.sample_size:
            keys, kept = keys.topk(self.sample_size, largest=False)
            sample = sample[:, kept]
        self.keys, self.sample = keys, sample

    def _lost_bands(self) -> Tensor:
        """Mark the packets above the Nyquist frequency of a signal that is resized to the number of latent values."""
        c = self.config
        kept = (c.channels / c.packets) ** (1 / c.dims)  # of each side
        limits = kept * torch.tensor(c.strides)[:, None]
        lost = (torch.from_numpy(band_frequencies(c.axis_levels)) >= limits).any(0)
        return lost.repeat(c.signal_channels)

    def covariance(self) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of the packets, float64."""
        mean = self.sum / self.count
        return mean, self.products / self.count - torch.outer(mean, mean)

    def mean_lost(self) -> float:
        """Return the geometric mean of the errors of resizing: that of a signal of average PSNR."""
        return math.exp(statistics.fmean(map(math.log, self.lost)))

    def weighted_covariance(self) -> tuple[Tensor, Tensor]:
        """Return mean and covariance with every signal divided by its error when resized."""
        mean = self.weighted_sum / self.weighted_count
        return mean, self.weighted_products / self.weighted_count - torch.outer(mean, mean)

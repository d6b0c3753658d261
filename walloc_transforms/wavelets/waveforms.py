"""Waveforms: all levels and the projection as one dense convolution, or with many latent channels as two stages.

    waveform (N, C, T)
      | dense: one convolution over blocks of 2**J samples, whose kernel holds the projection
    latents before companding (N, D, T / 2**J)

    waveform (N, C, T)
      | the first half of the levels, as a convolution over blocks
      | the second half, as another
      | a 1x1 convolution projects
    latents before companding (N, D, T / 2**J)

Synthesis runs backwards.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import FilterBank, analysis_bank, synthesis_bank
from .packets import periodic
from .polyphase import Prepare, constant, merge, split, to_blocks, to_phases

__all__ = [
    "DenseAnalysis",
    "DenseSynthesis",
    "TwoStageAnalysis",
    "TwoStageSynthesis",
    "waveform_analysis",
    "waveform_synthesis",
]

# What a multiply-add of two stages costs in multiply-adds of a dense convolution, as measured on one core. By this,
# analysis is dense up to 64 latent channels, where it was as fast or faster.
_ANALYSIS_COST, _SYNTHESIS_COST = 1.9, 2.0


class DenseAnalysis(nn.Module):
    """Analysis and projection of waveforms in one convolution.

    Args:
        weight: Projection ``(D, C * bands)``, float64.
        wavelet: Name of the wavelet.
        levels: Number of levels J.

    Attributes:
        first: The kernel, ``(D, C * 2**J, 1, blocks)``.
    """

    first: Tensor

    def __init__(self, weight: Tensor, wavelet: str, levels: int) -> None:
        super().__init__()
        bank = analysis_bank(wavelet, levels)
        packets = weight.view(len(weight), -1, bank.stride)
        taps = torch.einsum("dcb,bt->dct", packets, torch.from_numpy(bank.filters))
        kernel, (left, right) = to_blocks(taps, bank.start, bank.stride)
        self.stride, self.reach = bank.stride, (bank.stride * left, bank.stride * right)
        constant(self, "first", kernel)

    def forward(self, x: Tensor, start: int, stop: int, kernel: Tensor, bias: Tensor) -> Tensor:
        """Compute some cells.

        Args:
            x: ``(N, C, T)`` of any real dtype; T is a multiple of ``2**J``.
            start: First cell.
            stop: The cell behind the last.
            kernel: ``first``, times what the signal is to be multiplied by.
            bias: ``(D,)``.

        Returns:
            ``(N, D, stop - start)``.
        """
        x = periodic(x, start * self.stride - self.reach[0], stop * self.stride + self.reach[1], 2).to(torch.float32)
        blocks = x.unflatten(2, (-1, self.stride)).transpose(1, 2).flatten(2)
        return split(blocks, kernel, bias).transpose(1, 2).contiguous()


class TwoStageAnalysis(nn.Module):
    """Analysis of waveforms in two convolutions, and projection. Arguments and calls are those of `DenseAnalysis`.

    Attributes:
        first: Kernel of the first levels, ``(bands, 2**levels, 1, blocks)``.
        second: Kernel of the other levels, of the same form.
        project: ``(D, C * 2**J)``.
    """

    first: Tensor
    second: Tensor
    project: Tensor

    def __init__(self, weight: Tensor, wavelet: str, levels: int) -> None:
        super().__init__()
        stages = _two_stages(wavelet, levels, analysis_bank)
        banks = [to_blocks(torch.from_numpy(bank.filters)[:, None], bank.start, bank.stride) for bank in stages]
        (first, near), (second, far) = banks
        self.steps = [bank.stride for bank in stages]
        self.stride = self.steps[0] * self.steps[1]
        left, right = (self.steps[0] * (self.steps[1] * f + n) for f, n in zip(far, near, strict=True))
        self.reach = (left, right)
        constant(self, "first", first)
        constant(self, "second", second)
        constant(self, "project", weight)

    def forward(self, x: Tensor, start: int, stop: int, kernel: Tensor, bias: Tensor) -> Tensor:
        """Compute some cells, as `DenseAnalysis.forward` does."""
        x = periodic(x, start * self.stride - self.reach[0], stop * self.stride + self.reach[1], 2).to(torch.float32)
        n = x.shape[0]
        x = split(x.flatten(0, 1).unflatten(1, (-1, self.steps[0])), kernel)
        x = split(x.transpose(1, 2).flatten(0, 1).unflatten(1, (-1, self.steps[1])), self.second)
        x = x.transpose(1, 2).reshape(n, self.project.shape[1], stop - start)
        return torch.baddbmm(bias[:, None], self.project.expand(n, -1, -1), x)


def waveform_analysis(weight: Tensor, wavelet: str, levels: int) -> DenseAnalysis | TwoStageAnalysis:
    """Make whichever takes less time, by the number of multiply-adds. The arguments are those of `DenseAnalysis`."""
    stride = 2**levels
    dense = weight.numel() // stride * analysis_bank(wavelet, levels).filters.shape[1]
    if levels > 1:
        taps = sum(bank.filters.shape[1] for bank in _two_stages(wavelet, levels, analysis_bank))
        if dense > _ANALYSIS_COST * weight.shape[1] * taps + weight.numel():
            return TwoStageAnalysis(weight, wavelet, levels)
    return DenseAnalysis(weight, wavelet, levels)


class DenseSynthesis(nn.Module):
    """Linear decoding and synthesis of waveforms in one convolution, all samples of a cell at once.

    Args:
        weight: ``(C * bands, D)``, float64.
        wavelet: Name of the wavelet.
        levels: Number of levels J.

    Attributes:
        first: The kernel, ``(2**J * C, D, cells)``.
    """

    first: Tensor

    def __init__(self, weight: Tensor, wavelet: str, levels: int) -> None:
        super().__init__()
        bank = synthesis_bank(wavelet, levels)
        phases, self.reach = to_phases(bank)
        self.stride, self.signals = bank.stride, len(weight) // bank.stride
        weight = weight.view(self.signals, self.stride, -1)
        kernel = torch.einsum("cbd,rbi->rcdi", weight, phases)
        constant(self, "first", kernel.flatten(0, 1))

    def forward(self, z: Tensor, start: int, stop: int, kernel: Tensor, offset: Tensor, prepare: Prepare) -> Tensor:
        """Compute some cells.

        Args:
            z: Latents ``(N, D, t)``.
            start: First cell.
            stop: The cell behind the last.
            kernel: ``first``, times what the signal is to be multiplied by.
            offset: Added to every cell, ``(C, 2**J)``.
            prepare: Called with the latents.

        Returns:
            ``(N, C, (stop - start) * 2**J)``.
        """
        z = prepare(periodic(z, start - self.reach[0], stop + self.reach[1], 2))
        y = F.conv1d(z, kernel).unflatten(1, (self.stride, self.signals))
        return (y.permute(0, 2, 3, 1) + offset[:, None]).flatten(2)


class TwoStageSynthesis(nn.Module):
    """Linear decoding of waveforms and synthesis in two stages. Arguments and calls are those of `DenseSynthesis`.

    The second half of the levels is undone first, and leaves samples around the cells for the first half.

    Attributes:
        first: Kernel of the decoder, ``(C * 2**J, D, 1)``.
        second: Kernel that undoes the second half of the levels, ``(C * bands, bands, cells)``.
        third: Kernel that undoes the first half, of the same form.
    """

    first: Tensor
    second: Tensor
    third: Tensor

    def __init__(self, weight: Tensor, wavelet: str, levels: int) -> None:
        super().__init__()
        stages = _two_stages(wavelet, levels, synthesis_bank)
        banks = [to_phases(bank) for bank in stages]
        (third, near), (second, far) = banks
        self.steps, self.near = [bank.stride for bank in stages], near
        self.stride = self.steps[0] * self.steps[1]
        self.margin = [-(-reach // self.steps[1]) for reach in near]  # cells that the last step reaches beyond its own
        self.reach = (far[0] + self.margin[0], far[1] + self.margin[1])
        signals = len(weight) // self.stride
        constant(self, "first", weight[..., None])
        constant(self, "second", second.repeat(signals * self.steps[0], 1, 1))
        constant(self, "third", third.repeat(signals, 1, 1))

    def forward(self, z: Tensor, start: int, stop: int, kernel: Tensor, offset: Tensor, prepare: Prepare) -> Tensor:
        """Compute some cells, as `DenseSynthesis.forward` does."""
        z = prepare(periodic(z, start - self.reach[0], stop + self.reach[1], 2))
        y = merge(F.conv1d(z, kernel), self.second, self.steps[1])
        left, right = (margin * self.steps[1] - reach for margin, reach in zip(self.margin, self.near, strict=True))
        y = merge(y[..., left : y.shape[-1] - right], self.third, self.steps[0])
        return (y.unflatten(2, (-1, self.stride)) + offset[:, None]).flatten(2)


def waveform_synthesis(weight: Tensor, wavelet: str, levels: int) -> DenseSynthesis | TwoStageSynthesis:
    """Make whichever takes less time, by the number of multiply-adds. The arguments are those of `DenseSynthesis`."""
    if levels > 1:
        cells = to_phases(synthesis_bank(wavelet, levels))[0].shape[2]
        taps = sum(to_phases(bank)[0][0].numel() for bank in _two_stages(wavelet, levels, synthesis_bank))
        if weight.numel() * cells > _SYNTHESIS_COST * len(weight) * taps + weight.numel():
            return TwoStageSynthesis(weight, wavelet, levels)
    return DenseSynthesis(weight, wavelet, levels)


def _two_stages(wavelet: str, levels: int, bank: Callable[[str, int], FilterBank]) -> list[FilterBank]:
    return [bank(wavelet, levels // 2), bank(wavelet, levels - levels // 2)]

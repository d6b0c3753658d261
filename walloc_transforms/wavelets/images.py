"""Images: all levels and the projection as two convolutions, one along each axis.

    image (N, C, H, W)
      | wrap rows; one filter per band down every column, stride (2**J, 1)            C * 2**J channels
      | wrap columns; one convolution along the rows, stride (1, 2**J), whose kernel holds the projection
    latents before companding (N, D, H / 2**J, W / 2**J)

With many latent channels the rows are filtered band by band as well, and a 1x1 convolution projects: that takes fewer
multiply-adds. Synthesis runs backwards: one convolution to the rows, one down the columns.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import analysis_bank, synthesis_bank
from .packets import periodic, periodic_pad
from .polyphase import Prepare, by_bands, constant, to_phases

__all__ = ["ImageAnalysis", "ImageSynthesis"]

# A multiply-add of a grouped convolution takes about twice as long as one of a dense convolution: 21 and 38 thousand
# million per second were measured along the rows on one core (AVX-512). So color images at 3 levels are fused up to 18
# latent channels.
_GROUPED_COST = 2.0


class ImageAnalysis(nn.Module):
    """Analysis and projection of images.

    Args:
        weight: Projection ``(D, C * bands)``, float64.
        wavelet: Name of the wavelet.
        levels: Number of levels J along height and width.
        fused: Whether the kernel along the rows holds the projection. Default: if that is faster.

    Attributes:
        first: Kernel down the columns, ``(C * 2**J, 1, taps, 1)``.
        second: Kernel along the rows, ``(D, C * 2**J, 1, taps)``, or ``(C * 4**J, 1, 1, taps)`` if not fused.
        project: Kernel of the 1x1 convolution, ``(D, C * 4**J, 1, 1)``; None if fused.
    """

    first: Tensor
    second: Tensor
    project: Tensor | None

    def __init__(self, weight: Tensor, wavelet: str, levels: Sequence[int], fused: bool | None = None) -> None:
        super().__init__()
        banks = [analysis_bank(wavelet, level) for level in levels]
        down, along = (torch.from_numpy(bank.filters) for bank in banks)
        self.strides, self.reaches = [bank.stride for bank in banks], [bank.reach for bank in banks]
        latents, (bands, taps) = len(weight), along.shape
        self.signals = weight.shape[1] // (len(down) * bands)
        if fused is None:  # count the multiply-adds of the last convolution per cell
            grouped = _GROUPED_COST * weight.shape[1] * taps + weight.numel()
            fused = latents * self.signals * len(down) * taps <= grouped
        constant(self, "first", down.repeat(self.signals, 1)[:, None, :, None])
        packets = by_bands(weight.view(latents, self.signals, -1), levels)  # (D, C, vertical, horizontal)
        if fused:
            constant(self, "second", (packets @ along).flatten(1, 2)[:, :, None])
            constant(self, "project", None)
        else:
            constant(self, "second", along.repeat(self.signals * len(down), 1)[:, None, None, :])
            constant(self, "project", packets.flatten(1)[..., None, None])

    def forward(self, x: Tensor, start: int, stop: int, kernel: Tensor, bias: Tensor) -> Tensor:
        """Compute some rows of cells.

        Args:
            x: ``(N, C, H, W)`` of any real dtype; sides are multiples of ``2**J``.
            start: First row of cells.
            stop: The row behind the last.
            kernel: ``first``, times what the signal is to be multiplied by.
            bias: ``(D,)``.

        Returns:
            ``(N, D, stop - start, W / 2**J)``.
        """
        (down, along), (reach, reach_along) = self.strides, self.reaches
        x = periodic(x, start * down - reach[0], stop * down + reach[1], 2)
        x = x.to(torch.float32, memory_format=torch.channels_last)
        x = F.conv2d(x, kernel, stride=(down, 1), groups=self.signals)
        x = periodic_pad(x, *reach_along, 3)
        if self.project is None:
            return F.conv2d(x, self.second, bias, stride=(1, along))
        x = F.conv2d(x, self.second, stride=(1, along), groups=x.shape[1])
        return F.conv2d(x, self.project, bias)


class ImageSynthesis(nn.Module):
    """Linear decoding and synthesis of images.

    A transposed convolution of stride ``2**J`` is one plain convolution per phase, the output position modulo the
    stride. All phases are computed at once, as channels; in channels_last memory those of a row lie side by side.

    Args:
        weight: ``(C * bands, D)``, float64.
        wavelet: Name of the wavelet.
        levels: Number of levels J along height and width.

    Attributes:
        first: Kernel along the rows, ``(2**J * C * 2**J, D, 1, cells)``.
        second: Kernel down the columns, ``(C * 2**J, 2**J, cells, 1)``.
    """

    first: Tensor
    second: Tensor

    def __init__(self, weight: Tensor, wavelet: str, levels: Sequence[int]) -> None:
        super().__init__()
        banks = [synthesis_bank(wavelet, level) for level in levels]
        (down, reach), (along, reach_along) = (to_phases(bank) for bank in banks)
        self.strides, self.reaches = [bank.stride for bank in banks], [reach, reach_along]
        latents = weight.shape[1]
        self.signals = len(weight) // (len(down) * len(along))
        packets = by_bands(weight.T.reshape(latents, self.signals, -1), levels)
        rows = torch.einsum("dcvh,rhi->rcvdi", packets, along)
        constant(self, "first", rows.flatten(0, 2)[:, :, None])
        constant(self, "second", down.repeat(self.signals, 1, 1)[..., None])

    def forward(self, z: Tensor, start: int, stop: int, kernel: Tensor, offset: Tensor, prepare: Prepare) -> Tensor:
        """Compute some rows of cells.

        Args:
            z: Latents ``(N, D, h, w)``.
            start: First row of cells.
            stop: The row behind the last.
            kernel: ``first``, times what the signal is to be multiplied by.
            offset: Added to every cell, ``(C, 2**J, 2**J)`` for the levels of height and width.
            prepare: Called with the latents.

        Returns:
            ``(N, C, (stop - start) * 2**J, w * 2**J)``.
        """
        (down, along), (reach, reach_along) = self.strides, self.reaches
        whole = stop - start == z.shape[2]
        if not whole:
            z = periodic(z, start - reach[0], stop + reach[1], 2)
        z = periodic_pad(prepare(z).contiguous(memory_format=torch.channels_last), *reach_along, 3)
        y = F.conv2d(z, kernel)  # (N, phase along the row * C * band along the column, h, w)
        n, _, h, w = y.shape
        y = y.permute(0, 2, 3, 1).reshape(n, h, w * along, self.signals * down).permute(0, 3, 1, 2)
        y = F.conv2d(periodic_pad(y, *reach, 2) if whole else y, self.second, groups=self.signals)
        y = y.unflatten(1, (self.signals, down)).permute(0, 1, 3, 2, 4).unflatten(4, (w, along))
        return (y + offset[:, None, :, None, :]).flatten(4).flatten(2, 3)

"""``WeChARM``: what is known of the latents' coefficients before they are decoded, slice by slice.

    hyper means, hyper scales -> low slice 0, 1, ... -> high slice 0, 1, ...

The channels of the low band come first, in slices, then those of the high bands ``[LH | HL | HH]``. The mean and scale
of a slice follow from the hyper latents and from all slices before it, of both groups. After it is decoded, the same
knowledge predicts part of what rounding took away (the residual).

Without wavelets (``wecharm=False``) the channels of the latents themselves are the only group.

The model does not say what "to decode" is: a function does, which training, coding and decoding give it. So the order,
and what a slice may know, is written once.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Attention

__all__ = ["DecodeSlice", "WeChARM"]

DecodeSlice = Callable[[str, int, Tensor, Tensor], Tensor]
"""Called with a group's name, the number of the slice, its means and scales; returns its decoded coefficients."""


class WeChARM(nn.Module):
    """The wavelet-domain channel-wise autoregressive model.

    Args:
        channels: Channels of the latents, and of the hyper means and scales.
        slices: Slices of each group.
        wecharm: Model the wavelet bands of the latents, low before high; otherwise the latents themselves.

    Attributes:
        groups: By name, in the order of decoding: ``low`` and ``high``, or ``latent``.
        sizes: The groups' channels.
        count: How many slices each group has.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> charm = wt.weconvene.WeChARM(channels=16, slices=2)
        >>> hyper = torch.zeros(1, 16, 4, 4)
        >>> low, high = charm(hyper, hyper, lambda group, index, means, scales: means.round())
        >>> low.shape, high.shape
        (torch.Size([1, 16, 4, 4]), torch.Size([1, 48, 4, 4]))
    """

    def __init__(self, channels: int, slices: int, wecharm: bool = True) -> None:
        super().__init__()
        self.sizes = {"low": channels, "high": 3 * channels} if wecharm else {"latent": channels}
        self.count = slices
        self.groups = nn.ModuleDict()
        context = 0
        for name, size in self.sizes.items():
            self.groups[name] = _Group(channels, context, size, slices)
            context += size

    def forward(self, means: Tensor, scales: Tensor, decode: DecodeSlice) -> list[Tensor]:
        """Decode all slices in turn.

        Args:
            means: What the hyper latents say of the means, ``(N, channels, H, W)``.
            scales: And of the scales.
            decode: Decodes a slice.

        Returns:
            The decoded groups, with their residuals.
        """
        decoded: list[Tensor] = []
        for name, group in self.groups.items():
            decoded.append(group(means, scales, decoded, name, decode))
        return decoded

    def slice_of(self, group: Tensor, index: int) -> Tensor:
        """Return the channels of a slice of a whole group."""
        return group.chunk(self.count, 1)[index]


class _Group(nn.Module):
    """The slices of one group."""

    def __init__(self, hyper: int, context: int, channels: int, slices: int) -> None:
        super().__init__()
        each = channels // slices
        self.slices = nn.ModuleList(_Slice(hyper, context, each * i, each) for i in range(slices))

    def forward(
        self, means: Tensor, scales: Tensor, context: Sequence[Tensor], name: str, decode: DecodeSlice
    ) -> Tensor:
        decoded: list[Tensor] = []
        for index, part in enumerate(self.slices):
            decoded.append(part(means, scales, context, decoded, partial(decode, name, index)))
        return torch.cat(decoded, 1)


class _Slice(nn.Module):
    """The networks of one slice.

    Args:
        hyper: Channels of the hyper means and scales.
        context: Channels of the groups before.
        before: Channels of the slices before, in the same group.
        channels: Channels of the slice.
    """

    def __init__(self, hyper: int, context: int, before: int, channels: int) -> None:
        super().__init__()
        known, support = hyper + context + before, hyper + before
        self.mean_attention = Attention(known, support, _width(hyper, 128))
        self.scale_attention = Attention(known, support, _width(hyper, 128))
        self.mean = _network(support, channels, hyper)
        self.scale = _network(support, channels, hyper)
        self.residual = _network(context + support + channels, channels, hyper).append(nn.Tanh())

    def forward(
        self,
        means: Tensor,
        scales: Tensor,
        context: Sequence[Tensor],
        before: Sequence[Tensor],
        decode: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        support = self.mean_attention(torch.cat([means, *context, *before], 1))
        spread = self.scale_attention(torch.cat([scales, *context, *before], 1))
        values = decode(self.mean(support), self.scale(spread))
        return values + 0.5 * self.residual(torch.cat([*context, support, values], 1))


def _network(in_channels: int, out_channels: int, hyper: int) -> nn.Sequential:
    wide, narrow = _width(hyper, 224), _width(hyper, 128)
    return nn.Sequential(
        nn.Conv2d(in_channels, wide, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(wide, narrow, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(narrow, out_channels, 3, padding=1),
    )


def _width(hyper: int, paper: int) -> int:
    """Scale a width of the paper, whose latents have 320 channels, to a multiple of 8."""
    return -(-paper * hyper // (8 * 320)) * 8

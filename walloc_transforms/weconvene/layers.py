"""The layers of WeConvene: divisive normalization, and the convolution in the wavelet domain."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import dirac_, zeros_

from ..wavelets import Extension, Wavelet, check_wavelet, join_bands, split_bands
from .bounds import lower_bound

__all__ = ["GDN", "High", "Norm", "WeConv2d"]

High = Literal["joint", "band"]
Norm = Literal["gdn", "igdn"]

_PEDESTAL = 2.0**-36  # added below the square roots that are trained, so that a root of zero still has a gradient
_LEAST_BETA = 1e-6


class GDN(nn.Module):
    """Generalized divisive normalization (Ballé et al., 2016, arXiv:1511.06281), or its approximate inverse.

    Each channel is divided by ``sqrt(beta + gamma @ x**2)``, or multiplied by it. As usual in learned codecs, what is
    trained are the roots of ``beta`` and ``gamma``, so that both stay positive.

    Args:
        channels: Number of channels.
        inverse: Multiply instead.

    Raises:
        ValueError: There are no channels.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> x = torch.full((1, 8, 1, 1), 3.0)
        >>> y = wt.weconvene.GDN(8)(x).detach()
        >>> round(float(y[0, 0]), 4), round(3 / (1 + 0.1 * 3**2) ** 0.5, 4)  # at first, beta is 1 and gamma 0.1 * eye
        (2.1764, 2.1764)
    """

    beta: nn.Parameter
    gamma: nn.Parameter

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"expected channels to be at least 1, got {channels}")
        self.inverse = inverse
        self.beta = nn.Parameter((torch.ones(channels) + _PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + _PEDESTAL).sqrt())

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Compute ``beta``, ``(C,)``, at least 1e-6, and ``gamma``, ``(C, C)``, at least 0, of the parameters."""
        beta = lower_bound(self.beta, (_LEAST_BETA + _PEDESTAL) ** 0.5).square() - _PEDESTAL
        gamma = lower_bound(self.gamma, _PEDESTAL**0.5).square() - _PEDESTAL
        return beta, gamma

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)``."""
        beta, gamma = self.coefficients()
        norm = F.conv2d(x.square(), gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())

    def extra_repr(self) -> str:
        """Show the arguments in ``repr``."""
        return f"{len(self.beta)}, inverse={self.inverse}"


class WeConv2d(nn.Module):
    """Convolution in the wavelet domain: one of the low band, one of the three high bands, and back to pixels.

    ``x -> split_bands -> {low: convolution, norm} and {high: convolution, norm} -> join_bands``, as in WeConvene (Fu et
    al., 2024). It keeps the size of its input, whatever that is, as ``nn.Conv2d(..., padding=kernel_size // 2)`` does.
    With a stride, an ordinary strided convolution comes first, as in the paper.

    For each input pixel and ``C`` channels a 3x3 kernel costs ``22.5 C**2`` multiply-adds with ``high="joint"``, 9 C**2
    with ``high="band"``, and ``9 C**2`` as an ordinary convolution; the weights are ``90 C**2``, ``36 C**2`` and ``9
    C**2``.

    Args:
        in_channels: Channels of the input, C.
        out_channels: Channels of the output.
        kernel_size: Side of the kernels in the wavelet domain, odd.
        stride: Stride of the convolution before, if not 1.
        groups: Groups of channels that see only each other. The high bands of a channel are in its group.
        bias: Add biases.
        high: ``"joint"`` mixes the three high bands, as in the paper; ``"band"`` convolves each by itself, which
            is a third of the work.
        wavelet: ``"haar"``, ``"bior2.2"`` (CDF 5/3) or ``"bior4.4"`` (CDF 9/7).
        extension: ``"symmetric"`` or ``"periodic"``, as for :func:`walloc_transforms.wavelets.split_bands`.
        norm: ``"gdn"`` or ``"igdn"`` after either convolution, as in the paper's encoder and decoder; None for none.

    Attributes:
        strided: The convolution before; None without a stride.
        low: Convolution of LL, ``out_channels`` channels.
        high: Convolution of LH, HL and HH, ``3 * out_channels`` channels.
        norm_low: A :class:`GDN`, or None.
        norm_high: A :class:`GDN`, or None.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> layer = wt.weconvene.WeConv2d(16, 32, stride=2, wavelet="bior4.4")
        >>> layer(torch.rand(1, 16, 27, 20)).shape
        torch.Size([1, 32, 14, 10])
        >>> same, x = wt.weconvene.WeConv2d(16, 16).identity_(), torch.rand(1, 16, 7, 7)
        >>> torch.allclose(same(x), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        high: High = "joint",
        wavelet: Wavelet = "haar",
        extension: Extension = "symmetric",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        check_wavelet(wavelet, extension)
        if high not in get_args(High):
            raise ValueError(f"unknown high {high!r}: expected 'joint' or 'band'")
        if norm not in (None, *get_args(Norm)):
            raise ValueError(f"unknown norm {norm!r}: expected 'gdn', 'igdn' or None")
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("stride", stride)):
            if value < 1:
                raise ValueError(f"expected {name} to be at least 1, got {value}")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"expected groups to divide {in_channels} and {out_channels} channels, got {groups}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"expected kernel_size to be odd, got {kernel_size}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.wavelet: Wavelet = wavelet
        self.extension: Extension = extension
        self.norm: Norm | None = norm
        self.joint = high == "joint"

        def convolution(inside: int, bands: int, groups: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(
                bands * inside,
                bands * out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=groups,
                bias=bias,
            )

        self.strided = None if stride == 1 else convolution(in_channels, 1, groups, stride)
        inside = in_channels if stride == 1 else out_channels
        self.low = convolution(inside, 1, groups)
        self.high = convolution(inside, 3, groups if self.joint else 3 * groups)
        self.norm_low = None if norm is None else GDN(out_channels, inverse=norm == "igdn")
        self.norm_high = None if norm is None else GDN(3 * out_channels, inverse=norm == "igdn")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(N, C, H, W)`` to ``(N, out_channels, H, W)``, or a ``stride``-th of the sides, rounded up."""
        if self.strided is not None:
            x = self.strided(x)
        size = x.shape[2:]
        bands = split_bands(x, self.wavelet, self.extension)
        low, high = bands.split([x.shape[1], 3 * x.shape[1]], 1)
        low, high = self.low(low), self._convolve_high(high)
        if self.norm_low is not None and self.norm_high is not None:
            low, high = self.norm_low(low), self.norm_high(high)
        return join_bands(torch.cat([low, high], 1), size, self.wavelet, self.extension)

    def _convolve_high(self, high: Tensor) -> Tensor:
        if self.groups == 1 or not self.joint:
            return self.high(high)
        # The groups of a convolution are neighboring channels: bring the three bands of a group together, and back.
        high = self.high(_exchange(high, 3, self.groups))
        return _exchange(high, self.groups, 3)

    def identity_(self) -> "WeConv2d":
        """Set the weights so that the layer gives its input, to rounding.

        Returns:
            The layer.

        Raises:
            ValueError: It changes the number of channels or the size, or has norms.
        """
        if self.in_channels != self.out_channels or self.strided is not None or self.norm is not None:
            raise ValueError(
                f"only a WeConv2d with as many channels as its input, stride 1 and no norm can be the identity, "
                f"got {self.extra_repr()}"
            )
        for convolution in (self.low, self.high):
            dirac_(convolution.weight, convolution.groups)
        return self._zero_biases()

    def zero_(self) -> "WeConv2d":
        """Set the weights of the wavelet domain to zero, so that the layer gives zeros: for a branch beside another.

        Returns:
            The layer.
        """
        for convolution in (self.low, self.high):
            zeros_(convolution.weight)
        return self._zero_biases()

    def _zero_biases(self) -> "WeConv2d":
        for convolution in (self.low, self.high):
            if convolution.bias is not None:
                zeros_(convolution.bias)
        return self

    def extra_repr(self) -> str:
        """Show the arguments in ``repr``."""
        high = "joint" if self.joint else "band"
        return (
            f"{self.in_channels}, {self.out_channels}, high={high!r}, wavelet={self.wavelet!r}, "
            f"extension={self.extension!r}, norm={self.norm!r}"
        )


def _exchange(x: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder channels that lie as ``(outer, inner, rest)`` to ``(inner, outer, rest)``."""
    return x.unflatten(1, (outer, inner, x.shape[1] // (outer * inner))).transpose(1, 2).flatten(1, 3)

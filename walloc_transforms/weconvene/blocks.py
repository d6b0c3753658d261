"""The blocks that WeConvene is made of: residual ones, changes of resolution, and attention.

Relative to the plain blocks of earlier codecs, ``weconv=True`` replaces the second convolution and its normalization
by a :class:`WeConv2d` whose bands are normalized.
"""

from torch import Tensor, nn

from ..wavelets import Extension, Wavelet
from .layers import GDN, Norm, WeConv2d

__all__ = ["Attention", "Downsample", "ResidualBlock", "Upsample", "subpixel"]


def subpixel(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """Make a 3x3 convolution that enlarges by a factor: it gives the pixels of a cell as channels, then lays them out.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        factor: By which both sides grow.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> wt.weconvene.subpixel(8, 3, 2)(torch.rand(1, 8, 5, 4)).shape
        torch.Size([1, 3, 10, 8])
    """
    convolution = nn.Conv2d(in_channels, out_channels * factor**2, 3, padding=1)
    return nn.Sequential(convolution, nn.PixelShuffle(factor))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with a leaky ReLU, and a skip.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; if others, the skip is a 1x1 convolution.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> wt.weconvene.ResidualBlock(8, 16)(torch.rand(1, 8, 5, 4)).shape
        torch.Size([1, 16, 5, 4])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.activation = nn.LeakyReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        y = self.activation(self.conv1(x))
        return self.activation(self.conv2(y)) + self.skip(x)


class Downsample(nn.Module):
    """A residual block that reduces the resolution: a strided convolution, a leaky ReLU, and a normalized convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of both sides.
        weconv: Take a :class:`WeConv2d` with GDN in the wavelet domain for the second convolution, not a plain one.
        wavelet: Of the ``WeConv2d``.
        extension: Of the ``WeConv2d``.

    Attributes:
        conv: The strided convolution.
        body: The second convolution with its normalization: a ``WeConv2d``, or a convolution and a :class:`GDN`.
        skip: A strided 1x1 convolution; the identity if stride and channels leave it nothing to do.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> wt.weconvene.Downsample(3, 16, 2)(torch.rand(1, 3, 9, 8)).shape
        torch.Size([1, 16, 5, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 2,
        weconv: bool = True,
        wavelet: Wavelet = "haar",
        extension: Extension = "symmetric",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.activation = nn.LeakyReLU()
        self.body = _body(out_channels, "gdn", weconv, wavelet, extension)
        plain = stride == 1 and in_channels == out_channels
        self.skip = nn.Identity() if plain else nn.Conv2d(in_channels, out_channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H / stride), ceil(W / stride))``."""
        return self.body(self.activation(self.conv(x))) + self.skip(x)


class Upsample(nn.Module):
    """A residual block that enlarges: a subpixel convolution, a leaky ReLU, and a normalized convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        factor: By which both sides grow.
        weconv: Take a :class:`WeConv2d` with inverse GDN in the wavelet domain for the second convolution, not a plain
            one.
        wavelet: Of the ``WeConv2d``.
        extension: Of the ``WeConv2d``.

    Attributes:
        conv: The subpixel convolution.
        body: The second convolution with its normalization: a ``WeConv2d``, or a convolution and an inverse
            :class:`GDN`.
        skip: Another subpixel convolution.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> wt.weconvene.Upsample(16, 3, 2)(torch.rand(1, 16, 5, 4)).shape
        torch.Size([1, 3, 10, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: int = 2,
        weconv: bool = True,
        wavelet: Wavelet = "haar",
        extension: Extension = "symmetric",
    ) -> None:
        super().__init__()
        self.conv = subpixel(in_channels, out_channels, factor)
        self.activation = nn.LeakyReLU()
        self.body = _body(out_channels, "igdn", weconv, wavelet, extension)
        self.skip = subpixel(in_channels, out_channels, factor)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, factor * H, factor * W)``."""
        return self.body(self.activation(self.conv(x))) + self.skip(x)


def _body(channels: int, norm: Norm, weconv: bool, wavelet: Wavelet, extension: Extension) -> nn.Module:
    if weconv:
        return WeConv2d(channels, channels, wavelet=wavelet, extension=extension, norm=norm)
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), GDN(channels, inverse=norm == "igdn"))


class Attention(nn.Module):
    """Attention of convolutions alone: features times a mask between 0 and 1, both computed from the input.

    The design is Cheng et al.'s (2020, arXiv:2001.01568), with two residual blocks before the branch of the mask.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels inside.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> wt.weconvene.Attention(24, 16, 8)(torch.rand(1, 24, 5, 4)).shape
        torch.Size([1, 16, 5, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 128) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, width, 1)
        self.features = nn.Sequential(*(_Unit(width) for _ in range(3)))
        self.context = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, width))
        self.mask = nn.Sequential(*(_Unit(width) for _ in range(3)), nn.Conv2d(width, width, 1), nn.Sigmoid())
        self.leave = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        x = self.enter(x)
        return self.leave(self.features(x) * self.mask(self.context(x)) + x)


class _Unit(nn.Module):
    """A residual bottleneck."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            nn.Conv2d(width, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, width, 1),
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + x)

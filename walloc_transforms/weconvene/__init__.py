"""The parts of WeConvene, a learned codec: convolutions in the wavelet domain, for other networks too."""

from .blocks import Attention, Downsample, ResidualBlock, Upsample, subpixel
from .bounds import lower_bound
from .layers import GDN, WeConv2d

__all__ = ["GDN", "Attention", "Downsample", "ResidualBlock", "Upsample", "WeConv2d", "lower_bound", "subpixel"]

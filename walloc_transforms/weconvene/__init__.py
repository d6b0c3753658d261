"""WeConvene, a learned codec, and its parts: convolutions in the wavelet domain, densities, a coder of integers."""

from .blocks import Attention, Downsample, ResidualBlock, Upsample, subpixel
from .bounds import lower_bound
from .charm import WeChARM
from .coding import SymbolDecoder, SymbolEncoder, Tables
from .density import SCALES, FactorizedPrior, GaussianConditional
from .layers import GDN, WeConv2d
from .model import PRESETS, Compressed, WeConvene
from .swap import ParallelConv2d, swap_conv

__all__ = [
    "GDN",
    "PRESETS",
    "SCALES",
    "Attention",
    "Compressed",
    "Downsample",
    "FactorizedPrior",
    "GaussianConditional",
    "ParallelConv2d",
    "ResidualBlock",
    "SymbolDecoder",
    "SymbolEncoder",
    "Tables",
    "Upsample",
    "WeChARM",
    "WeConv2d",
    "WeConvene",
    "lower_bound",
    "subpixel",
    "swap_conv",
]

"""The parts of WeConvene, a learned codec: convolutions in the wavelet domain, densities, and a coder of integers."""

from .blocks import Attention, Downsample, ResidualBlock, Upsample, subpixel
from .bounds import lower_bound
from .coding import SymbolDecoder, SymbolEncoder, Tables
from .density import SCALES, FactorizedPrior, GaussianConditional
from .layers import GDN, WeConv2d
from .swap import ParallelConv2d, swap_conv

__all__ = [
    "GDN",
    "SCALES",
    "Attention",
    "Downsample",
    "FactorizedPrior",
    "GaussianConditional",
    "ParallelConv2d",
    "ResidualBlock",
    "SymbolDecoder",
    "SymbolEncoder",
    "Tables",
    "Upsample",
    "WeConv2d",
    "lower_bound",
    "subpixel",
    "swap_conv",
]

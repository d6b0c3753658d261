"""WeConvene, a learned codec, and its parts: convolutions in the wavelet domain, densities, a coder of integers."""

from .blocks import Attention, Downsample, ResidualBlock, Upsample, subpixel
from .bounds import lower_bound
from .charm import WeChARM
from .checkpoint import fingerprint, load_checkpoint, save
from .coding import SymbolDecoder, SymbolEncoder, Tables
from .density import SCALES, FactorizedPrior, GaussianConditional
from .file import SUFFIX, CompressedHeader, read_compressed, read_compressed_header, write_compressed
from .layers import GDN, WeConv2d
from .model import PRESETS, Compressed, WeConvene
from .swap import ParallelConv2d, swap_conv

__all__ = [
    "GDN",
    "PRESETS",
    "SCALES",
    "SUFFIX",
    "Attention",
    "Compressed",
    "CompressedHeader",
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
    "fingerprint",
    "load_checkpoint",
    "lower_bound",
    "read_compressed",
    "read_compressed_header",
    "save",
    "subpixel",
    "swap_conv",
    "write_compressed",
]

"""Stems for timm backbones: the layers, how they are put into a model, fitted and saved."""

from .fit import StemFit, fit_stem
from .layers import WallocPatchEmbed, WallocStem
from .replace import StemInfo, replace_stem
from .saved import load_pretrained, save_pretrained

__all__ = [
    "StemFit",
    "StemInfo",
    "WallocPatchEmbed",
    "WallocStem",
    "fit_stem",
    "load_pretrained",
    "replace_stem",
    "save_pretrained",
]

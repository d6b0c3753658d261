"""Stems for timm backbones: the layers, how they are put into a model, fitted and saved."""

from .families import FAMILIES, Family, Look, Match, Plan
from .fit import StemFit, fit_stem
from .layers import WallocStem
from .patch_embed import WallocPatchEmbed
from .replace import StemInfo, plan_replacement, put_stem, replace_stem
from .saved import load_model, save_model

__all__ = [
    "FAMILIES",
    "Family",
    "Look",
    "Match",
    "Plan",
    "StemFit",
    "StemInfo",
    "WallocPatchEmbed",
    "WallocStem",
    "fit_stem",
    "load_model",
    "plan_replacement",
    "put_stem",
    "replace_stem",
    "save_model",
]

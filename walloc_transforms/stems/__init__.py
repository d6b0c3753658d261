"""Stems for backbones of timm and video models of torchvision: their layers, and how they are put in, fitted, saved."""

from .adapter import Adapter, AdapterShape
from .budget import adapter_for
from .cuts import last_of_stage
from .distill import StemDistillation, distill_stem
from .families import Family, Look, Match, Plan
from .fit import StemFit, fit_stem
from .layers import WallocStem
from .patch_embed import WallocPatchEmbed
from .replace import StemInfo, plan_replacement, put_stem, replace_stem
from .saved import load_model, save_model
from .table import FAMILIES

__all__ = [
    "FAMILIES",
    "Adapter",
    "AdapterShape",
    "Family",
    "Look",
    "Match",
    "Plan",
    "StemDistillation",
    "StemFit",
    "StemInfo",
    "WallocPatchEmbed",
    "WallocStem",
    "adapter_for",
    "distill_stem",
    "fit_stem",
    "last_of_stage",
    "load_model",
    "plan_replacement",
    "put_stem",
    "replace_stem",
    "save_model",
]

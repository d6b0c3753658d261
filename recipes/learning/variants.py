"""The arms of the comparison: which of WeConvene's two ideas a model has, and with which wavelet.

plain             residual blocks, and the channel-wise entropy model of the latents themselves
weconv_haar       wavelet-domain convolutions in the blocks that change the resolution
wecharm_haar      the entropy model of the latents' wavelet bands
both_haar         both; also with bior2.2 (CDF 5/3) and bior4.4 (CDF 9/7)
"""

from typing import Any

import torch

from walloc_transforms.weconvene import WeConvene

PLAIN = "plain"
ARMS = (PLAIN, "weconv_haar", "wecharm_haar", "both_haar", "both_bior2.2", "both_bior4.4")
_IDEAS = {"weconv": (True, False), "wecharm": (False, True), "both": (True, True)}
_WAVELETS = ("haar", "bior2.2", "bior4.4")


def options_of(arm: str) -> dict[str, Any]:
    """Return the arguments of :class:`WeConvene` that make an arm.

    Raises:
        ValueError: There is no such arm.
    """
    if arm == PLAIN:
        return {"weconv": False, "wecharm": False}
    idea, _, wavelet = arm.partition("_")
    if idea not in _IDEAS or wavelet not in _WAVELETS:
        raise ValueError(
            f"unknown arm {arm!r}: expected {PLAIN}, or one of {', '.join(_IDEAS)} with _ and one of "
            f"{', '.join(_WAVELETS)}"
        )
    weconv, wecharm = _IDEAS[idea]
    return {"weconv": weconv, "wecharm": wecharm, "wavelet": wavelet}


def build(preset: str, options: dict[str, Any], seed: int) -> WeConvene:
    """Make a model of a preset's size, with the weights of a seed.

    Raises:
        ValueError: There is no such preset, or an option does not do.
    """
    torch.manual_seed(seed)
    return WeConvene.preset(preset, **options)

"""Transforms of torchvision v2: the codec as two of them, and those that augment stored latents."""

from .codec import WallocDecode, WallocEncode
from .geometry import LatentCenterCrop, LatentRandomCrop, LatentRandomHorizontalFlip, LatentRandomWindow
from .values import (
    LatentChannelDropout,
    LatentColorJitter,
    LatentGain,
    LatentNoise,
    LatentPolarity,
    LatentSwapChannels,
)

__all__ = [
    "LatentCenterCrop",
    "LatentChannelDropout",
    "LatentColorJitter",
    "LatentGain",
    "LatentNoise",
    "LatentPolarity",
    "LatentRandomCrop",
    "LatentRandomHorizontalFlip",
    "LatentRandomWindow",
    "LatentSwapChannels",
    "WallocDecode",
    "WallocEncode",
]

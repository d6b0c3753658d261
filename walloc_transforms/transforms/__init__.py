"""Transforms of torchvision v2: the codec as two of them."""

from .codec import WallocDecode, WallocEncode

__all__ = ["WallocDecode", "WallocEncode"]

"""Wavelet latents (WaLLoC) as torchvision transforms and timm stems."""

__version__ = "0.1.0"

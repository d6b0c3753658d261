"""Wavelet latents (WaLLoC) as torchvision transforms and timm stems.

    transform = v2.Compose([v2.RandomResizedCrop(256), wt.WallocEncode("rgb_16x", normalize=True)])
    model = wt.replace_stem(timm.create_model("resnet50"), "rgb_16x")

``import walloc_transforms`` is quick: timm, huggingface_hub, torchvision's transforms and pytorch_wavelets are imported
where they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .codec import Codec, CodecConfig
from .zoo import CodecInfo, available_codecs, load_codec

if TYPE_CHECKING:
    from . import functional
    from .codec import fit_codec, fit_statistics
    from .files import load_latents, save_latents, stored_codec
    from .stems import WallocStem, fit_stem, load_pretrained, replace_stem, save_pretrained
    from .transforms import WallocDecode, WallocEncode

__version__ = "0.1.0"

__all__ = [
    "Codec",
    "CodecConfig",
    "CodecInfo",
    "WallocDecode",
    "WallocEncode",
    "WallocStem",
    "available_codecs",
    "fit_codec",
    "fit_statistics",
    "fit_stem",
    "functional",
    "load_codec",
    "load_latents",
    "load_pretrained",
    "replace_stem",
    "save_latents",
    "save_pretrained",
    "stored_codec",
]

_LAZY = {
    "WallocDecode": "transforms",
    "WallocEncode": "transforms",
    "WallocStem": "stems",
    "fit_codec": "codec",
    "fit_statistics": "codec",
    "fit_stem": "stems",
    "load_latents": "files",
    "load_pretrained": "stems",
    "replace_stem": "stems",
    "save_latents": "files",
    "save_pretrained": "stems",
    "stored_codec": "files",
}


def __getattr__(name: str) -> Any:
    if name == "functional":
        return importlib.import_module(".functional", __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

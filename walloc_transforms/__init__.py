"""Wavelet latents (WaLLoC) as torchvision transforms and timm stems.

    transform = v2.Compose([v2.RandomResizedCrop(256), wt.WallocEncode("rgb_16x", normalize=True)])
    model = wt.replace_stem(timm.create_model("resnet50"), "rgb_16x")

``import walloc_transforms`` is quick: every name is imported where it is first used, and timm, torchvision's transforms
and huggingface_hub with it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data as data
    from . import functional as functional
    from . import transforms as transforms
    from . import wavelets as wavelets
    from . import weconvene as weconvene
    from .codec import Codec as Codec
    from .codec import CodecConfig as CodecConfig
    from .codec import StreamDecoder as StreamDecoder
    from .codec import StreamEncoder as StreamEncoder
    from .codec import fit_codec as fit_codec
    from .codec import fit_statistics as fit_statistics
    from .data import LatentDataset as LatentDataset
    from .data import encode_dataset as encode_dataset
    from .data import merge_dataset as merge_dataset
    from .files import LatentFile as LatentFile
    from .files import load_latents as load_latents
    from .files import save_latents as save_latents
    from .files import stored_codec as stored_codec
    from .latents import Latents as Latents
    from .stems import AdapterShape as AdapterShape
    from .stems import StemDistillation as StemDistillation
    from .stems import StemFit as StemFit
    from .stems import StemInfo as StemInfo
    from .stems import WallocPatchEmbed as WallocPatchEmbed
    from .stems import WallocStem as WallocStem
    from .stems import distill_stem as distill_stem
    from .stems import fit_stem as fit_stem
    from .stems import load_model as load_model
    from .stems import replace_stem as replace_stem
    from .stems import save_model as save_model
    from .transforms import WallocDecode as WallocDecode
    from .transforms import WallocEncode as WallocEncode
    from .zoo import CodecInfo as CodecInfo
    from .zoo import available_codecs as available_codecs
    from .zoo import codec_info as codec_info
    from .zoo import load_codec as load_codec

__version__ = "0.1.0"

_PUBLIC = {
    "codec": ["Codec", "CodecConfig", "StreamDecoder", "StreamEncoder", "fit_codec", "fit_statistics"],
    "data": ["LatentDataset", "encode_dataset", "merge_dataset"],
    "files": ["LatentFile", "load_latents", "save_latents", "stored_codec"],
    "functional": [],
    "latents": ["Latents"],
    "stems": [
        "AdapterShape",
        "StemDistillation",
        "StemFit",
        "StemInfo",
        "WallocPatchEmbed",
        "WallocStem",
        "distill_stem",
        "fit_stem",
        "load_model",
        "replace_stem",
        "save_model",
    ],
    "transforms": ["WallocDecode", "WallocEncode"],
    "wavelets": [],
    "weconvene": [],
    "zoo": ["CodecInfo", "available_codecs", "codec_info", "load_codec"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

_SUBMODULES = ["data", "functional", "transforms", "wavelets", "weconvene"]

__all__ = sorted([*_HOME, *_SUBMODULES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

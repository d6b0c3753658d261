"""Which classes of timm and torchvision have which kind of stem.

find_family(model) -> Family        another model of a kind that is known is a row of FAMILIES
"""

from torch import nn

from .families import ConvStem, Family, HieraStem, PatchStem
from .video import VideoConvStem, VideoPatchStem

__all__ = ["FAMILIES", "find_family"]

FAMILIES: dict[str, Family] = {
    "VisionTransformer": PatchStem("ViT, DeiT, DeiT3, DINOv2"),
    "Eva": PatchStem("EVA-02, DINOv3"),
    "Beit": PatchStem("BEiT"),
    "SwinTransformer": PatchStem("Swin", stages=True),
    "SwinTransformerV2": PatchStem("SwinV2", stages=True),
    "Hiera": HieraStem("Hiera"),
    "ResNet": ConvStem("ResNet, ResNet-D", "conv1", "bn1", "act1", "maxpool"),
    "ResNetV2": ConvStem("ResNetV2", "stem"),
    "ConvNeXt": ConvStem("ConvNeXt, ConvNeXt V2", "stem"),
    "EfficientNet": ConvStem("EfficientNet, EfficientNetV2", "conv_stem", "bn1"),
    "MobileNetV3": ConvStem("MobileNetV3, MobileNetV4", "conv_stem", "bn1"),
    "MaxxVit": ConvStem("MaxViT, CoAtNet", "stem"),
    "RegNet": ConvStem("RegNet", "stem"),
    "FastVit": ConvStem("FastViT", "stem"),
    "ByobNet": ConvStem("MobileViT, MobileViTV2", "stem"),
    "EdgeNeXt": ConvStem("EdgeNeXt", "stem"),
    "NormFreeNet": ConvStem("NFNet", "stem"),
    "CSATv2": ConvStem("CSATv2", "stem_dct"),
    "HighPerfGpuNet": ConvStem("HGNet", "stem"),
    "EfficientFormerV2": ConvStem("EfficientFormerV2", "stem"),
    "RepVit": ConvStem("RepViT", "stem"),
    "EfficientVit": ConvStem("EfficientViT (MIT)", "stem"),
    "MetaNeXt": ConvStem("InceptionNeXt", "stem"),
    "MetaFormer": ConvStem("PoolFormer, CAFormer", "stem"),
    "TinyVit": ConvStem("TinyViT", "patch_embed"),
    "StarNet": ConvStem("StarNet", "stem"),
    "VideoResNet": VideoConvStem("R3D, MC3, R(2+1)D", "stem"),
    "SwinTransformer3d": VideoPatchStem("Video Swin"),
}
_MODULES = ("timm.", "torchvision.models.video.")
_REFUSED = {
    "NaFlexVit": "it cuts images into patches before the model, so there is no stem to replace",
    "Xcit": "its stem gives the size of the grid beside the tokens",
    "MultiScaleVit": "its stem gives the size of the grid beside the tokens",
    "MViT": "its positions are for the one grid that its stem gives",
    "TNT": "it reads the pixels inside a patch as tokens of their own",
}


def find_family(model: nn.Module) -> Family:
    """Look up the family of a model.

    Raises:
        ValueError: It has none; where that is known, the message says why.
    """
    if isinstance(model, nn.ModuleDict):  # timm's FeatureListNet, FeatureGetterNet and others
        raise ValueError(
            f"{type(model).__name__} is a model taken apart by features_only=True: call replace_stem on "
            "the whole model, then model.forward_intermediates(x, intermediates_only=True) or wrap it in "
            "timm.models.FeatureListNet"
        )
    for kind in type(model).__mro__:
        if kind.__module__.startswith(_MODULES) and kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    kind, name = type(model), type(model).__name__
    known = f"supported are {', '.join(family.models for family in FAMILIES.values())}"
    if not any(base.__module__.startswith(_MODULES) for base in kind.__mro__):
        raise ValueError(
            f"{kind.__module__}.{kind.__qualname__} is not a timm model, nor a video model of torchvision; {known}"
        )
    reason = f": {_REFUSED[name]}" if name in _REFUSED else ""
    raise ValueError(f"models of class {name} are not supported{reason}; {known}")

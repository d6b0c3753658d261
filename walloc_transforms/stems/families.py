"""The kinds of stems that timm's models have: how one is looked at, what takes its place, and what it taught.

    find_family(model) -> Family        FAMILIES has a row for each class of timm
    family.look(model) -> Look          the model before: what it reads, and its units from there on
    family.replace_first(...) -> Plan   what is dropped, and where the new stem goes
    family.module(model, plan, stem)    what stands there afterwards
    family.teacher(model, plan)         a copy of what the new stem is to imitate

Another model of a kind that is here is a row; another kind is a class.
"""

import copy
import dataclasses
from abc import ABC, abstractmethod
from typing import Any, Literal

from timm.layers.patch_embed import PatchEmbed
from timm.models import get_model_input_config
from torch import Tensor, nn

from .layers import OutputFormat, WallocStem
from .patch_embed import WallocPatchEmbed, WallocTokens
from .tracing import Trace, Unit

__all__ = ["FAMILIES", "ConvStem", "Family", "HieraStem", "Look", "Match", "PatchStem", "Plan", "find_family"]

Match = Literal["grid", "entry", "resolution"]


@dataclasses.dataclass(frozen=True)
class Look:
    """A model before its stem is replaced.

    Attributes:
        image_size: ``(H, W)`` in pixels.
        input_shape: ``(C, H, W)``.
        macs: Multiply-adds for one such input.
        units: The units from the input on; only the patch embedding, where a transformer follows.
        in_stem: The number of units that belong to the stem.
        stride: Pixels per cell of the stem.
        bias: Whether the stem's convolution has one.
        channels_last: Whether what units give is ``(..., C)``.
    """

    image_size: tuple[int, int]
    input_shape: tuple[int, int, int]
    macs: int
    units: list[Unit]
    in_stem: int
    stride: int
    bias: bool
    channels_last: bool

    def channels(self, unit: Unit) -> int:
        """Channels of what a unit gives."""
        return unit.shape[-1] if self.channels_last else unit.shape[0]

    def grid(self, unit: Unit) -> tuple[int, int]:
        """Rows and columns of what a unit gives."""
        rows, columns = unit.shape[:2] if self.channels_last else unit.shape[1:]
        return rows, columns

    def reduction(self, unit: Unit) -> int:
        """Pixels per cell of what a unit gives."""
        return -(-self.image_size[0] // self.grid(unit)[0])


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done to a model; ``put_stem`` does it.

    Attributes:
        family: The model's family.
        look: The model before.
        match: How latents and trunk are brought together.
        path: Path of the module that the stem takes the place of.
        dropped: Paths of the modules that do nothing any more.
        channels: Output channels of the stem.
        stride: Pixels per output cell of the stem.
        image_size: ``(H, W)`` in pixels that the model reads afterwards.
    """

    family: "Family"
    look: Look
    match: Match
    path: str
    dropped: list[str]
    channels: int
    stride: int
    image_size: tuple[int, int]

    @property
    def cut(self) -> str:
        """Path of the last module whose work the stem takes over."""
        return (self.dropped or [self.path])[-1]


class Family(ABC):
    """A kind of stem.

    Args:
        models: The models that have it, for messages.
        stem: Paths of the modules of the stem.

    Attributes:
        output_fmt: What the trunk reads.
    """

    output_fmt: OutputFormat = "NCHW"

    def __init__(self, models: str, *stem: str) -> None:
        self.models, self.stem = models, stem

    @abstractmethod
    def look(self, model: Any) -> Look:
        """Look at a model.

        Raises:
            ValueError: Its stem is not of this kind.
        """

    @abstractmethod
    def replace_first(self, model: Any, look: Look, match: Match, stride: int, image_size: tuple[int, int]) -> Plan:
        """Plan to replace the first convolution, so that the stem comes down to ``stride``, and keep all that follows.

        What the first convolution gives is linear in the pixels, and so nearly in the latents, whatever norms, poolings
        and further convolutions there are: that is what lets ``fit_stem`` fit it.
        """

    @abstractmethod
    def module(self, model: Any, plan: Plan, stem: WallocStem) -> nn.Module:
        """Make what takes the place of the module at ``plan.path``."""

    def teacher(self, model: Any, plan: Plan) -> nn.Module:
        """Copy what the new stem is to imitate: it maps the model's own input to ``(N, C, rows, columns)``."""
        taught = copy.deepcopy(nn.Sequential(*map(model.get_submodule, [plan.path, *plan.dropped])))
        return nn.Sequential(taught, _ChannelsFirst()) if plan.look.channels_last else taught


class ConvStem(Family):
    """Convolutions, norms and pooling, then stages of a convolutional network."""

    def look(self, model: Any) -> Look:
        """Trace the model: its first units are the stem."""
        size = get_model_input_config(model)["input_size"][-2:]
        trace = Trace(model, shape := (model.in_chans, *size))
        units = trace.units(self.stem)
        in_stem = sum(
            any(unit.path == root or unit.path.startswith(f"{root}.") for root in self.stem) for unit in units
        )
        parts = (part for unit in units[:in_stem] for part in model.get_submodule(unit.path).modules())
        convolution = next(part for part in parts if isinstance(part, nn.Conv2d))
        look = Look(size, shape, trace.macs, units, in_stem, 0, convolution.bias is not None, channels_last=False)
        return dataclasses.replace(look, stride=look.reduction(units[in_stem - 1]))

    def replace_first(self, model: Any, look: Look, match: Match, stride: int, image_size: tuple[int, int]) -> Plan:
        """Replace the units up to the first convolution."""
        stem = look.units[: look.in_stem]
        place = next(i for i, unit in enumerate(stem) if _convolves(model.get_submodule(unit.path)))
        own = look.reduction(stem[place])
        if own * stride % look.stride:
            raise ValueError(
                f"the first convolution of this {type(model).__name__} has a stride of {own} of the stem's "
                f"{look.stride}: a stem of {stride} cannot take its place"
            )
        dropped = [unit.path for unit in stem[1 : place + 1]]
        channels, stride = look.channels(stem[place]), own * stride // look.stride
        return Plan(self, look, match, stem[0].path, dropped, channels, stride, image_size)

    def module(self, model: Any, plan: Plan, stem: WallocStem) -> nn.Module:
        """Use the stem as it is."""
        return stem


class PatchStem(Family):
    """timm's ``PatchEmbed``, then blocks on tokens, or, with ``stages=True``, stages on a grid."""

    def __init__(self, models: str, stages: bool = False) -> None:
        super().__init__(models, "patch_embed")
        self.stages = stages

    def look(self, model: Any) -> Look:
        """Read the sizes of the patch embedding."""
        embed: Any = model.patch_embed
        if type(embed) is not PatchEmbed or embed.dynamic_img_pad or embed.patch_size[0] != embed.patch_size[1]:
            raise ValueError(
                f"this {type(model).__name__} has a {type(embed).__name__} of its own: only timm's PatchEmbed "
                "with square patches, without dynamic_img_pad, is supported"
            )
        stride = int(embed.patch_size[0])
        size = (embed.grid_size[0] * stride, embed.grid_size[1] * stride)
        trace = Trace(model, shape := (embed.proj.in_channels, *size))
        alone = Unit("patch_embed", (*embed.grid_size, embed.proj.out_channels))
        units = trace.units(self.stem) if self.stages else [alone]
        return Look(size, shape, trace.macs, units, 1, stride, embed.proj.bias is not None, channels_last=True)

    def replace_first(self, model: Any, look: Look, match: Match, stride: int, image_size: tuple[int, int]) -> Plan:
        """Replace the convolution of the patch embedding."""
        channels = model.patch_embed.proj.out_channels
        return Plan(self, look, match, "patch_embed", [], channels, stride, image_size)

    def module(self, model: Any, plan: Plan, stem: WallocStem) -> nn.Module:
        """Give the stem the sizes and the norm of the patch embedding; the norm goes where stages are dropped."""
        old = model.patch_embed
        embed = WallocPatchEmbed(
            plan.image_size,
            stem.stride,
            stem.in_channels,
            stem.out_channels,
            flatten=old.flatten,
            output_fmt=None if old.flatten else old.output_fmt.value,
            strict_img_size=old.strict_img_size,
            stem=stem,
        )
        embed.resizable = not plan.dropped
        embed.norm = nn.Identity() if plan.dropped else old.norm
        return embed

    def teacher(self, model: Any, plan: Plan) -> nn.Module:
        """Copy the convolution, or, where stages are dropped, the embedding and the stages."""
        return super().teacher(model, plan) if plan.dropped else copy.deepcopy(model.patch_embed.proj)


class HieraStem(PatchStem):
    """Hiera's own patch embedding, a strided convolution that gives tokens."""

    output_fmt: OutputFormat = "NLC"

    def look(self, model: Any) -> Look:
        """Read the sizes of the patch embedding."""
        projection = model.patch_embed.proj
        strides = projection.stride
        if len(strides) != 2 or strides[0] != strides[1]:
            raise ValueError(f"this {type(model).__name__} does not read images in square patches")
        size = (model.tokens_spatial_shape[0] * strides[0], model.tokens_spatial_shape[1] * strides[1])
        macs = Trace(model, shape := (projection.in_channels, *size)).macs
        unit = Unit("patch_embed", (*model.tokens_spatial_shape, projection.out_channels))
        return Look(size, shape, macs, [unit], 1, strides[0], projection.bias is not None, channels_last=True)

    def module(self, model: Any, plan: Plan, stem: WallocStem) -> nn.Module:
        """Check the size of the input, which Hiera's positions are for."""
        return WallocTokens(stem, plan.image_size)


class _ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


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
}
_REFUSED = {
    "NaFlexVit": "it cuts images into patches before the model, so there is no stem to replace",
    "Xcit": "its stem gives the size of the grid beside the tokens",
    "MultiScaleVit": "its stem gives the size of the grid beside the tokens",
    "TNT": "it reads the pixels inside a patch as tokens of their own",
}


def find_family(model: nn.Module) -> Family:
    """Look up the family of a timm model.

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
        if kind.__module__.startswith("timm.") and kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    kind, name = type(model), type(model).__name__
    known = f"supported are {', '.join(family.models for family in FAMILIES.values())}"
    if not any(base.__module__.startswith("timm.") for base in kind.__mro__):
        raise ValueError(f"{kind.__module__}.{kind.__qualname__} is not a timm model; {known}")
    reason = f": {_REFUSED[name]}" if name in _REFUSED else ""
    raise ValueError(f"models of class {name} are not supported{reason}; {known}")

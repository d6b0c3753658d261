"""The kinds of stems that timm's models have: how one is looked at, what takes its place, and what it taught.

    family.look(model) -> Look          the model before: what it reads, and its units from there on
    family.replace_first(...) -> Plan   what is dropped, and where the new stem goes
    family.module(model, plan, stem)    what stands there afterwards
    family.teacher(model, plan)         a copy of what the new stem is to imitate

video.py has those of video models. table.py has a row for each class of models; another kind is a class.
"""

import copy
import dataclasses
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

from timm.data.config import resolve_model_data_config
from timm.layers.patch_embed import PatchEmbed
from timm.models import get_model_input_config
from torch import Tensor, nn

from .layers import OutputFormat, WallocStem, shown_strides
from .patch_embed import WallocPatchEmbed, WallocTokens
from .tracing import Trace, Unit

__all__ = ["ConvStem", "Family", "HieraStem", "Look", "Match", "PatchStem", "Plan", "Reads", "Sides"]

Match = Literal["grid", "entry", "resolution"]
Sides = tuple[int, ...]


class Reads(NamedTuple):
    """What a model was made to read.

    Attributes:
        shape: ``(C, H, W)``, or ``(C, T, H, W)``.
        mean: Of each channel, of what is in [0, 1].
        std: Of each channel.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Look:
    """A model before its stem is replaced.

    Attributes:
        reads: What it reads.
        macs: Multiply-adds for one such input.
        units: The units from the input on; only the patch embedding, where a transformer follows.
        in_stem: The number of units that belong to the stem.
        strides: Pixels per cell of the stem, along each axis.
        bias: Whether the stem's convolution has one.
        channels_last: Whether what units give is ``(..., C)``.
    """

    reads: Reads
    macs: int
    units: list[Unit]
    in_stem: int
    strides: tuple[int, ...]
    bias: bool
    channels_last: bool

    @property
    def image_size(self) -> tuple[int, ...]:
        """``(H, W)`` in pixels, or ``(T, H, W)``."""
        return self.reads.shape[1:]

    def channels(self, unit: Unit) -> int:
        """Channels of what a unit gives."""
        return unit.shape[-1] if self.channels_last else unit.shape[0]

    def grid(self, unit: Unit) -> tuple[int, ...]:
        """Rows and columns of what a unit gives, or frames, rows and columns."""
        return unit.shape[:-1] if self.channels_last else unit.shape[1:]

    def reduction(self, unit: Unit) -> tuple[int, ...]:
        """Pixels per cell of what a unit gives, along each axis."""
        return tuple(-(-side // cells) for side, cells in zip(self.image_size, self.grid(unit), strict=True))


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
        strides: Pixels per output cell of the stem, along each axis.
        image_size: ``(H, W)`` in pixels that the model reads afterwards, or ``(T, H, W)``.
    """

    family: "Family"
    look: Look
    match: Match
    path: str
    dropped: list[str]
    channels: int
    strides: tuple[int, ...]
    image_size: tuple[int, ...]

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
        dims: 2 for models that read images, 3 for those that read volumes.
    """

    output_fmt: OutputFormat = "NCHW"
    dims: int = 2

    def __init__(self, models: str, *stem: str) -> None:
        self.models, self.stem = models, stem

    def reads(self, model: Any, shape: tuple[int, ...]) -> Reads:
        """Say what a model reads, of a known shape."""
        data = resolve_model_data_config(model)
        return Reads(shape, data["mean"], data["std"])

    @abstractmethod
    def look(self, model: Any) -> Look:
        """Look at a model.

        Raises:
            ValueError: Its stem is not of this kind.
        """

    @abstractmethod
    def replace_first(self, model: Any, look: Look, match: Match, strides: Sides, image_size: Sides) -> Plan:
        """Plan to replace the first convolution, so that the stem comes down to ``strides``, and keep all that follows.

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
        return self.trace(model, self.reads(model, (model.in_chans, *size)))

    def trace(self, model: Any, reads: Reads) -> Look:
        """Trace a model on what it reads."""
        trace = Trace(model, reads.shape)
        units = trace.units(self.stem)
        in_stem = sum(
            any(unit.path == root or unit.path.startswith(f"{root}.") for root in self.stem) for unit in units
        )
        parts = (part for unit in units[:in_stem] for part in model.get_submodule(unit.path).modules())
        convolution = next(part for part in parts if isinstance(part, _CONVOLUTIONS))
        look = Look(reads, trace.macs, units, in_stem, (), convolution.bias is not None, channels_last=False)
        return dataclasses.replace(look, strides=look.reduction(units[in_stem - 1]))

    def replace_first(self, model: Any, look: Look, match: Match, strides: Sides, image_size: Sides) -> Plan:
        """Replace the units up to the first convolution."""
        stem = look.units[: look.in_stem]
        place = next(i for i, unit in enumerate(stem) if _convolves(model.get_submodule(unit.path)))
        own = look.reduction(stem[place])
        if any(a * b % c for a, b, c in zip(own, strides, look.strides, strict=True)):
            raise ValueError(
                f"the first convolution of this {type(model).__name__} has a stride of {shown_strides(own)} of the "
                f"stem's {shown_strides(look.strides)}: a stem of {shown_strides(strides)} cannot take its place"
            )
        dropped = [unit.path for unit in stem[1 : place + 1]]
        strides = tuple(a * b // c for a, b, c in zip(own, strides, look.strides, strict=True))
        return Plan(self, look, match, stem[0].path, dropped, look.channels(stem[place]), strides, image_size)

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
        reads, bias = self.reads(model, shape), embed.proj.bias is not None
        alone = Unit("patch_embed", (*embed.grid_size, embed.proj.out_channels))
        units = trace.units(self.stem) if self.stages else [alone]
        return Look(reads, trace.macs, units, 1, (stride, stride), bias, channels_last=True)

    def replace_first(self, model: Any, look: Look, match: Match, strides: Sides, image_size: Sides) -> Plan:
        """Replace the convolution of the patch embedding."""
        channels = model.patch_embed.proj.out_channels
        return Plan(self, look, match, "patch_embed", [], channels, strides, image_size)

    def module(self, model: Any, plan: Plan, stem: WallocStem) -> nn.Module:
        """Give the stem the sizes and the norm of the patch embedding; the norm goes where stages are dropped."""
        old = model.patch_embed
        height, width = plan.image_size
        embed = WallocPatchEmbed(
            (height, width),
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
        bias = projection.bias is not None
        return Look(self.reads(model, shape), macs, [unit], 1, tuple(strides), bias, channels_last=True)

    def module(self, model: Any, plan: Plan, stem: WallocStem) -> nn.Module:
        """Check the size of the input, which Hiera's positions are for."""
        height, width = plan.image_size
        return WallocTokens(stem, (height, width))


class _ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, _CONVOLUTIONS) for part in module.modules())

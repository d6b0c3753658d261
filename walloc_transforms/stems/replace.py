"""Any timm backbone on latents: ``replace_stem`` puts a ``WallocStem`` where the model's own stem stood.

    model = replace_stem(timm.create_model("resnet50", pretrained=True), "rgb_16x")    # 448 px, at the compute of 224

A model's weights and parameter names stay, but for what is replaced; load pretrained weights first. ``FAMILIES`` lists
the models it knows, a row for each class of timm; how a stem is built is found out by ``tracing.py``.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from timm.layers.patch_embed import PatchEmbed
from timm.models import get_model_input_config
from torch import nn

from ..zoo import CodecLike
from .layers import Input, WallocPatchEmbed, WallocStem, WallocTokens, check_choice, find_stem, load_image_codec
from .tracing import Unit, count_macs, output_shapes, trace_units

__all__ = ["FAMILIES", "StemInfo", "WallocStem", "count_stem", "replace_stem"]

Match = Literal["grid", "entry", "resolution"]
Kind = Literal["convolutions", "tokens", "windows", "hiera"]
Model = TypeVar("Model", bound=nn.Module)


class Family(NamedTuple):
    """Where the stem of a timm class is."""

    stem: tuple[str, ...]
    kind: Kind  # tokens: patches with positions; windows: a patch embedding, then stages
    models: str


_CONV_STEM, _STEM, _EMBED = ("conv_stem", "bn1"), ("stem",), ("patch_embed",)
FAMILIES: dict[str, Family] = {
    "VisionTransformer": Family(_EMBED, "tokens", "ViT, DeiT, DeiT3, DINOv2"),
    "Eva": Family(_EMBED, "tokens", "EVA-02, DINOv3"),
    "Beit": Family(_EMBED, "tokens", "BEiT"),
    "SwinTransformer": Family(_EMBED, "windows", "Swin"),
    "SwinTransformerV2": Family(_EMBED, "windows", "SwinV2"),
    "Hiera": Family(_EMBED, "hiera", "Hiera"),
    "ResNet": Family(("conv1", "bn1", "act1", "maxpool"), "convolutions", "ResNet, ResNet-D"),
    "ResNetV2": Family(_STEM, "convolutions", "ResNetV2"),
    "ConvNeXt": Family(_STEM, "convolutions", "ConvNeXt, ConvNeXt V2"),
    "EfficientNet": Family(_CONV_STEM, "convolutions", "EfficientNet, EfficientNetV2"),
    "MobileNetV3": Family(_CONV_STEM, "convolutions", "MobileNetV3, MobileNetV4"),
    "MaxxVit": Family(_STEM, "convolutions", "MaxViT, CoAtNet"),
    "RegNet": Family(_STEM, "convolutions", "RegNet"),
    "FastVit": Family(_STEM, "convolutions", "FastViT"),
    "ByobNet": Family(_STEM, "convolutions", "MobileViT, MobileViTV2"),
    "EdgeNeXt": Family(_STEM, "convolutions", "EdgeNeXt"),
    "NormFreeNet": Family(_STEM, "convolutions", "NFNet"),
    "CSATv2": Family(("stem_dct",), "convolutions", "CSATv2"),
    "HighPerfGpuNet": Family(_STEM, "convolutions", "HGNet"),
    "EfficientFormerV2": Family(_STEM, "convolutions", "EfficientFormerV2"),
    "RepVit": Family(_STEM, "convolutions", "RepViT"),
    "EfficientVit": Family(_STEM, "convolutions", "EfficientViT (MIT)"),
    "MetaNeXt": Family(_STEM, "convolutions", "InceptionNeXt"),
    "MetaFormer": Family(_STEM, "convolutions", "PoolFormer, CAFormer"),
    "TinyVit": Family(_EMBED, "convolutions", "TinyViT"),
    "StarNet": Family(_STEM, "convolutions", "StarNet"),
}
_REFUSED = {
    "NaFlexVit": "it cuts images into patches before the model, so there is no stem to replace",
    "Xcit": "its stem gives the size of the grid beside the tokens",
    "MultiScaleVit": "its stem gives the size of the grid beside the tokens",
    "TNT": "it reads the pixels inside a patch as tokens of their own",
}


@dataclass(frozen=True)
class StemInfo:
    """What ``replace_stem`` leaves at ``model.walloc``.

    Attributes:
        codec: Name of the codec.
        input: What the model reads, ``"pixels"`` or ``"latents"``.
        match: How latents and trunk were brought together.
        input_shape: ``(C, H, W)`` of one input when the stem was replaced, in pixels or latents as ``input`` says.
            Models that take any size, or whose ``set_input_size`` is called, read other sizes too.
        pixels_shape: The same in pixels.
        latents_shape: The same in latents.
        macs: Multiply-adds of the model for one input, without encoding.
        macs_before: Those of the model before, for an image of its own size.
    """

    codec: str
    input: Input
    match: Match
    input_shape: tuple[int, int, int]
    pixels_shape: tuple[int, int, int]
    latents_shape: tuple[int, int, int]
    macs: int
    macs_before: int


def replace_stem(model: Model, codec: CodecLike, *, input: Input = "pixels", match: Match = "grid") -> Model:
    """Put a :class:`WallocStem` in place of a timm model's stem, and bring the model's metadata up to date.

    * ``match="grid"`` keeps the grid of the trunk, and so its compute and its pretrained weights; the image grows where
      a cell of the stem covers fewer pixels than a latent does. A ResNet or ConvNeXt made for 224 pixels (stride 4)
      reads 448 then, a ViT of patch 14 reads 256, and one of patch 16 reads 224 as before.
    * ``match="entry"`` keeps the size of the image: latents enter where the model has come down to their stride, and
      what lay before is dropped, with its compute.
    * ``match="resolution"`` keeps the size of the image and every layer: each latent becomes as many cells as there
      were in its place.

    Of a stem of several layers (ResNet: convolution, norm, activation, pooling) the first convolution is replaced and
    the others stay, with their weights; with ``match="entry"`` all go.

    The model carries ``walloc``, a :class:`StemInfo`; ``in_chans``, ``feature_info`` and ``pretrained_cfg`` describe
    the new stem. The latter always means pixels: ``timm.data.create_transform`` with
    ``timm.data.resolve_model_data_config(model)`` yields images of the new size in [0, 1],
    which the model reads with ``input="pixels"``, and which ``codec.encode`` turns to latents otherwise.

    Args:
        model: A timm model of one of the classes of ``FAMILIES``. Modified in place; where an error is raised, it is
            left as it was.
        codec: An image codec, or what ``load_codec`` takes. The model gets a copy.
        input: What the model shall read: ``"pixels"`` (N, C, H, W), float in [0, 1] or uint8 in [0, 255]; or
            ``"latents"`` (N, D, h, w), float or int8, not normalized.
        match: As above.

    Returns:
        The same model. The new projection is untrained: ``fit_stem`` fits it to the stem that was there.

    Raises:
        ValueError: The model is of an unsupported family (the message lists those supported), made for feature
            extraction, or has a WaLLoC stem already; ``match`` is not for it; an unknown or audio codec, or one without
            statistics; another ``input`` or ``match``.
    """
    check_choice("input", input, get_args(Input))
    check_choice("match", match, get_args(Match))
    if hasattr(model, "walloc"):
        raise ValueError(f"the stem of this {type(model).__name__} is replaced already: {model.walloc}")
    family, codec = find_family(model), load_image_codec(codec)
    c, old = codec.config, _look(model, family)
    plan = _PLANS[match](model, family, old, c.stride)
    layout = "NLC" if family.kind == "hiera" else "NCHW"
    stem = WallocStem(codec, plan.channels, stride=plan.stride, input=input, layout=layout, bias=old.bias)
    like = next(model.parameters())
    stem.to(like.device, like.dtype).train(model.training)
    macs_before = count_macs(model, old.input_shape)
    _put(model, family, plan, stem)
    height, width = plan.image_size
    pixels = (c.signal_channels, height, width)
    latents = (c.channels, -(-height // c.stride), -(-width // c.stride))
    with _reading_latents(stem):
        shapes = output_shapes(model, latents)
    _update_metadata(model, old, plan, stem, shapes)
    info = StemInfo(c.name, input, match, pixels if input == "pixels" else latents, pixels, latents, 0, macs_before)
    setattr(model, "walloc", info)  # noqa: B010 (type checkers allow no plain values on a module)
    count_stem(model)
    return model


def count_stem(model: Any) -> None:
    """Count the multiply-adds of a model with the stem that it has, and note them."""
    with _reading_latents(find_stem(model)):  # without encoding
        macs = count_macs(model, model.walloc.latents_shape)
    model.walloc = dataclasses.replace(model.walloc, macs=macs)


@contextlib.contextmanager
def _reading_latents(stem: WallocStem) -> Iterator[None]:
    """Let a stem read latents for a while."""
    kept, stem.input = stem.input, "latents"
    try:
        yield
    finally:
        stem.input = kept


def find_family(model: nn.Module) -> Family:
    """Look up a model's row.

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
    name = type(model).__name__
    reason = f": {_REFUSED[name]}" if name in _REFUSED else ""
    raise ValueError(
        f"models of class {name} are not supported{reason}; supported are "
        f"{', '.join(family.models for family in FAMILIES.values())}"
    )


class _Old(NamedTuple):
    """The model before: what it reads, and its units from there on."""

    image_size: tuple[int, int]
    input_shape: tuple[int, int, int]
    units: list[Unit]
    in_stem: int  # how many of the units are the stem's
    stride: int
    bias: bool  # whether the stem's last convolution has one
    channels_last: bool

    def size(self, unit: Unit) -> tuple[int, int]:
        """Sides of what a unit gives."""
        height, width = unit.shape[:2] if self.channels_last else unit.shape[1:3]
        return height, width

    def channels(self, unit: Unit) -> int:
        return unit.shape[-1] if self.channels_last else unit.shape[0]

    def reduction(self, unit: Unit) -> int:
        return -(-self.image_size[0] // self.size(unit)[0])


def _look(model: Any, family: Family) -> _Old:
    size = get_model_input_config(model)["input_size"][-2:]
    if family.kind == "convolutions":
        shape = (model.in_chans, *size)
        units = trace_units(model, shape, family.stem)
        in_stem = sum(
            any(unit.path == root or unit.path.startswith(f"{root}.") for root in family.stem) for unit in units
        )
        convolution = next(
            m for unit in units[:in_stem] for m in model.get_submodule(unit.path).modules() if isinstance(m, nn.Conv2d)
        )
        old = _Old(size, shape, units, in_stem, 0, convolution.bias is not None, False)
        return old._replace(stride=old.reduction(units[in_stem - 1]))
    embed: Any = model.patch_embed
    if family.kind == "hiera":
        strides = embed.proj.stride
        if len(strides) != 2 or strides[0] != strides[1]:
            raise ValueError(f"this {type(model).__name__} does not read images in square patches")
        size = (model.tokens_spatial_shape[0] * strides[0], model.tokens_spatial_shape[1] * strides[1])
        return _Old(size, (embed.proj.in_channels, *size), [], 1, strides[0], embed.proj.bias is not None, True)
    if type(embed) is not PatchEmbed or embed.dynamic_img_pad or embed.patch_size[0] != embed.patch_size[1]:
        raise ValueError(
            f"this {type(model).__name__} has a {type(embed).__name__} of its own: only timm's PatchEmbed "
            "with square patches, without dynamic_img_pad, is supported"
        )
    stride = int(embed.patch_size[0])
    size = (embed.grid_size[0] * stride, embed.grid_size[1] * stride)
    shape = (embed.proj.in_channels, *size)
    units = trace_units(model, shape, family.stem) if family.kind == "windows" else []
    return _Old(size, shape, units, 1, stride, embed.proj.bias is not None, True)


class _Plan(NamedTuple):
    """What is done to a model."""

    path: str  # of the module that the stem takes the place of
    dropped: list[str]  # modules that do nothing any more
    channels: int
    stride: int
    image_size: tuple[int, int]


def _keep_grid(model: Any, family: Family, old: _Old, step: int) -> _Plan:
    stride = max(1, -(-old.stride // step)) * step
    height, width = (-(-side // old.stride) * stride for side in old.image_size)
    return _replace_first(model, family, old, stride, (height, width))


def _keep_resolution(model: Any, family: Family, old: _Old, step: int) -> _Plan:
    if old.stride % step and step % old.stride:
        raise ValueError(
            f"match='resolution' needs a stem whose stride is a multiple or a divisor of the codec's, "
            f"{step}: this {type(model).__name__}'s is {old.stride}; match='grid' takes it"
        )
    return _replace_first(model, family, old, old.stride, old.image_size)


def _replace_first(model: Any, family: Family, old: _Old, stride: int, image_size: tuple[int, int]) -> _Plan:
    """Replace the first convolution, so that the stem comes down to ``stride``, and keep all that follows it.

    Its output is linear in the pixels, and so nearly in the latents, whatever norms, poolings and further convolutions
    there are: that is what lets ``fit_stem`` fit it.
    """
    if family.kind != "convolutions":
        channels = model.patch_embed.proj.out_channels
        return _Plan(family.stem[0], [], channels, stride, image_size)
    stem = old.units[: old.in_stem]
    place = next(i for i, unit in enumerate(stem) if _convolves(model.get_submodule(unit.path)))
    own = old.reduction(stem[place])
    if own * stride % old.stride:
        raise ValueError(
            f"the first convolution of this {type(model).__name__} has a stride of {own} of the stem's "
            f"{old.stride}: a stem of {stride} cannot take its place"
        )
    dropped = [unit.path for unit in stem[1 : place + 1]]
    return _Plan(stem[0].path, dropped, old.channels(stem[place]), own * stride // old.stride, image_size)


def _enter_later(model: Any, family: Family, old: _Old, step: int) -> _Plan:
    """Replace everything up to the unit that comes down to the stride of the codec."""
    coarse = next((i for i, unit in enumerate(old.units) if old.reduction(unit) >= step), None)
    if coarse is not None and old.stride == step:
        return _replace_first(model, family, old, step, old.image_size)
    if coarse is None or coarse < old.in_stem - 1 or old.reduction(old.units[coarse]) != step:
        reason = f"its stem has a stride of {old.stride}" if old.stride >= step else "its stages are not a plain chain"
        raise ValueError(
            f"match='entry' needs a model that comes down to the codec's stride of {step} after its "
            f"stem; {type(model).__name__}: {reason}"
        )
    dropped = [unit.path for unit in old.units[1 : coarse + 1]]
    return _Plan(old.units[0].path, dropped, old.channels(old.units[coarse]), step, old.image_size)


_PLANS = {"grid": _keep_grid, "entry": _enter_later, "resolution": _keep_resolution}


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _put(model: Any, family: Family, plan: _Plan, stem: WallocStem) -> None:
    replacement: nn.Module = stem
    if family.kind == "hiera":
        replacement = WallocTokens(stem, plan.image_size)
    elif family.kind != "convolutions":
        old = model.patch_embed
        norm = nn.Identity() if plan.dropped else old.norm  # it is for as many channels as the old stem had
        replacement = WallocPatchEmbed(stem, old, norm, plan.image_size, resizable=not plan.dropped)
    for path, module in [(plan.path, replacement), *((path, nn.Identity()) for path in plan.dropped)]:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.train(model.training))


def _update_metadata(model: Any, old: _Old, plan: _Plan, stem: WallocStem, shapes: dict[str, tuple[int, ...]]) -> None:
    signal = stem.codec.config.signal_channels
    # No layer reads RGB any more: None keeps timm from adapting a checkpoint's first convolution.
    config = copy.deepcopy(getattr(model, "pretrained_cfg", None) or {})
    config.update(first_conv=None, input_size=(signal, *plan.image_size), mean=(0.0,) * signal, std=(1.0,) * signal)
    if config.get("test_input_size"):
        sides = (-(-side * plan.image_size[0] // old.image_size[0]) for side in config["test_input_size"][-2:])
        config["test_input_size"] = (signal, *sides)
    model.pretrained_cfg = model.default_cfg = config
    if hasattr(model, "_traits"):  # private to timm; it goes before pretrained_cfg where it exists
        size = plan.image_size if model._traits.get("img_size") else None
        model._traits = {**model._traits, "first_conv": None, "img_size": size}
    if hasattr(model, "partition_ratio"):  # MaxxVit computes its windows and positions from these
        growth = plan.image_size[0] / old.image_size[0]
        model.partition_ratio, stem_stride = round(model.partition_ratio * growth), round(model.stem.stride * growth)
        model.img_size, model.stem.stride = plan.image_size, stem_stride
    model.in_chans = stem.in_channels
    model.feature_info = [_describe(info, old, plan, shapes.get(info["module"])) for info in model.feature_info]


def _describe(info: dict[str, Any], old: _Old, plan: _Plan, shape: tuple[int, ...] | None) -> dict[str, Any]:
    """Describe features again: coarser as the image grew, and as found where they lie before the stem."""
    reduction = max(round(info["reduction"] * plan.image_size[0] / old.image_size[0]), plan.stride)
    if shape is None or len(shape) != 3:  # tokens
        return {**info, "reduction": reduction}
    rows, channels = (shape[0], shape[-1]) if old.channels_last else (shape[1], shape[0])
    if rows != -(-plan.image_size[0] // reduction):
        reduction = round(plan.image_size[0] / rows)
    return {**info, "num_chs": channels, "reduction": reduction}

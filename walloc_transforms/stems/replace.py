"""Backbones on latents: ``replace_stem`` puts a ``WallocStem`` where the model's own stem stood.

    model = replace_stem(timm.create_model("resnet50", pretrained=True), "rgb_16x")    # 448 px, at the compute of 224

    plan = plan_replacement(model, codec, match)         what is dropped, and where the stem goes
    put_stem(model, plan, WallocStem(codec, ...))        does it, and brings the metadata up to date

A model keeps its weights and parameter names, but for those of what is replaced: load pretrained weights first.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from torch import nn

from ..codec import Codec
from ..zoo import CodecLike
from .cuts import enter_later
from .families import Match, Plan
from .layers import Input, WallocStem, check_choice, load_stem_codec, shown_strides
from .table import find_family
from .tracing import Trace

__all__ = ["StemInfo", "plan_replacement", "put_stem", "replace_stem"]

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class StemInfo:
    """What ``replace_stem`` leaves at ``model.walloc``.

    Attributes:
        codec: Name of the codec.
        input: What the model reads, ``"pixels"`` or ``"latents"``.
        match: How latents and trunk were brought together.
        input_shape: ``(C, H, W)``, or ``(C, T, H, W)``, of one input when the stem was replaced, in pixels or latents
            as ``input`` says. Models that take any size, or whose ``set_input_size`` is called, read other sizes too.
        pixels_shape: The same in pixels.
        latents_shape: The same in latents.
        macs: Multiply-adds of the model for one input, without encoding.
        pixels_before: ``(C, H, W)``, or ``(C, T, H, W)``, of what the model read before, in pixels.
        macs_before: Multiply-adds of the model before, for an image of that size.
        cut: Path of the last module whose work the stem does.
        agreement: Of ``distill_stem``: share of held-back images of which the model says what it said before.

    Example:
        >>> import timm, walloc_transforms as wt
        >>> model = wt.replace_stem(timm.create_model("resnet18"), "rgb_16x", input="latents")
        >>> model.walloc.latents_shape, model.walloc.pixels_shape
        ((12, 56, 56), (3, 448, 448))
    """

    codec: str
    input: Input
    match: Match
    input_shape: tuple[int, ...]
    pixels_shape: tuple[int, ...]
    latents_shape: tuple[int, ...]
    macs: int
    pixels_before: tuple[int, ...]
    macs_before: int
    cut: str
    agreement: float | None = None


def replace_stem(model: Model, codec: CodecLike, *, input: Input = "pixels", match: Match = "grid") -> Model:
    """Put a :class:`WallocStem` in place of a model's stem, and bring the model's metadata up to date.

    * ``match="grid"`` keeps the grid of the trunk, and so its compute and its pretrained weights; the image grows where
      a cell of the stem covers fewer pixels than a cell of the codec. A ResNet or ConvNeXt made for 224 pixels (stride
      4) reads 448 then, a ViT of patch 14 reads 256, and one of patch 16 reads 224 as before.
    * ``match="entry"`` keeps the size of the image: latents enter where the model has come down to their stride. What
      lay before is dropped, with its compute.
    * ``match="resolution"`` keeps the size of the image and every layer: each cell of the codec becomes the cells that
      were in its place.

    Of a stem of several layers (ResNet: convolution, norm, activation, pooling) the first convolution is replaced and
    the others stay, with their weights; with ``match="entry"`` all go.

    Video models of torchvision take codecs of volumes, axis by axis: a Video Swin made for 32 frames of 224 pixels,
    with patches of (2, 4, 4), reads 64 of 448 on a codec of strides (4, 8, 8) with ``match="grid"``. They do not know
    their size: it is taken from ``model.pretrained_cfg["input_size"]``, ``(C, T, H, W)``, if you set it, else from
    torchvision's weights. Where no layer comes down to the codec's strides, ``match="entry"`` enters at the first one
    whose cells are groups of latents.

    The model carries ``walloc``, a :class:`StemInfo`; ``in_chans``, ``feature_info`` and ``pretrained_cfg`` describe
    the new stem. The latter always means pixels: ``timm.data.create_transform`` with
    ``timm.data.resolve_model_data_config(model)`` yields images of the new size in [0, 1], which the model reads with
    ``input="pixels"``, and which ``codec.encode`` turns to latents otherwise.

    Args:
        model: A timm model, or a video model of torchvision, of one of the classes of ``FAMILIES``. Modified in place;
            where an error is raised, it is left as it was.
        codec: A codec of images, or for video models of volumes, or what ``load_codec`` takes. The model gets a copy.
        input: What the model shall read: ``"pixels"`` (N, C, H, W), float in [0, 1], uint8 or uint16; or ``"latents"``
            (N, D, h, w), float or int8, not normalized. Volumes have the axis T before H.
        match: As above.

    Returns:
        The same model. The new projection is untrained: ``fit_stem`` fits it to the stem that was there.

    Raises:
        ValueError: The model is of an unsupported family (the message lists those supported), made for feature
            extraction, or has a WaLLoC stem already; ``match`` is not for it; an unknown or audio codec, one of images
            for a model of volumes or the reverse, or one without statistics; another ``input`` or ``match``.

    Example:
        >>> import timm, torch, walloc_transforms as wt
        >>> model = wt.replace_stem(timm.create_model("resnet18", num_classes=7), "rgb_16x", input="latents")
        >>> latents = wt.load_codec("rgb_16x").encode(torch.rand(1, 3, 448, 448))
        >>> model(latents).shape
        torch.Size([1, 7])
    """
    check_choice("input", input, get_args(Input))
    codec = load_stem_codec(codec)
    plan = plan_replacement(model, codec, match)
    stem = WallocStem(
        codec,
        plan.channels,
        stride=plan.strides,
        input=input,
        output_fmt=plan.family.output_fmt,
        bias=plan.look.bias,
    )
    return put_stem(model, plan, stem)


def plan_replacement(model: nn.Module, codec: Codec, match: Match, *, cut: str | None = None) -> Plan:
    """Decide what of a model is dropped and where a stem goes; nothing is changed.

    Args:
        model: The model.
        codec: The codec.
        match: As for :func:`replace_stem`.
        cut: With ``match="entry"``, path of the last unit that is replaced, where the model's stride is a multiple of
            the codec's. Default: the first one at the codec's stride.

    Raises:
        ValueError: As :func:`replace_stem`; ``cut`` is no such unit (the message lists them), or ``match`` is another.
    """
    check_choice("match", match, get_args(Match))
    if cut is not None and match != "entry":
        raise ValueError(f"only match='entry' takes a cut, got match={match!r} and cut={cut!r}")
    if hasattr(model, "walloc"):
        raise ValueError(f"the stem of this {type(model).__name__} is replaced already: {model.walloc}")
    family = find_family(model)
    c = codec.config
    if family.dims != c.dims:
        reads, needed = ("clips", "volumes") if family.dims == 3 else ("images", "images")
        raise ValueError(
            f"this {type(model).__name__} reads {reads}: expected a codec of {needed}, codec {c.name!r} is for "
            f"{c.modality}s"
        )
    look, steps = family.look(model), c.strides
    if match == "grid":
        strides = tuple(-(-own // step) * step for own, step in zip(look.strides, steps, strict=True))
        size = tuple(-(-n // own) * new for n, own, new in zip(look.image_size, look.strides, strides, strict=True))
        return family.replace_first(model, look, match, strides, size)
    if match == "entry":
        return enter_later(model, family, look, steps, cut)
    if any(own % step and step % own for own, step in zip(look.strides, steps, strict=True)):
        raise ValueError(
            f"match='resolution' needs a stem whose stride is a multiple or a divisor of the codec's, "
            f"{shown_strides(steps)}: this {type(model).__name__}'s is {shown_strides(look.strides)}; match='grid' "
            "takes it"
        )
    return family.replace_first(model, look, match, look.strides, look.image_size)


def put_stem(model: Model, plan: Plan, stem: WallocStem) -> Model:
    """Carry out a plan: put a stem in its place, drop what it replaces, and bring the metadata up to date.

    Args:
        model: The model that the plan was made for. Modified in place.
        plan: The plan.
        stem: A stem of the plan's channels, stride and output format. It follows the model's device, dtype and mode.

    Returns:
        The same model, with ``walloc``.
    """
    like = next(model.parameters())
    stem.to(like.device, like.dtype)
    replacement = plan.family.module(model, plan, stem)
    for path, module in [(plan.path, replacement), *((path, nn.Identity()) for path in plan.dropped)]:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.train(model.training))
    c = stem.codec.config
    cells = [-(-side // step) for side, step in zip(plan.image_size, c.strides, strict=True)]
    pixels, latents = (c.signal_channels, *plan.image_size), (c.channels, *cells)
    with _reading_latents(stem):  # multiply-adds do not count encoding
        trace = Trace(model, latents)
    _update_metadata(model, plan, stem, trace.shapes)
    shape = pixels if stem.input == "pixels" else latents
    before, macs_before = tuple(plan.look.reads.shape), plan.look.macs
    info = StemInfo(c.name, stem.input, plan.match, shape, pixels, latents, trace.macs, before, macs_before, plan.cut)
    setattr(model, "walloc", info)  # noqa: B010 (type checkers allow no plain values on a module)
    return model


@contextlib.contextmanager
def _reading_latents(stem: WallocStem) -> Iterator[None]:
    """Let a stem read latents for a while."""
    kept, stem.input = stem.input, "latents"
    try:
        yield
    finally:
        stem.input = kept


def _update_metadata(model: Any, plan: Plan, stem: WallocStem, shapes: dict[str, tuple[int, ...]]) -> None:
    signal, before = stem.codec.config.signal_channels, plan.look.image_size
    config = copy.deepcopy(getattr(model, "pretrained_cfg", None) or {})
    config.update(input_size=(signal, *plan.image_size), mean=(0.0,) * signal, std=(1.0,) * signal)
    if plan.family.dims == 3:  # no model of timm
        model.pretrained_cfg = config
        return
    # No layer reads RGB any more: None keeps timm from adapting a checkpoint's first convolution.
    config["first_conv"] = None
    if config.get("test_input_size"):
        sides = (-(-side * plan.image_size[0] // before[0]) for side in config["test_input_size"][-2:])
        config["test_input_size"] = (signal, *sides)
    model.pretrained_cfg = model.default_cfg = config
    if hasattr(model, "_traits"):  # private to timm; it goes before pretrained_cfg where it exists
        size = plan.image_size if model._traits.get("img_size") else None
        model._traits = {**model._traits, "first_conv": None, "img_size": size}
    if hasattr(model, "partition_ratio"):  # MaxxVit computes its windows and positions from these
        growth = plan.image_size[0] / before[0]
        model.partition_ratio, stem_stride = round(model.partition_ratio * growth), round(model.stem.stride * growth)
        model.img_size, model.stem.stride = plan.image_size, stem_stride
    model.in_chans = stem.in_channels
    model.feature_info = [_describe(info, plan, shapes.get(info["module"])) for info in model.feature_info]


def _describe(info: dict[str, Any], plan: Plan, shape: tuple[int, ...] | None) -> dict[str, Any]:
    """Describe features again: coarser if the image grew, and as found where they lie before the stem."""
    reduction = max(round(info["reduction"] * plan.image_size[0] / plan.look.image_size[0]), plan.strides[0])
    if shape is None or len(shape) != 3:  # tokens
        return {**info, "reduction": reduction}
    rows, channels = (shape[0], shape[-1]) if plan.look.channels_last else (shape[1], shape[0])
    if rows != -(-plan.image_size[0] // reduction):
        reduction = round(plan.image_size[0] / rows)
    return {**info, "num_chs": channels, "reduction": reduction}

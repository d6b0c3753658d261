"""WaLLoC stems: let a network read wavelet latents, or pixels that are encoded inside, where its own stem stood.

    model = replace_stem(timm.create_model("resnet50", pretrained=True), "rgb_16x")    # 448 px, at the compute of 224

``WallocStem`` is the layer by itself. ``replace_stem`` puts one into a timm model, whose other weights and parameter
names stay; load pretrained weights first. ``_FAMILIES`` at the end lists the models it knows, a row for each family.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from timm.layers.format import Format, nchw_to
from timm.layers.helpers import to_2tuple
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.patch_embed import PatchEmbed
from timm.models import get_model_input_config
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .codec import CODEC_RANGE, Codec
from .zoo import CodecLike, load_codec

__all__ = ["StemInfo", "WallocStem", "replace_stem"]

Input = Literal["pixels", "latents"]
Layout = Literal["NCHW", "NHWC", "NLC"]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class StemInfo:
    """What ``replace_stem`` leaves at ``model.walloc``.

    Attributes:
        codec: Name of the codec.
        input: What the model reads, ``"pixels"`` or ``"latents"``.
        match: How latents and trunk were brought together.
        input_shape: ``(C, H, W)`` of one input when the stem was replaced, in pixels or latents as ``input`` says.
            Models that take any size, or whose ``set_input_size`` is called, read other sizes too.
    """

    codec: str
    input: Input
    match: Literal["grid"]
    input_shape: tuple[int, int, int]


class WallocStem(nn.Module):
    """Codec, normalisation and a linear projection, as the first layer of an image network.

    Every channel of the latents is brought to zero mean and unit variance by the statistics kept with the codec; then
    one convolution whose kernel is its stride projects. The codec is a copy, frozen, in float32, and does not know
    ``train()`` from ``eval()``; only ``proj`` is trained, in the dtype of the model around it.

    Args:
        codec: An image codec, or what ``load_codec`` takes.
        out_channels: Channels of the output.
        stride: Pixels per output cell along each side: a multiple of the codec's stride.
        input: ``"pixels"`` ``(N, C, H, W)``: float in [-0.5, 0.5] (``Normalize(mean=0.5, std=1)`` of images in [0, 1])
            or uint8 in [0, 255], encoded inside and without gradient. ``"latents"`` ``(N, D, h, w)``: float or int8 as
            the codec encodes them, not normalised.
        layout: Of the output, ``"NCHW"``, ``"NHWC"`` or ``"NLC"`` (tokens, row by row).
        bias: Whether the projection has one.

    Attributes:
        codec: The frozen codec.
        proj: The projection, a ``Conv2d``.

    Raises:
        ValueError: Unknown or audio codec, a stride, input or layout other than above. On call: an input of another
            shape, or whose latents do not fill the last cell.
        TypeError: On call: an input of another dtype.
    """

    def __init__(
        self,
        codec: CodecLike,
        out_channels: int,
        *,
        stride: int,
        input: Input = "pixels",
        layout: Layout = "NCHW",
        bias: bool = True,
    ) -> None:
        super().__init__()
        codec = _load_image_codec(codec)
        codec.check_statistics()
        _check_choice("input", input, get_args(Input))
        _check_choice("layout", layout, get_args(Layout))
        c = codec.config
        if stride < 1 or stride % c.stride:
            raise ValueError(f"stride must be a positive multiple of {c.stride}, the stride of codec {c.name!r}, "
                             f"got {stride}")  # fmt: skip
        # A copy: moving or unfreezing the model must not reach a transform that uses the same codec.
        self.codec = copy.deepcopy(codec).requires_grad_(False)
        self.stride, self.input, self.layout = stride, input, layout
        cells = stride // c.stride
        self.proj = nn.Conv2d(c.channels, out_channels, cells, cells, bias=bias)

    @property
    def in_channels(self) -> int:
        """Channels of the input: those of the signal or of the latents."""
        return self.codec.config.signal_channels if self.input == "pixels" else self.codec.config.channels

    def input_size(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Sides of the input for an image of ``(H, W)`` pixels."""
        height, width = image_size
        if self.input == "pixels":
            return height, width
        return -(-height // self.codec.config.stride), -(-width // self.codec.config.stride)

    def grid_size(self, input_size: Sequence[int]) -> tuple[int, int]:
        """Output cells ``(rows, columns)`` for the two sides of an input, pixels or latents as ``input`` says."""
        per_latent = self.codec.config.stride if self.input == "pixels" else 1
        height, width = (-(-side // per_latent) // self.proj.stride[0] for side in input_size)
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``(N, C, H, W)`` or latents ``(N, D, h, w)`` to cells, in ``layout``."""
        latents, cells = self._latents(x), self.proj.stride[0]
        if any(side % cells for side in latents.shape[-2:]):
            raise ValueError(f"a stem of stride {self.stride} reads {cells}x{cells} latents per cell: their sides must "
                             f"be multiples of {cells}, got {tuple(latents.shape[-2:])} latents from {self.input} of "
                             f"shape {tuple(x.shape)}")  # fmt: skip
        x = self.proj(self.codec.normalize(latents.to(torch.float32)).to(self.proj.weight.dtype))
        return nchw_to(x, Format(self.layout))

    def _latents(self, x: Tensor) -> Tensor:
        c, pixels = self.codec.config, self.input == "pixels"
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            other: Input = "latents" if pixels else "pixels"
            swapped = x.ndim == 4 and x.shape[1] == (c.channels if pixels else c.signal_channels)
            hint = f": {other}? build the stem with input={other!r}" if swapped else ""
            got = f"{x.shape[1]} channels" if x.ndim == 4 else f"shape {tuple(x.shape)}"
            raise ValueError(f"this stem reads {self.input} with {self.in_channels} channels "
                             f"{'for' if pixels else 'of'} codec {c.name!r}, a batch of four dimensions; "
                             f"got {got}{hint}")  # fmt: skip
        integer = torch.uint8 if pixels else torch.int8
        if not x.is_floating_point() and x.dtype != integer:
            raise TypeError(f"this stem reads {self.input} as float or {integer}, got {x.dtype}")
        if not pixels:
            return x
        with torch.no_grad():
            return self.codec.encode(x, input_range=CODEC_RANGE if x.is_floating_point() else (0, 255))

    def extra_repr(self) -> str:
        """Show input, stride and layout in ``repr``."""
        return f"input={self.input!r}, stride={self.stride}, layout={self.layout!r}"


class _WallocPatchEmbed(HybridEmbed):
    """A ``WallocStem`` with the sizes timm's transformers ask a patch embedding for; ``img_size`` is in pixels always.

    Args:
        stem: The stem, of layout NCHW.
        old: The patch embedding whose sizes, output and norm it takes over.
        img_size: ``(H, W)`` in pixels.
    """

    backbone: WallocStem
    img_size: tuple[int, int]

    def __init__(self, stem: WallocStem, old: PatchEmbed, img_size: tuple[int, int]) -> None:
        super().__init__(stem, img_size, in_chans=stem.in_channels, embed_dim=stem.proj.out_channels, proj=False,
                         output_fmt=None if old.flatten else old.output_fmt.value,
                         strict_img_size=old.strict_img_size)  # fmt: skip
        self.norm = old.norm

    def _init_backbone(self, img_size: Any = 224, patch_size: Any = 1, *_: Any, **__: Any) -> tuple[Any, ...]:
        """Compute what timm finds out by a forward pass, which latents would break and meta tensors too."""
        stem, img_size = self.backbone, to_2tuple(img_size)
        if any(side % stem.stride for side in img_size):
            raise ValueError(f"img_size must be multiples of {stem.stride} pixels, got {tuple(img_size)}")
        grid = stem.grid_size(stem.input_size(img_size))
        ratio = (stem.stride, stem.stride)
        return tuple(img_size), to_2tuple(patch_size), grid, ratio, stem.proj.out_channels, grid, grid[0] * grid[1]

    def set_input_size(self, img_size: Any = None, patch_size: Any = None, *_: Any, **__: Any) -> None:
        """Expect images of ``img_size`` pixels from now on (if the stem reads latents: those of such images)."""
        if patch_size is not None:
            raise ValueError(f"the patch size of a WaLLoC stem is fixed at {self.backbone.stride} pixels, "
                             f"got patch_size={patch_size}")  # fmt: skip
        super().set_input_size(img_size)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Grid for the sides of the tensor that the model was given: pixels or latents."""
        return self.backbone.grid_size(img_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels or latents to tokens."""
        expected = self.backbone.input_size(self.img_size)
        if self.strict_img_size and x.ndim == 4 and x.shape[1] == self.in_chans and x.shape[2:] != expected:
            raise ValueError(f"this model reads {self.backbone.input} of {expected[0]}x{expected[1]} (images of "
                             f"{self.img_size[0]}x{self.img_size[1]} pixels), got {x.shape[2]}x{x.shape[3]}: "
                             "call set_input_size, in pixels, for other sizes")  # fmt: skip
        return self.norm(super().forward(x))


def replace_stem(
    model: Model,
    codec: CodecLike,
    *,
    input: Input = "pixels",
    match: Literal["grid"] = "grid",
) -> Model:
    """Put a :class:`WallocStem` in place of a timm model's stem, and bring the model's metadata up to date.

    ``match="grid"`` keeps the grid of the trunk, and so its compute and its pretrained weights; the image grows where a
    cell of the stem covers fewer pixels than a latent does. A ResNet or ConvNeXt made for 224 pixels (stride 4) reads
    448 then, a ViT of patch 14 reads 256, and one of patch 16 reads 224 as before.

    The model carries ``walloc``, a :class:`StemInfo`; ``in_chans``, ``feature_info`` and ``pretrained_cfg`` describe
    the new stem. The latter always means pixels: ``timm.data.create_transform`` with
    ``timm.data.resolve_model_data_config(model)`` yields images of the new size in the codec's range, [-0.5, 0.5],
    which the model reads with ``input="pixels"``, and which ``codec.encode`` turns to latents otherwise.

    Args:
        model: A timm model: plain ViT or DeiT (``VisionTransformer``), ``ResNet``, ``ConvNeXt``. Modified in place;
            where an error is raised, it is left as it was.
        codec: An image codec, or what ``load_codec`` takes. The model gets a copy.
        input: What the model shall read: ``"pixels"`` (N, C, H, W), float in [-0.5, 0.5] or uint8 in [0, 255]; or
            ``"latents"`` (N, D, h, w), float or int8, not normalised.
        match: ``"grid"``, the one way there is so far.

    Returns:
        The same model. The new projection is untrained.

    Raises:
        ValueError: The model is of an unsupported family (the message lists those supported), made for feature
            extraction, or has a WaLLoC stem already; an unknown or audio codec; another ``input`` or ``match``.
    """
    if match != "grid":
        raise ValueError(f"only match='grid' is available, got {match!r}")
    if hasattr(model, "walloc"):
        raise ValueError(f"the stem of this {type(model).__name__} is replaced already: {model.walloc}")
    family = _find_family(model)
    codec = _load_image_codec(codec)
    old = family.look(model)
    step = codec.config.stride
    stride = max(1, -(-old.stride // step)) * step
    new = WallocStem(codec, old.channels, stride=stride, input=input, bias=old.bias)
    new.to(old.like.device, old.like.dtype).train(model.training)
    image_size = _same_grid(old.image_size, old.stride, stride)
    family.put(model, new, image_size)
    _update_metadata(model, new, old.stride, image_size)
    info = StemInfo(codec.config.name, input, match, (new.in_channels, *new.input_size(image_size)))
    setattr(model, "walloc", info)  # noqa: B010 (type checkers allow no plain values on a module)
    return model


def _same_grid(image_size: Sequence[int], old_stride: int, stride: int) -> tuple[int, int]:
    """Size of the image that has as many cells of ``stride`` as this one has of ``old_stride``."""
    height, width = (-(-side // old_stride) * stride for side in image_size)
    return height, width


def _update_metadata(model: Any, stem: WallocStem, old_stride: int, image_size: tuple[int, int]) -> None:
    signal = stem.codec.config.signal_channels
    # No layer reads RGB any more: None keeps timm from adapting a checkpoint's first convolution.
    config = copy.deepcopy(getattr(model, "pretrained_cfg", None) or {})
    config.update(first_conv=None, input_size=(signal, *image_size), mean=(0.5,) * signal, std=(1.0,) * signal)
    if config.get("test_input_size"):
        test_size = _same_grid(config["test_input_size"][-2:], old_stride, stem.stride)
        config["test_input_size"] = (signal, *test_size)
    model.pretrained_cfg = model.default_cfg = config
    if hasattr(model, "_traits"):  # private to timm; it goes before pretrained_cfg where it exists
        size = image_size if model._traits.get("img_size") else None
        model._traits = {**model._traits, "first_conv": None, "img_size": size}
    model.in_chans = stem.in_channels
    # Everything coarsens by the same factor, except what lay inside the old stem: nothing is finer than the new one.
    model.feature_info = [{**info, "reduction": max(info["reduction"] * stem.stride // old_stride, stem.stride)}
                          for info in model.feature_info]  # fmt: skip


class _OldStem(NamedTuple):
    """What the stem to be replaced does."""

    channels: int
    stride: int
    bias: bool  # whether its last convolution has one
    image_size: tuple[int, int]  # pixels that the model is made for
    like: Tensor  # a parameter, for device and dtype


def _look(model: Any, path: Sequence[str]) -> _OldStem:
    """Measure a convolutional stem, the modules at ``path`` one after the other, on a copy without data."""
    parts = [model.get_submodule(name) for name in path]
    probe = copy.deepcopy(nn.Sequential(*parts)).to("meta")
    convolution = [m for m in parts[0].modules() if isinstance(m, nn.Conv2d)][-1]
    like, side = convolution.weight, 256
    out = probe(torch.empty(1, model.in_chans, side, side, device="meta", dtype=like.dtype))
    image_size = get_model_input_config(model)["input_size"][-2:]
    return _OldStem(out.shape[1], side // out.shape[2], convolution.bias is not None, image_size, like)


def _look_vit(model: Any) -> _OldStem:
    old, kind = model.patch_embed, type(model.patch_embed)
    if kind is not PatchEmbed or old.dynamic_img_pad or old.patch_size[0] != old.patch_size[1]:
        raise ValueError(f"this {type(model).__name__} is no plain ViT: a {kind.__name__} like its own is not "
                         "supported, only timm's PatchEmbed with square patches, without dynamic_img_pad")  # fmt: skip
    stride, (rows, columns) = old.patch_size[0], old.grid_size
    image_size = (rows * stride, columns * stride)
    return _OldStem(old.proj.out_channels, stride, old.proj.bias is not None, image_size, old.proj.weight)


def _put_vit(model: Any, stem: WallocStem, image_size: tuple[int, int]) -> None:
    model.patch_embed = _WallocPatchEmbed(stem, model.patch_embed, image_size).train(model.training)


def _put_resnet(model: Any, stem: WallocStem, image_size: tuple[int, int]) -> None:
    model.conv1, model.maxpool = stem, nn.Identity().train(model.training)  # bn1 and act1 stay


def _put_convnext(model: Any, stem: WallocStem, image_size: tuple[int, int]) -> None:
    model.stem[0] = stem
    for i in range(1, len(model.stem) - 1):  # the further layers of an overlapping stem; its norm stays, at its place
        model.stem[i] = nn.Identity().train(model.training)


class _Family(NamedTuple):
    name: str
    model: type[nn.Module]
    look: Callable[[Any], _OldStem]  # refuses a member that is not supported, and changes nothing
    put: Callable[[Any, WallocStem, tuple[int, int]], None]


_FAMILIES = (
    _Family("plain ViT and DeiT (VisionTransformer)", VisionTransformer, _look_vit, _put_vit),
    _Family("ResNet", ResNet, partial(_look, path=("conv1", "bn1", "act1", "maxpool")), _put_resnet),
    _Family("ConvNeXt", ConvNeXt, partial(_look, path=("stem",)), _put_convnext),
)


def _find_family(model: nn.Module) -> _Family:
    if isinstance(model, nn.ModuleDict):  # timm's FeatureListNet, FeatureGetterNet and others
        raise ValueError(f"{type(model).__name__} is a model taken apart by features_only=True: call replace_stem on "
                         "the whole model, then model.forward_intermediates(x, intermediates_only=True) or wrap it in "
                         "timm.models.FeatureListNet")  # fmt: skip
    for family in _FAMILIES:
        if isinstance(model, family.model):
            return family
    raise ValueError(f"models of class {type(model).__name__} are not supported yet; supported are "
                     f"{', '.join(family.name for family in _FAMILIES)}")  # fmt: skip


def _load_image_codec(codec: CodecLike) -> Codec:
    codec = load_codec(codec)
    if codec.config.modality != "image":
        raise ValueError(f"a stem needs an image codec, {codec.config.name!r} is for {codec.config.modality}")
    return codec


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")

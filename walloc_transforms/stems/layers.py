"""The layers that ``replace_stem`` puts into models: ``WallocStem``, and what makes a patch embedding of one."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers.format import Format, nchw_to
from timm.layers.helpers import to_2tuple
from timm.layers.hybrid_embed import HybridEmbed
from torch import Tensor, nn

from ..codec import Codec, slope
from ..zoo import CodecLike, load_codec

__all__ = [
    "Input",
    "Layout",
    "WallocPatchEmbed",
    "WallocStem",
    "WallocTokens",
    "check_choice",
    "find_stem",
    "load_image_codec",
    "swap_stem",
]

Input = Literal["pixels", "latents"]
Layout = Literal["NCHW", "NHWC", "NLC"]


class WallocStem(nn.Module):
    """Codec, normalization and a linear projection, as the first layer of an image network.

        latents -> normalize -> convolution                  stride of the stem >= that of the codec
        latents -> normalize -> 1x1 convolution -> pixel shuffle                 below it

    Every channel of the latents is brought to zero mean and unit variance by the statistics kept with the codec; then
    one convolution whose kernel is its stride projects. Below the codec's stride every latent becomes several cells.
    The codec is a copy, frozen, in float32, and does not know ``train()`` from ``eval()``; only ``proj`` is trained
    (``trainable_codec=True`` unfreezes the projection of the codec too), in the dtype of the model around it.

    Args:
        codec: An image codec, or what ``load_codec`` takes.
        out_channels: Channels of the output.
        stride: Pixels per output cell along each side: a multiple or a divisor of the codec's stride.
        input: ``"pixels"`` ``(N, C, H, W)``: float in [0, 1], uint8 or uint16, encoded inside and without gradient.
            ``"latents"`` ``(N, D, h, w)``: float or int8 as the codec encodes them, not normalized.
        layout: Of the output, ``"NCHW"``, ``"NHWC"`` or ``"NLC"`` (tokens, row by row).
        bias: Whether the projection has one.
        trainable_codec: Whether the codec's projection is trained as well, through the latents of ``"pixels"``.
        neighbors: How many latents around its own a cell looks at as well, to every side.
        expand: Whether the companding is undone before normalizing, which makes the stem linear in the pixels: see
            ``fit_stem``.

    Attributes:
        codec: The codec.
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
        trainable_codec: bool = False,
        neighbors: int = 0,
        expand: bool = False,
    ) -> None:
        super().__init__()
        codec = load_image_codec(codec)
        codec.check_statistics()
        check_choice("input", input, get_args(Input))
        check_choice("layout", layout, get_args(Layout))
        c = codec.config
        if stride < 1 or (stride % c.stride and c.stride % stride):
            raise ValueError(
                f"stride must be a multiple or a divisor of {c.stride}, the stride of codec {c.name!r}, got {stride}"
            )
        if trainable_codec and (input == "latents" or c.encoder != "linear"):
            raise ValueError("trainable_codec needs pixels as input and a codec with a linear encoder")
        # A copy: moving or unfreezing the model must not reach a transform that uses the same codec.
        self.codec = copy.deepcopy(codec).requires_grad_(False)
        if c.decoder != "linear":
            self.codec.decoder = None  # a network as large as the model, which nothing here needs
        if trainable_codec:
            self.codec.weight.requires_grad_(True)
            self.codec.bias.requires_grad_(True)
        self.stride, self.input, self.layout, self.out_channels = stride, input, layout, out_channels
        self.trainable_codec, self.neighbors, self.expand = trainable_codec, neighbors, expand
        cells, self.shuffle = max(1, stride // c.stride), max(1, c.stride // stride)
        self.proj = nn.Conv2d(
            c.channels, out_channels * self.shuffle**2, cells + 2 * neighbors, cells, neighbors, bias=bias
        )

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
        height, width = (-(-side // per_latent) // self.proj.stride[0] * self.shuffle for side in input_size)
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``(N, C, H, W)`` or latents ``(N, D, h, w)`` to cells, in ``layout``."""
        latents, cells = self._latents(x), self.proj.stride[0]
        if any(side % cells for side in latents.shape[-2:]):
            raise ValueError(
                f"a stem of stride {self.stride} reads {cells}x{cells} latents per cell: their sides must "
                f"be multiples of {cells}, got {tuple(latents.shape[-2:])} latents from {self.input} of "
                f"shape {tuple(x.shape)}"
            )
        latents = latents.to(torch.float32)
        if self.expand and self.codec.config.companding == "gaussian":
            # In units of latents, whose statistics are known.
            latents = self.codec.expand(latents) * slope(self.codec.config.latent_bits)
        x = self.proj(self.codec.normalize(latents).to(self.proj.weight.dtype))
        x = nn.functional.pixel_shuffle(x, self.shuffle) if self.shuffle > 1 else x
        return nchw_to(x, Format(self.layout))

    def _latents(self, x: Tensor) -> Tensor:
        c, pixels = self.codec.config, self.input == "pixels"
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            other: Input = "latents" if pixels else "pixels"
            swapped = x.ndim == 4 and x.shape[1] == (c.channels if pixels else c.signal_channels)
            hint = f": {other}? build the stem with input={other!r}" if swapped else ""
            got = f"{x.shape[1]} channels" if x.ndim == 4 else f"shape {tuple(x.shape)}"
            raise ValueError(
                f"this stem reads {self.input} with {self.in_channels} channels "
                f"{'for' if pixels else 'of'} codec {c.name!r}, a batch of four dimensions; "
                f"got {got}{hint}"
            )
        integer = torch.uint8 if pixels else torch.int8
        if not x.is_floating_point() and x.dtype != integer:
            raise TypeError(f"this stem reads {self.input} as float or {integer}, got {x.dtype}")
        if not pixels:
            return x
        with torch.set_grad_enabled(self.trainable_codec and torch.is_grad_enabled()):
            return self.codec.encode(x)

    def extra_repr(self) -> str:
        """Show input, stride and layout in ``repr``."""
        return f"input={self.input!r}, stride={self.stride}, layout={self.layout!r}"


class WallocPatchEmbed(HybridEmbed):
    """A ``WallocStem`` with the sizes timm's transformers ask a patch embedding for; ``img_size`` is in pixels always.

    Args:
        stem: The stem, of layout NCHW.
        old: The patch embedding whose sizes and output it takes over.
        norm: What follows.
        img_size: ``(H, W)`` in pixels.
        resizable: Whether ``set_input_size`` may be called.
    """

    backbone: WallocStem
    img_size: tuple[int, int]

    def __init__(
        self, stem: WallocStem, old: Any, norm: nn.Module, img_size: tuple[int, int], *, resizable: bool = True
    ) -> None:
        super().__init__(
            stem,
            img_size,
            in_chans=stem.in_channels,
            embed_dim=stem.out_channels,
            proj=False,
            output_fmt=None if old.flatten else old.output_fmt.value,
            strict_img_size=old.strict_img_size,
        )
        self.norm, self.resizable = norm, resizable

    def _init_backbone(self, img_size: Any = 224, patch_size: Any = 1, *_: Any, **__: Any) -> tuple[Any, ...]:
        """Compute what timm finds out by a forward pass, which latents would break and meta tensors too."""
        stem, img_size = self.backbone, to_2tuple(img_size)
        if any(side % stem.stride for side in img_size):
            raise ValueError(f"img_size must be multiples of {stem.stride} pixels, got {tuple(img_size)}")
        grid = stem.grid_size(stem.input_size(img_size))
        ratio = (stem.stride, stem.stride)
        return tuple(img_size), to_2tuple(patch_size), grid, ratio, stem.out_channels, grid, grid[0] * grid[1]

    def set_input_size(self, img_size: Any = None, patch_size: Any = None, *_: Any, **__: Any) -> None:
        """Expect images of ``img_size`` pixels from now on (if the stem reads latents: those of such images)."""
        if not self.resizable:
            raise ValueError("this model is entered after its first stages: its size is fixed, create it for another")
        if patch_size is not None:
            raise ValueError(
                f"the patch size of a WaLLoC stem is fixed at {self.backbone.stride} pixels, "
                f"got patch_size={patch_size}"
            )
        super().set_input_size(img_size)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Grid for the sides of the tensor that the model was given: pixels or latents."""
        return self.backbone.grid_size(img_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels or latents to tokens."""
        expected = self.backbone.input_size(self.img_size)
        if self.strict_img_size and x.ndim == 4 and x.shape[1] == self.in_chans and x.shape[2:] != expected:
            raise ValueError(
                f"this model reads {self.backbone.input} of {expected[0]}x{expected[1]} (images of "
                f"{self.img_size[0]}x{self.img_size[1]} pixels), got {x.shape[2]}x{x.shape[3]}: "
                "call set_input_size, in pixels, for other sizes"
            )
        return self.norm(super().forward(x))


class WallocTokens(nn.Module):
    """A ``WallocStem`` in place of Hiera's patch embedding.

    Args:
        stem: The stem, of layout NLC.
        img_size: ``(H, W)`` in pixels that the model reads, no other.
    """

    def __init__(self, stem: WallocStem, img_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.img_size = stem, img_size

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map pixels or latents to tokens; masked training is not supported."""
        if mask is not None:
            raise ValueError("a WaLLoC stem does not take the mask of masked training")
        expected = self.backbone.input_size(self.img_size)
        if x.ndim == 4 and x.shape[1] == self.backbone.in_channels and tuple(x.shape[2:]) != expected:
            raise ValueError(
                f"this model reads {self.backbone.input} of {expected[0]}x{expected[1]}, got {x.shape[2]}x{x.shape[3]}"
            )
        return self.backbone(x)


def find_stem(model: nn.Module) -> WallocStem:
    """Find the one WaLLoC stem of a model.

    Raises:
        ValueError: It has none, or several.
    """
    stems = [module for module in model.modules() if isinstance(module, WallocStem)]
    if len(stems) != 1:
        raise ValueError(f"this {type(model).__name__} has {len(stems)} WaLLoC stems, expected one: call replace_stem")
    return stems[0]


def swap_stem(model: nn.Module, new: WallocStem) -> None:
    """Put another stem where the model's stands."""
    old = find_stem(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def load_image_codec(codec: CodecLike) -> Codec:
    """Load a codec, and refuse one that is not for images."""
    codec = load_codec(codec)
    if codec.config.modality != "image":
        raise ValueError(f"a stem needs an image codec, {codec.config.name!r} is for {codec.config.modality}")
    return codec


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")

"""The layers that ``replace_stem`` puts into models: ``WallocStem``, and what makes a patch embedding of one."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers.format import Format, nchw_to
from timm.layers.helpers import to_2tuple
from timm.layers.hybrid_embed import HybridEmbed
from torch import Tensor, nn

from ..codec import Codec, slope
from ..latents import check_latents
from ..zoo import CodecLike, load_codec

__all__ = [
    "Input",
    "OutputFormat",
    "WallocPatchEmbed",
    "WallocStem",
    "WallocTokens",
    "check_choice",
    "find_stem",
    "load_image_codec",
]

Input = Literal["pixels", "latents"]
OutputFormat = Literal["NCHW", "NHWC", "NLC"]


class WallocStem(nn.Module):
    """Codec, normalization and a linear projection, as the first layer of an image network.

        latents -> normalize -> convolution                  stride of the stem >= that of the codec
        latents -> normalize -> 1x1 convolution -> pixel shuffle                 below it

    Every channel of the latents is brought to zero mean and unit variance by the statistics kept with the codec. Then
    one convolution whose kernel is its stride projects. Below the codec's stride every cell becomes several. The codec
    is a copy, frozen, in float32, and ``train()`` changes nothing in it. Only ``proj`` is trained, in the dtype of the
    model around it; ``trainable_codec=True`` unfreezes the projection of the codec too.

    Args:
        codec: An image codec, or what ``load_codec`` takes.
        out_channels: Channels of the output.
        stride: Pixels per output cell along each side: a multiple or a divisor of the codec's stride.
        input: ``"pixels"`` ``(N, C, H, W)``: float in [0, 1], uint8 or uint16, encoded inside and without gradient.
            ``"latents"`` ``(N, D, h, w)``: float or int8 as the codec encodes them, not normalized. ``wt.Latents`` of
            another codec are refused; a plain tensor is believed.
        output_fmt: ``"NCHW"``, ``"NHWC"`` or ``"NLC"`` (tokens, row by row).
        bias: Whether the projection has one.
        trainable_codec: Whether the codec's projection is trained as well, through the latents of ``"pixels"``.
        neighbors: Cells of the codec around its own that an output cell reads as well, to every side.
        expand: Whether the companding is undone before normalizing, which makes the stem linear in the pixels: see
            ``fit_stem``.
        device: Of the stem.
        dtype: Of the projection.

    Attributes:
        codec: The codec.
        proj: The projection, a ``Conv2d``.

    Raises:
        ValueError: Unknown or audio codec, a stride, input or format other than above. On call: an input of another
            shape or out of range, or whose latents do not fill the last cell.
        TypeError: On call: an input of another dtype.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> stem = wt.WallocStem("rgb_16x", 64, stride=16)
        >>> stem(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 64, 14, 14])
    """

    def __init__(
        self,
        codec: CodecLike,
        out_channels: int,
        *,
        stride: int,
        input: Input = "pixels",
        output_fmt: OutputFormat = "NCHW",
        bias: bool = True,
        trainable_codec: bool = False,
        neighbors: int = 0,
        expand: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        codec = load_image_codec(codec)
        codec.check_statistics()
        check_choice("input", input, get_args(Input))
        check_choice("output_fmt", output_fmt, get_args(OutputFormat))
        c = codec.config
        if stride < 1 or (stride % c.stride and c.stride % stride):
            raise ValueError(
                f"stride must be a multiple or a divisor of {c.stride}, the stride of codec {c.name!r}, got {stride}"
            )
        if trainable_codec and (input == "latents" or c.encoder != "linear"):
            raise ValueError("trainable_codec needs pixels as input and a codec with a linear encoder")
        # A copy: moving or unfreezing the model must not reach a transform that uses the same codec.
        self.codec = copy.deepcopy(codec).requires_grad_(False).to(device)
        if c.decoder != "linear":
            self.codec.decoder = None  # a network as large as the model, which nothing here needs
        if trainable_codec:
            self.codec.weight.requires_grad_(True)
            self.codec.bias.requires_grad_(True)
        self.stride, self.out_channels = stride, out_channels
        self.input: Input = input
        self.output_fmt: OutputFormat = output_fmt
        self.trainable_codec, self.neighbors, self.expand = trainable_codec, neighbors, expand
        cells, self.shuffle = max(1, stride // c.stride), max(1, c.stride // stride)
        kernel, channels = cells + 2 * neighbors, out_channels * self.shuffle**2
        self.proj = nn.Conv2d(c.channels, channels, kernel, cells, neighbors, bias=bias, device=device, dtype=dtype)

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
        """Map pixels ``(N, C, H, W)`` or latents ``(N, D, h, w)`` to cells, in ``output_fmt``."""
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
        return nchw_to(x, Format(self.output_fmt))

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
        integers = (torch.uint8, torch.uint16) if pixels else (torch.int8,)
        if not x.is_floating_point() and x.dtype not in integers:
            expected = " or ".join(map(str, integers))
            raise TypeError(f"this stem reads {self.input} as float or {expected}, got {x.dtype}")
        if not pixels:
            latents, normalized, _ = check_latents(x, self.codec)
            if normalized:
                raise ValueError("this stem normalizes latents itself, got normalized ones: encode without normalize")
            return latents
        with torch.set_grad_enabled(self.trainable_codec and torch.is_grad_enabled()):
            return self.codec.encode(x)

    def extra_repr(self) -> str:
        """Show input, stride and format in ``repr``."""
        return f"input={self.input!r}, stride={self.stride}, output_fmt={self.output_fmt!r}"


class WallocPatchEmbed(HybridEmbed):
    """A :class:`WallocStem` as a patch embedding of timm's transformers, in place of ``timm.layers.PatchEmbed``.

    The arguments are those of ``PatchEmbed``, so that a model can be made with it. ``img_size`` is in pixels always,
    also where the model reads latents.

    Args:
        img_size: Height and width in pixels.
        patch_size: Pixels per token along each side: a multiple or a divisor of the codec's stride.
        in_chans: Channels of the input, or of the image. Default: those of the input.
        embed_dim: Channels of a token.
        norm_layer: Makes the norm that follows, of ``embed_dim`` channels.
        flatten: Give tokens ``(N, L, C)`` rather than ``(N, C, h, w)``.
        output_fmt: ``"NCHW"``, ``"NHWC"``, ``"NLC"`` or ``"NCL"`` instead of what ``flatten`` says.
        bias: Whether the projection has one.
        strict_img_size: Whether images of another size are refused.
        dynamic_img_pad: Must be False.
        device: Of the embedding.
        dtype: Of the projection.
        codec: An image codec, or what ``load_codec`` takes.
        input: ``"pixels"`` or ``"latents"``, as for ``WallocStem``.
        stem: A stem to use instead of a new one.

    Raises:
        ValueError: As ``WallocStem``; sizes that do not fit each other; ``in_chans`` that are neither the codec's
            signal channels nor those of the input; ``dynamic_img_pad``; or neither ``codec`` nor ``stem``.

    Example:
        >>> from functools import partial
        >>> import torch, walloc_transforms as wt
        >>> from timm.models import VisionTransformer
        >>> embed = partial(wt.WallocPatchEmbed, codec="rgb_16x")
        >>> model = VisionTransformer(img_size=64, embed_dim=48, depth=1, num_heads=3, num_classes=5, embed_layer=embed)
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """

    backbone: WallocStem
    img_size: tuple[int, int]

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int | None = None,
        embed_dim: int = 768,
        norm_layer: Callable[..., nn.Module] | None = None,
        flatten: bool = True,
        output_fmt: str | None = None,
        bias: bool = True,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        codec: CodecLike | None = None,
        input: Input = "pixels",
        stem: WallocStem | None = None,
    ) -> None:
        rows, columns = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
        if rows != columns:
            raise ValueError(f"a WaLLoC stem has square patches, got patch_size={patch_size}")
        if dynamic_img_pad:
            raise ValueError("a WaLLoC stem does not pad images: dynamic_img_pad must be False")
        if stem is None:
            if codec is None:
                raise ValueError("expected a codec, such as codec='rgb_16x', or a stem")
            stem = WallocStem(codec, embed_dim, stride=rows, input=input, bias=bias, device=device, dtype=dtype)
        if in_chans not in (None, stem.in_channels, stem.codec.config.signal_channels):
            raise ValueError(
                f"in_chans must be {stem.in_channels}, the channels of the {stem.input} that the stem reads, "
                f"got {in_chans}"
            )
        super().__init__(
            stem,
            img_size,
            in_chans=stem.in_channels,
            embed_dim=stem.out_channels,
            proj=False,
            flatten=flatten,
            output_fmt=output_fmt,
            strict_img_size=strict_img_size,
        )
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)
        self.resizable = True
        """Whether ``set_input_size`` may be called."""

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

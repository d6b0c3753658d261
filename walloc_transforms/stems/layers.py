"""``WallocStem``: codec, normalization and a linear projection, as the first layer of an image network."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers.format import Format, nchw_to
from torch import Tensor, nn

from ..codec import Codec, check_latents, slope
from ..zoo import CodecLike, load_codec
from .adapter import Adapter, AdapterShape

__all__ = [
    "Input",
    "OutputFormat",
    "WallocStem",
    "check_choice",
    "find_stem",
    "load_image_codec",
]

Input = Literal["pixels", "latents"]
OutputFormat = Literal["NCHW", "NHWC", "NLC"]


class WallocStem(nn.Module):
    """Codec, normalization and a linear projection, as the first layer of an image network.

        latents -> normalize -> (adapter) -> convolution                  stride of the stem >= that of the codec
        latents -> normalize -> (adapter) -> 1x1 convolution -> pixel shuffle                 below it

    Every channel of the latents is brought to zero mean and unit variance by the statistics kept with the codec. Then
    one convolution whose kernel is its stride projects. Below the codec's stride every cell becomes several. The codec
    is a copy, frozen, in float32, and ``train()`` changes nothing in it. Only ``adapter`` and ``proj`` are trained, in
    the dtype of the model around them; ``trainable_codec=True`` unfreezes the projection of the codec too.

    Args:
        codec: An image codec, or what ``load_codec`` takes.
        out_channels: Channels of the output.
        stride: Pixels per output cell along each side: a multiple or a divisor of the codec's stride.
        input: ``"pixels"`` ``(N, C, H, W)``: float in [0, 1], uint8 or uint16, encoded inside and without gradient.
            ``"latents"`` ``(N, D, h, w)``: float or int8 as the codec encodes them, not normalized. ``wt.Latents`` of
            another codec are refused; a plain tensor, such as a batch from ``default_collate``, is believed.
        output_fmt: ``"NCHW"``, ``"NHWC"`` or ``"NLC"`` (tokens, row by row).
        bias: Whether the projection has one.
        trainable_codec: Whether the codec's projection is trained as well, through the latents of ``"pixels"``.
        neighbors: Cells of the codec around its own that an output cell reads as well, to every side.
        expand: Whether the companding is undone before normalizing, which makes the stem linear in the pixels: see
            ``fit_stem``.
        adapter: Size of a small network before the projection, which makes the stem more than linear: see
            ``distill_stem``.
        device: Of the stem.
        dtype: Of the projection and the adapter.

    Attributes:
        codec: The codec.
        adapter: The adapter, or ``Identity``.
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
        adapter: AdapterShape | None = None,
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
        self.codec = copy.deepcopy(codec).requires_grad_(False)
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
        width = adapter.width if adapter else c.channels
        self.adapter = Adapter(c.channels, adapter, device=device, dtype=dtype) if adapter else nn.Identity()
        self.proj = nn.Conv2d(width, channels, kernel, cells, neighbors, bias=bias, device=device, dtype=dtype)
        self.codec.to(self.proj.weight.device)

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
        x = self.proj(self.adapter(self.codec.normalize(latents).to(self.proj.weight.dtype)))
        x = nn.functional.pixel_shuffle(x, self.shuffle) if self.shuffle > 1 else x
        return nchw_to(x, Format(self.output_fmt))

    def _latents(self, x: Tensor) -> Tensor:
        c, pixels = self.codec.config, self.input == "pixels"
        if not isinstance(x, Tensor):
            raise TypeError(f"this stem reads a batch of {self.input} as a tensor, got {type(x).__name__}")
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

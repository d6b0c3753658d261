"""``WallocStem``: codec, normalization and a linear projection, as the first layer of a network."""

import copy
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
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
    "load_stem_codec",
    "pack",
    "shown_strides",
    "unpack",
]

Input = Literal["pixels", "latents"]
OutputFormat = Literal["NCHW", "NHWC", "NLC"]


class WallocStem(nn.Module):
    """Codec, normalization and a linear projection, as the first layer of a network that reads images or volumes.

        latents -> normalize -> (adapter) -> convolution                  stride of the stem >= that of the codec
        latents -> normalize -> (adapter) -> 1x1 convolution -> pixel shuffle                 below it

    Along each axis by itself: a stem of stride ``(1, 16, 16)`` on a codec of ``(4, 8, 8)`` does both.

    Every channel of the latents is brought to zero mean and unit variance by the statistics kept with the codec. Then
    one convolution whose kernel is its stride projects. Below the codec's stride every cell becomes several. The codec
    is a copy, frozen, in float32, and ``train()`` changes nothing in it. Only ``adapter`` and ``proj`` are trained, in
    the dtype of the model around them; ``trainable_codec=True`` unfreezes the projection of the codec too.

    Args:
        codec: A codec of images or volumes, or what ``load_codec`` takes.
        out_channels: Channels of the output.
        stride: Pixels per output cell along each side, or for each: a multiple or a divisor of the codec's stride.
        input: ``"pixels"`` ``(N, C, H, W)``, or ``(N, C, T, H, W)``: float in [0, 1], uint8 or uint16, encoded inside
            and without gradient. ``"latents"`` ``(N, D, h, w)``, or ``(N, D, t, h, w)``: float or int8 as the codec
            encodes them, not normalized. ``wt.Latents`` of another codec are refused; a plain tensor, such as a batch
            from ``default_collate``, is believed.
        output_fmt: ``"NCHW"``, ``"NHWC"`` or ``"NLC"`` (tokens, row by row). Cells of volumes have a first axis more.
        bias: Whether the projection has one.
        trainable_codec: Whether the codec's projection is trained as well, through the latents of ``"pixels"``.
        neighbors: Cells of the codec around its own that an output cell reads as well, to every side.
        expand: Whether the companding is undone before normalizing, which makes the stem linear in the pixels: see
            ``fit_stem``.
        adapter: Size of a small network before the projection, which makes the stem more than linear: see
            ``distill_stem``. For images.
        device: Of the stem.
        dtype: Of the projection and the adapter.

    Attributes:
        codec: The codec.
        adapter: The adapter, or ``Identity``.
        proj: The projection, a ``Conv2d`` or ``Conv3d``.
        strides: Pixels per output cell along each axis.

    Raises:
        ValueError: Unknown or audio codec, a stride, input or format other than above, no channels, negative neighbors,
            or an adapter for volumes. On call: an input of another shape or out of range, or whose latents do not fill
            the last cell.
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
        stride: int | Sequence[int],
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
        codec = load_stem_codec(codec)
        codec.check_statistics()
        check_choice("input", input, get_args(Input))
        check_choice("output_fmt", output_fmt, get_args(OutputFormat))
        c = codec.config
        if out_channels < 1 or neighbors < 0:
            raise ValueError(
                f"expected out_channels of at least 1 and neighbors of at least 0, got {out_channels} and {neighbors}"
            )
        strides = tuple(stride) if isinstance(stride, Sequence) else (operator.index(stride),) * c.dims
        if len(strides) != c.dims or any(
            own < 1 or (own % step and step % own) for own, step in zip(strides, c.strides, strict=True)
        ):
            raise ValueError(
                f"stride must be a multiple or a divisor of {c.shown_stride}, the stride of codec {c.name!r}, got "
                f"{stride}"
            )
        if adapter is not None and c.dims != 2:
            raise ValueError(f"an adapter is for images, codec {c.name!r} for volumes")
        if trainable_codec and (input == "latents" or c.encoder != "linear"):
            raise ValueError("trainable_codec needs pixels as input and a codec with a linear encoder")
        # A copy: moving or unfreezing the model must not reach a transform that uses the same codec.
        self.codec = copy.deepcopy(codec).requires_grad_(False)
        if c.decoder != "linear":
            self.codec.decoder = None  # a network as large as the model, which nothing here needs
        if trainable_codec:
            self.codec.weight.requires_grad_(True)
            self.codec.bias.requires_grad_(True)
        self.strides, self.out_channels = strides, out_channels
        self.input: Input = input
        self.output_fmt: OutputFormat = output_fmt
        self.trainable_codec, self.neighbors, self.expand = trainable_codec, neighbors, expand
        cells = tuple(max(1, own // step) for own, step in zip(strides, c.strides, strict=True))
        self.shuffle = tuple(max(1, step // own) for own, step in zip(strides, c.strides, strict=True))
        kernel, channels = tuple(side + 2 * neighbors for side in cells), out_channels * math.prod(self.shuffle)
        width = adapter.width if adapter else c.channels
        self.adapter = Adapter(c.channels, adapter, device=device, dtype=dtype) if adapter else nn.Identity()
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        convolution: Any = nn.Conv2d if c.dims == 2 else nn.Conv3d
        self.proj: nn.Conv2d | nn.Conv3d = convolution(width, channels, kernel, cells, neighbors, **options)
        self.codec.to(self.proj.weight.device)

    @property
    def stride(self) -> int:
        """Pixels per output cell along each axis, where all have the same number.

        Raises:
            ValueError: They have not.
        """
        if len(set(self.strides)) > 1:
            raise ValueError(f"this stem has a stride for each axis: {self.strides}")
        return self.strides[0]

    @property
    def in_channels(self) -> int:
        """Channels of the input: those of the signal or of the latents."""
        return self.codec.config.signal_channels if self.input == "pixels" else self.codec.config.channels

    def input_size(self, image_size: Sequence[int]) -> tuple[int, ...]:
        """Sides of the input for an image of ``(H, W)`` pixels, or a volume of ``(T, H, W)``."""
        if self.input == "pixels":
            return tuple(image_size)
        return tuple(-(-side // step) for side, step in zip(image_size, self.codec.config.strides, strict=True))

    def grid_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Output cells along each side of an input, pixels or latents as ``input`` says."""
        steps = self.codec.config.strides if self.input == "pixels" else (1,) * len(self.strides)
        return tuple(
            -(-side // step) // cells * more
            for side, step, cells, more in zip(input_size, steps, self.proj.stride, self.shuffle, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``(N, C, H, W)`` or latents ``(N, D, h, w)`` to cells, in ``output_fmt``; volumes likewise."""
        latents, cells = self._latents(x), self.proj.stride
        sides = latents.shape[2:]
        if any(side % of_cell for side, of_cell in zip(sides, cells, strict=True)):
            read = "x".join(map(str, cells))
            raise ValueError(
                f"a stem of stride {shown_strides(self.strides)} reads {read} latents per cell: their sides must be "
                f"multiples of {shown_strides(cells)}, got {tuple(sides)} latents from {self.input} of shape "
                f"{tuple(x.shape)}"
            )
        latents = latents.to(torch.float32)
        if self.expand and self.codec.config.companding == "gaussian":
            # In units of latents, whose statistics are known.
            latents = self.codec.expand(latents) * slope(self.codec.config.latent_bits)
        x = unpack(self.proj(self.adapter(self.codec.normalize(latents).to(self.proj.weight.dtype))), self.shuffle)
        if self.output_fmt == "NCHW":
            return x
        return x.movedim(1, -1) if self.output_fmt == "NHWC" else x.flatten(2).transpose(1, 2)

    def _latents(self, x: Tensor) -> Tensor:
        c, pixels, axes = self.codec.config, self.input == "pixels", len(self.strides) + 2
        if not isinstance(x, Tensor):
            raise TypeError(f"this stem reads a batch of {self.input} as a tensor, got {type(x).__name__}")
        if x.ndim != axes or x.shape[1] != self.in_channels:
            other: Input = "latents" if pixels else "pixels"
            swapped = x.ndim == axes and x.shape[1] == (c.channels if pixels else c.signal_channels)
            hint = f": {other}? build the stem with input={other!r}" if swapped else ""
            got = f"{x.shape[1]} channels" if x.ndim == axes else f"shape {tuple(x.shape)}"
            raise ValueError(
                f"this stem reads {self.input} with {self.in_channels} channels "
                f"{'for' if pixels else 'of'} codec {c.name!r}, a batch of {'four' if axes == 4 else 'five'} "
                f"dimensions; got {got}{hint}"
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
        return f"input={self.input!r}, stride={shown_strides(self.strides)}, output_fmt={self.output_fmt!r}"


def find_stem(model: nn.Module) -> WallocStem:
    """Find the one WaLLoC stem of a model.

    Raises:
        ValueError: It has none, or several.
    """
    stems = [module for module in model.modules() if isinstance(module, WallocStem)]
    if len(stems) != 1:
        raise ValueError(f"this {type(model).__name__} has {len(stems)} WaLLoC stems, expected one: call replace_stem")
    return stems[0]


def load_stem_codec(codec: CodecLike) -> Codec:
    """Load a codec, and refuse one for sound, and one of images whose cells are not square."""
    codec = load_codec(codec)
    c = codec.config
    if c.modality == "audio":
        raise ValueError(f"a stem needs a codec of images or volumes, {c.name!r} is for audio")
    if c.modality == "image" and len(set(c.strides)) > 1:
        raise ValueError(f"a stem for images needs a codec of square cells, {c.name!r} has cells of {c.strides} pixels")
    return codec


def unpack(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Make cells of channels, ``pixel_shuffle`` for any axes: ``(N, C * f * g, h, w)`` to ``(N, C, h * f, w * g)``."""
    if math.prod(factors) == 1:
        return x
    n = len(factors)
    sides = [side * factor for side, factor in zip(x.shape[2:], factors, strict=True)]
    order = [axis for i in range(n) for axis in (2 + n + i, 2 + i)]
    channels = x.shape[1] // math.prod(factors)  # of the batch below, len() would fix the size in exported programs
    x = x.reshape(x.shape[0], channels, *factors, *x.shape[2:])
    return x.permute(0, 1, *order).reshape(x.shape[0], channels, *sides)


def pack(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Make channels of cells, the inverse of :func:`unpack`."""
    n = len(factors)
    sides = [part for side, factor in zip(x.shape[2:], factors, strict=True) for part in (side // factor, factor)]
    x = x.reshape(*x.shape[:2], *sides)
    x = x.permute(0, 1, *range(3, 2 * n + 2, 2), *range(2, 2 * n + 2, 2))
    return x.flatten(1, n + 1)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def shown_strides(numbers: Sequence[int]) -> int | tuple[int, ...]:
    """Show one number where all are the same."""
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)

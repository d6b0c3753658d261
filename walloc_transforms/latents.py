"""``Latents``: what ``WallocEncode`` gives, a tv_tensor that knows its codec, and what transforms do to it.

No transform of torchvision takes it for an image: one without a kernel below leaves it as it is, or refuses it. The
kernels: flips, by the codec's own weights, and crops, in cells of the grid. Other changes of geometry are refused: they
would move boxes and masks of the same sample and leave the latents where they are.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from .codec import Codec, check_flips, check_latents, flip, statistics_fingerprint
from .zoo import find_embedded

__all__ = ["Latents", "apply_raw", "codec_of", "remember_codec", "whole_cells", "wrap_latents"]

_FORMS = {1: "(..., D, t)", 2: "(..., D, h, w)", 3: "(..., D, t, h, w)"}  # by the sides of the signal
# Codecs of this process by fingerprint and hash of statistics; the hash is empty where no statistics are needed.
_CODECS: "weakref.WeakValueDictionary[tuple[str, str], Codec]" = weakref.WeakValueDictionary()


class Latents(tv_tensors.TVTensor):
    """Latents of images ``(..., D, h, w)``, waveforms ``(..., D, t)`` or volumes, and what must be known to use them.

    ``WallocEncode`` and ``functional.encode_image`` give such tensors; in compiled and exported programs they give
    plain ones. Every operation on ``Latents`` gives a plain tensor, as for all tv_tensors, except ``to``, ``clone``,
    ``detach``, ``requires_grad_`` and ``pin_memory``. ``default_collate`` makes a batch a plain tensor, so that models,
    ``v2.MixUp`` and ``v2.CutMix`` read it as any other.

    Transforms of ``torchvision.transforms.v2`` after encoding leave latents alone if they change values. Of those that
    change the geometry, all are errors but these:

    * ``RandomHorizontalFlip`` and ``RandomVerticalFlip`` give the latents of the flipped image, nearly: see
      ``docs/latents.md``. The side that is flipped must be a multiple of the codec's stride.
    * ``functional.crop`` and ``CenterCrop`` cut the grid: all their numbers count cells, not pixels.

    Both change height and width of volumes, all along the first axis, as they do with a ``tv_tensors.Video``.

    Args:
        data: Anything that ``torch.as_tensor`` takes.
        codec: Name of the codec.
        fingerprint: ``Codec.fingerprint()`` of the codec.
        signal_size: ``(H, W)``, ``(T,)`` or ``(T, H, W)`` of what was encoded.
        normalized: Whether the latents have zero mean and unit variance per channel.
        statistics: Hash of the mean and spread that normalized latents were normalized by. Default: not known.
        cropped: Per axis of the grid, whether a crop has taken cells away. Default: no.
        dtype: As for ``torch.as_tensor``.
        device: As for ``torch.as_tensor``.
        requires_grad: Default: that of ``data``.

    Attributes:
        codec: Name of the codec.
        fingerprint: What tells codecs apart.
        signal_size: ``(H, W)``, ``(T,)`` or ``(T, H, W)``, to which decoding crops. (``size`` is a method of tensors.)
        normalized: Whether decoding must denormalize.
        statistics: What tells apart codecs that differ in their statistics alone; empty unless normalized.
        cropped: At a cropped border, flips repeat the outer cell. At others the grid wraps around.

    Raises:
        ValueError: ``signal_size`` has not one to three sides, or the tensor fewer axes than such latents.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> from torchvision.transforms import v2
        >>> latents = wt.WallocEncode("rgb_16x")(torch.rand(3, 64, 90))
        >>> latents.codec, latents.signal_size, latents.normalized
        ('rgb_16x', (64, 90), False)
        >>> v2.GaussianBlur(3)(latents) is latents
        True
        >>> type(latents[:4]).__name__
        'Tensor'
        >>> crop = v2.CenterCrop(4)(latents)
        >>> tuple(crop.shape), crop.signal_size
        ((12, 4, 4), (32, 32))
    """

    codec: str
    fingerprint: str
    signal_size: tuple[int, ...]
    normalized: bool
    statistics: str
    cropped: tuple[bool, ...]

    def __new__(
        cls,
        data: Any,
        *,
        codec: str,
        fingerprint: str,
        signal_size: Sequence[int],
        normalized: bool = False,
        statistics: str = "",
        cropped: Sequence[bool] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | int | None = None,
        requires_grad: bool | None = None,
    ) -> "Latents":
        """Build from data and metadata."""
        tensor = cls._to_tensor(data, dtype=dtype, device=device, requires_grad=requires_grad)
        size = tuple(int(side) for side in signal_size)
        if len(size) not in _FORMS or min(size) < 1:
            raise ValueError(
                "signal_size must be (H, W) of an image, (T,) of a waveform or (T, H, W) of a volume, got "
                f"{tuple(signal_size)}"
            )
        if tensor.ndim <= len(size):
            form = _FORMS[len(size)]
            raise ValueError(
                f"latents of a signal of size {size} have the shape {form}, got a tensor of shape {tuple(tensor.shape)}"
            )
        sides = tuple(cropped or [False] * len(size))
        return cls._wrap(tensor, codec, fingerprint, size, normalized, statistics, sides)

    if TYPE_CHECKING:  # type checkers would hold the arguments of Latents against those of Tensor

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    @classmethod
    def _wrap(
        cls,
        tensor: Tensor,
        codec: str,
        fingerprint: str,
        signal_size: tuple[int, ...],
        normalized: bool,
        statistics: str,
        cropped: tuple[bool, ...],
    ) -> "Latents":
        latents = tensor.as_subclass(cls)
        latents.codec, latents.fingerprint = codec, fingerprint
        latents.signal_size, latents.cropped = signal_size, cropped
        latents.normalized, latents.statistics = normalized, statistics
        return latents

    @classmethod
    def wrap(cls, tensor: Tensor, like: tv_tensors.TVTensor, **kwargs: Any) -> "Latents":
        """Give ``tensor`` the metadata of ``like``, but for what ``kwargs`` replace; for ``tv_tensors.wrap``."""
        assert isinstance(like, Latents)
        known = {name: getattr(like, name) for name in _METADATA}
        if unknown := kwargs.keys() - known.keys():
            raise TypeError(f"Latents carry {', '.join(_METADATA)}, got {', '.join(sorted(unknown))}")
        return cls._wrap(tensor, **{**known, **kwargs})

    @classmethod
    def _wrap_output(cls, output: Tensor, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Tensor:
        """Keep the metadata where torchvision keeps the type: ``to``, ``clone`` and the like."""
        like = next((arg for arg in args if isinstance(arg, Latents)), None)
        if like is None or not isinstance(output, Tensor) or output.shape != like.shape:
            return output
        return cls.wrap(output, like)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return self._make_repr(
            codec=repr(self.codec),
            fingerprint=f"{self.fingerprint[:8]}...",
            signal_size=self.signal_size,
            normalized=self.normalized,
            cropped=self.cropped,
        )


torch.serialization.add_safe_globals([Latents])  # a tensor and plain values: torch.load(weights_only=True) may build it

_METADATA = ("codec", "fingerprint", "signal_size", "normalized", "statistics", "cropped")


def wrap_latents(tensor: Tensor, codec: Codec, size: Sequence[int], *, normalized: bool = False) -> Latents:
    """Make ``Latents`` of what a codec has encoded, and remember the codec for flips in this process.

    Args:
        tensor: Latents of ``codec``.
        codec: The codec.
        size: Sides of the signal.
        normalized: Whether the latents are normalized.

    Returns:
        Latents of the same memory. In compiled and exported programs, the tensor as it is: a program is not to keep
        the fingerprint of today as a constant, and torch.export makes no subclasses.
    """
    if torch.compiler.is_compiling():
        return tensor  # pyright: ignore[reportReturnType]
    sides, statistics = tuple(size), statistics_fingerprint(codec) if normalized else ""
    fingerprint = remember_codec(codec, statistics)
    return Latents._wrap(tensor, codec.config.name, fingerprint, sides, normalized, statistics, (False,) * len(sides))


def remember_codec(codec: Codec, statistics: str = "") -> str:
    """Let :func:`codec_of` find a codec in this process, as long as somebody holds it.

    Args:
        codec: The codec.
        statistics: Hash of its statistics, if it has normalized latents.

    Returns:
        Its fingerprint.
    """
    fingerprint = codec.fingerprint()
    _CODECS[fingerprint, ""] = codec
    if statistics:
        _CODECS[fingerprint, statistics] = codec
    return fingerprint


def codec_of(latents: Latents) -> Codec:
    """Find the codec of latents: one that has encoded in this process, or an embedded one.

    Of normalized latents it is one that has the statistics they were normalized by.

    Raises:
        ValueError: There is none.
    """
    fingerprint, statistics = latents.fingerprint, latents.statistics
    found = [_CODECS.get((fingerprint, statistics)), _CODECS.get((fingerprint, "")), _KEPT.get(fingerprint)]
    for known in found:
        if known is not None and _is_codec_of(latents, known):  # it may have been trained since
            return known
    channels = latents.shape[-len(latents.signal_size) - 1]
    embedded = find_embedded(fingerprint, channels, latents.codec)
    if embedded is not None:
        _KEPT[fingerprint] = embedded
        if _is_codec_of(latents, embedded):
            return embedded
    if statistics and any(known is not None and known.fingerprint() == fingerprint for known in [*found, embedded]):
        raise ValueError(
            f"these latents of codec {latents.codec!r} were normalized by statistics that no codec has which has "
            "encoded in this process and is still there: keep the WallocEncode that normalized them"
        )
    raise ValueError(
        f"codec {latents.codec!r} (fingerprint {latents.fingerprint[:8]}) is not embedded, and has not encoded "
        "anything in this process that is still there: keep the WallocEncode, or flip before encoding"
    )


def _is_codec_of(latents: Latents, codec: Codec) -> bool:
    return codec.fingerprint() == latents.fingerprint and latents.statistics in ("", statistics_fingerprint(codec))


def apply_raw(latents: Latents, codec: Codec, function: Callable[[Tensor], Tensor]) -> Latents:
    """Apply a function of plain latents that are not normalized, and give its result the form of ``latents``.

    Args:
        latents: Normalized or not, of any dtype.
        codec: Theirs.
        function: Takes a plain tensor, float32 or of integers, and returns float32 of the same shape.

    Returns:
        Latents in the dtype they came in, rounded if it is one of integers; normalized if they were.

    Raises:
        ValueError: The latents are another codec's, or were normalized by other statistics.
    """
    plain = check_latents(latents, codec).tensor
    x = plain.to(torch.float32) if plain.is_floating_point() else plain
    if latents.normalized:
        codec.check_statistics()
        own = codec.latent_mean, codec.latent_std  # which may lie on another device
        mean, spread = (values.to(x.device).view(-1, *[1] * codec.config.dims) for values in own)
        x = (function(x * spread + mean) - mean) / spread
    else:
        x = function(x)
    return Latents.wrap((x if plain.is_floating_point() else x.round()).to(plain.dtype), latents)


def whole_cells(latents: Latents) -> tuple[list[int], list[int]]:
    """Count the cells along height and width that lie within the image, and the pixels along the sides of a cell.

    The last cells of an image whose sides are no multiples of the stride are filled up by encoding, and not counted.
    """
    strides = _strides(latents)
    return [side // stride for side, stride in zip(latents.signal_size[-2:], strides, strict=True)], strides


_KEPT: dict[str, Codec] = {}  # embedded codecs that were loaded here, which nobody else holds


@F.register_kernel(F.horizontal_flip, Latents)
def _horizontal_flip(latents: Latents) -> Latents:
    return _flip(latents, -1)


@F.register_kernel(F.vertical_flip, Latents)
def _vertical_flip(latents: Latents) -> Latents:
    return _flip(latents, -2)


def _flip(latents: Latents, axis: int) -> Latents:
    codec = codec_of(latents)
    check_flips(codec)
    side, stride = latents.signal_size[axis], codec.config.strides[axis]
    if side % stride:
        what = "width" if axis == -1 else "height"
        raise ValueError(
            f"flipped, an image of {what} {side} would begin with what encoding added to fill its last cell: crop the "
            f"image to a multiple of {stride} before encoding, or the latents to whole cells before they "
            "are flipped"
        )
    return apply_raw(latents, codec, lambda raw: flip(raw, codec, axis, wraps=not latents.cropped[axis]))


@F.register_kernel(F.get_size, Latents)
def _get_size(latents: Latents) -> list[int]:
    return _grid(latents)


@F.register_kernel(F.crop, Latents)
def _crop(latents: Latents, top: int, left: int, height: int, width: int) -> Latents:
    grid, size, cropped = _grid(latents), [*latents.signal_size[:-2]], [*latents.cropped[:-2]]
    for first, cells, all_cells, side, was, stride in zip(
        *((top, left), (height, width), grid, latents.signal_size[-2:], latents.cropped[-2:], _strides(latents)),
        strict=True,
    ):
        if first < 0 or cells < 1 or first + cells > all_cells:
            raise ValueError(
                f"a crop of latents counts cells and lies within their grid, here of {grid[0]} x {grid[1]} cells: got "
                f"top={top}, left={left}, height={height}, width={width}"
            )
        size.append(min(side, (first + cells) * stride) - first * stride)
        cropped.append(was or cells < all_cells)
    plain = latents.as_subclass(Tensor)[..., top : top + height, left : left + width]
    return Latents.wrap(plain, latents, signal_size=tuple(size), cropped=tuple(cropped))


@F.register_kernel(F.center_crop, Latents)
def _center_crop(latents: Latents, output_size: Sequence[int] | int) -> Latents:
    sides = [output_size] if isinstance(output_size, int) else list(output_size)
    height, width = sides * 2 if len(sides) == 1 else sides
    rows, columns = _grid(latents)
    return _crop(latents, round((rows - height) / 2), round((columns - width) / 2), height, width)


def _refuse(name: str) -> Callable[..., Tensor]:
    def kernel(latents: Latents, *args: Any, **kwargs: Any) -> Tensor:
        raise TypeError(f"{name} changes the geometry, which latents cannot follow: put the transform before encoding")

    return kernel


for _function in (
    F.affine,
    F.elastic,
    F.five_crop,
    F.pad,
    F.perspective,
    F.resize,
    F.resized_crop,
    F.rotate,
    F.ten_crop,
):
    F.register_kernel(_function, Latents)(_refuse(_function.__name__))


def _grid(latents: Latents) -> list[int]:
    if len(latents.signal_size) == 1:
        raise ValueError(f"latents of codec {latents.codec!r} are of waveforms: they have no height and width")
    return list(latents.shape[-2:])


def _strides(latents: Latents) -> list[int]:
    """Return the pixels per cell along height and width, powers of two: only one fits, unless there is a single cell.

    That one is taken to be as high as it is wide, if it may be.
    """
    grid, size = _grid(latents), latents.signal_size[-2:]
    fits = [
        {2**levels for levels in range(17) if -(-side // 2**levels) == cells}
        for side, cells in zip(size, grid, strict=True)
    ]
    if not all(fits):
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} cells does not belong to images of size {size}")
    alike = fits[0] & fits[1]
    return [min(alike or fit) for fit in fits]

"""``WallocEncode`` and ``WallocDecode``: the codec as torchvision v2 transforms.

    v2.Compose([v2.RandomResizedCrop(256), v2.RandomHorizontalFlip(), wt.WallocEncode("rgb_16x")])

What follows ``WallocEncode`` reads ``Latents``: see ``latents.py`` for what torchvision's transforms do to them.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..codec import Codec, CodecConfig, Network, as_plain, check_sample_rate
from ..functional import (
    check_options,
    check_window,
    decode_image,
    decode_volume,
    decode_waveform,
    encode_image,
    encode_volume,
    encode_waveform,
)
from ..latents import Latents
from ..signals import pil_to_tensor
from ..zoo import CodecLike, load_codec

__all__ = ["WallocDecode", "WallocEncode"]

Targets = Literal["keep", "rescale"]

_TARGETS = (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints, tv_tensors.Mask)
_ARRAYS = {
    "image": "v2.ToImage() makes images of arrays (H, W, C), torch.from_numpy tensors of (C, H, W)",
    "audio": "torch.from_numpy makes tensors of arrays, which must be (C, T)",
    "volume": "torch.from_numpy makes tensors of arrays, which must be (C, T, H, W)",
}
_LEAST_FLOATS = 32  # sides of float arrays that are taken for signals: key points are (persons, 17, 3)
_WITH_ANGLE = (tv_tensors.BoundingBoxFormat.XYWHR, tv_tensors.BoundingBoxFormat.CXCYWHR)


class WallocEncode(v2.Transform):
    """Encode images, waveforms or volumes to latents, where ``v2.Resize`` stood.

    A sample may have any structure. An image codec encodes every PIL image, ``tv_tensors.Image`` and
    ``tv_tensors.Video`` in it. If there are none, it encodes the first pure tensor, as all v2 transforms do; other pure
    tensors are labels to it. An audio codec encodes the first pure tensor, and a codec of volumes every
    ``tv_tensors.Video``, or else the first pure tensor. Everything else comes back as the same object, but what could
    be meant as a signal is refused: a second pure tensor like the first, where no image is wrapped, and a numpy array
    of the form of a signal. PIL images of every mode with one meaning are converted to the codec's channels. The
    transform works in workers of any start method, and on batches on any device.

    A tensor does not tell in which order its colors are, nor whether a waveform has the codec's sample rate, nor
    whether dark values were scaled twice (floats divided by 255 again, or 12 bits in uint16): BGR, 48 kHz and the like
    are encoded as they are. Convert first, and name ``sample_rate``.

    Args:
        codec: A codec, the name of an embedded one, a folder, or a hub repository. A codec is copied, so that
            ``.to(device)`` does not move it.
        quantize: Round the latents to integers.
        normalize: Give every channel zero mean and unit variance, by the statistics kept with the codec, for networks
            that do not normalize their input themselves.
        dtype: Of the latents; ``torch.int8`` needs ``quantize=True``. Default: float32.
        targets: What happens to bounding boxes, key points and masks. ``"keep"`` leaves them in pixels. ``"rescale"``
            brings them to the grid: coordinates are divided by the codec's stride, in float, and a mask keeps the pixel
            in the middle of every cell.
        sample_rate: Of the waveforms in Hz, checked against the codec's. Default: not checked, and another rate is
            not noticed.
        window: Of volumes: the values that mean black and white, such as ``(-1350, 150)`` Hounsfield units; see
            ``functional.encode_volume``.

    Attributes:
        codec: The transform's own codec.

    Shapes:
        ``(..., C, H, W)`` to ``Latents`` ``(..., D, ceil(H / stride), ceil(W / stride))``; ``(..., C, T)`` to
        ``(..., D, ceil(T / stride))``, two frames more for published codecs; ``(..., C, T, H, W)``, or of a
        ``tv_tensors.Video`` ``(..., T, C, H, W)``, to ``(..., D, t, h, w)``, by the codec's ``strides``.

    Raises:
        ValueError: Unknown codec, another sample rate than the codec's, options that exclude each other, or
            ``normalize`` with a codec that came without statistics. On call: see ``functional.encode_image``; with
            ``targets="rescale"``, a target that is not of the size of an image in the sample.
        TypeError: On call: the sample holds nothing to encode, latents already, several pure tensors that may be
            signals, or such arrays.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> encode = wt.WallocEncode("rgb_16x", normalize=True)
        >>> latents, label = encode(torch.rand(3, 224, 224), 7)
        >>> tuple(latents.shape), latents.codec, latents.normalized, label
        ((12, 28, 28), 'rgb_16x', True, 7)
    """

    def __init__(
        self,
        codec: CodecLike,
        *,
        quantize: bool = False,
        normalize: bool = False,
        dtype: torch.dtype | None = None,
        targets: Targets = "keep",
        sample_rate: int | None = None,
        window: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_options(quantize, normalize, dtype)
        if targets not in get_args(Targets):
            raise ValueError(f"targets must be 'keep' or 'rescale', got {targets!r}")
        self.codec = copy.deepcopy(codec) if isinstance(codec, Codec) else load_codec(codec)
        check_sample_rate(self.codec.config, sample_rate)
        if targets == "rescale" and self.codec.config.modality != "image":
            raise ValueError(
                f"targets='rescale' is for codecs of images, got codec {self.codec.config.name!r}, which encodes "
                f"{self.codec.config.modality}"
            )
        self.window = None if window is None else check_window(window, self.codec.config)
        if normalize:
            self.codec.check_statistics()
        self.quantize, self.normalize, self.dtype, self.targets = quantize, normalize, dtype, targets
        kinds: tuple[Any, ...] = (F.is_pure_tensor,)
        if self.codec.config.modality == "volume":
            kinds += (tv_tensors.Video,)
        if self.codec.config.modality == "image":
            kinds += (tv_tensors.Image, tv_tensors.Video, Image.Image, *(_TARGETS if targets == "rescale" else ()))
        self._transformed_types = kinds

    def _needs_transform_list(self, flat_inputs: list[Any]) -> list[bool]:
        """Refuse samples without an image or waveform; torchvision would give them back as they are."""
        modality = self.codec.config.modality
        if modality == "image":
            needed = super()._needs_transform_list(flat_inputs)
            what = "a PIL image, a tensor (..., C, H, W) or a tv_tensors.Image"
        elif modality == "volume":
            videos = [isinstance(entry, tv_tensors.Video) for entry in flat_inputs]
            needed = videos if any(videos) else _first_pure_tensor(flat_inputs)
            what = "a tensor (..., C, T, H, W) or a tv_tensors.Video"
        else:  # also where there are images, which keep torchvision from transforming pure tensors
            needed, what = _first_pure_tensor(flat_inputs), "a tensor (..., C, T)"
        latents = next((entry for entry in flat_inputs if isinstance(entry, Latents)), None)
        if latents is not None:
            raise TypeError(f"the sample holds latents of codec {latents.codec!r} already: encode once")
        if not any(need and not isinstance(entry, _TARGETS) for entry, need in zip(flat_inputs, needed, strict=True)):
            hint = f"; {_ARRAYS[modality]}" if "ndarray" in _kinds(flat_inputs) else ""
            raise TypeError(f"the sample holds nothing to encode: expected {what}, got {_kinds(flat_inputs)}{hint}")
        self._check_others(flat_inputs, needed)
        return needed

    def _check_others(self, flat_inputs: list[Any], needed: list[bool]) -> None:
        """Refuse what is no label, and would come back unencoded or beside its image."""
        c = self.codec.config
        _refuse_several(flat_inputs, needed, c.dims, max(c.strides))
        array = next((a for a in flat_inputs if isinstance(a, np.ndarray) and _may_be_signal(a, c)), None)
        if array is not None:
            raise TypeError(
                f"the sample holds an array of shape {array.shape} and dtype {array.dtype}, which transforms leave as "
                f"it is: {_ARRAYS[c.modality]}"
            )
        chosen = [entry for entry, need in zip(flat_inputs, needed, strict=True) if need]
        sizes = [F.get_size(entry) for entry in chosen if not isinstance(entry, _TARGETS)] if len(chosen) > 1 else []
        for target in chosen:
            if isinstance(target, _TARGETS) and (size := F.get_size(target)) not in sizes:
                raise ValueError(
                    f"targets='rescale' needs targets of the size of their image: got {type(target).__name__} of "
                    f"{size[0]}x{size[1]} pixels and an image of {sizes[0][0]}x{sizes[0][1]}"
                )

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Encode one entry of a sample; called by torchvision."""
        c = self.codec.config
        if isinstance(inpt, _TARGETS):
            return _to_grid(inpt, c.strides[-2:])
        if isinstance(inpt, Image.Image):
            inpt = pil_to_tensor(inpt, c.signal_channels)
        if isinstance(inpt, tv_tensors.Video) and c.modality == "volume":
            inpt = as_plain(inpt).transpose(-4, -3)
        elif isinstance(inpt, tv_tensors.TVTensor):
            inpt = as_plain(inpt)
        device = self.codec.latent_mean.device
        if inpt.device != device:
            where = "in a DataLoader worker " if get_worker_info() is not None else ""
            raise ValueError(
                f"{where}the codec is on {device} and its input on {inpt.device}: move the transform with .to(device)"
            )
        options: dict[str, Any] = {"quantize": self.quantize, "normalize": self.normalize, "dtype": self.dtype}
        with torch.no_grad():
            if c.modality == "volume":
                return encode_volume(inpt, self.codec, window=self.window, **options)
            return (encode_image if c.modality == "image" else encode_waveform)(inpt, self.codec, **options)

    def extra_repr(self) -> str:
        """Show codec, channels, stride and the options in ``repr``."""
        return f"{_describe(self.codec)}, quantize={self.quantize}, normalize={self.normalize}, " + (
            f"dtype={self.dtype or torch.float32}, targets={self.targets!r}"
            + ("" if self.window is None else f", window={self.window}")
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class WallocDecode(v2.Transform):
    """Decode latents to float images or volumes in [0, 1], or waveforms in [-1, 1].

    A sample may have any structure. Every ``Latents`` in it is decoded; if there are none, the first pure tensor is.
    Everything else comes back as the same object.

    Args:
        codec: The codec that encoded the latents, of which a copy is made. ``Latents`` of another one are refused; a
            plain tensor, also a batch from ``default_collate``, is believed.
        decoder: Which of the codec's decoders: ``"linear"``, ``"refiner"``, or that of a published codec. Default: the
            codec's own, ``codec.config.decoder``.
        size: ``(H, W)``, ``(T, H, W)``, or ``T`` of a waveform, to cut off what encoding added. Default:
            ``signal_size`` of ``Latents``; of a plain tensor, whole cells.
        normalized: Whether the latents are normalized. ``Latents`` know it themselves.
        tile: Decode in tiles of this side in samples where the decoder is a network; see ``Codec.decode``.
        window: Of volumes: what black and white become, as for ``WallocEncode``. Default: 0 and 1.

    Attributes:
        codec: The transform's own codec.

    Shapes:
        ``(..., D, h, w)`` to ``(..., C, H, W)``, ``(..., D, t)`` to ``(..., C, T)``, and ``(..., D, t, h, w)`` to
        ``(..., C, T, H, W)``.

    Raises:
        ValueError: Unknown codec or decoder, a size or tile that does not fit the codec, or ``normalized`` with a codec
            that came without statistics. On call: see ``functional.decode_image``.
        TypeError: On call: the sample holds nothing to decode, or several pure tensors that may be latents.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.WallocEncode("rgb_16x")(torch.rand(3, 60, 90))
        >>> tuple(wt.WallocDecode("rgb_16x")(latents).shape)
        (3, 60, 90)
    """

    _transformed_types = (F.is_pure_tensor, Latents)

    def __init__(
        self,
        codec: CodecLike,
        *,
        decoder: Network | Literal["refiner"] | None = None,
        size: Sequence[int] | int | None = None,
        normalized: bool = False,
        tile: int | None = None,
        window: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.codec = copy.deepcopy(codec) if isinstance(codec, Codec) else load_codec(codec)
        config = self.codec.config
        self.decoder, self.size = config.check_decoder(decoder), config.check_size(size)
        config.check_tile(tile, decoder)
        self.window = None if window is None else check_window(window, config)
        if normalized:
            self.codec.check_statistics()
        self.normalized, self.tile = normalized, tile

    def _needs_transform_list(self, flat_inputs: list[Any]) -> list[bool]:
        """Decode all ``Latents``, or else the first pure tensor, also where there are images."""
        needed = [isinstance(entry, Latents) for entry in flat_inputs]
        needed = needed if any(needed) else _first_pure_tensor(flat_inputs)
        if not any(needed):
            raise TypeError(f"the sample holds nothing to decode: expected latents, got {_kinds(flat_inputs)}")
        _refuse_several(flat_inputs, needed, self.codec.config.dims, 1)
        return needed

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Decode one entry of a sample; called by torchvision."""
        options: dict[str, Any] = {"size": self.size, "normalized": self.normalized, "decoder": self.decoder}
        if self.codec.config.modality == "volume":
            return decode_volume(inpt, self.codec, window=self.window, **options)
        decode: Any = decode_image if self.codec.config.modality == "image" else decode_waveform
        return decode(inpt, self.codec, tile=self.tile, **options)

    def extra_repr(self) -> str:
        """Show codec, channels, stride and the options in ``repr``."""
        return f"{_describe(self.codec)}, decoder={self.decoder!r}, size={self.size}, normalized={self.normalized}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def _describe(codec: Codec) -> str:
    return f"{codec.config.name!r}, channels={codec.config.channels}, stride={codec.config.shown_stride}"


def _kinds(flat_inputs: list[Any]) -> str:
    return ", ".join(sorted({type(entry).__name__ for entry in flat_inputs})) or "an empty sample"


def _first_pure_tensor(flat_inputs: list[Any]) -> list[bool]:
    first = next((i for i, entry in enumerate(flat_inputs) if F.is_pure_tensor(entry)), None)
    return [i == first for i in range(len(flat_inputs))]


def _refuse_several(flat_inputs: list[Any], needed: list[bool], dims: int, least: int) -> None:
    """Refuse a pure tensor of the form of the one that was chosen, which would come back as it is."""
    chosen = next(entry for entry, need in zip(flat_inputs, needed, strict=True) if need)
    if not F.is_pure_tensor(chosen) or chosen.ndim <= dims:
        return
    for entry, need in zip(flat_inputs, needed, strict=True):
        if need or not F.is_pure_tensor(entry) or not (entry.is_floating_point() or entry.dtype == chosen.dtype):
            continue
        alike = entry.ndim == chosen.ndim and entry.shape[:-dims] == chosen.shape[:-dims]
        if alike and min(entry.shape[-dims:]) >= least:
            raise TypeError(
                f"the sample holds several tensors of one form, {tuple(chosen.shape)} and {tuple(entry.shape)}, of "
                "which transforms take the first: call the transform with each of them alone"
                + (", or wrap the images, and nothing else, in tv_tensors.Image" if least > 1 and dims == 2 else "")
            )


def _may_be_signal(array: np.ndarray, config: CodecConfig) -> bool:
    """Whether an array has the form of a signal, channels first or last."""
    sides, kind = array.shape[-config.dims - 1 :], array.dtype.kind
    stride = max(config.strides)
    least = max(stride, _LEAST_FLOATS) if kind == "f" else stride
    return (
        array.ndim > config.dims
        and kind in ("uf" if config.modality == "image" else "uif")
        and (kind == "f" or array.dtype.itemsize <= 4)  # int64 is what numpy makes of labels
        and any(
            sides[i] == config.signal_channels and min(rest) >= least for i, rest in ((0, sides[1:]), (-1, sides[:-1]))
        )
    )


def _to_grid(target: Any, strides: Sequence[int]) -> Any:
    """Bring a target from pixels to cells, of ``strides`` pixels along height and width."""
    wrap: Any = tv_tensors.wrap  # its decorator hides the signature from type checkers
    plain = target.as_subclass(Tensor)
    if isinstance(target, tv_tensors.Mask):
        middles = [
            torch.arange(stride // 2, n + stride // 2, stride, device=plain.device).clamp(max=n - 1)
            for n, stride in zip(plain.shape[-2:], strides, strict=True)
        ]
        return wrap(plain[..., middles[0], :][..., middles[1]], like=target)
    plain = plain if plain.is_floating_point() else plain.float()
    cells = tuple(-(-n // stride) for n, stride in zip(target.canvas_size, strides, strict=True))
    with_angle = isinstance(target, tv_tensors.BoundingBoxes) and target.format in _WITH_ANGLE
    if with_angle and strides[0] != strides[1]:
        raise ValueError(f"cells of {strides[0]}x{strides[1]} pixels make no box of a rotated one: keep targets")
    scale = torch.empty(plain.shape[-1:], dtype=plain.dtype, device=plain.device)  # x, y, x, y, ...
    scale[0::2], scale[1::2] = 1 / strides[1], 1 / strides[0]
    if with_angle:
        scale[-1] = 1
    return wrap(plain * scale, like=target, canvas_size=cells)

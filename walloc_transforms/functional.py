"""Encoding and decoding as plain functions on images, waveforms and volumes; `transforms/codec.py` wraps them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from .codec import Codec, CodecConfig, as_plain, check_sample_rate
from .files import latents_to_pil, pil_to_latents, rounding_steps, save_mosaic
from .latents import Latents, wrap_latents
from .signals import FLOATS, as_tensor
from .zoo import CodecLike, available_codecs, load_codec

__all__ = [
    "decode_image",
    "decode_volume",
    "decode_waveform",
    "encode_image",
    "encode_volume",
    "encode_waveform",
    "latents_to_pil",
    "pil_to_latents",
    "rounding_steps",
    "save_mosaic",
]


def encode_image(
    image: Tensor | Image.Image,
    codec: CodecLike,
    *,
    quantize: bool = False,
    normalize: bool = False,
    dtype: torch.dtype | None = None,
) -> Latents:
    """Encode images.

    Args:
        image: A PIL image, or ``(..., C, H, W)``: uint8 in [0, 255], uint16 in [0, 65535], or float in [0, 1]; any
            leading dimensions. Sides that are no multiple of the codec's stride are extended by reflection on the right
            and bottom.
        codec: A codec, or what ``load_codec`` takes; a folder or repository is read anew with every call.
        quantize: Round the latents to integers.
        normalize: Zero mean and unit variance per channel, by the statistics kept with the codec.
        dtype: Of the result; ``torch.int8`` needs ``quantize`` and forbids ``normalize``. Default: float32.

    Returns:
        ``Latents`` ``(..., D, ceil(H / stride), ceil(W / stride))``, within +-127.5 unless normalized; a plain tensor
        in compiled and exported programs.

    Raises:
        ValueError: Wrong shape, a side shorter than the stride, values out of range (on the CPU), an audio codec,
            options at odds, or ``normalize`` with a codec that came without statistics.
        TypeError: Neither a tensor nor a PIL image, or of another dtype.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 64, 96), "rgb_16x")
        >>> tuple(latents.shape)
        (12, 8, 12)
    """
    own = _load(codec, "image")
    return _encode(as_tensor(image, own.config.signal_channels), own, quantize, normalize, dtype)


def decode_image(
    latents: Tensor,
    codec: CodecLike,
    *,
    size: Sequence[int] | None = None,
    normalized: bool = False,
    decoder: str | None = None,
    tile: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Decode to images.

    Args:
        latents: ``(..., D, h, w)`` as :func:`encode_image` gives them, float, int8 or int16.
        codec: The codec that encoded them.
        size: ``(H, W)`` of the image, to cut off what encoding added. Default: ``signal_size`` of ``Latents``; of a
            plain tensor, whole cells.
        normalized: Whether the latents are normalized. ``Latents`` know it themselves.
        decoder: ``"refiner"``, for codecs that have one; see ``Codec.decode``. Default: the codec's own.
        tile: Decode in tiles of this side in pixels where the decoder is a network; see ``Codec.decode``.
        progress: Show the progress of a decoder that is a network.

    Returns:
        Float32 images ``(..., C, H, W)`` in [0, 1].

    Raises:
        ValueError: Wrong shape, ``Latents`` of another codec, a size that does not belong to the latents, an audio
            codec, no such decoder, or a tile that does not fit it.
        TypeError: Not a tensor, or neither float nor int8 nor int16.
        ImportError: The decoder is a network, and diffusers is not installed.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_image(torch.rand(3, 60, 90), "rgb_16x")
        >>> tuple(wt.functional.decode_image(latents, "rgb_16x").shape)
        (3, 60, 90)
    """
    own = _load(codec, "image")
    return _decode(latents, own, size, normalized, decoder=decoder, tile=tile, progress=progress)


def encode_waveform(
    waveform: Tensor,
    codec: CodecLike,
    *,
    quantize: bool = False,
    normalize: bool = False,
    dtype: torch.dtype | None = None,
    sample_rate: int | None = None,
) -> Latents:
    """Encode waveforms.

    Args:
        waveform: ``(..., C, T)``: float in [-1, 1], or integer PCM: uint8 (silence is 128), int16 or int32; any leading
            dimensions. A length that is no multiple of the codec's stride is extended by reflection at the end.
        codec: A codec, or what ``load_codec`` takes; a folder or repository is read anew with every call.
        quantize: Round the latents to integers.
        normalize: Zero mean and unit variance per channel, by the statistics kept with the codec.
        dtype: Of the result; ``torch.int8`` needs ``quantize`` and forbids ``normalize``. Default: float32.
        sample_rate: Of the waveform in Hz; checked against the codec's. Default: not checked.

    Returns:
        ``Latents`` ``(..., D, ceil(T / stride))``, two frames more for published codecs; within +-127.5 unless
        normalized. A plain tensor in compiled and exported programs.

    Raises:
        ValueError: Wrong shape, fewer samples than the stride, values out of range (on the CPU), another sample rate,
            an image codec, options at odds, or ``normalize`` with a codec that came without statistics.
        TypeError: Not a tensor, or of another dtype.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_waveform(torch.zeros(2, 44100), "stereo_5x", sample_rate=44100)
        >>> tuple(latents.shape)
        (108, 173)
    """
    own = _load(codec, "audio")
    check_sample_rate(own.config, sample_rate)
    return _encode(waveform, own, quantize, normalize, dtype)


def decode_waveform(
    latents: Tensor,
    codec: CodecLike,
    *,
    size: Sequence[int] | int | None = None,
    normalized: bool = False,
    decoder: str | None = None,
    tile: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Decode to waveforms.

    Args:
        latents: ``(..., D, t)`` as :func:`encode_waveform` gives them, float, int8 or int16.
        codec: The codec that encoded them.
        size: Number of samples, to cut off what encoding added. Default: ``signal_size`` of ``Latents``; of a plain
            tensor, whole frames.
        normalized: Whether the latents are normalized. ``Latents`` know it themselves.
        decoder: ``"refiner"``, for codecs that have one; see ``Codec.decode``. Default: the codec's own.
        tile: Decode in tiles of this length in samples where the decoder is a network; see ``Codec.decode``.
        progress: Show the progress of a decoder that is a network.

    Returns:
        Float32 waveforms ``(..., C, T)`` in [-1, 1].

    Raises:
        ValueError: Wrong shape, ``Latents`` of another codec, a size that does not belong to the latents, an image
            codec, no such decoder, or a tile that does not fit it.
        TypeError: Not a tensor, or neither float nor int8 nor int16.
        ImportError: The decoder is a network, and diffusers is not installed.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.functional.encode_waveform(torch.zeros(2, 44100), "stereo_5x")
        >>> tuple(wt.functional.decode_waveform(latents, "stereo_5x").shape)
        (2, 44100)
    """
    own = _load(codec, "audio")
    return _decode(latents, own, size, normalized, decoder=decoder, tile=tile, progress=progress)


def encode_volume(
    volume: Tensor,
    codec: CodecLike,
    *,
    window: Sequence[float] | None = None,
    quantize: bool = False,
    normalize: bool = False,
    dtype: torch.dtype | None = None,
) -> Latents:
    """Encode volumes, such as scans and video.

    Args:
        volume: ``(..., C, T, H, W)``: uint8 in [0, 255], uint16 in [0, 65535], or float in [0, 1]; of any dtype with a
            window. Of a ``tv_tensors.Video``, ``(..., T, C, H, W)``. Any leading dimensions. Sides that are no multiple
            of the codec's stride are extended by reflection at the end.
        codec: A codec of volumes, or what ``load_codec`` takes.
        window: The values that mean black and white. Values beyond them are clipped. For CT scans in Hounsfield units
            (-1000 for air, 0 for water), a usual window for the lung is ``(-1350, 150)``.
        quantize: Round the latents to integers.
        normalize: Zero mean and unit variance per channel, by the statistics kept with the codec.
        dtype: Of the result; ``torch.int8`` needs ``quantize`` and forbids ``normalize``. Default: float32.

    Returns:
        ``Latents`` ``(..., D, t, h, w)``, every side divided by its stride and rounded up; a plain tensor in compiled
        and exported programs.

    Raises:
        ValueError: Wrong shape, a side shorter than its stride, values out of range (on the CPU), a window that is
            empty, a codec of images or waveforms, options at odds, or ``normalize`` with a codec that came without
            statistics.
        TypeError: Not a tensor, or of another dtype.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> scans = [torch.rand(1, 16, 64, 64) for _ in range(2)]
        >>> codec = wt.fit_codec(scans, levels=(2, 3, 3), channels=16, progress=False)
        >>> hounsfield = torch.randint(-1000, 400, (1, 20, 64, 64), dtype=torch.int16)
        >>> tuple(wt.functional.encode_volume(hounsfield, codec, window=(-1350, 150)).shape)
        (16, 5, 8, 8)
    """
    own = _load(codec, "volume")
    if isinstance(volume, tv_tensors.Video):
        volume = as_plain(volume).transpose(-4, -3)
    if window is not None:
        volume = apply_window(as_tensor(volume), *check_window(window, own.config))
    return _encode(volume, own, quantize, normalize, dtype)


def decode_volume(
    latents: Tensor,
    codec: CodecLike,
    *,
    window: Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    normalized: bool = False,
    decoder: str | None = None,
) -> Tensor:
    """Decode to volumes.

    Args:
        latents: ``(..., D, t, h, w)`` as :func:`encode_volume` gives them, float, int8 or int16.
        codec: The codec that encoded them.
        window: As for :func:`encode_volume`: what black and white become. Default: 0 and 1.
        size: ``(T, H, W)`` of the volume, to cut off what encoding added. Default: ``signal_size`` of ``Latents``; of a
            plain tensor, whole cells.
        normalized: Whether the latents are normalized. ``Latents`` know it themselves.
        decoder: ``"linear"``, which is the default.

    Returns:
        Float32 volumes ``(..., C, T, H, W)`` in [0, 1], or between the ends of the window.

    Raises:
        ValueError: Wrong shape, ``Latents`` of another codec, a size that does not belong to the latents, a window that
            is empty, a codec of images or waveforms, or no such decoder.
        TypeError: Not a tensor, or neither float nor int8 nor int16.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> clips = [torch.rand(3, 16, 64, 64) for _ in range(3)]
        >>> codec = wt.fit_codec(clips, levels=(2, 3, 3), channels=24, progress=False)
        >>> latents = wt.functional.encode_volume(torch.rand(3, 10, 60, 90), codec)
        >>> tuple(wt.functional.decode_volume(latents, codec).shape)
        (3, 10, 60, 90)
    """
    own = _load(codec, "volume")
    volume = _decode(latents, own, size, normalized, decoder=decoder)
    if window is None:
        return volume
    low, high = check_window(window, own.config)
    return volume * (high - low) + low


def check_window(window: Sequence[float], config: CodecConfig) -> tuple[float, float]:
    """Return what means black and white.

    Raises:
        ValueError: They are not two numbers in order, or the codec is not for volumes.
    """
    if config.modality != "volume":
        raise ValueError(f"window is for codecs of volumes, got one for {config.name!r}, a codec of {config.modality}")
    if len(window) != 2 or not -math.inf < window[0] < window[1] < math.inf:
        raise ValueError(f"window must be two numbers, the lower one first, got {tuple(window)}")
    return float(window[0]), float(window[1])


def apply_window(volume: Tensor, low: float, high: float) -> Tensor:
    """Bring what lies in a window to [0, 1], and clip the rest."""
    return ((volume.to(torch.float32) - low) / (high - low)).clamp(0, 1)


def check_options(quantize: bool, normalize: bool, dtype: torch.dtype | None) -> None:
    """Refuse options that would lose what they promise.

    Raises:
        ValueError: ``dtype`` cannot hold the latents.
    """
    if dtype is None or dtype in FLOATS:
        return
    if dtype not in (torch.int8, torch.int16):
        raise ValueError(f"dtype must be a float type, torch.int8 or torch.int16, got {dtype}")
    if not quantize or normalize:
        raise ValueError(f"dtype={dtype} holds rounded latents only: set quantize=True and normalize=False")


def _encode(x: Tensor, codec: Codec, quantize: bool, normalize: bool, dtype: torch.dtype | None) -> Latents:
    check_options(quantize, normalize, dtype)
    if dtype is torch.int8 and codec.config.latent_bits > 8:
        raise ValueError(f"latents of {codec.config.latent_bits} bits do not fit torch.int8")
    latents = codec.encode(x, rounding="round" if quantize else "none")
    if normalize:
        latents = codec.normalize(latents)
    latents = latents if dtype is None else latents.to(dtype)
    return wrap_latents(latents, codec, x.shape[-codec.config.dims :], normalized=normalize)


def _decode(
    latents: Tensor, codec: Codec, size: Sequence[int] | int | None, normalized: bool, **options: Any
) -> Tensor:
    if size is None and isinstance(latents, Latents):
        size = latents.signal_size
    return codec.decode(latents, size=size, normalized=normalized, **options)


_embedded = lru_cache(load_codec)  # calls by name, one per image, do not read the weights again


def _load(codec: CodecLike, modality: str) -> Codec:
    if not isinstance(codec, Codec):
        codec = _embedded(codec) if codec in available_codecs() else load_codec(codec)
    if codec.config.modality != modality:
        article = "a" if modality == "volume" else "an"
        raise ValueError(f"expected {article} {modality} codec, got {codec.config.name!r} ({codec.config.modality})")
    return codec

"""Encoding and decoding as plain functions on tensors; :mod:`walloc_transforms.transforms` wraps them."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .codec import Codec, check_sample_rate
from .files import latents_to_pil, pil_to_latents, save_mosaic
from .signals import FLOATS, image_range, waveform_range
from .zoo import CodecLike, embedded_names, load_codec

__all__ = [
    "decode_image",
    "decode_waveform",
    "encode_image",
    "encode_waveform",
    "latents_to_pil",
    "pil_to_latents",
    "save_mosaic",
]


def encode_image(
    image: Tensor,
    codec: CodecLike,
    *,
    quantize: bool = False,
    normalize: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Encode images.

    Args:
        image: ``(..., C, H, W)``: uint8 in [0, 255], uint16 in [0, 65535], or float in [0, 1]; any leading dimensions.
            Sides that are no multiple of the codec's stride are extended by reflection on the right and bottom.
        codec: A codec, or what ``load_codec`` takes; a folder or repository is read anew with every call.
        quantize: Round the latents to integers.
        normalize: Zero mean and unit variance per channel, by the statistics kept with the codec.
        dtype: Of the result; ``torch.int8`` needs ``quantize`` and forbids ``normalize``. Default: float32.

    Returns:
        Latents ``(..., D, ceil(H / stride), ceil(W / stride))``, within +-127.5 unless normalized.

    Raises:
        ValueError: Wrong shape, a side shorter than the stride, NaN, an audio codec, options at odds, or ``normalize``
            with a codec that came without statistics.
        TypeError: Not a tensor, or of another dtype.
    """
    codec = _load(codec, "image")
    low_high = image_range(image)
    return _encode(image, codec, low_high, quantize, normalize, dtype)


def decode_image(
    latents: Tensor,
    codec: CodecLike,
    *,
    size: Sequence[int] | None = None,
    decoder: str | None = None,
    tile: int | None = None,
) -> Tensor:
    """Decode to images.

    Args:
        latents: ``(..., D, h, w)`` as :func:`encode_image` gives them without ``normalize``, float or int8.
        codec: The codec that encoded them.
        size: ``(H, W)`` of the image, to cut off what encoding added. Default: keep it.
        decoder: ``"refiner"``, for codecs that have one; see ``Codec.decode``. Default: the codec's own.
        tile: Decode in tiles of so many pixels where the decoder is a network; see ``Codec.decode``.

    Returns:
        Float32 images ``(..., C, H, W)`` in [0, 1].

    Raises:
        ValueError: Wrong shape, a size that does not belong to the latents, an audio codec, or no such decoder.
        TypeError: Not a tensor, or neither float nor int8.
        ImportError: The decoder is a network, and diffusers is not installed.
    """
    own = _load(codec, "image")
    return own.decode(latents, size, decoder=decoder, output_range=(0.0, 1.0), clamp=True, tile=tile)


def encode_waveform(
    waveform: Tensor,
    codec: CodecLike,
    *,
    quantize: bool = False,
    normalize: bool = False,
    dtype: torch.dtype | None = None,
    sample_rate: int | None = None,
) -> Tensor:
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
        Latents ``(..., D, ceil(T / stride))``, two more for published codecs; within +-127.5 unless normalized.

    Raises:
        ValueError: Wrong shape, fewer samples than the stride, NaN, another sample rate, an image codec, options at
            odds, or ``normalize`` with a codec that came without statistics.
        TypeError: Not a tensor, or of another dtype.
    """
    codec = _load(codec, "audio")
    check_sample_rate(codec.config, sample_rate)
    return _encode(waveform, codec, waveform_range(waveform), quantize, normalize, dtype)


def decode_waveform(
    latents: Tensor, codec: CodecLike, *, size: Sequence[int] | int | None = None, decoder: str | None = None
) -> Tensor:
    """Decode latents ``(..., D, t)`` to float32 waveforms ``(..., C, T)`` in [-1, 1], cut to ``size`` samples if given.

    ``decoder`` is that of ``Codec.decode``.

    Raises:
        ValueError: Wrong shape, a size that does not belong to the latents, an image codec, or no such decoder.
        TypeError: Not a tensor, or neither float nor int8.
        ImportError: The decoder is a network, and diffusers is not installed.
    """
    size = (size,) if isinstance(size, int) else size
    return _load(codec, "audio").decode(latents, size, decoder=decoder, output_range=(-1.0, 1.0), clamp=True)


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


def _encode(
    x: Tensor, codec: Codec, low_high: tuple[float, float], quantize: bool, normalize: bool, dtype: torch.dtype | None
) -> Tensor:
    check_options(quantize, normalize, dtype)
    if dtype is torch.int8 and codec.config.latent_bits > 8:
        raise ValueError(f"latents of {codec.config.latent_bits} bits do not fit torch.int8")
    latents = codec.encode(x, "round" if quantize else "none", input_range=low_high)
    if normalize:
        latents = codec.normalize(latents)
    return latents if dtype is None else latents.to(dtype)


_embedded = lru_cache(load_codec)  # calls by name, one per image, do not read the weights again


def _load(codec: CodecLike, modality: str) -> Codec:
    if not isinstance(codec, Codec):
        codec = _embedded(codec) if codec in embedded_names() else load_codec(codec)
    if codec.config.modality != modality:
        raise ValueError(f"expected an {modality} codec, got {codec.config.name!r} ({codec.config.modality})")
    return codec

"""The codec: wavelet packets, one learned linear projection, companding; and the way back.

    signal --analysis--> packets --projection--> z --compand--> latents (--round--> codes)
    signal <-synthesis-- packets <---decoder---- z <--expand--- latents

``Codec.encode`` takes the folded path of ``folded.py`` as long as the projection is frozen, which it is unless its
parameters are made to require gradients; then it takes the plain, trainable path.
"""

import dataclasses
import itertools
import math
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .companding import Quantize, compand, expand, quantize
from .config import CodecConfig
from .decoders import LinearDecoder
from .files import read_codec, write_codec
from .folded import FoldedAnalysis, FoldedSynthesis
from .packets import WaveletPacketAnalysis, WaveletPacketSynthesis, conv1x1, crop

__all__ = ["Codec", "CodecConfig"]

CODEC_RANGE = (-0.5, 0.5)

_INPUT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.uint16)


_KEYS = itertools.count()
_CODECS: "weakref.WeakValueDictionary[int, Codec]" = weakref.WeakValueDictionary()


class Codec(nn.Module):
    """Encoder and linear decoder of one codec, in float32 whatever surrounds it.

    All parameters are frozen at first, in ``train()`` mode as in ``eval()``; nothing here depends on the mode. A codec
    built from a config alone holds a random orthogonal projection: load weights, fit or train it.

    Args:
        config: The geometry.

    Attributes:
        weight: Projection ``(D, C * bands)``.
        bias: ``(D,)``.
        decoder: The linear decoder.
        latent_mean: Mean of every latent channel over the data the codec was fitted on, ``(D,)``.
        latent_std: Standard deviation, likewise.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        with torch.inference_mode(False):
            self.weight = nn.Parameter(torch.empty(config.channels, config.packets), requires_grad=False)
            # Its own generator: loading a codec must not move the random numbers of the program around it.
            nn.init.orthogonal_(self.weight, generator=torch.Generator().manual_seed(0))
            self.bias = nn.Parameter(torch.zeros(config.channels), requires_grad=False)
            self.analysis = WaveletPacketAnalysis(config.wavelet, config.levels, config.dims)
            self.synthesis = WaveletPacketSynthesis(config.wavelet, config.levels, config.dims)
            self.decoder = LinearDecoder(config.channels, config.packets)
            with torch.no_grad():
                self.decoder.weight.copy_(self.weight.T)
            self.register_buffer("latent_mean", torch.zeros(config.channels))
            self.register_buffer("latent_std", torch.ones(config.channels))
        self._register()
        self._fold()

    def _register(self) -> None:
        self._key = next(_KEYS)
        _CODECS[self._key] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._register()

    @torch.inference_mode(False)
    def _fold(self) -> None:
        c = self.config
        geometry: dict[str, Any] = {"wavelet": c.wavelet, "levels": c.levels, "dims": c.dims}
        decoder = self.decoder
        self._folded_analysis = FoldedAnalysis(self.weight, self.bias, **geometry).to(self.weight.device)
        self._folded_synthesis = FoldedSynthesis(decoder.weight, decoder.bias, **geometry).to(self.weight.device)
        self._folded_from = self._stamp()

    def _linear(self) -> tuple[Tensor, ...]:
        """What the folded kernels are made of, all parameters; ``self.parameters()`` takes longer than to encode."""
        return self.weight, self.bias, self.decoder.weight, self.decoder.bias

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """Change whenever a parameter is replaced or written to (inference tensors do not count writes)."""
        return tuple((id(p), -1 if p.is_inference() else p._version) for p in self._linear())

    def _use_folded(self) -> bool:
        return not any(p.requires_grad for p in self._linear()) and _refold(self._key)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Codec":
        """Follow the model to other devices, but stay in float32: bfloat16 flips a third of the rounded latents."""

        def keep_dtype(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    def encode(
        self, x: Tensor, quantize: Quantize = "none", *, input_range: tuple[float, float] = CODEC_RANGE
    ) -> Tensor:
        """Encode.

        Args:
            x: ``(..., C, H, W)`` or ``(..., C, T)``: any leading dimensions, also empty ones; any float dtype, uint8 or
                uint16. Sides that are no multiple of ``2**J`` are extended by reflection on the right.
            quantize: ``"none"``, ``"round"`` (integers), or ``"noise"`` (for training a codec).
            input_range: The two values of ``x`` that mean black and white (full negative and positive amplitude),
                such as ``(0, 255)``.

        Returns:
            Latents, float32, within +-127.5 for 8 bits: ``(..., D, ceil(H / 2**J), ceil(W / 2**J))`` or
            ``(..., D, ceil(T / 2**J))``.

        Raises:
            ValueError: Wrong shape, a side below ``2**J``, or NaN or infinite values (on the CPU and outside
                ``torch.compile``; elsewhere looking would stall the device, and NaN yields NaN latents).
            TypeError: Not a tensor, or of another dtype.
        """
        c = self.config
        batch = self._check_shape(x, c.signal_channels, "signal")
        if x.dtype not in _INPUT_DTYPES:
            raise TypeError(f"expected a float, uint8 or uint16 tensor, got {x.dtype}")
        if input_range[0] == input_range[1]:
            raise ValueError(f"input_range must name two different values, got {input_range}")
        scale = (CODEC_RANGE[1] - CODEC_RANGE[0]) / (input_range[1] - input_range[0])
        shift = CODEC_RANGE[0] - input_range[0] * scale
        with torch.autocast(x.device.type, enabled=False):
            x = x.reshape(math.prod(batch), *x.shape[-c.dims - 1 :])
            if x.dtype == torch.uint16:  # few operations know it
                x = x.to(torch.float32)
            if self._use_folded():
                latents = self._folded_analysis(x, scale, shift, self._compand)
            else:
                x = x.to(torch.float32) * scale + shift
                latents = self._compand(conv1x1(self.analysis(x), self.weight, self.bias))
            latents = _quantize(latents, quantize)
        return latents.reshape(*batch, *latents.shape[1:])

    def _compand(self, z: Tensor) -> Tensor:
        if z.device.type == "cpu" and not torch.compiler.is_compiling() and not _is_finite(z):
            raise ValueError("the signal holds NaN or infinite values: expected finite ones")
        return compand(z, self.config.latent_bits)

    def _expand(self, latents: Tensor) -> Tensor:
        return expand(latents.to(torch.float32), self.config.latent_bits)

    def decode(
        self,
        latents: Tensor,
        size: Sequence[int] | None = None,
        *,
        output_range: tuple[float, float] = CODEC_RANGE,
        clamp: bool = False,
    ) -> Tensor:
        """Decode latents, rounded or not, with the linear decoder.

        Args:
            latents: ``(..., D, h, w)`` or ``(..., D, t)`` as :meth:`encode` gives them, float or int8.
            size: ``(H, W)`` or ``(T,)`` of the signal, to cut off what encoding added. Default: keep it.
            output_range: The values that mean black and white.
            clamp: Limit the signal to ``output_range``, which decoding overshoots at edges.

        Returns:
            Float32 signal ``(..., C, H, W)`` or ``(..., C, T)``.

        Raises:
            ValueError: Wrong shape, or ``size`` does not belong to these latents.
            TypeError: Not a tensor, or neither float nor int8.
        """
        c = self.config
        batch = self._check_shape(latents, c.channels, "latents")
        if not latents.is_floating_point() and latents.dtype not in (torch.int8, torch.int16):
            raise TypeError(f"expected float, int8 or int16 latents, got {latents.dtype}")
        with torch.autocast(latents.device.type, enabled=False):
            z = latents.reshape(math.prod(batch), *latents.shape[-c.dims - 1 :])
            scale = (output_range[1] - output_range[0]) / (CODEC_RANGE[1] - CODEC_RANGE[0])
            shift = output_range[0] - CODEC_RANGE[0] * scale
            limits = (min(output_range), max(output_range)) if clamp else (-math.inf, math.inf)
            if self._use_folded():
                signal = self._folded_synthesis(z, scale, shift, self._expand, limits)
            else:
                signal = self.synthesis(self.decoder(self._expand(z)))
                signal = signal * scale + shift if output_range != CODEC_RANGE else signal
                signal = signal.clamp(*limits) if clamp else signal
            signal = crop(signal, size, c.stride, c.dims)
        return signal.reshape(*batch, *signal.shape[1:])

    def normalize(self, latents: Tensor) -> Tensor:
        """Bring every latent channel to zero mean and unit variance, by the statistics kept with the codec."""
        shape = (-1, *[1] * self.config.dims)
        return (latents - self.latent_mean.view(shape)) / self.latent_std.view(shape)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Undo :meth:`normalize`."""
        shape = (-1, *[1] * self.config.dims)
        return latents * self.latent_std.view(shape) + self.latent_mean.view(shape)

    def prefix(self, channels: int) -> "Codec":
        """Make a codec of the first ``channels`` latent channels: they are ordered by variance.

        Raises:
            ValueError: ``channels`` is not from 1 to the codec's own number.
        """
        if not 1 <= channels <= self.config.channels:
            raise ValueError(f"channels must be from 1 to {self.config.channels}, got {channels}")
        shorter = Codec(dataclasses.replace(self.config, channels=channels))
        state = self.state_dict()
        for name, value in state.items():
            if name == "decoder.weight":
                state[name] = value[:, :channels]
            elif name != "decoder.bias":
                state[name] = value[:channels]
        shorter.load_state_dict(state)
        return shorter.to(self.weight.device)

    def _check_shape(self, x: Tensor, channels: int, what: str) -> tuple[int, ...]:
        dims = self.config.dims
        form = f"(..., {channels}, H, W)" if dims == 2 else f"(..., {channels}, T)"
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor of shape {form}, got {type(x).__name__}")
        if x.ndim < dims + 1 or x.shape[-dims - 1] != channels:
            raise ValueError(f"codec {self.config.name!r} expects {what} of shape {form}, got {tuple(x.shape)}")
        if min(x.shape[-dims:]) == 0:
            raise ValueError(f"codec {self.config.name!r} got {what} without samples: shape {tuple(x.shape)}")
        return tuple(x.shape[: -dims - 1])

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``weights.safetensors`` to ``folder``, each atomically.

        The config carries the SHA-256 of the weights, so that :meth:`from_pretrained` notices damage.
        """
        write_codec(folder, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> "Codec":
        """Read a folder written by :meth:`save_pretrained`, believing nothing before it is checked.

        Raises:
            FileNotFoundError: The folder or one of its two files is missing.
            ValueError: A file is damaged, of another format or version, or the two do not belong together.
        """
        config, state = read_codec(folder)
        codec = cls(config)
        codec.load_state_dict(state)
        return codec

    def extra_repr(self) -> str:
        """Show name and geometry in ``repr``."""
        c = self.config
        return (f"{c.name!r}, {c.modality}, channels={c.channels}, stride={c.stride}, "
                f"reduction={c.dimensionality_reduction:g}")  # fmt: skip


def _refold(key: int) -> bool:
    """Bring the folded kernels of a codec up to date with its weights."""
    codec = _CODECS[key]
    if codec._folded_from != codec._stamp():
        codec._fold()
    return True


# A compiler runs such a function when it traces, instead of tracing it, if its arguments are of simple types: hence the
# key. This is what torch.compiler.assume_constant_result does, without its import of torch._dynamo, which takes a
# second.
vars(_refold)["_dynamo_marked_constant"] = True


def _is_finite(z: Tensor) -> bool:
    """Look at the sum first, which is much faster; finite values, too, may add up to infinity."""
    return bool(z.sum().isfinite()) or bool(z.isfinite().all())


_quantize = quantize  # the methods' argument of the same name hides it

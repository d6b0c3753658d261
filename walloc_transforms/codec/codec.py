"""The codec: wavelet packets, one learned linear projection, companding; and the way back.

    signal --analysis--> packets --projection--> z --compand--> latents (--round--> codes)
    signal <-synthesis-- packets <---decoder---- z <--expand--- latents

``Codec.encode`` takes the folded path of ``folded.py`` as long as the projection is frozen, which it is unless its
parameters are made to require gradients; then it takes the plain, trainable path. In published codecs a network may
stand in place of the projection or of the decoder; wavelets and companding are the same.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..signals import FLOATS
from ..wavelets import WaveletPacketAnalysis, WaveletPacketSynthesis, conv1x1, crop
from .companding import Quantize, clip, compand, expand, quantize
from .config import CodecConfig
from .decoders import LinearDecoder
from .networks import build_network
from .refiner import build_refiner, prefix_of
from .saving import Saving
from .streaming import StreamDecoder, StreamEncoder

__all__ = ["Codec", "CodecConfig"]

CODEC_RANGE = (-0.5, 0.5)

_INPUT_DTYPES = (*FLOATS, torch.uint8, torch.uint16, torch.int16, torch.int32)


class Codec(Saving):
    """Encoder and decoder of one codec, in float32 whatever surrounds it.

    All parameters are frozen at first, in ``train()`` mode as in ``eval()``; nothing here depends on the mode. A codec
    built from a config alone holds a random orthogonal projection: load weights, fit or train it.

    Args:
        config: The geometry.
        encoder: The encoder if it is a network. Default: one with random weights.

    Attributes:
        weight: Projection ``(D, C * bands)``; None if the encoder is a network.
        bias: ``(D,)``, likewise.
        encoder: The encoder network, from packets to projected latents; None if the encoder is linear.
        decoder: The decoder; None if it is a network that :meth:`load_decoder` has not read yet.
        refiner: A second decoder; None if there is none, or :meth:`load_refiner` has not read it yet.
        latent_mean: Mean of every latent channel over the data the codec was fitted on, ``(D,)``.
        latent_std: Standard deviation, likewise.

    Raises:
        ImportError: The encoder is a network, and diffusers is not installed.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: CodecConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config, encoder)
        with torch.inference_mode(False):
            self.analysis = WaveletPacketAnalysis(config.wavelet, config.levels, config.dims)
            self.synthesis = WaveletPacketSynthesis(config.wavelet, config.levels, config.dims)
            if config.encoder == "linear":
                weight = torch.empty(config.channels, config.packets)
                # Its own generator: loading a codec must not move the random numbers of the program around it.
                nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0))
                self.weight = nn.Parameter(weight, requires_grad=False)
                self.bias = nn.Parameter(torch.zeros(config.channels), requires_grad=False)
            else:
                self.register_parameter("weight", None)
                self.register_parameter("bias", None)
                self.encoder = encoder or build_network(config, "encoder")
            if config.decoder == "linear":
                self.decoder = LinearDecoder(config.channels, config.packets)
                if self.encoder is None:
                    with torch.no_grad():
                        self.decoder.weight.copy_(self.weight.T)
            self.register_buffer("latent_mean", torch.zeros(config.channels))
            self.register_buffer("latent_std", torch.ones(config.channels))
        self._register()

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
            x: ``(..., C, H, W)`` or ``(..., C, T)``: any leading dimensions, also empty ones; any float dtype, uint8,
                uint16, int16 or int32. Sides that are no multiple of ``2**J`` are extended by reflection on the right.
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
            raise TypeError(f"expected a float, uint8, uint16, int16 or int32 tensor, got {x.dtype}")
        if input_range[0] == input_range[1]:
            raise ValueError(f"input_range must name two different values, got {input_range}")
        scale = (CODEC_RANGE[1] - CODEC_RANGE[0]) / (input_range[1] - input_range[0])
        shift = CODEC_RANGE[0] - input_range[0] * scale
        with torch.autocast(x.device.type, enabled=False):
            x = x.reshape(math.prod(batch), *x.shape[-c.dims - 1 :])
            if x.dtype == torch.uint16:  # few operations know it
                x = x.to(torch.float32)
            finish = self._compand if c.stages == 1 else _as_it_is
            if self._folded_analysis is not None and self._use_folded():
                latents = self._folded_analysis(x, scale, shift, finish)
            else:
                latents = finish(self._project(self.analysis(x.to(torch.float32) * scale + shift)))
            if c.stages > 1:
                latents = self._encode_stages(latents, quantize)
            if c.pad and self.encoder is None:  # an Oobleck encoder adds its own
                edge = self._compand(self.bias.view(1, -1, 1)).expand(len(latents), -1, c.pad)
                latents = torch.cat([edge, latents, edge], 2)
            latents = _quantize(latents, quantize) if c.stages == 1 else latents
        return latents.reshape(*batch, *latents.shape[1:])

    def _compand(self, z: Tensor) -> Tensor:
        if z.device.type == "cpu" and not torch.compiler.is_compiling() and not _is_finite(z):
            raise ValueError("the signal holds NaN or infinite values: expected finite ones")
        return (compand if self.config.companding == "gaussian" else clip)(z, self.config.latent_bits)

    def expand(self, latents: Tensor) -> Tensor:
        """Undo the companding: what is left is linear in the signal."""
        latents = latents.to(torch.float32)
        return _expand(latents, self.config.latent_bits) if self.config.companding == "gaussian" else latents

    def _project(self, packets: Tensor) -> Tensor:
        if self.encoder is not None:
            if len(packets) == 0:  # which diffusers does not take
                sides = [side + 2 * self.config.pad for side in packets.shape[2:]]
                return packets.new_zeros(0, self.config.channels, *sides)
            return self.encoder(packets)
        return conv1x1(packets, self.weight, self.bias)

    def _encode_stages(self, z: Tensor, mode: Quantize) -> Tensor:
        """Take from the projections of a group what the groups before it have coded, as their decoder sees it."""
        seen = (self.weight @ self.decoder.weight)[..., None]
        latents: list[Tensor] = []
        for rows in torch.arange(self.config.channels).chunk(self.config.stages):
            first, last = int(rows[0]), int(rows[-1]) + 1
            group = z[:, first:last].flatten(2)
            if latents:
                group = group - F.conv1d(self.expand(torch.cat(latents, 1)), seen[first:last, :first])
            latents.append(_quantize(self._compand(group), mode))
        return torch.cat(latents, 1).view_as(z)

    def decode(
        self,
        latents: Tensor,
        size: Sequence[int] | None = None,
        *,
        decoder: str | None = None,
        output_range: tuple[float, float] = CODEC_RANGE,
        clamp: bool = False,
        tile: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Decode latents, rounded or not.

        Args:
            latents: ``(..., D, h, w)`` or ``(..., D, t)`` as :meth:`encode` gives them, float or int8.
            size: ``(H, W)`` or ``(T,)`` of the signal, to cut off what encoding added. Default: keep it.
            decoder: ``"refiner"``, for codecs that have one: slower than the linear decoder, and nearer to the signal.
                Default: the decoder that ``config.decoder`` names, which may be named here too.
            output_range: The values that mean black and white.
            clamp: Limit the signal to ``output_range``, which decoding overshoots at edges.
            tile: Decode in overlapping tiles of this side in samples, a multiple of the stride, where the decoder is a
                network: its time and memory grow faster than an image. The result differs a little at images, not at
                audio, which is always cut. A refiner's tiles, 256 latents by default, make no difference but for
                rounding. The linear decoder pays no attention to it: it needs no tiles.
            progress: Show the progress of a network, or of a refiner that works in tiles.

        Returns:
            Float32 signal ``(..., C, H, W)`` or ``(..., C, T)``.

        Raises:
            ValueError: Wrong shape, ``size`` does not belong to these latents, ``tile`` does not fit, or the codec has
                no such decoder.
            TypeError: Not a tensor, or neither float nor int8.
            ImportError: The decoder is a network, and diffusers is not installed.
        """
        c = self.config
        batch = self._check_shape(latents, c.channels, "latents")
        if latents.shape[-1] <= 2 * c.pad:
            raise ValueError(
                f"codec {c.name!r} pads its latents by {c.pad} at either end: expected at least "
                f"{2 * c.pad + 1} of them, got {latents.shape[-1]}"
            )
        if not latents.is_floating_point() and latents.dtype not in (torch.int8, torch.int16):
            raise TypeError(f"expected float, int8 or int16 latents, got {latents.dtype}")
        refiner = self.load_refiner() if c.check_decoder(decoder) == "refiner" else None
        own = self.load_decoder()
        if tile is not None and (tile < 1 or tile % c.stride):
            raise ValueError(f"tile must be a multiple of {c.stride} samples, the stride of the codec, got {tile}")
        with torch.autocast(latents.device.type, enabled=False):
            z = latents.reshape(math.prod(batch), *latents.shape[-c.dims - 1 :])
            scale = (output_range[1] - output_range[0]) / (CODEC_RANGE[1] - CODEC_RANGE[0])
            shift = output_range[0] - CODEC_RANGE[0] * scale
            limits = (min(output_range), max(output_range)) if clamp else (-math.inf, math.inf)
            if isinstance(own, LinearDecoder):
                z = z[..., c.pad : z.shape[-1] - c.pad]
            features = z  # without a refiner, nobody looks at them
            if refiner is not None:
                features = refiner(self.normalize(z.to(torch.float32)), tile and tile // c.stride, progress)
            if refiner is not None and not refiner.head.requires_grad and self._use_folded():
                signal = self._folded_refiner(torch.cat([self.expand(z), features], 1), scale, shift, limits=limits)
            elif refiner is None and self._folded_synthesis is not None and self._use_folded():
                signal = self._folded_synthesis(z, scale, shift, self.expand, limits)
            else:
                if isinstance(own, LinearDecoder):
                    packets = own(self.expand(z))
                    signal = self.synthesis(packets if refiner is None else packets + refiner.packets(features))
                else:
                    signal = self.synthesis(own(self.expand(z), tile and tile // c.stride, progress))
                    signal = signal if own.post is None else own.post(signal)
                signal = signal * scale + shift if output_range != CODEC_RANGE else signal
                signal = signal.clamp(*limits) if clamp else signal
            signal = crop(signal, size, c.stride, c.dims)
        return signal.reshape(*batch, *signal.shape[1:])

    def stream(self, quantize: Quantize = "none", *, input_range: tuple[float, float] = CODEC_RANGE) -> StreamEncoder:
        """Begin to encode a waveform chunk by chunk; the arguments are those of :meth:`encode`.

        Raises:
            ValueError: An image codec, or an argument out of range.
        """
        return StreamEncoder(self, quantize, input_range=input_range)

    def stream_decoder(
        self,
        *,
        decoder: str | None = None,
        output_range: tuple[float, float] = CODEC_RANGE,
        clamp: bool = False,
    ) -> StreamDecoder:
        """Begin to decode latents chunk by chunk; the arguments are those of :meth:`decode`.

        Raises:
            ValueError: An image codec, or it has no such decoder.
            ImportError: The decoder is a network, and diffusers is not installed.
        """
        return StreamDecoder(self, decoder=decoder, output_range=output_range, clamp=clamp)

    def normalize(self, latents: Tensor) -> Tensor:
        """Bring every latent channel to zero mean and unit variance, by the statistics kept with the codec.

        Raises:
            ValueError: The codec has none.
        """
        self.check_statistics()
        shape = (-1, *[1] * self.config.dims)
        return (latents - self.latent_mean.view(shape)) / self.latent_std.view(shape)

    def check_statistics(self) -> None:
        """Raise a ValueError if the codec came without statistics of its latents."""
        if not self.config.statistics:
            raise ValueError(
                f"codec {self.config.name!r} came without statistics of its latents, so they cannot be "
                "normalized: measure them with fit_statistics(codec, signals)"
            )

    def denormalize(self, latents: Tensor) -> Tensor:
        """Undo :meth:`normalize`."""
        self.check_statistics()
        shape = (-1, *[1] * self.config.dims)
        return latents * self.latent_std.view(shape) + self.latent_mean.view(shape)

    def prefix(self, channels: int) -> "Codec":
        """Make a codec of the first ``channels`` latent channels: ``fit_codec`` orders them by variance.

        Raises:
            ValueError: ``channels`` is not from 1 to the codec's own number or cuts a stage, or the encoder or decoder
                is a network, which needs them all.
        """
        c = self.config
        if not 1 <= channels <= c.channels:
            raise ValueError(f"channels must be from 1 to {c.channels}, got {channels}")
        if channels == c.channels:
            return self
        if (c.encoder, c.decoder) != ("linear", "linear"):
            raise ValueError(
                f"codec {c.name!r} has a network that needs all of its {c.channels} channels, got channels={channels}"
            )
        per_stage = c.channels // c.stages
        if c.stages > 1 and channels % per_stage:
            raise ValueError(f"channels must be a multiple of {per_stage}, the size of a stage, got {channels}")
        stages = channels // per_stage if c.stages > 1 else 1
        shorter = Codec(dataclasses.replace(c, channels=channels, stages=stages))
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("refiner.")}
        for name, value in state.items():
            if name == "decoder.weight":
                state[name] = value[:, :channels]
            elif name != "decoder.bias":
                state[name] = value[:channels]
        shorter.load_state_dict(state)
        if self.refiner is not None:
            shorter.set_refiner(build_refiner(shorter.config, prefix_of(self.refiner.state_dict(), channels)))
        elif "refiner" in self.sources:
            shorter.sources["refiner"] = _PrefixOf(self.sources["refiner"], channels)
        return shorter.to(self.latent_mean.device)

    def _check_shape(self, x: Tensor, channels: int, what: str) -> tuple[int, ...]:
        dims = self.config.dims
        form = f"(..., {channels}, H, W)" if dims == 2 else f"(..., {channels}, T)"
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor of shape {form}, got {type(x).__name__}")
        if x.ndim < dims + 1 or x.shape[-dims - 1] != channels:
            mono = dims == 1 and what == "signal" and x.ndim > 1 and x.shape[-2] == 1
            hint = f": repeat the one channel, with .repeat_interleave({channels}, -2)" if mono else ""
            raise ValueError(f"codec {self.config.name!r} expects {what} of shape {form}, got {tuple(x.shape)}{hint}")
        if min(x.shape[-dims:]) == 0:
            raise ValueError(f"codec {self.config.name!r} got {what} without samples: shape {tuple(x.shape)}")
        return tuple(x.shape[: -dims - 1])

    def extra_repr(self) -> str:
        """Show name and geometry in ``repr``."""
        c = self.config
        return (
            f"{c.name!r}, {c.modality}, channels={c.channels}, stride={c.stride}, "
            f"reduction={c.dimensionality_reduction:g}"
        )


@dataclasses.dataclass(frozen=True)
class _PrefixOf:
    """The tensors of a refiner, for the first so many channels."""

    whole: Callable[[], Mapping[str, Tensor]]
    channels: int

    def __call__(self) -> dict[str, Tensor]:
        return prefix_of(self.whole(), self.channels)


def _is_finite(z: Tensor) -> bool:
    """Look at the sum first, which is much faster; finite values, too, may add up to infinity."""
    return bool(z.sum().isfinite()) or bool(z.isfinite().all())


def _as_it_is(z: Tensor) -> Tensor:
    return z


# The methods' argument and the method of the same names hide these.
_quantize, _expand = quantize, expand

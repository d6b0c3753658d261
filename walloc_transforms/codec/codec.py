"""The codec: wavelet packets, one learned linear projection, companding; and the way back.

    signal --analysis--> packets --projection--> z --compand--> latents (--round--> integers)
    signal <-synthesis-- packets <---decoder---- z <--expand--- latents

``Codec.encode`` takes the folded path of ``wavelets/`` as long as the projection is frozen, which it is unless its
parameters are made to require gradients. Then it takes the plain path, level by level, which can be trained. In
published codecs a network may stand in place of the projection or of the decoder; wavelets and companding are the same.

Threads may share a codec, also while weights are loaded into it: a call encodes, or decodes linearly, with the old ones
or with the new ones.
"""

import contextlib
import dataclasses
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..signals import value_range
from ..wavelets import (
    Backend,
    Finish,
    FoldedAnalysis,
    FoldedSynthesis,
    FoldedVolumeAnalysis,
    FoldedVolumeSynthesis,
    WaveletPacketAnalysis,
    WaveletPacketSynthesis,
    check_backend,
    conv1x1,
    crop,
    in_full_precision,
    refuse_vmap,
)
from .companding import Rounding, clip, compand, compand_curve, expand, round_latents
from .config import CodecConfig
from .decoders import LinearDecoder, NetworkDecoder
from .folder import check_state, read_codec, write_codec
from .folding import LOCK, FoldedPath, stamp_of
from .networks import build_decoder, build_network
from .origin import check_latents
from .ranges import OutOfRange, all_finite, can_look_at, check_of, check_pixels, check_values, range_error
from .refiner import Refiner, build_refiner, refiner_state
from .state import PrefixOfRefiner, fingerprint, prefix_config, prefix_state

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing since Python 3.11

__all__ = ["Codec"]

_RANGE = (-0.5, 0.5)  # of the codec itself: what black and white, or full negative and positive amplitude, become
_OUTPUT = {"image": (0.0, 1.0), "audio": (-1.0, 1.0), "volume": (0.0, 1.0)}
_FORMS = {"image": "H, W", "audio": "T", "volume": "T, H, W"}


class Codec(nn.Module):
    """Encoder and decoder of one codec, in float32 whatever surrounds it.

    All parameters are frozen at first, in ``train()`` mode as in ``eval()``; nothing here depends on the mode. A codec
    built from a config alone holds a random orthogonal projection: load weights, fit or train it.

    What is computed from the weights follows them when they are loaded, replaced, trained, or written to under
    ``torch.no_grad()``. Writes in place through ``.data``, as in ``codec.weight.data.mul_(2)``, cannot be seen.

    Args:
        config: The geometry.
        encoder: The encoder if it is a network. Default: one with random weights.

    Attributes:
        weight: Projection ``(D, packets)``; None if the encoder is a network.
        bias: ``(D,)``; None if the encoder is a network.
        encoder: The encoder network, from packets to projected latents; None if the encoder is linear.
        decoder: The decoder; None if it is a network that :meth:`load_decoder` has not read yet.
        refiner: A second decoder; None if there is none, or :meth:`load_refiner` has not read it yet.
        latent_mean: Mean of every latent channel over the data the codec was fitted on, ``(D,)``.
        latent_std: Standard deviation of every latent channel, ``(D,)``.
        sources: Called for the tensors of ``"decoder"``, a network, or of ``"refiner"`` when they are first needed.
        backend: What the folded path runs on: ``"auto"``, ``"convolutions"`` or ``"lifting"``, which is an error where
            it cannot work; see ``FoldedAnalysis``. It may be changed at any time.

    Raises:
        ImportError: The encoder is a network, and diffusers is not installed.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> codec = wt.load_codec("rgb_16x", channels=6)
        >>> codec  # doctest: +NORMALIZE_WHITESPACE
        Codec('rgb_16x', image, signal_channels=3, channels=6, stride=8, reduction=32, wavelet='bior4.4',
              decoder='linear', refiner=True)
        >>> latents = codec.encode(torch.zeros(3, 256, 256, dtype=torch.uint8))
        >>> latents.shape
        torch.Size([6, 32, 32])
        >>> codec.decode(latents).shape
        torch.Size([3, 256, 256])
    """

    weight: nn.Parameter
    bias: nn.Parameter
    encoder: nn.Module | None
    decoder: Any  # a LinearDecoder, a NetworkDecoder, or None before a network is read
    refiner: Refiner | None
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: CodecConfig, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.sources: dict[str, Callable[[], Mapping[str, Tensor]]] = {}
        self._backend: Backend = "auto"
        for name in ("encoder", "decoder", "refiner"):  # a name that comes later would disturb who lists the modules
            self.register_module(name, None)
        with torch.inference_mode(False):
            self.analysis = WaveletPacketAnalysis(config.wavelet, config.levels, config.dims)
            self.synthesis = WaveletPacketSynthesis(config.wavelet, config.levels, config.dims)
            if config.encoder == "linear":
                weight = torch.empty(config.channels, config.packets, dtype=torch.float32)
                # Its own generator: loading a codec must not move the random numbers of the program around it.
                nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0))
                self.weight = nn.Parameter(weight, requires_grad=False)
                self.bias = nn.Parameter(torch.zeros(config.channels, dtype=torch.float32), requires_grad=False)
            else:
                self.register_parameter("weight", None)
                self.register_parameter("bias", None)
                self.encoder = encoder or build_network(config, "encoder")
            if config.decoder == "linear":
                self.decoder = LinearDecoder(config.channels, config.packets)
                if self.encoder is None:
                    with torch.no_grad():
                        self.decoder.weight.copy_(self.weight.T)
            self.register_buffer("latent_mean", torch.zeros(config.channels, dtype=torch.float32))
            self.register_buffer("latent_std", torch.ones(config.channels, dtype=torch.float32))
        self._analysis_path = FoldedPath(self._encoder_parts, self._fold_analysis)
        self._synthesis_path = FoldedPath(self._decoder_parts, self._fold_synthesis)
        self._refined_path = FoldedPath(self._refiner_parts, self._fold_refined)
        self._fingerprint: tuple[Any, str] = (None, "")
        self.register_load_state_dict_post_hook(_refresh)

    @property
    def backend(self) -> Backend:
        """What the folded path runs on."""
        return self._backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        check_backend(backend, self.config.wavelet)
        self._backend = backend
        for path in (self._analysis_path, self._synthesis_path, self._refined_path):
            path.refresh()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Codec":
        """Follow the model to other devices, but stay in float32: bfloat16 flips a third of the rounded latents."""

        def keep_dtype(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as ``nn.Module`` does: all at once for the threads that share the codec."""
        with LOCK:
            return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with LOCK:  # of the encoder at once, where a larger model is loaded
            super()._load_from_state_dict(*args, **kwargs)

    def encode(self, x: Tensor, *, rounding: Rounding = "none") -> Tensor:
        """Encode.

        Args:
            x: Images ``(..., C, H, W)`` or volumes ``(..., C, T, H, W)``: float in [0, 1], uint8 or uint16 in their
                full range; or waveforms ``(..., C, T)``: float in [-1, 1], or integer PCM as uint8, int16 or int32. Any
                leading dimensions, also empty ones. Sides that are no multiple of ``2**J`` are extended by reflection
                on the right, the bottom and the end.
            rounding: ``"none"``, ``"round"`` (to integers), or ``"noise"`` (for training a codec).

        Returns:
            Latents, float32, within +-127.5 for 8 bits: ``(..., D, ceil(H / 2**J), ceil(W / 2**J))``, for volumes with
            the first axis likewise, or ``(..., D, ceil(T / 2**J) + 2 * pad)``.

        Raises:
            ValueError: Wrong shape, a side below ``2**J``, NaN or infinite values, or floats that no image or waveform
                in range gives, such as 0..255 or normalized pixels. Values are looked at on the CPU and outside
                ``torch.compile``; elsewhere looking would stall the device, and NaN gives NaN latents.
            TypeError: Not a tensor, or of another dtype.
        """
        c = self.config
        batch = self._check_shape(x, c.signal_channels, "signals")
        low, high = value_range(x, c.modality)
        scale = (_RANGE[1] - _RANGE[0]) / (high - low)
        shift = _RANGE[0] - low * scale
        with in_full_precision(x):
            x = x.reshape(math.prod(batch), *x.shape[-c.dims - 1 :])
            try:
                latents = self._encode(x, scale, shift, rounding)
            except OutOfRange:
                raise range_error(x, c.modality, f"codec {c.name!r}") from None
        return latents.reshape(*batch, *latents.shape[1:])

    def _encode(self, x: Tensor, scale: float, shift: float, rounding: Rounding) -> Tensor:
        looks = can_look_at(x)
        x = x.to(torch.float32) if x.dtype == torch.uint16 else x  # few operations know uint16
        path = None if self._trains(self._encoder_parts()) else self._analysis_path.current()
        if path is not None:
            if looks and self.config.modality != "audio":
                check_pixels(x)
            fused = self.config.stages == 1 and self.config.companding == "gaussian"
            curve = compand_curve(self.config.latent_bits) if fused else (0.0, 0.0)
            z = path(x, scale, shift, Finish(*curve, check_of(path, self.config) if looks else None))
        else:
            if looks:
                check_values(x, self.config.modality, f"codec {self.config.name!r}")
            z = self._project(self.analysis(x.to(torch.float32) * scale + shift))
            fused = False
        if self.config.stages == 1:
            latents = round_latents(z if fused else self.compand(z), rounding)
        else:
            latents = self._encode_stages(z, self._seen() if path is None else path.seen, rounding)
        if self.config.pad and self.encoder is None:  # an Oobleck encoder adds its own
            bias = self.bias if path is None else path.bias
            edge = self.compand(bias.view(1, -1, 1)).expand(len(latents), -1, self.config.pad)
            edge = round_latents(edge, rounding)
            latents = torch.cat([edge, latents, edge], 2)
        return latents

    def expand(self, latents: Tensor) -> Tensor:
        """Undo the companding of latents that are not normalized: what is left is linear in the signal.

        Raises:
            ValueError: ``wt.Latents`` of another codec, or normalized ones.
        """
        latents = self._not_normalized(latents)
        latents = latents if latents.dtype == torch.int8 else latents.to(torch.float32)
        return expand(latents, self.config.latent_bits) if self.config.companding == "gaussian" else latents.float()

    def compand(self, z: Tensor) -> Tensor:
        """Squeeze projected signals into the range of latents: what :meth:`expand` undoes."""
        return (compand if self.config.companding == "gaussian" else clip)(z, self.config.latent_bits)

    def _project(self, packets: Tensor) -> Tensor:
        if self.encoder is None:
            return conv1x1(packets, self.weight, self.bias)
        if len(packets) == 0:  # which diffusers does not take
            sides = [side + 2 * self.config.pad for side in packets.shape[2:]]
            return packets.new_zeros(0, self.config.channels, *sides)
        return self.encoder(packets)

    def _seen(self) -> Tensor:
        """Multiply encoder and decoder: what the projection sees of what is decoded."""
        return (self.weight @ self.decoder.weight)[..., None]

    def _encode_stages(self, z: Tensor, seen: Tensor, rounding: Rounding) -> Tensor:
        """Take from the projections of a group what the groups before it have coded, as their decoder sees it."""
        latents: list[Tensor] = []
        step = self.config.channels // self.config.stages
        for first in range(0, self.config.channels, step):
            last = first + step
            group = z[:, first:last].flatten(2)
            if latents:
                group = group - F.conv1d(self.expand(torch.cat(latents, 1)), seen[first:last, :first])
            latents.append(round_latents(self.compand(group), rounding))
        return torch.cat(latents, 1).view_as(z)

    def decode(
        self,
        latents: Tensor,
        *,
        size: Sequence[int] | int | None = None,
        normalized: bool = False,
        decoder: str | None = None,
        clamp: bool = True,
        tile: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Decode latents, rounded or not.

        Args:
            latents: ``(..., D, h, w)``, ``(..., D, t)`` or ``(..., D, t, h, w)`` as :meth:`encode` gives them: float,
                int8 or int16.
            size: ``(H, W)``, ``(T, H, W)``, or T of a waveform, to cut off what encoding added. Default: keep it.
            normalized: Whether the latents went through :meth:`normalize`, which is undone then. ``wt.Latents`` know it
                themselves.
            decoder: ``"refiner"``, for codecs that have one: slower than the linear decoder, and nearer to the signal.
                Default: the decoder that ``config.decoder`` names, which may be named here too.
            clamp: Limit the signal to its range, which decoding overshoots at edges. Clamping stops gradients there.
            tile: Decode in overlapping tiles of this side in samples, a multiple of the stride, where the decoder is a
                network: its time and memory grow faster than an image. The result differs a little at images, not at
                audio, which is always cut. A refiner's tiles, 256 cells by default, change no more than rounding does.
            progress: Show the progress of a network, or of a refiner that works in tiles.

        Returns:
            Float32 images ``(..., C, H, W)`` or volumes ``(..., C, T, H, W)`` in [0, 1], or waveforms ``(..., C, T)``
            in [-1, 1].

        Raises:
            ValueError: Wrong shape, ``wt.Latents`` of another codec, ``size`` does not belong to these latents,
                ``tile`` does not fit, the codec has no such decoder, ``normalized`` with a codec that came without
                statistics, or NaN or infinite values (on the CPU and outside ``torch.compile``).
            TypeError: Not a tensor, or neither float nor int8 nor int16.
            ImportError: The decoder is a network, and diffusers is not installed.
        """
        c = self.config
        latents, normalized, known = check_latents(latents, self, normalized)
        batch = self._check_shape(latents, c.channels, "latents")
        if latents.shape[-1] <= 2 * c.pad:
            raise ValueError(
                f"codec {c.name!r} pads its latents by {c.pad} at either end: expected at least "
                f"{2 * c.pad + 1} of them, got {latents.shape[-1]}"
            )
        if not latents.is_floating_point() and latents.dtype not in (torch.int8, torch.int16):
            raise TypeError(f"expected float, int8 or int16 latents, got {latents.dtype}")
        if can_look_at(latents) and not all_finite(latents):
            raise ValueError("the latents hold NaN or infinite values: expected finite ones")
        sides, kind = c.check_size(size), c.check_decoder(decoder)
        if known is not None and sides is not None and any(map(operator.gt, sides, known)):
            raise ValueError(f"size {sides} is beyond the signal of these latents, which was of size {known}")
        c.check_tile(tile, decoder)
        low, high = _OUTPUT[c.modality]
        scale = (high - low) / (_RANGE[1] - _RANGE[0])
        shift = low - _RANGE[0] * scale
        limits = (low, high) if clamp else (-math.inf, math.inf)
        cells = None if tile is None else tile // c.stride
        with in_full_precision(latents):
            z = latents.reshape(math.prod(batch), *latents.shape[-c.dims - 1 :])
            if normalized:
                z = self.denormalize(z.to(torch.float32))
            if c.decoder == "linear":  # a network drops the padding itself
                z = z[..., c.pad : z.shape[-1] - c.pad]
            if kind == "refiner":
                signal = self._decode_refined(z, scale, shift, limits, cells, progress)
            elif kind == "linear":
                signal = self._decode_linear(z, scale, shift, limits)
            else:
                signal = self._decode_network(z, cells, progress) * scale + shift
                signal = signal.clamp(*limits) if clamp else signal
            signal = crop(signal, sides, c.strides)
        return signal.reshape(*batch, *signal.shape[1:])

    def _decode_linear(self, z: Tensor, scale: float, shift: float, limits: tuple[float, float]) -> Tensor:
        path = None if self._trains(self._decoder_parts()) else self._synthesis_path.current()
        if path is not None:
            return path(z, scale, shift, self.expand, limits)
        return _limit(self.synthesis(self.decoder(self.expand(z))) * scale + shift, limits)

    def _decode_refined(
        self, z: Tensor, scale: float, shift: float, limits: tuple[float, float], tile: int | None, progress: bool
    ) -> Tensor:
        refiner = self.load_refiner()
        mean, std = refiner.latent_mean, refiner.latent_std
        mean, std = (self.latent_mean, self.latent_std) if mean is None or std is None else (mean, std)
        features = refiner(self._standardize(z.to(torch.float32), mean, std), tile, progress)
        trained = self._trains(self._decoder_parts()) or refiner.head.requires_grad
        path = None if trained else self._refined_path.current()
        if path is not None:
            return path(torch.cat([self.expand(z), features], 1), scale, shift, limits=limits)
        packets = self.decoder(self.expand(z)) + refiner.packets(features)
        return _limit(self.synthesis(packets) * scale + shift, limits)

    def _decode_network(self, z: Tensor, tile: int | None, progress: bool) -> Tensor:
        decoder = self.load_decoder()
        assert isinstance(decoder, NetworkDecoder)
        signal = self.synthesis(decoder(self.expand(z), tile, progress))
        return signal if decoder.post is None else decoder.post(signal)

    def normalize(self, latents: Tensor) -> Tensor:
        """Bring every latent channel to zero mean and unit variance, by the statistics kept with the codec.

        Raises:
            ValueError: The codec has none; ``wt.Latents`` of another codec, or normalized ones.
        """
        self.check_statistics()
        return self._standardize(self._not_normalized(latents), self.latent_mean, self.latent_std)

    def _standardize(self, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        shape = (-1, *[1] * self.config.dims)
        return (latents - mean.view(shape)) / std.view(shape)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Undo :meth:`normalize`.

        Raises:
            ValueError: As there; ``wt.Latents`` that are not normalized, or were by other statistics.
        """
        self.check_statistics()
        latents, shape = check_latents(latents, self, True).tensor, (-1, *[1] * self.config.dims)
        return latents * self.latent_std.view(shape) + self.latent_mean.view(shape)

    def _not_normalized(self, latents: Tensor) -> Tensor:
        latents, normalized, _ = check_latents(latents, self)
        if normalized:
            raise ValueError(f"these latents of codec {self.config.name!r} are normalized: expected others")
        return latents

    def check_statistics(self) -> None:
        """Raise a ValueError if the codec came without statistics of its latents."""
        if not self.config.statistics:
            raise ValueError(
                f"codec {self.config.name!r} came without statistics of its latents, so they cannot be "
                "normalized: measure them with fit_statistics(codec, signals)"
            )

    def prefix(self, channels: int) -> "Codec":
        """Return a codec of the first ``channels`` latent channels: ``fit_codec`` orders them by variance.

        With fewer channels it is a new codec, with tensors of its own; with all of them it is this one.

        Raises:
            ValueError: ``channels`` is not from 1 to the codec's own number or cuts a stage, or the encoder or decoder
                is a network, which needs them all.
        """
        if channels == self.config.channels:
            return self
        with torch.device("cpu"):  # the default may hold no values
            shorter = Codec(prefix_config(self.config, channels))
        with LOCK:
            shorter.load_state_dict(prefix_state(self.state_dict(), channels))
        shorter.backend = self.backend
        source = self.sources.get("refiner")
        if self.refiner is not None:
            source = PrefixOfRefiner(self.refiner.state_dict, channels)
            shorter.set_refiner(build_refiner(shorter.config, source()))
        elif source is not None:
            shorter.sources["refiner"] = PrefixOfRefiner(source, channels)
        return shorter.to(self.latent_mean.device)

    def fingerprint(self) -> str:
        """Hash what determines latents: SHA-256 of the encoder's geometry and weights, in hexadecimal.

        The hash is kept until a weight changes.
        """
        network = self.encoder
        parts = self._encoder_parts() if network is None else [*network.parameters(), *network.buffers()]
        stamp = (stamp_of(parts), self.config.channels)
        known = self._fingerprint
        if known[0] != stamp or any(part.is_inference() for part in parts):
            names = ("weight", "bias", "encoder.", *(["decoder."] if self.config.stages > 1 else []))
            with LOCK:
                tensors = {name: value for name, value in self.state_dict().items() if name.startswith(names)}
                known = self._fingerprint = (stamp, fingerprint(self.config, tensors))
        return known[1]

    def load_decoder(self) -> LinearDecoder | NetworkDecoder:
        """Return the decoder; a network is read from its file when it is first needed, and belongs to the codec then.

        Raises:
            ImportError: The decoder is a network, and diffusers is not installed.
            ValueError: The file is damaged, or a tensor in it does not fit the config.
        """
        if self.decoder is None:
            with LOCK, torch.inference_mode(False):
                if self.decoder is None:  # nor did another thread read it in the meantime
                    state = self.sources["decoder"]() if "decoder" in self.sources else None
                    self.decoder = build_decoder(self.config, state).to(self.latent_mean.device)
        return self.decoder

    def load_refiner(self) -> Refiner:
        """Return the refiner, which is read from its file when it is first needed, and belongs to the codec then.

        Raises:
            ValueError: The codec has none, its file is damaged, or a tensor in it does not fit the config.
        """
        if self.refiner is None:
            if not self.config.refiner_width:
                raise ValueError(f"codec {self.config.name!r} has no refiner")
            with LOCK, torch.inference_mode(False):
                if self.refiner is None:  # nor did another thread read it in the meantime
                    state = self.sources["refiner"]() if "refiner" in self.sources else None
                    self.refiner = build_refiner(self.config, state).to(self.latent_mean.device)
        return self.refiner

    def set_refiner(self, refiner: Refiner) -> None:
        """Give the codec a refiner, trained on its latents, which is frozen with this; an older one is replaced.

        Raises:
            ValueError: The refiner is for other latents or packets, or the codec cannot have one.
        """
        c = self.config
        config = dataclasses.replace(c, refiner_width=refiner.width, refiner_blocks=len(refiner.blocks))
        if (refiner.stem.in_channels, len(refiner.head), refiner.dims) != (c.channels, c.packets, c.dims):
            raise ValueError(
                f"expected a refiner from {c.channels} channels to {c.packets} packets in {c.dims}-D, got "
                f"{refiner.stem.in_channels} to {len(refiner.head)} in {refiner.dims}-D"
            )
        self.config = config
        self.refiner = refiner.requires_grad_(False).to(self.latent_mean.device, torch.float32)
        self.sources.pop("refiner", None)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the files of the codec to ``folder``, each atomically: see ``folder.py``.

        The config carries the SHA-256 of the weights, so that :meth:`from_pretrained` notices damage.
        """
        state, network, refiner = self.state_dict(), None, None
        if self.config.decoder != "linear":
            unread = self.decoder is None and "decoder" in self.sources
            network = self.sources["decoder"]() if unread else self.load_decoder().state_dict()
            state = {name: value for name, value in state.items() if not name.startswith("decoder.")}
        if self.config.refiner_width:
            refiner = refiner_state(self.load_refiner())
            state = {name: value for name, value in state.items() if not name.startswith("refiner.")}
        write_codec(folder, self.config, state, network, refiner)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> "Self":
        """Read a folder written by :meth:`save_pretrained`, believing nothing before it is checked.

        A decoder that is a network, and a refiner, are not read before they are needed.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: A file is damaged, of another format or version, or they do not belong together.
            ImportError: The encoder is a network, and diffusers is not installed.
        """
        config, state, files = read_codec(folder)
        return cls.from_tensors(config, state, files, os.fspath(folder))

    @classmethod
    def from_tensors(
        cls,
        config: CodecConfig,
        state: Mapping[str, Tensor],
        sources: Mapping[str, Callable[[], Mapping[str, Tensor]]],
        what: str,
    ) -> "Self":
        """Build a codec of tensors that fit its config.

        Args:
            config: The geometry.
            state: The tensors by name, but for a decoder network and a refiner.
            sources: Called for the tensors of ``"decoder"`` and ``"refiner"`` when these are needed.
            what: Where the tensors come from, for messages.

        Raises:
            ValueError: A tensor does not fit.
            ImportError: The encoder is a network, and diffusers is not installed.
        """
        check_state(state, config, what)
        meta = torch.get_default_device().type == "meta"
        with torch.device("cpu") if meta else contextlib.nullcontext():  # a meta tensor would lose the values
            if config.encoder == "linear":
                codec = cls(config)
            else:
                own = {name.removeprefix("encoder."): v for name, v in state.items() if name.startswith("encoder.")}
                codec = cls(config, build_network(config, "encoder", own, what))
        codec.load_state_dict(dict(state))
        codec.sources = dict(sources)
        return codec

    def _encoder_parts(self) -> list[Tensor]:
        decoder = self._decoder_parts() if self.config.stages > 1 else []  # which stages see
        return [] if self.encoder is not None else [self.weight, self.bias, *decoder]

    def _decoder_parts(self) -> list[Tensor]:
        return [self.decoder.weight, self.decoder.bias] if isinstance(self.decoder, LinearDecoder) else []

    def _refiner_parts(self) -> list[Tensor]:
        return [] if self.refiner is None else [*self._decoder_parts(), self.refiner.head, self.refiner.scale]

    def _geometry(self) -> dict[str, Any]:
        c = self.config
        return {"wavelet": c.wavelet, "levels": c.axis_levels, "backend": self.backend}

    def _fold_analysis(self) -> nn.Module | None:
        if self.encoder is not None:
            return None
        fold = FoldedVolumeAnalysis if self.config.dims == 3 else FoldedAnalysis
        folded = fold(self.weight, self.bias, **self._geometry()).to(self.weight.device)
        if self.config.stages > 1:
            folded.register_buffer("seen", self._seen().detach(), persistent=False)
        return folded

    def _fold_synthesis(self) -> nn.Module:
        decoder = self.decoder
        fold = FoldedVolumeSynthesis if self.config.dims == 3 else FoldedSynthesis
        return fold(decoder.weight, decoder.bias, **self._geometry()).to(decoder.weight.device)

    def _fold_refined(self) -> nn.Module:
        """Fold one matrix over latents and features."""
        decoder, refiner = self.decoder, self.load_refiner()
        weight = torch.cat([decoder.weight.detach(), refiner.weight.detach()], 1)
        return FoldedSynthesis(weight, decoder.bias, **self._geometry()).to(weight.device)

    @staticmethod
    def _trains(parts: Sequence[Tensor]) -> bool:
        return any(part.requires_grad for part in parts)

    def _check_shape(self, x: Tensor, channels: int, what: str) -> tuple[int, ...]:
        dims = self.config.dims
        form = f"(..., {channels}, {_FORMS[self.config.modality]})"
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor of shape {form}, got {type(x).__name__}")
        refuse_vmap(x)
        if x.ndim < dims + 1 or x.shape[-dims - 1] != channels:
            mono = dims == 1 and what == "signals" and x.ndim > 1 and x.shape[-2] == 1
            hint = f": repeat the one channel, with .repeat_interleave({channels}, -2)" if mono else ""
            raise ValueError(f"codec {self.config.name!r} expects {what} of shape {form}, got {tuple(x.shape)}{hint}")
        if min(x.shape[-dims:]) == 0:
            raise ValueError(f"codec {self.config.name!r} got {what} without samples: shape {tuple(x.shape)}")
        return tuple(x.shape[: -dims - 1])

    def extra_repr(self) -> str:
        """Show name and geometry in ``repr``."""
        c = self.config
        rate = f"sample_rate={c.sample_rate}, " if c.sample_rate else ""
        return (
            f"{c.name!r}, {c.modality}, signal_channels={c.signal_channels}, {rate}channels={c.channels}, "
            f"stride={c.shown_stride}, reduction={c.dimensionality_reduction:g}, wavelet={c.wavelet!r}, "
            f"decoder={c.decoder!r}, refiner={c.refiner_width > 0}"
        )

    def __repr__(self) -> str:  # one line: what it is built of says nothing more, and models show it within their own
        return f"{type(self).__name__}({self.extra_repr()})"


def _limit(signal: Tensor, limits: tuple[float, float]) -> Tensor:
    return signal if limits == (-math.inf, math.inf) else signal.clamp(*limits)


def _refresh(codec: nn.Module, _: Any) -> None:
    """Fold and hash anew after weights were loaded."""
    assert isinstance(codec, Codec)
    for path in (codec._analysis_path, codec._synthesis_path, codec._refined_path):
        path.refresh()
    codec._fingerprint = (None, "")

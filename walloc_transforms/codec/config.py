"""The geometry of a codec."""

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch

from ..safe import shown
from ..wavelets import check_filters, levels_of_axes, shown_levels

__all__ = ["CodecConfig", "Network", "check_sample_rate"]

Network = Literal["linear", "autoencoder_kl", "oobleck"]
Companding = Literal["gaussian", "clip"]

_CHOICES = {
    "modality": ("image", "audio", "volume"),
    "encoder": get_args(Network),
    "decoder": get_args(Network),
    "companding": get_args(Companding),
}
_LENGTHS = {"name": 200, "source": 2000}
_DIMS = {"image": 2, "audio": 1, "volume": 3}
_FORMS = {  # sides, for messages
    "image": "(H, W)",
    "audio": "a number of samples T, or (T,)",
    "volume": "(T, H, W)",
}
_RANGES = {
    "latent_bits": (2, 16),
    "signal_channels": (1, 4096),
    "encoder_width": (0, 8192),
    "decoder_width": (0, 8192),
    "decoder_layers": (1, 64),
    "stages": (1, 64),
    "pad": (0, 1),
    "sample_rate": (0, 2**32 - 1),
    "refiner_width": (0, 4096),
    "refiner_blocks": (0, 64),
}


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """The geometry of a codec.

    Attributes:
        name: What the codec is called.
        modality: ``"image"``, ``"audio"``, or ``"volume"``: scans, and video, whose first axis is time.
        signal_channels: Channels C of the signal, 3 for RGB.
        channels: Latent channels D.
        levels: Wavelet levels J; a cell covers ``2**J`` samples per axis. Or one number for each axis: ``(2, 3, 3)``.
        wavelet: Name of a discrete wavelet of PyWavelets.
        latent_bits: Bits of a latent's integer code.
        source: Where the weights come from, in a sentence.
        encoder: ``"linear"``, one matrix per cell, or a network of diffusers: ``"autoencoder_kl"`` (images) or
            ``"oobleck"`` (audio).
        decoder: ``"linear"`` or a network, as for the encoder.
        encoder_width: Hidden channels of an encoder network; 0 for a linear encoder.
        decoder_width: Hidden channels of a decoder network; 0 for a linear decoder.
        decoder_layers: Layers per block of an ``"autoencoder_kl"`` decoder.
        stages: Groups of latent channels; each group codes what the groups before it have left.
        companding: ``"gaussian"``, or ``"clip"``: latents are limited to the range of the codes, no more.
        pad: Frames without signal that the latents have at either end.
        post_filter: Whether an ``"oobleck"`` decoder ends in a filter on the waveform.
        statistics: Whether the mean and spread of the latents are known; without them they cannot be normalized.
        sample_rate: Of the waveforms that the codec is meant for, in Hz; 0 if that is not known.
        refiner_width: Channels of the refiner, a second decoder beside the linear one; 0 if there is none.
        refiner_blocks: Residual blocks of the refiner; 0 if there is none.

    Raises:
        ValueError: A field is out of range or of the wrong type, or the levels make filters that are too large: see
            ``MAX_TAPS`` in ``wavelets/filters.py``.

    Example:
        >>> import walloc_transforms as wt
        >>> config = wt.CodecConfig("mine", "image", signal_channels=3, channels=12, levels=3)
        >>> config.stride, config.packets, config.dimensionality_reduction
        (8, 192, 16.0)
    """

    name: str
    modality: Literal["image", "audio", "volume"]
    signal_channels: int
    channels: int
    levels: int | tuple[int, ...]
    wavelet: str = "bior4.4"
    latent_bits: int = 8
    source: str = ""
    encoder: Network = "linear"
    decoder: Network = "linear"
    encoder_width: int = 0
    decoder_width: int = 0
    decoder_layers: int = 2
    stages: int = 1
    companding: Companding = "gaussian"
    pad: int = 0
    post_filter: bool = False
    statistics: bool = True
    sample_rate: int = 0
    refiner_width: int = 0
    refiner_blocks: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name == "levels":
                continue
            value = getattr(self, field.name)
            expected = field.type if field.type in (int, bool) else str
            if type(value) is not expected:
                raise ValueError(f"codec config: {field.name} must be of type {expected.__name__}, got {shown(value)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"codec config: {name} must be {' or '.join(map(repr, choices))}, got {shown(getattr(self, name))}"
                )
        for name, most in _LENGTHS.items():
            if len(text := getattr(self, name)) > most or not text.isprintable():
                raise ValueError(
                    f"codec config: {name} must be one line of at most {most} printable characters, got {len(text)} "
                    f"characters: {shown(text, 80)}"
                )
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"codec config: {name} must be from {low} to {high}, got {shown(getattr(self, name))}")
        self._check_levels()
        if not 1 <= self.channels <= self.packets:
            raise ValueError(
                f"codec config: channels must be from 1 to {self.packets} (all packets of "
                f"{self.signal_channels} signal channels), got {self.channels}"
            )
        self._check_networks()
        check_filters(self.wavelet, self.axis_levels, self.signal_channels)

    def _check_levels(self) -> None:
        """Bring ``levels`` to its shortest form: a number where all axes have the same."""
        given: object = self.levels  # from JSON: whatever it holds
        several = given if isinstance(given, (list, tuple)) else [given]
        if any(type(level) is not int for level in several):
            raise ValueError(f"codec config: levels must be of type int, or one for each axis, got {shown(given)}")
        try:
            axes = levels_of_axes(self.levels, self.dims)
        except ValueError as error:
            raise ValueError(f"codec config: {error}") from None
        object.__setattr__(self, "levels", axes[0] if len(set(axes)) == 1 else axes)

    def _check_networks(self) -> None:
        network = {"image": "autoencoder_kl", "audio": "oobleck", "volume": ""}[self.modality]
        for part in ("encoder", "decoder"):
            kind, width = getattr(self, part), getattr(self, f"{part}_width")
            if kind not in ("linear", network):
                raise ValueError(f"codec config: {part} {kind!r} is not for modality {self.modality!r}")
            grain = {"linear": 1, "autoencoder_kl": 32, "oobleck": self.channels}[kind]
            if (kind == "linear") != (width == 0) or width % grain:
                expected = "0" if kind == "linear" else f"a multiple of {grain}, at least {grain}"
                raise ValueError(f"codec config: {part}_width of {part} {kind!r} must be {expected}, got {width}")
        if self.stages > 1 and (self.encoder, self.decoder) != ("linear", "linear"):
            raise ValueError("codec config: several stages need a linear encoder and decoder")
        if self.channels % self.stages:
            raise ValueError(f"codec config: {self.channels} channels do not make {self.stages} stages of equal size")
        if self.pad != 0 and self.modality != "audio":
            raise ValueError(f"codec config: pad is for audio, got {self.pad} for modality {self.modality!r}")
        if self.sample_rate and self.modality != "audio":
            raise ValueError(
                f"codec config: sample_rate is for audio, got {self.sample_rate} for modality {self.modality!r}"
            )
        if "oobleck" in (self.encoder, self.decoder) and self.pad != 1:
            raise ValueError(f"codec config: an 'oobleck' network goes with pad 1, got {self.pad}")
        if (self.refiner_width == 0) != (self.refiner_blocks == 0):
            raise ValueError(
                "codec config: refiner_width and refiner_blocks must both be 0, or neither, got "
                f"{self.refiner_width} and {self.refiner_blocks}"
            )
        if self.refiner_width and (self.dims == 3 or isinstance(self.levels, tuple)):
            raise ValueError("codec config: a refiner is for images and audio with the same levels along all axes")
        if self.refiner_width and not (self.is_linear and self.statistics):
            raise ValueError(
                "codec config: a refiner goes with a linear encoder and decoder, one stage, and latents "
                "whose mean and spread are known"
            )
        if self.post_filter and self.decoder != "oobleck":
            raise ValueError(f"codec config: a post filter goes with decoder 'oobleck', got {self.decoder!r}")

    @property
    def dims(self) -> int:
        """Axes of the signal: 2 for images, 1 for audio, 3 for volumes."""
        return _DIMS[self.modality]

    @property
    def axis_levels(self) -> tuple[int, ...]:
        """Wavelet levels along each axis."""
        return levels_of_axes(self.levels, self.dims)

    @property
    def is_linear(self) -> bool:
        """Whether encoder and decoder are one matrix each."""
        return (self.encoder, self.decoder, self.stages) == ("linear", "linear", 1)

    def check_decoder(self, decoder: str | None) -> str:
        """Return which of the codec's decoders is meant: its own, ``self.decoder``, if none is named.

        Raises:
            ValueError: The codec has no such decoder.
        """
        choices = [self.decoder, *["refiner"] * (self.refiner_width > 0)]
        if decoder is not None and decoder not in choices:
            raise ValueError(
                f"decoder of codec {self.name!r} must be {' or '.join(map(repr, choices))}, got {decoder!r}"
            )
        return decoder or self.decoder

    def check_size(self, size: Sequence[int] | int | None) -> tuple[int, ...] | None:
        """Return the sides of a signal as a tuple: ``(H, W)``, or ``(T,)``, which may be given as T.

        Raises:
            TypeError: A side is no integer.
            ValueError: Another number of sides, or a side that is not positive.
        """
        if size is None:
            return None
        form = _FORMS[self.modality]
        try:
            sides = tuple(map(_as_side, size if isinstance(size, Iterable) else (size,)))
        except TypeError:
            raise TypeError(f"size must be {form} of integers, got {size!r}") from None
        if len(sides) != self.dims or min(sides) < 1:
            raise ValueError(f"size must be {form} for codec {self.name!r}, got {size!r}")
        return sides

    def check_tile(self, tile: int | None, decoder: str | None) -> None:
        """Refuse a tile that does not fit the codec or its decoder.

        Raises:
            ValueError: ``tile`` is no positive multiple of the stride, or the decoder is linear and needs no tiles.
        """
        if tile is None:
            return
        if (kind := self.check_decoder(decoder)) == "linear":
            raise ValueError(f"tile={tile} is for decoders that are networks: codec {self.name!r} decodes by {kind!r}")
        if tile < 1 or tile % self.stride:
            raise ValueError(f"tile must be a multiple of {self.stride} samples, the stride of the codec, got {tile}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Samples per cell along each axis, ``2**levels``."""
        return tuple(2**level for level in self.axis_levels)

    @property
    def stride(self) -> int:
        """Samples per cell along every axis, where all have the same.

        Raises:
            ValueError: They have not.
        """
        if isinstance(self.levels, tuple):
            raise ValueError(
                f"codec {self.name!r} has levels {shown_levels(self.levels)}: what needs one stride for all axes, such "
                "as a stem, cannot use it"
            )
        return 2**self.levels

    @property
    def shown_stride(self) -> int | tuple[int, ...]:
        """The stride of all axes, or where they differ, of each."""
        return self.strides if isinstance(self.levels, tuple) else self.stride

    @property
    def packets(self) -> int:
        """Packet channels, ``signal_channels`` times the samples of a cell."""
        return self.signal_channels * 2 ** sum(self.axis_levels)

    @property
    def dimensionality_reduction(self) -> float:
        """Signal values per latent value."""
        return self.packets / self.channels


def _as_side(side: Any) -> Any:
    """Take what stands for an integer, of numpy too; one of an export with any sizes stays as it is."""
    return side if isinstance(side, (int, torch.SymInt)) else operator.index(side)


def check_sample_rate(config: CodecConfig, sample_rate: int | None) -> None:
    """Compare the sample rate of a waveform, if it is given, with the codec's, if that is known.

    Raises:
        ValueError: They differ, or the codec is not for audio.
    """
    if sample_rate is None:
        return
    if config.modality != "audio":
        raise ValueError(
            f"sample_rate is for audio codecs, got {sample_rate} for {config.name!r}, a codec of modality "
            f"{config.modality!r}"
        )
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    if config.sample_rate and sample_rate != config.sample_rate:
        raise ValueError(
            f"codec {config.name!r} is for {config.sample_rate} Hz, got a waveform of {sample_rate} Hz: "
            f"resample it first, as torchaudio.transforms.Resample({sample_rate}, {config.sample_rate}) "
            "does"
        )

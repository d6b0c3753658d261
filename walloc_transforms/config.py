"""The geometry of a codec."""

import dataclasses
from typing import Literal

__all__ = ["CodecConfig"]


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """The geometry of a codec.

    Attributes:
        name: What the codec is called.
        modality: ``"image"`` or ``"audio"``.
        signal_channels: Channels C of the signal, 3 for RGB.
        channels: Latent channels D.
        levels: Wavelet levels J; a latent covers ``2**J`` samples per axis.
        wavelet: Name of a discrete wavelet of PyWavelets.
        latent_bits: Bits of a latent's integer code.
        source: Where the weights come from, in a sentence.

    Raises:
        ValueError: A field is out of range or of the wrong type.
    """

    name: str
    modality: Literal["image", "audio"]
    signal_channels: int
    channels: int
    levels: int
    wavelet: str = "bior4.4"
    latent_bits: int = 8
    source: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            expected = int if field.type is int else str
            if not isinstance(value, expected) or isinstance(value, bool):
                raise ValueError(f"codec config: {field.name} must be of type {expected.__name__}, got {value!r}")
        if self.modality not in ("image", "audio"):
            raise ValueError(f"codec config: modality must be 'image' or 'audio', got {self.modality!r}")
        for name, low, high in [("levels", 1, 16), ("latent_bits", 2, 16), ("signal_channels", 1, 4096)]:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"codec config: {name} must be from {low} to {high}, got {getattr(self, name)}")
        if not 1 <= self.channels <= self.packets:
            raise ValueError(f"codec config: channels must be from 1 to {self.packets} (all packets of "
                             f"{self.signal_channels} signal channels), got {self.channels}")  # fmt: skip

    @property
    def dims(self) -> int:
        """Axes of the signal: 2 for images, 1 for audio."""
        return 2 if self.modality == "image" else 1

    @property
    def stride(self) -> int:
        """Samples per latent along each axis, ``2**levels``."""
        return 2**self.levels

    @property
    def packets(self) -> int:
        """Packet channels, ``signal_channels * stride**dims``."""
        return self.signal_channels * self.stride**self.dims

    @property
    def dimensionality_reduction(self) -> float:
        """How many signal values there are for one latent value."""
        return self.packets / self.channels

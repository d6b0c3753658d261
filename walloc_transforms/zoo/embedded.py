"""The codecs that come with the package: what each is for, and which of them has encoded latents."""

from functools import lru_cache
from pathlib import Path

from ..codec import Codec

__all__ = ["EMBEDDED", "embedded_folder", "find_embedded"]

_WEIGHTS = Path(__file__).parents[1] / "weights"


EMBEDDED = {
    "rgb_16x": "the default: images for networks",
    "rgb_4x": "the default: images for networks",
    "rgb_16x_viewing": "pictures to look at, decoded by the refiner",
    "rgb_4x_viewing": "pictures to look at, decoded by the refiner",
    "stereo_20x": "the default: music",
    "stereo_5x": "the default: music",
}
"""The names of the codecs that come with the package, and what each is for, in the order that users see."""


def embedded_folder(name: str) -> Path:
    """Return the folder of a codec that comes with the package."""
    return _WEIGHTS / name


def find_embedded(fingerprint: str, channels: int, likely: str = "") -> Codec | None:
    """Find the embedded codec, or the prefix of one, that has encoded latents.

    Nothing but embedded codecs is looked at, whatever the latents say about their codec: a name in a file of a stranger
    loads no folder and asks no server.

    Args:
        fingerprint: The fingerprint of their encoder.
        channels: Number of channels that were encoded.
        likely: The name to try first.

    Returns:
        The codec, a new one; None if no embedded codec has this encoder.
    """
    for name in sorted(EMBEDDED, key=lambda name: name != likely):
        if _fingerprint(name, channels) == fingerprint:
            return Codec.from_pretrained(embedded_folder(name)).prefix(channels)
    return None


@lru_cache(maxsize=1024)
def _fingerprint(name: str, channels: int) -> str | None:
    """Compute the fingerprint of a prefix; None if the codec has no such prefix."""
    codec = Codec.from_pretrained(embedded_folder(name))
    if channels != codec.config.channels and not (1 <= channels < codec.config.channels and codec.config.is_linear):
        return None
    return codec.prefix(channels).fingerprint()

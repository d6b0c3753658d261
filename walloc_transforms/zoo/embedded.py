"""The codecs that come with the package: their names, and which of them has encoded latents."""

from functools import lru_cache
from pathlib import Path

from ..codec import CONFIG_FILE, Codec

__all__ = ["embedded_folder", "embedded_names", "find_embedded"]

_WEIGHTS = Path(__file__).parents[1] / "weights"


@lru_cache
def embedded_names() -> tuple[str, ...]:
    """Return the names of the codecs that come with the package."""
    return tuple(sorted(file.parent.name for file in _WEIGHTS.glob(f"*/{CONFIG_FILE}")))


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
    for name in sorted(embedded_names(), key=lambda name: name != likely):
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

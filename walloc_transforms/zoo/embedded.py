"""Find an embedded codec by the fingerprint that it leaves on what it encodes."""

from functools import lru_cache

from ..codec import Codec
from .zoo import available_codecs, load_codec

__all__ = ["find_embedded"]


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
    for name in sorted(available_codecs(), key=lambda name: name != likely):
        if _fingerprint(name, channels) == fingerprint:
            return load_codec(name, channels=channels)
    return None


@lru_cache(maxsize=1024)
def _fingerprint(name: str, channels: int) -> str | None:
    """Compute the fingerprint of a prefix; None if the codec has no such prefix."""
    codec = load_codec(name)
    if channels != codec.config.channels and not (1 <= channels < codec.config.channels and codec.config.is_linear):
        return None
    return codec.prefix(channels).fingerprint()

"""``codec/``: the codec that a data set carries along, unless it comes with the package.

A folder of this name may be the user's own, so it is compared before it is written to.
"""

from pathlib import Path

from ..codec import CONFIG_FILE, Codec, statistics_fingerprint
from .index import CODEC_FOLDER
from .storage import Storage

__all__ = ["holds_codec", "save_codec"]


def holds_codec(storage: Storage, codec: Codec) -> bool | None:
    """Tell whether a place has the codec already, with the same statistics; None if no codec has been saved there."""
    if CODEC_FOLDER not in storage.names():
        return None
    try:
        with storage.local(CODEC_FOLDER) as folder:
            if storage.folder is None and not (folder / CONFIG_FILE).exists():  # a killed run left it, see Storage.save
                return None
            found = Codec.from_pretrained(folder)
    except (OSError, ValueError, ImportError):  # whatever it is, it is not this codec
        return False
    own, other = ((c.fingerprint(), statistics_fingerprint(c)) for c in (codec, found))
    return own == other


def save_codec(folder: Path, codec: Codec) -> None:
    """Save a codec beside what is written to a folder, unless it is there already.

    Raises:
        ValueError: Another codec is there, or something else of this name.
    """
    storage = Storage(folder)
    held = holds_codec(storage, codec)
    if held is None:
        storage.save(CODEC_FOLDER, codec.save_pretrained)
    elif not held:
        raise ValueError(f"{folder / CODEC_FOLDER} is another codec, or something else: expected a new folder")

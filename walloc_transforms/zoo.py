"""Codecs by name: those that come with the package, folders, and repositories of the Hugging Face hub."""

import difflib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .codec import Codec
from .files import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["CodecInfo", "CodecLike", "available_codecs", "load_codec"]

CodecLike = Codec | str | os.PathLike[str]

_EMBEDDED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class CodecInfo:
    """What :func:`available_codecs` tells about a codec.

    Attributes:
        name: The name :func:`load_codec` takes.
        modality: ``"image"`` or ``"audio"``.
        signal_channels: Channels of the signal, 3 for RGB.
        channels: Latent channels.
        levels: Wavelet levels J; a latent covers ``2**J`` samples per axis.
        dimensionality_reduction: Signal values for one latent value.
        decoder: The decoder that comes with it.
        source: Where the weights come from.
    """

    name: str
    modality: str
    signal_channels: int
    channels: int
    levels: int
    dimensionality_reduction: float
    decoder: str
    source: str


@lru_cache
def embedded_names() -> tuple[str, ...]:
    """Names of the codecs that come with the package."""
    return tuple(sorted(file.parent.name for file in _EMBEDDED.glob(f"*/{CONFIG_FILE}")))


def available_codecs() -> list[CodecInfo]:
    """List the codecs that come with the package and need no download."""
    infos = []
    for name in embedded_names():
        c = Codec.from_pretrained(_EMBEDDED / name).config
        infos.append(CodecInfo(name, c.modality, c.signal_channels, c.channels, c.levels, c.dimensionality_reduction,
                               "linear", c.source))  # fmt: skip
    return infos


def load_codec(codec: CodecLike, *, channels: int | None = None) -> Codec:
    """Load a codec.

    Args:
        codec: The name of an embedded codec; a folder written by ``Codec.save_pretrained``; a Hugging Face repository
            ``"owner/name"`` that holds such a folder's two files; or a codec, which is returned as it is.
        channels: Read only the first so many latent channels: latents are ordered, and a prefix is a codec too.

    Raises:
        ValueError: No such codec (the nearest name is suggested), damaged files, or ``channels`` out of range.
        FileNotFoundError: The folder is not complete.
        ConnectionError: The repository could not be read.
    """
    if not isinstance(codec, Codec):
        codec = _find(codec)
    return codec if channels is None else codec.prefix(channels)


def _find(codec: str | os.PathLike[str]) -> Codec:
    name = os.fspath(codec)
    if name in embedded_names():
        return Codec.from_pretrained(_EMBEDDED / name)
    if isinstance(codec, os.PathLike) or os.path.isdir(name):
        return Codec.from_pretrained(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    close = difflib.get_close_matches(name, embedded_names(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown codec {name!r}: {hint}Embedded codecs are {', '.join(embedded_names())}; "
                     "a folder or a hub repository 'owner/name' would do too")  # fmt: skip


def _download(repo: str) -> Codec:
    import huggingface_hub  # only here: it is slow to import

    try:
        files = [huggingface_hub.hf_hub_download(repo, file) for file in (CONFIG_FILE, WEIGHTS_FILE)]
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.HFValidationError, OSError) as error:
        raise ConnectionError(f"{repo!r} is no folder here, and the hub did not give {CONFIG_FILE} and {WEIGHTS_FILE} "
                              f"({type(error).__name__}: {error}). Without a download there are "
                              f"{', '.join(embedded_names())}") from error  # fmt: skip
    return Codec.from_pretrained(Path(files[0]).parent)

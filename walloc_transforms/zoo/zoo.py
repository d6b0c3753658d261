"""Codecs by name: those that come with the package, folders, checkpoints, and repositories of the Hugging Face hub."""

import dataclasses
import difflib
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..codec import CONFIG_FILE, WEIGHTS_FILE, Codec, TensorFile, read_config
from .embedded import EMBEDDED, embedded_folder

__all__ = ["CodecInfo", "CodecLike", "available_codecs", "codec_info", "fetch", "load_codec"]

CodecLike = Codec | str | os.PathLike[str]

MAX_DOWNLOAD = 2**32
"""Most bytes of a file that the hub may give, but for JSON. A larger one is refused before it is downloaded."""


@dataclass(frozen=True)
class CodecInfo:
    """What :func:`codec_info` says about a codec.

    Attributes:
        name: The name of the codec.
        modality: ``"image"``, ``"audio"`` or ``"volume"``.
        signal_channels: Channels of the signal, 3 for RGB.
        sample_rate: Samples per second of the waveforms, in Hz; 0 if it is not known, and for images.
        channels: Latent channels.
        levels: Wavelet levels J.
        stride: Samples per latent along each axis, ``2**J``; one for all, or one for each.
        dimensionality_reduction: Signal values per latent value.
        decoders: The decoders that come with the codec, the default first: values of ``decoder`` in ``Codec.decode``.
        purpose: What the codec is for; empty if it did not come with the package.
        source: Where the weights come from, in a sentence.

    Example:
        >>> import walloc_transforms as wt
        >>> info = wt.codec_info("rgb_16x")
        >>> info.channels, info.stride, info.dimensionality_reduction, info.decoders
        (12, 8, 16.0, ('linear', 'refiner'))
    """

    name: str
    modality: str
    signal_channels: int
    sample_rate: int
    channels: int
    levels: int | tuple[int, ...]
    stride: int | tuple[int, ...]
    dimensionality_reduction: float
    decoders: tuple[str, ...]
    purpose: str
    source: str


def available_codecs() -> list[str]:
    """List the names of the codecs that come with the package and need no download.

    The default of every dimensionality reduction stands before codecs for a special purpose, which their
    :class:`CodecInfo` tells.

    Example:
        >>> import walloc_transforms as wt
        >>> names = wt.available_codecs()
        >>> names[0], wt.codec_info(names[0]).purpose
        ('rgb_16x', 'the default: images for networks')
    """
    return list(EMBEDDED)


def codec_info(codec: str | os.PathLike[str]) -> CodecInfo:
    """Describe a codec by its ``config.json``, without reading its weights.

    Args:
        codec: The name of an embedded codec, or a folder written by ``Codec.save_pretrained``, as in
            :func:`load_codec`.

    Raises:
        ValueError: No such codec (the nearest name is suggested), or its config is damaged.
        FileNotFoundError: The folder has no ``config.json``.

    Example:
        >>> import walloc_transforms as wt
        >>> info = wt.codec_info("rgb_16x")
        >>> info.channels, info.stride, info.dimensionality_reduction
        (12, 8, 16.0)
    """
    folder = _folder(codec, depth=3)
    if folder is None:
        raise ValueError(f"unknown codec {codec!r}: {_suggest(os.fspath(codec))}; a folder would do too")
    config = read_config(folder)
    decoders = (config.decoder, "refiner") if config.refiner_width else (config.decoder,)
    purpose = EMBEDDED.get(codec, "") if isinstance(codec, str) else ""
    names = {field.name for field in dataclasses.fields(CodecInfo)} - {"stride", "decoders", "purpose"}
    known = {name: getattr(config, name) for name in names}
    return CodecInfo(**known, stride=config.shown_stride, decoders=decoders, purpose=purpose)


def load_codec(
    codec: CodecLike, *, channels: int | None = None, variant: str | None = None, revision: str | None = None
) -> Codec:
    """Load a codec.

    Args:
        codec: The name of an embedded codec; a folder written by ``Codec.save_pretrained``; a checkpoint of the
            reference implementation, ``"path/NAME.pth"``; a Hugging Face repository ``"owner/name"`` of such a folder's
            files, or ``"owner/name:VARIANT"`` of checkpoints; or a codec, which is returned as it is. A name that both
            an embedded codec and a folder have means the embedded codec, with a warning; ``"./rgb_4x"`` and
            ``Path("rgb_4x")`` mean the folder.
        channels: Number of latent channels to keep, from the first on: ``fit_codec`` orders them, and a prefix is a
            codec too. Default: all.
        variant: Name of one of a repository's checkpoints, without ``.pth``.
        revision: Branch, tag or commit of the repository. Default: its main branch.

    Raises:
        ValueError: No such codec (the nearest name is suggested), damaged files, or ``channels`` out of range.
        TypeError: Neither a codec nor a name.
        FileNotFoundError: The folder is not complete, or there is no such checkpoint.
        ConnectionError: The repository could not be read.
        ImportError: The encoder is a network, and diffusers is not installed.

    Example:
        >>> import walloc_transforms as wt
        >>> wt.load_codec("rgb_16x").config.channels
        12
        >>> wt.load_codec("rgb_4x", channels=12).config.dimensionality_reduction
        16.0
    """
    if isinstance(codec, Codec):
        found, repo = codec, None
    elif not isinstance(codec, (str, os.PathLike)):
        raise TypeError(f"expected a codec, or the name of one or of a folder, got {type(codec).__name__}")
    else:
        repo, at = (None, None) if isinstance(codec, os.PathLike) else _split(codec)
        if at is not None and variant not in (None, at):
            raise ValueError(f"{codec!r} names the variant {at!r}, got variant={variant!r} too")
        variant = variant or at
        found = _find(codec) if repo is None else _download(repo, variant, revision)
    if repo is None and (variant or revision):
        raise ValueError(f"variant and revision are for repositories 'owner/name' of the hub, got {codec!r}")
    return found if channels is None else found.prefix(channels)


def _split(name: str) -> tuple[str | None, str | None]:
    """Split ``owner/name:variant`` into repository and variant; (None, None) if the name is no repository's."""
    match = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?::([\w.-]+))?", name)
    if match is None or name in EMBEDDED or name.endswith(".pth") or os.path.isdir(name):
        return None, None
    return match[1], match[2]


def _find(codec: str | os.PathLike[str]) -> Codec:
    name, folder = os.fspath(codec), _folder(codec, depth=4)
    if name.endswith(".pth") and not os.path.isdir(name):
        from .published import read_published  # few need it

        return read_published(name)
    if folder is not None:
        return Codec.from_pretrained(folder)
    raise ValueError(
        f"unknown codec {name!r}: {_suggest(name)}; a folder, a .pth file or a hub repository 'owner/name' would do too"
    )


def _folder(codec: str | os.PathLike[str], depth: int) -> str | os.PathLike[str] | None:
    """Find the folder of an embedded codec, or the folder that is meant; None if there is none of this name.

    ``depth`` is how many calls lie between here and the user, whose line a warning shows.
    """
    if isinstance(codec, os.PathLike):
        return codec
    if codec not in EMBEDDED:
        return codec if os.path.isdir(codec) else None
    if os.path.isfile(os.path.join(codec, CONFIG_FILE)):
        warnings.warn(
            f"{codec!r} is the embedded codec; the folder of this name is {os.path.join('.', codec)!r}",
            stacklevel=depth,
        )
    return embedded_folder(codec)


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, EMBEDDED, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Embedded codecs are {', '.join(EMBEDDED)}"


def _download(repo: str, variant: str | None, revision: str | None) -> Codec:
    if variant is None:
        folder = _fetch_of_codec(repo, CONFIG_FILE, revision).parent
        _fetch_of_codec(repo, WEIGHTS_FILE, revision)
        codec = Codec.from_pretrained(folder)
        for part, file in codec.sources.items():
            if isinstance(file, TensorFile):
                codec.sources[part] = _HubFile(repo, revision, file)
        codec.config = dataclasses.replace(codec.config, name=repo)  # latents keep this name
        return codec
    from .published import read_published

    checkpoint = _fetch_of_codec(repo, f"{variant}.pth", revision)
    try:
        settings = fetch(repo, f"{variant}.json", revision)
    except ConnectionError as error:
        if not _is_absent(error.__cause__):
            raise
        settings = checkpoint.with_suffix(".json")  # older checkpoints have none, and the reader says what is missing
    codec = read_published(checkpoint, settings)
    codec.config = dataclasses.replace(codec.config, name=f"{repo}:{variant}", source=f"{variant}.pth of {repo}")
    return codec


def _is_absent(error: BaseException | None) -> bool:
    """Tell whether the hub, or its cache when offline, says that there is no such file."""
    import huggingface_hub.errors as errors

    return isinstance(error, (errors.EntryNotFoundError, errors.LocalEntryNotFoundError))


def fetch(repo: str, file: str, revision: str | None) -> Path:
    """Download a file of a Hugging Face repository, or find it in the cache.

    Raises:
        ValueError: It is larger than ``MAX_DOWNLOAD``, or than ``published.MAX_SETTINGS`` if it is JSON.
        ConnectionError: The hub did not give it.
    """
    import huggingface_hub  # only here: it is slow to import
    import huggingface_hub.errors as errors

    from .published import MAX_SETTINGS

    limit = MAX_SETTINGS if file.endswith(".json") else MAX_DOWNLOAD
    try:
        told = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo, file, revision=revision))
    except Exception:  # offline, or no such file: the download looks into the cache, and says what is wrong
        told = None
    if told is not None and (told.size or 0) > limit:
        raise ValueError(f"{file} of {repo!r} has {told.size:,} bytes: expected at most {limit:,}")
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise ConnectionError(f"the hub did not give {file} of {repo!r} ({type(error).__name__}: {error})") from error


def _fetch_of_codec(repo: str, file: str, revision: str | None) -> Path:
    """Fetch a file that a codec is not complete without, and say what else there is where it cannot be had."""
    try:
        return fetch(repo, file, revision)
    except ConnectionError as error:
        absent = file == CONFIG_FILE and _is_absent(error.__cause__)
        hint = " A repository of .pth checkpoints needs variant='NAME'." if absent else ""
        raise ConnectionError(f"{error}.{hint} Without a download there are {', '.join(EMBEDDED)}") from error.__cause__


@dataclass(frozen=True)
class _HubFile:
    """A decoder network or refiner of a repository; a call downloads and reads it."""

    repo: str
    revision: str | None
    file: TensorFile

    def __call__(self) -> dict[str, Tensor]:
        return TensorFile(fetch(self.repo, self.file.file.name, self.revision), self.file.sha256)()

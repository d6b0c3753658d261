"""Codec folders: files are written atomically, and checked before they are believed.

config.json           geometry, and the SHA-256 of the other files and of its own fields
weights.safetensors   encoder, latent statistics, and the decoder if it is linear
decoder.safetensors   the decoder if it is a network: read only when something is decoded
refiner.safetensors   the refiner if there is one, in half precision: read only when it is asked for. It also holds the
                      statistics that the refiner was trained with, if the codec has got others since
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import sealed
from ..safe import check_tensors, listed
from .config import CodecConfig

__all__ = [
    "CONFIG_FILE",
    "DECODER_FILE",
    "REFINER_FILE",
    "WEIGHTS_FILE",
    "TensorFile",
    "check_state",
    "read_codec",
    "read_config",
    "write_codec",
]

FORMAT = "walloc_transforms.codec"
FORMAT_VERSION = 2
CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"
DECODER_FILE, REFINER_FILE = "decoder.safetensors", "refiner.safetensors"


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """A decoder network or a refiner that has not been read yet; call it for its tensors by name.

    Attributes:
        file: The safetensors file.
        sha256: What its SHA-256 must be.
    """

    file: Path
    sha256: object

    def __call__(self) -> dict[str, Tensor]:
        """Read the tensors.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It is damaged.
        """
        if not self.file.is_file():
            raise FileNotFoundError(f"{self.file}, the {self.file.stem} of this codec, is missing")
        return sealed.read_tensors(self.file, self.sha256)


def write_codec(
    folder: str | os.PathLike[str],
    config: CodecConfig,
    state: Mapping[str, Tensor],
    decoder: Mapping[str, Tensor] | None = None,
    refiner: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the files of a codec, each atomically and the config last.

    Args:
        folder: Made if it does not exist.
        config: The geometry.
        state: Tensors of the codec, without those of networks.
        decoder: Tensors of the decoder, if it is a network.
        refiner: Tensors of the refiner, if there is one.
    """
    folder = Path(folder)
    header: dict[str, Any] = {"format": FORMAT, "version": FORMAT_VERSION}
    networks = ("decoder_sha256", DECODER_FILE, decoder), ("refiner_sha256", REFINER_FILE, refiner)
    with sealed.writing(folder):
        for key, file, tensors in networks:
            if tensors is not None:
                header[key] = sealed.write_tensors(folder / file, tensors)
        header["sha256"] = sealed.write_tensors(folder / WEIGHTS_FILE, state)
        sealed.write_config(folder / CONFIG_FILE, {**header, **dataclasses.asdict(config)})


def read_codec(folder: str | os.PathLike[str]) -> tuple[CodecConfig, dict[str, Tensor], dict[str, TensorFile]]:
    """Read what :func:`write_codec` wrote; check tensors with `check_state`.

    Returns:
        Config, tensors, and the files of networks, which have not been read: ``"decoder"``, ``"refiner"``.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A file is damaged, of another format or version, or they do not belong together.
    """
    folder = Path(folder)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} is no codec folder: it has no {file}")
    config, hashes = _read_config(folder / CONFIG_FILE)
    if (hashes["decoder"] is None) != (config.decoder == "linear"):
        raise ValueError(
            f"{folder / CONFIG_FILE}: decoder_sha256 belongs to a decoder that is a network, "
            f"the decoder here is {config.decoder!r}"
        )
    if (hashes["refiner"] is None) != (config.refiner_width == 0):
        raise ValueError(
            f"{folder / CONFIG_FILE}: refiner_sha256 belongs to a refiner, whose refiner_width here is "
            f"{config.refiner_width}"
        )
    state = sealed.read_tensors(folder / WEIGHTS_FILE, hashes.pop("weights"))
    names = {"decoder": DECODER_FILE, "refiner": REFINER_FILE}
    files = {part: TensorFile(folder / names[part], value) for part, value in hashes.items() if value is not None}
    return config, state, files


def _read_config(file: Path) -> tuple[CodecConfig, dict[str, object]]:
    """Read the geometry, and the SHA-256 of ``"weights"``, ``"decoder"`` and ``"refiner"``."""
    fields = sealed.read_config(file, "a codec", FORMAT, (FORMAT_VERSION,))
    del fields["version"]
    names = [field.name for field in dataclasses.fields(CodecConfig)]
    known = {*names, "sha256", "decoder_sha256", "refiner_sha256"}
    required = {*names[: names.index("source") + 1], "sha256"}  # the rest describes published codecs
    if not required <= fields.keys() <= known:
        missing, unknown = listed(required - fields.keys()), listed(fields.keys() - known)
        raise ValueError(f"{file}: missing fields {missing}, unknown fields {unknown}")
    hashes = {"weights": fields.pop("sha256")}
    hashes |= {part: fields.pop(f"{part}_sha256", None) for part in ("decoder", "refiner")}
    return CodecConfig(**fields), hashes


def read_config(folder: str | os.PathLike[str]) -> CodecConfig:
    """Read the geometry alone, of a folder that :func:`write_codec` wrote.

    Raises:
        FileNotFoundError: The folder or its config is missing.
        ValueError: The config is damaged, or of another format or version.
    """
    file = Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no codec folder: it has no {CONFIG_FILE}")
    return _read_config(file)[0]


def check_state(state: Mapping[str, Tensor], config: CodecConfig, what: str) -> None:
    """Compare tensors with the config before anything is allocated by it; a network is compared when it is built.

    Raises:
        ValueError: A tensor does not fit; it is named.
    """
    d, p = config.channels, config.packets
    shapes: dict[str, tuple[int, ...]] = {}
    if config.encoder == "linear":
        shapes |= {"weight": (d, p), "bias": (d,)}
    if config.decoder == "linear":
        shapes |= {"decoder.weight": (p, d), "decoder.bias": (p,)}
    shapes |= {"latent_mean": (d,), "latent_std": (d,)}
    network = config.encoder != "linear"
    check_tensors({k: v for k, v in state.items() if not (network and k.startswith("encoder."))}, shapes, what)
    if not (state["latent_std"] > 0).all():
        raise ValueError(f"{what}: latent_std must be positive")

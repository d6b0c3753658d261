"""How a codec is written to a folder, read from one, and told from others."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .config import CodecConfig
from .decoders import LinearDecoder, NetworkDecoder
from .folder import check_state, read_codec, write_codec
from .folding import Folding
from .networks import build_decoder, build_network
from .refiner import Refiner, build_refiner, refiner_state

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing since Python 3.11

__all__ = ["Saving"]


class Saving(Folding):
    """The methods of a codec that read and write it.

    Args:
        config: The geometry.
        encoder: The encoder if it is a network.

    Attributes:
        sources: Called for the tensors of ``"decoder"``, a network, or of ``"refiner"`` when they are needed.
    """

    def __init__(self, config: CodecConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.sources: dict[str, Callable[[], Mapping[str, Tensor]]] = {}

    def load_decoder(self) -> LinearDecoder | NetworkDecoder:
        """Return the decoder; a network is read from its file when it is first needed, and belongs to the codec then.

        Raises:
            ImportError: The decoder is a network, and diffusers is not installed.
            ValueError: The file is damaged, or a tensor in it does not fit the config.
        """
        if self.decoder is None:
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
            state = self.sources["refiner"]() if "refiner" in self.sources else None
            with torch.inference_mode(False):
                self.refiner = build_refiner(self.config, state).to(self.latent_mean.device)
            self._fold()
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
        self._fold()

    def fingerprint(self) -> str:
        """Hash what determines latents: SHA-256 of the encoder's geometry and weights, in hexadecimal."""
        c = self.config
        geometry = (
            c.modality,
            c.signal_channels,
            c.channels,
            c.levels,
            c.wavelet,
            c.latent_bits,
            c.encoder,
            c.encoder_width,
            c.stages,
            c.companding,
            c.pad,
        )
        digest = hashlib.sha256(repr(geometry).encode())
        parts = ("weight", "bias", "encoder.", *(["decoder."] if c.stages > 1 else []))  # stages see their decoder
        for name, value in sorted(self.state_dict().items()):
            if name.startswith(parts):
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the files of the codec to ``folder``, each atomically: see ``files.py``.

        The config carries the SHA-256 of the weights, so that :meth:`from_pretrained` notices damage.
        """
        state, network, refiner = self.state_dict(), None, None
        if self.config.decoder != "linear":
            if self.decoder is None and "decoder" in self.sources:
                network = self.sources["decoder"]()
            else:
                network = self.load_decoder().state_dict()
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
        """Build a codec of tensors that fit its config; ``what`` names their origin in messages.

        ``sources`` are called for the tensors of networks when these are needed.

        Raises:
            ValueError: A tensor does not fit.
            ImportError: The encoder is a network, and diffusers is not installed.
        """
        check_state(state, config, what)
        if config.encoder == "linear":
            codec = cls(config)
        else:
            own = {name.removeprefix("encoder."): v for name, v in state.items() if name.startswith("encoder.")}
            codec = cls(config, build_network(config, "encoder", own, what))
        codec.load_state_dict(dict(state))
        codec.sources = dict(sources)
        return codec

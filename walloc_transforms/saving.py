"""How a codec is written to a folder, read from one, and told from others."""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .config import CodecConfig
from .decoders import LinearDecoder, NetworkDecoder
from .files import check_state, read_codec, write_codec
from .folding import Folding
from .networks import build_decoder, build_network

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing since Python 3.11

__all__ = ["Saving"]


class Saving(Folding):
    """The methods of a codec that read and write it.

    Args:
        config: The geometry.
        encoder: The encoder if it is a network.

    Attributes:
        decoder_source: Called for the tensors of a decoder network when they are needed.
    """

    def __init__(self, config: CodecConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.decoder_source: Callable[[], Mapping[str, Tensor]] | None = None

    def load_decoder(self) -> LinearDecoder | NetworkDecoder:
        """Return the decoder; a network is read from its file when it is first needed, and belongs to the codec then.

        Raises:
            ImportError: The decoder is a network, and diffusers is not installed.
            ValueError: The file is damaged, or a tensor in it does not fit the config.
        """
        if self.decoder is None:
            state = None if self.decoder_source is None else self.decoder_source()
            self.decoder = build_decoder(self.config, state).to(self.latent_mean.device)
        return self.decoder

    def fingerprint(self) -> str:
        """Hash what determines latents: SHA-256 of the encoder's geometry and weights, in hexadecimal."""
        c = self.config
        geometry = (c.modality, c.signal_channels, c.channels, c.levels, c.wavelet, c.latent_bits, c.encoder,
                    c.encoder_width, c.stages, c.companding, c.pad)  # fmt: skip
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
        state, network = self.state_dict(), None
        if self.config.decoder != "linear":
            if self.decoder is None and self.decoder_source is not None:
                network = self.decoder_source()
            else:
                network = self.load_decoder().state_dict()
            state = {name: value for name, value in state.items() if not name.startswith("decoder.")}
        write_codec(folder, self.config, state, network)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> "Self":
        """Read a folder written by :meth:`save_pretrained`, believing nothing before it is checked.

        A decoder that is a network is not read before it is needed.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: A file is damaged, of another format or version, or they do not belong together.
            ImportError: The encoder is a network, and diffusers is not installed.
        """
        config, state, source = read_codec(folder)
        return cls.from_tensors(config, state, source, os.fspath(folder))

    @classmethod
    def from_tensors(
        cls,
        config: CodecConfig,
        state: Mapping[str, Tensor],
        decoder_source: Callable[[], Mapping[str, Tensor]] | None,
        what: str,
    ) -> "Self":
        """Build a codec of tensors that fit its config; ``what`` names their origin in messages.

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
        codec.decoder_source = decoder_source
        return codec

"""The encoder and decoder networks of the published codecs, built by diffusers, which is imported only here.

    autoencoder_kl   conv 3x3 - residual block, global attention, residual block - residual blocks - norm - conv 3x3
    oobleck          conv 7 - 2 blocks of (Snake, conv 2, 3 dilated residual units) - Snake - conv 7

Neither changes the resolution, but an Oobleck encoder adds a frame at either end and its decoder drops it again. The
attention is ``scaled_dot_product_attention``: its memory grows with the number of cells, not with the square of it.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..safe import check_tensors
from .config import CodecConfig
from .decoders import NetworkDecoder

__all__ = ["build_decoder", "build_network", "building", "make_network", "network_shapes", "post_shapes"]


@contextlib.contextmanager
def building(meta: bool) -> Iterator[None]:
    """Build modules without values, where tensors will take the place of theirs, or else with the same values always.

    The random numbers of the program around stay as they are. Threads share them, and see a seed that is set in
    between: so it is set only for networks that are to be trained.
    """
    with torch.inference_mode(False):
        if meta:
            with torch.device("meta"):
                yield
        else:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.default_generator.manual_seed(0)  # those of other devices are left alone
                yield


def build_network(
    config: CodecConfig, part: Literal["encoder", "decoder"], state: Mapping[str, Tensor] | None = None, what: str = ""
) -> nn.Module:
    """Build what maps packets ``(N, C * bands, ...)`` to projected latents ``(N, D, ...)``, or latents to packets.

    Args:
        config: The geometry; its ``encoder`` or ``decoder`` names a network.
        part: Which of the two.
        state: The network's tensors by name, without weight normalization. Default: random ones, always the same.
        what: Where the tensors come from, for messages.

    Returns:
        The network, frozen.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: A tensor is missing, unexpected, of another shape, not float32 or not finite; it is named.
    """
    if state is not None:
        _check_first(config, part, state, what)
    with building(meta=state is not None):
        network = make_network(config, part).float()
    if state is not None:
        check_tensors(state, {name: tuple(value.shape) for name, value in network.state_dict().items()}, what)
        network.load_state_dict(dict(state), assign=True)
    return network.requires_grad_(False).eval()


def _check_first(
    config: CodecConfig, part: Literal["encoder", "decoder"], state: Mapping[str, Tensor], what: str
) -> None:
    """Look for the first convolution: importing diffusers takes seconds and hundreds of megabytes."""
    kind, inputs = (config.encoder, config.packets) if part == "encoder" else (config.decoder, config.channels)
    name = "conv_in.weight" if kind == "autoencoder_kl" else "conv1.weight"
    if name not in state or state[name].ndim < 2 or state[name].shape[1] != inputs:
        raise ValueError(f"{what} does not fit its config: missing tensors, no {name} that reads {inputs} channels")


def build_decoder(config: CodecConfig, state: Mapping[str, Tensor] | None = None) -> NetworkDecoder:
    """Build the decoder of a codec whose decoder is a network, with its post filter.

    Args:
        config: The geometry.
        state: Tensors by name: ``network.*``, ``post.weight``, ``post.bias``. Default: random ones, always the same.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: A tensor does not fit the config; it is named.
    """
    c, what = config, f"the decoder of codec {config.name!r}"
    inner, rest = None, {}
    if state is not None:
        inner = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
        rest = {k: v for k, v in state.items() if not k.startswith("network.")}
        check_tensors(rest, post_shapes(c), what)  # before a filter for that many channels is made
    with building(meta=state is not None):
        post = nn.Conv1d(c.signal_channels, c.signal_channels, 129, padding=64).float() if c.post_filter else None
    decoder = NetworkDecoder(build_network(c, "decoder", inner, what), c.packets, c.dims, c.pad, post)
    decoder.load_state_dict(rest, strict=False, assign=True)
    return decoder.requires_grad_(False)


def network_shapes(config: CodecConfig, part: Literal["encoder", "decoder"]) -> dict[str, tuple[int, ...]]:
    """List the shapes of a network's tensors by name, without weight normalization, and without allocating them.

    Raises:
        ImportError: diffusers is not installed.
    """
    with building(meta=True):
        return {name: tuple(value.shape) for name, value in make_network(config, part).state_dict().items()}


def post_shapes(config: CodecConfig) -> dict[str, tuple[int, ...]]:
    """List the shapes of the tensors of the post filter, if there is one."""
    c = config.signal_channels
    return {"post.weight": (c, c, 129), "post.bias": (c,)} if config.post_filter else {}


def make_network(config: CodecConfig, part: Literal["encoder", "decoder"]) -> nn.Module:
    """Make the modules of a network on the current device, with the values that diffusers gives them."""
    try:
        from diffusers.models.autoencoders import autoencoder_oobleck, vae
    except ImportError as error:
        raise ImportError(
            f"the {part} of codec {config.name!r} is a network that diffusers builds, which could not be "
            f'imported ({error}): pip install "walloc_transforms[diffusers]"'
        ) from error
    d, packets = config.channels, config.packets
    if part == "encoder" and config.encoder == "autoencoder_kl":
        return vae.Encoder(packets, d, ("DownEncoderBlock2D",), (config.encoder_width,), double_z=False)
    if part == "decoder" and config.decoder == "autoencoder_kl":
        layers = config.decoder_layers
        return vae.Decoder(d, packets, ("UpDecoderBlock2D",), (config.decoder_width,), layers_per_block=layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)
        if part == "encoder":
            network = autoencoder_oobleck.OobleckEncoder(d, packets, [1, 1], [config.encoder_width // d] * 2)
        else:
            network = autoencoder_oobleck.OobleckDecoder(d, d, packets, [1, 1], [config.decoder_width // d] * 2)
    for module in network.modules():  # for training only; without it a network can be copied and runs faster
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    return network

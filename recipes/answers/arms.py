"""The arms: what stands between an image and the answer of a trained network.

pixels                          the network as it is
larger_patch                    patches of twice the side, so that a transformer has a quarter of the tokens
resized_16x, dct_16x, ...       the network as it is, on what recipes/common/inputs.py shows it: full input
rgb_16x, rgb_4x:24, ...         likewise, decoded from latents
fitted_rgb_16x                  the network with a stem that reads latents, by `fit_stem`
distilled_rgb_16x               likewise, by `distill_stem`
"""

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

import walloc_transforms as wt
from recipes.answers.adapters import stem_of
from recipes.common.codecs import load_codec_of
from recipes.common.inputs import Decoded, Input, StoredInput, make_input
from walloc_transforms.stems import Match, plan_replacement

LARGER_PATCH, FITTED, DISTILLED = "larger_patch", "fitted_", "distilled_"


class Arm(nn.Module, ABC):
    """From images of the network's size to its answers.

    Args:
        name: As above.
        kind: What arms of several sizes have in common, for the figure.
        input: What is kept of an image.
        network: The network.
    """

    def __init__(self, name: str, kind: str, input: Input, network: nn.Module) -> None:
        super().__init__()
        self.name, self.kind, self.input = name, kind, input
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @abstractmethod
    def read(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)``, uint8, to what the network reads."""

    @abstractmethod
    def load(self, file: Path, height: int, width: int) -> Tensor:
        """Read from a file what the network reads for one image."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        return self.network(self.read(images).contiguous(memory_format=torch.channels_last))


class OnImages(Arm):
    """A network that reads images, on what an input makes of them."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, kind: str, input: Input, network: nn.Module) -> None:
        super().__init__(name, kind, input, network)
        data = resolve_model_data_config(network)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(data["std"]).view(-1, 1, 1) * 255)

    def read(self, images: Tensor) -> Tensor:
        """Normalize what is shown."""
        return (self.input(images) - self.mean) / self.std

    def load(self, file: Path, height: int, width: int) -> Tensor:
        """Normalize what is shown."""
        if not isinstance(self.input, StoredInput):
            raise ValueError(f"what {self.name} keeps of an image is in no file")
        return (self.input.load(file, height, width).to(self.mean.device) - self.mean) / self.std


class OnLatents(Arm):
    """A network that reads latents, rounded as they are stored."""

    input: Decoded

    def read(self, images: Tensor) -> Tensor:
        """Encode."""
        return self.input.encode(images)

    def load(self, file: Path, height: int, width: int) -> Tensor:
        """Read the latents."""
        return wt.load_latents(file).latents.to(self.input.codec.latent_mean.device)


def make_arm(name: str, network: nn.Module) -> Arm:
    """Make an arm whose network is not trained."""
    if name == LARGER_PATCH:
        return OnImages(name, LARGER_PATCH, make_input("pixels"), with_larger_patch(network))
    input = make_input(name)
    kind = f"{'refined' if input.decoder else 'decoded'} latents" if isinstance(input, Decoded) else name.split("_")[0]
    return OnImages(name, kind, input, network)


def make_latent_arm(name: str, kind: str, model: nn.Module) -> OnLatents:
    """Make an arm of a network with a WaLLoC stem, which is let read latents if it read pixels."""
    stem = stem_of(model)
    stem.input = "latents"
    return OnLatents(name, kind, Decoded(name, stem.codec, None), model)


def codec_of(name: str) -> wt.Codec:
    """Load the codec of a fitted or distilled arm.

    Raises:
        ValueError: There is no such codec, or more is named than a codec.
    """
    codec, decoder = load_codec_of(name.removeprefix(FITTED).removeprefix(DISTILLED))
    if decoder:
        raise ValueError(f"arm {name!r}: a stem reads latents, which no refiner has decoded")
    return codec


def why_not(name: str, network: nn.Module, match: Match) -> str:
    """Say why a network cannot have an arm; nothing if it can.

    Args:
        name: The arm.
        network: The network.
        match: How latents and network are brought together where an adapter is distilled.

    Raises:
        ValueError: There is no such arm.
    """
    if name == LARGER_PATCH:
        return _larger_patch(network)[1]
    if not name.startswith((FITTED, DISTILLED)):
        make_input(name)
        return ""
    codec = codec_of(name)
    try:
        plan = plan_replacement(network, codec, "resolution" if name.startswith(FITTED) else match)
    except ValueError as error:
        return str(error)
    (height, width), stride = plan.image_size, codec.config.stride
    whole = height % stride == width % stride == 0
    return "" if whole else f"sides of {height} and {width} pixels are no multiples of the codec's stride, {stride}"


def _larger_patch(network: Any) -> tuple[int, str]:
    """Find the side of a larger patch for a vision transformer, or say why there can be none."""
    kind, embed = type(network).__name__, getattr(network, "patch_embed", None)
    if kind not in ("VisionTransformer", "Eva") or type(embed) is not PatchEmbed:
        return 0, f"{kind} reads no patches that could be larger"
    patch, sides = 2 * int(embed.patch_size[0]), tuple(getattr(embed, "img_size", None) or (1,))
    whole = not any(side % patch for side in sides)
    return patch, "" if whole else f"images of {sides} pixels have no whole number of patches of {patch}"


def with_larger_patch(network: Any) -> nn.Module:
    """Copy a vision transformer and let it read patches of twice the side, its weights resampled as FlexiViT's are."""
    larger, (patch, _) = copy.deepcopy(network), _larger_patch(network)
    larger.set_input_size(patch_size=(patch, patch))
    return larger.eval()

"""A trained network for every arm of recipes/transfer.py, and what it is shown.

pixels, resized_*, dct_*, rgb_*, ...    the network as it is, on images of its size: see recipes/common/inputs.py
small_4x, small_16x                     the network on the thumbnail itself, with sides 2 or 4 times shorter
fitted_rgb_4x                           its stem is fitted to latents, at the same resolution
distilled_rgb_4x                        an adapter takes the place of its early layers (`distill_stem`, "entry")
distilled_resolution_rgb_4x             its stem is fitted, then trained with the layers behind it ("resolution")
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

import walloc_transforms as wt
from recipes.common.codecs import load_codec_of
from recipes.common.inputs import Input, Resized, make_input
from recipes.common.macs import count_macs
from recipes.common.networks import load_network
from walloc_transforms.stems import Match, plan_replacement

ARMS = (
    "pixels",
    *(f"{kind}_{n}x" for kind in ("resized", "small", "dct", "rgb") for n in (4, 16)),
    *(f"{way}_rgb_{n}x" for way in ("fitted", "distilled") for n in (4, 16)),
)
"""The arms that are compared by default."""

# The way of the longer name comes first, as names are told by how they begin.
_WAYS: dict[str, Match] = {"fitted_": "resolution", "distilled_resolution_": "resolution", "distilled_": "entry"}
_SMALL = {"small_4x": 2, "small_16x": 4}  # by how much sides are shorter


class Thumbnail(Resized):
    """The thumbnail itself."""

    def forward(self, images: Tensor) -> Tensor:
        """Reduce images."""
        return self.thumbnail(images)


class OfLatents(nn.Module):
    """What is shown of latents that are stored.

    Args:
        show: Decodes them.
    """

    def __init__(self, show: Any) -> None:
        super().__init__()
        self.show = show

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``(N, D, h, w)``."""
        height, width = (cells * self.show.codec.config.stride for cells in latents.shape[-2:])
        return self.show.decode(latents.float(), height, width)


class Shown(nn.Module):
    """A timm model behind what it is shown of an image.

    Args:
        network: The model.
        show: Maps uint8 crops to what it is shown of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, show: Input) -> None:
        super().__init__()
        self.network: nn.Module = network
        self.show: nn.Module = show
        data = resolve_model_data_config(network)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(data["std"]).view(-1, 1, 1) * 255)

    def forward(self, crops: Tensor) -> Tensor:
        """Map ``(N, 3, S, S)`` uint8 to logits."""
        with torch.no_grad(), torch.autocast(crops.device.type, enabled=False):
            x = (self.show(crops) - self.mean) / self.std
        return self.network(x.contiguous(memory_format=torch.channels_last))

    def read_latents(self) -> None:
        """Be shown stored latents from now on, where it was shown images: decode them, or let the stem read them."""
        stem = stem_in(self.network)
        if stem is not None:
            stem.input, self.show = "latents", nn.Identity()
            self.mean, self.std = self.mean.new_zeros(1), self.std.new_ones(1)
        else:
            self.show = OfLatents(self.show)

    def groups(self, head_lr: float) -> list[dict[str, Any]]:
        """Return the parameters in two groups, as an optimizer takes them: the new classifier has its own rate."""
        classifier: Any = self.network
        heads = classifier.get_classifier()
        own = {id(p) for head in (heads if isinstance(heads, tuple) else (heads,)) for p in head.parameters()}
        trained = [p for p in self.network.parameters() if p.requires_grad]
        head, trunk = ([p for p in trained if (id(p) in own) == of_head] for of_head in (True, False))
        return [{"params": trunk}, {"params": head, "lr": head_lr}]


@dataclass
class Start:
    """Where the training of an arm starts.

    Attributes:
        network: The trained network, with the classifier it was trained with.
        show: What it is shown of an image.
        values: What an image is reduced to.
    """

    network: nn.Module
    show: Input
    values: int

    def model(self, classes: int) -> Shown:
        """Make a copy with a new classifier, which torch's random numbers determine; it may move to any device."""
        network: Any = copy.deepcopy(self.network)
        network.reset_classifier(classes)
        return Shown(network, copy.deepcopy(self.show))


class Starts:
    """Makes the start of each arm, once.

    Args:
        name: Of the network, as ``load_network`` takes it.
        side: Of the images in pixels; None is what the network was made for.
        distilled: Folders of distilled models, from ``save_model``, to be taken where an arm needs one.

    Raises:
        ValueError: There is no such network; or a folder holds another one, or two are for the same arms.
        OSError: The weights cannot be had, or a folder's.
    """

    def __init__(self, name: str, side: int | None, distilled: Sequence[Path] = ()) -> None:
        self.name = name
        network: Any = load_network(name, side)
        self.network: nn.Module = network
        self.side: int = network.pretrained_cfg["input_size"][-1]
        self.distilled: dict[tuple[str, str], nn.Module] = {}
        for folder in distilled:
            model: Any = wt.load_model(folder)
            given, expected = (one.pretrained_cfg["architecture"] for one in (model, network))
            if given != expected:
                raise ValueError(f"{folder} holds a {given}: expected a {expected}, as {name} is")
            if self.distilled.setdefault((model.walloc.codec, model.walloc.match), model) is not model:
                raise ValueError(f"{folder} is the second model for {model.walloc.codec} by {model.walloc.match!r}")

    def check(self, arm: str, *, stored: bool = False) -> None:
        """Raise a ValueError for an arm that there is not, or not for this network, or not from stored latents."""
        name, match = split_arm(arm)
        given = arm.startswith("distilled_") and (load_codec_of(name)[0].config.name, match) in self.distilled
        if stored and match is not None and not given:
            raise ValueError(f"arm {arm!r} learns its stem from pixels: give a model that has one by --distilled")
        if arm in _SMALL:
            load_network(self.name, self.side // _SMALL[arm])
        elif match is None:
            make_input(name)
        else:
            codec, decoder = load_codec_of(name)
            if decoder:
                raise ValueError(f"arm {arm!r}: a stem reads latents, which no refiner has decoded")
            plan_replacement(self.network, codec, match)

    def make(
        self, arm: str, pictures: Sequence[Tensor], *, fit_images: int, steps: int, device: torch.device, show: bool
    ) -> Start:
        """Make the start of an arm.

        Args:
            arm: Its name.
            pictures: Images to fit or distill a stem with, in an order that means nothing; labels are not needed.
            fit_images: How many of them a stem is fitted to.
            steps: Of distillation.
            device: To fit and distill on.
            show: Whether there is a progress bar.
        """
        name, match = split_arm(arm)
        if arm in _SMALL:
            thumbnail = Thumbnail(arm, _SMALL[arm])
            network = load_network(self.name, self.side // _SMALL[arm])
            return Start(network, thumbnail, thumbnail.values(self.side, self.side))
        shown = make_input(name)
        values = shown.values(self.side, self.side)
        if match is None:
            return Start(self.network, shown, values)
        network: Any = copy.deepcopy(self.network).to(device)
        codec, _ = load_codec_of(name)
        if arm.startswith("fitted_"):
            wt.fit_stem(network, codec, pictures[:fit_images], match=match, progress=show)
        elif (found := self.distilled.get((codec.config.name, match))) is not None:
            network = found
        else:
            wt.distill_stem(network, codec, pictures, match=match, steps=steps, progress=show)
        return Start(network.cpu(), make_input("pixels"), values)


def split_arm(arm: str) -> tuple[str, Match | None]:
    """Take an arm's name apart: what is shown, and the ``match`` of a stem that reads it, or None."""
    for way, match in _WAYS.items():
        if arm.startswith(way):
            return arm.removeprefix(way), match
    return arm, None


def stem_in(network: nn.Module) -> wt.WallocStem | None:
    """Find the stem that reads latents, if the network has one."""
    return next((module for module in network.modules() if isinstance(module, wt.WallocStem)), None)


def macs_of(model: Shown, side: int) -> int:
    """Count the multiply-adds of a network on an image; encoding and decoding are not counted."""
    stem = stem_in(model.network)
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    if stem is None:
        shown = model.show(image).float()
        return count_macs(model.network, lambda: model.network(shown))
    latents, kept = stem.codec.encode(image), stem.input
    stem.input = "latents"
    try:
        return count_macs(model.network, lambda: model.network(latents))
    finally:
        stem.input = kept

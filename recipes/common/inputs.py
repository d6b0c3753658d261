"""What a trained network or a reader is shown in place of an image, at the image's size: the arms of such comparisons.

    show = make_input("rgb_16x")
    shown = show(images)                    # uint8, (..., 3, H, W), to the same
    show.values(height, width)              # numbers that the image was reduced to

    pixels                      the image as it is
    resized_4x, resized_16x     a thumbnail of 8 bits with sides 2 or 4 times shorter, bicubic there and back
    dct_4x, dct_16x             8x8 block DCT per color, the lowest frequencies: a quarter or a sixteenth of the values
    rgb_4x, rgb_16x, ...        latents of a codec, rounded as they are stored, decoded linearly
    rgb_4x:24                   of its first 24 channels
    rgb_16x_viewing+refiner     decoded by the codec's refiner

Images may have any sides of at least 8 pixels. What is kept can go through a file, a PNG or ``.wlc``:

    show.save(image, file)
    shown = show.load(file, height, width)
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

import walloc_transforms as wt
from recipes.common.arms import PIXELS, STRIDE, BlockDCT
from recipes.common.codecs import load_codec_of
from recipes.common.quality import to_8_bits


class Input(nn.Module, ABC):
    """A way from images to images, on which only some values of an image are kept; nothing in it is trained.

    Args:
        name: As above.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @abstractmethod
    def values(self, height: int, width: int) -> int:
        """Count the values that an image is reduced to."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(..., 3, H, W)``, uint8, to what is shown in their place, of the same shape and dtype."""


class StoredInput(Input):
    """An input for which there are files of what is kept.

    Attributes:
        suffix: Of these files.
    """

    suffix: str

    @abstractmethod
    def save(self, image: Tensor, file: Path) -> None:
        """Write what is kept of one image ``(3, H, W)``, uint8."""

    @abstractmethod
    def load(self, file: Path, height: int, width: int) -> Tensor:
        """Read what is shown in place of an image of this size: ``(3, height, width)``, uint8."""


class Pixels(StoredInput):
    """The images as they are."""

    suffix = ".png"

    def values(self, height: int, width: int) -> int:
        """Count the values of the image."""
        return 3 * height * width

    def forward(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def save(self, image: Tensor, file: Path) -> None:
        """Write the image."""
        to_pil_image(image).save(file)

    def load(self, file: Path, height: int, width: int) -> Tensor:
        """Read the image."""
        return _read_png(file)


class Resized(StoredInput):
    """What a thumbnail of 8 bits keeps, antialiased bicubic there and bicubic back.

    Args:
        name: Of the arm.
        factor: By which its sides are shorter.
    """

    suffix = ".png"

    def __init__(self, name: str, factor: int) -> None:
        super().__init__(name)
        self.factor = factor

    def values(self, height: int, width: int) -> int:
        """Count the values of the thumbnail."""
        return 3 * -(-height // self.factor) * -(-width // self.factor)

    def thumbnail(self, images: Tensor) -> Tensor:
        """Reduce images."""
        small = [-(-side // self.factor) for side in images.shape[-2:]]
        return v2.functional.resize(images, small, v2.InterpolationMode.BICUBIC, antialias=True)

    def forward(self, images: Tensor) -> Tensor:
        """Reduce images and enlarge them again."""
        return self._enlarge(self.thumbnail(images), *images.shape[-2:])

    def _enlarge(self, thumbnails: Tensor, height: int, width: int) -> Tensor:
        return v2.functional.resize(thumbnails, [height, width], v2.InterpolationMode.BICUBIC)

    def save(self, image: Tensor, file: Path) -> None:
        """Write the thumbnail."""
        to_pil_image(self.thumbnail(image)).save(file)

    def load(self, file: Path, height: int, width: int) -> Tensor:
        """Read and enlarge the thumbnail."""
        return self._enlarge(_read_png(file), height, width)


class Cosines(Input):
    """What the lowest frequencies of 8x8 blocks keep, not rounded.

    Args:
        name: Of the arm.
        kept: Values per block.
    """

    def __init__(self, name: str, kept: int) -> None:
        super().__init__(name)
        self.kept, self.transform = kept, BlockDCT(kept)

    def values(self, height: int, width: int) -> int:
        """Count the frequencies that are kept."""
        return self.kept * -(-height // STRIDE) * -(-width // STRIDE)

    def forward(self, images: Tensor) -> Tensor:
        """Transform forth and back, sides being filled up by reflection."""
        height, width = images.shape[-2:]
        flat = images.reshape(-1, *images.shape[-3:]).float()
        values = self.transform(F.pad(flat, (0, -width % STRIDE, 0, -height % STRIDE), "reflect"))
        back = F.conv_transpose2d(values, self.transform.basis, stride=STRIDE, groups=3)[..., :height, :width]
        return to_8_bits(back + 0.5).reshape(images.shape)


class Decoded(StoredInput):
    """What rounded latents keep.

    Args:
        name: Of the arm.
        codec: The codec.
        decoder: ``"refiner"``, or None for the codec's own decoder.
    """

    suffix = ".wlc"

    def __init__(self, name: str, codec: wt.Codec, decoder: str | None) -> None:
        super().__init__(name)
        self.codec, self.decoder = codec, decoder

    def values(self, height: int, width: int) -> int:
        """Count the latents."""
        c = self.codec.config
        return c.channels * -(-height // c.stride) * -(-width // c.stride)

    def encode(self, images: Tensor) -> Tensor:
        """Encode, rounded."""
        return self.codec.encode(images, rounding="round")

    def decode(self, latents: Tensor, height: int, width: int) -> Tensor:
        """Decode to images of 8 bits."""
        return to_8_bits(self.codec.decode(latents, size=(height, width), decoder=self.decoder))

    def forward(self, images: Tensor) -> Tensor:
        """Encode and decode."""
        height, width = images.shape[-2:]
        return self.decode(self.encode(images), height, width)

    def save(self, image: Tensor, file: Path) -> None:
        """Write the latents."""
        latents = self.encode(image.to(self.codec.latent_mean.device))
        wt.save_latents(file, latents, self.codec, size=image.shape[-2:])

    def load(self, file: Path, height: int, width: int) -> Tensor:
        """Read and decode the latents."""
        latents = wt.load_latents(file).latents
        return self.decode(latents.to(self.codec.latent_mean.device), height, width)


def _read_png(file: Path) -> Tensor:
    with Image.open(file) as image:
        return pil_to_tensor(image)


_MAKE = {
    "pixels": Pixels,
    "resized_4x": lambda name: Resized(name, 2),
    "resized_16x": lambda name: Resized(name, 4),
    "dct_4x": lambda name: Cosines(name, PIXELS // 4),
    "dct_16x": lambda name: Cosines(name, PIXELS // 16),
}


def make_input(name: str) -> Input:
    """Make an arm by name.

    Raises:
        ValueError: It is neither an arm nor a codec for color images; a number of channels that the codec does not
            have; or the codec has no refiner.
    """
    if name in _MAKE:
        return _MAKE[name](name)
    try:
        codec, decoder = load_codec_of(name)
    except ValueError as error:
        raise ValueError(f"unknown arm {name!r}: expected one of {', '.join(_MAKE)}, or a codec ({error})") from error
    return Decoded(name, codec, decoder)

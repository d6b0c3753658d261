"""What a colorization network may read and write instead of pixels, at one token per 8x8 pixels: the arms.

    arm = make_color_arm("walloc_16x")
    values = arm.read(image)                        # of the gray image: the input; of the color image: the target
    image = arm.show(values, image.shape[-2:])      # the way back

Per 8x8 pixels, that is for 192 numbers of a color image:

    resize_16x, resize_4x  thumbnail with 4 or 2 times shorter sides; its 2x2 or 4x4 patches     12 or 48 values
    patch                  all pixels                                                            192
    dct_16x, dct_4x        8x8 block DCT per color, lowest frequencies in zigzag order          12 or 48
    walloc_16x, walloc_4x  latents                                                               12 or 48

Values are linear in the image (latents with their companding undone), so that the difference between the values of the
color image and those of the gray one are the values of its color.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import walloc_transforms as wt
from recipes.common.arms import PIXELS, STRIDE, BlockDCT
from recipes.common.codecs import impulse_responses
from walloc_transforms.codec import compand

_REACH = 4  # tokens to either side that one value is decoded to: 3 levels of the 9/7 wavelet span 57 pixels
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's mode "L" and torchvision's rgb_to_grayscale


class ColorArm(nn.Module):
    """Values of images and the way back; nothing in it is trained.

    Attributes:
        values: Numbers per token of 8x8 pixels.
    """

    values: int

    @property
    def lossy(self) -> bool:
        """Whether the values are fewer than those of the pixels."""
        return self.values < PIXELS

    def read(self, image: Tensor) -> Tensor:
        """Map images ``(batch, 3, H, W)`` in [0, 1] to values ``(batch, values, ceil(H / 8), ceil(W / 8))``.

        Sides that are no multiple of 8 are extended by reflection on the right and bottom.

        Raises:
            ValueError: Another shape, or a side below 8 pixels.
        """
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < STRIDE:
            raise ValueError(
                f"expected color images (batch, 3, H, W) of at least {STRIDE}x{STRIDE} pixels, got {tuple(image.shape)}"
            )
        height, width = image.shape[-2:]
        return self._forth(F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), "reflect"))

    def back(self, values: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """Map values to images ``(batch, 3, *size)``, linear and differentiable, also beyond [0, 1]."""
        return self._back(values)[..., : size[0], : size[1]]

    def show(self, values: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """Map values to images ``(batch, 3, *size)`` in [0, 1]."""
        return self.back(values, size).clamp(0, 1)

    def features(self, values: Tensor) -> Tensor:
        """Show the network the values in another way, of the same shape."""
        return values

    def _forth(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def _back(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def energies(self) -> Tensor:
        """Squared error of the image, summed over its pixels, for an error of 1 in one of the values: ``(values,)``."""
        return impulse_responses(self._back, self.values, _REACH, axes=2).square().sum((1, 2, 3))


class Resized(ColorArm):
    """Thumbnail with sides ``8 / patch`` times shorter, antialiased bicubic there and bicubic back.

    Args:
        values: 12 or 48.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values, self.patch = values, math.isqrt(values // 3)

    def _forth(self, image: Tensor) -> Tensor:
        size = [side // STRIDE * self.patch for side in image.shape[-2:]]
        return F.pixel_unshuffle(F.interpolate(image, size, mode="bicubic", antialias=True), self.patch)

    def _back(self, values: Tensor) -> Tensor:
        size = [side * STRIDE for side in values.shape[-2:]]
        return F.interpolate(F.pixel_shuffle(values, self.patch), size, mode="bicubic")


class Patches(ColorArm):
    """All pixels, in patches as large as a token: equal tokens, nothing thrown away."""

    values = PIXELS

    def _forth(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, STRIDE)

    def _back(self, values: Tensor) -> Tensor:
        return F.pixel_shuffle(values, STRIDE)


class Cosines(ColorArm):
    """The lowest frequencies of an orthonormal 8x8 DCT-II of every color, the others zero on the way back.

    Args:
        values: A multiple of 3, up to 192.
    """

    basis: Tensor

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.register_buffer("basis", BlockDCT(values).basis[: values // 3].flatten(1), persistent=False)

    def _forth(self, image: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(image, STRIDE).unflatten(1, (3, -1))
        return torch.einsum("kp,bcphw->bckhw", self.basis, blocks).flatten(1, 2)

    def _back(self, values: Tensor) -> Tensor:
        blocks = torch.einsum("kp,bckhw->bcphw", self.basis, values.unflatten(1, (3, -1)))
        return F.pixel_shuffle(blocks.flatten(1, 2), STRIDE)


class Latents(ColorArm):
    """Latents of a codec with a linear decoder. The network reads them as they are stored; what it writes is expanded.

    Companding squeezes large latents, by which a difference of color would depend on the brightness it is added to.
    """

    def __init__(self, codec: wt.Codec) -> None:
        super().__init__()
        self.codec, self.values = codec, codec.config.channels

    def _forth(self, image: Tensor) -> Tensor:
        return self.codec.expand(self.codec.encode(image))

    def _back(self, values: Tensor) -> Tensor:
        return self.codec.synthesis(self.codec.load_decoder()(values)) + 0.5  # a codec's own gray is 0

    def features(self, values: Tensor) -> Tensor:
        """Compand."""
        return compand(values, self.codec.config.latent_bits)


_MAKE = {
    "resize_16x": lambda: Resized(12),
    "resize_4x": lambda: Resized(48),
    "patch": Patches,
    "dct_16x": lambda: Cosines(12),
    "dct_4x": lambda: Cosines(48),
    "walloc_16x": lambda: Latents(wt.load_codec("rgb_16x")),
    "walloc_4x": lambda: Latents(wt.load_codec("rgb_4x")),
}
COLOR_ARMS = tuple(_MAKE)
"""Their names, those of recipes/common/arms.py."""


def make_color_arm(name: str) -> ColorArm:
    """Build an arm by name.

    Raises:
        ValueError: There is no such arm.
    """
    if name not in _MAKE:
        raise ValueError(f"unknown arm {name!r}: expected one of {', '.join(_MAKE)}")
    return _MAKE[name]()


def luma(image: Tensor) -> Tensor:
    """Brightness ``(..., 1, H, W)`` of color images ``(..., 3, H, W)``, ITU-R 601, in the same range."""
    weights = image.new_tensor(_LUMA)[:, None, None]
    return (image * weights).sum(-3, keepdim=True)


def gray(image: Tensor) -> Tensor:
    """Make images ``(..., 3, H, W)`` in [0, 1] gray as a file of 8 bits holds them, in three equal channels."""
    return (luma(image) * 255).round().div(255).expand_as(image)


def keep_luma(image: Tensor, gray_image: Tensor) -> Tensor:
    """Put the brightness of the gray image in place of the image's own, and limit to [0, 1]: only its color is left.

    Args:
        image: ``(..., 3, H, W)`` in [0, 1].
        gray_image: The gray image that it was made from, of the same shape.
    """
    return (image + gray_image - luma(image)).clamp(0, 1)

"""What a network may read instead of a full image, at one token per 8x8 pixels: the arms of every comparison.

Every arm turns a uint8 image ``(..., 3, S, S)`` into features ``(..., values, S / 8, S / 8)``, so that stem, trunk and
token grid are the same for all and only the values differ:

    resize   thumbnail of S/4 or S/2 pixels, its 2x2 or 4x4 patches         12 or 48 values per token
    patch    all pixels, 8x8 patches                                        192
    dct      8x8 block DCT per color, lowest frequencies in zigzag order   12 or 48
    walloc   latents                                                        12 or 48

Other latents by the name of their codec: ``rgb_4x:24``, the first 24 channels, or the folder of a codec.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes.common.codecs import load_codec_of

STRIDE = 8
PIXELS = 3 * STRIDE**2


class Resize(nn.Module):
    """Thumbnail with ``values`` numbers per 8x8 pixels: what users do today. Uint8 and antialiased, as is fastest."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.patch = math.isqrt(values // 3)

    def forward(self, image: Tensor) -> Tensor:
        """Resize, then lay every patch of the thumbnail out as channels."""
        size = [n // STRIDE * self.patch for n in image.shape[-2:]]
        small = v2.functional.resize(image, size, v2.InterpolationMode.BICUBIC, antialias=True)
        return F.pixel_unshuffle(small, self.patch)


class Patch(nn.Module):
    """All pixels, through a patch as large as a token: equal tokens, nothing thrown away."""

    def forward(self, image: Tensor) -> Tensor:
        """Lay every 8x8 patch out as channels."""
        return F.pixel_unshuffle(image, STRIDE)


class BlockDCT(nn.Module):
    """The lowest frequencies of an orthonormal 8x8 DCT-II of every color, as JPEG orders them."""

    basis: Tensor

    def __init__(self, values: int) -> None:
        super().__init__()
        n = torch.arange(STRIDE, dtype=torch.float64)
        cosines = torch.cos(math.pi * (n + 0.5) * n[:, None] / STRIDE) * math.sqrt(2 / STRIDE)
        cosines[0] /= math.sqrt(2)
        zigzag = sorted(
            ((u, v) for u in range(STRIDE) for v in range(STRIDE)), key=lambda f: (sum(f), f[1 - sum(f) % 2])
        )
        kept = torch.stack([torch.outer(cosines[u], cosines[v]) for u, v in zigzag[: values // 3]])
        self.register_buffer("basis", kept.repeat(3, 1, 1)[:, None].float())

    def forward(self, image: Tensor) -> Tensor:
        """Transform; float32."""
        pixels = image.reshape(-1, *image.shape[-3:]).float() / 255 - 0.5
        return F.conv2d(pixels, self.basis, stride=STRIDE, groups=3).reshape(
            *image.shape[:-3], -1, *(n // STRIDE for n in image.shape[-2:])
        )


_CODECS = {"walloc_16x": "rgb_16x", "walloc_4x": "rgb_4x"}

# "KIND_Nx" gives N times fewer values than there are in the pixels
ARMS = {
    "resize_16x": lambda: Resize(12),
    "resize_4x": lambda: Resize(48),
    "patch": lambda: Patch(),
    "dct_16x": lambda: BlockDCT(12),
    "dct_4x": lambda: BlockDCT(48),
    **{name: lambda codec=codec: wt.WallocEncode(codec) for name, codec in _CODECS.items()},
}


def values_per_token(arm: str) -> int:
    """Numbers an arm gives per 8x8 pixels."""
    if arm not in ARMS:
        return codec_of(arm).config.channels
    return PIXELS // int(arm.split("_")[1].rstrip("x")) if "_" in arm else PIXELS


def codec_of(arm: str) -> wt.Codec:
    """Load the codec of an arm that reads latents.

    Raises:
        ValueError: The arm reads something else, there is no such arm, or the codec's cells are of another size.
    """
    name = _CODECS.get(arm, arm)
    if name in ARMS:
        raise ValueError(f"arm {arm!r} reads no latents")
    try:
        codec, decoder = load_codec_of(name)
    except (ValueError, OSError) as error:
        raise ValueError(f"unknown arm {arm!r}: expected one of {', '.join(ARMS)}, or a codec ({error})") from error
    if decoder or codec.config.stride != STRIDE:
        raise ValueError(f"arm {arm!r}: expected a codec of stride {STRIDE}, and no decoder")
    return codec


def make_arm(name: str) -> nn.Module:
    """Build an arm by name.

    Raises:
        ValueError: There is no such arm.
    """
    return ARMS[name]() if name in ARMS else wt.WallocEncode(codec_of(name))

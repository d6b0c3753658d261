"""
A photograph as latents
=======================

A codec turns each cell of 8x8 pixels into a few numbers, its latents. Fewer numbers keep less of the photograph, but
far more than a resized copy with the same number of values.
"""

import math

import matplotlib.pyplot as plt
import skimage.data
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

import walloc_transforms as wt

# %%
# Encode and decode
# -----------------
# Encoding takes a PIL image, or a tensor of any usual dtype. ``rgb_4x`` gives 48 channels for each cell, a quarter of
# the values of the pixels.

photograph = Image.fromarray(skimage.data.chelsea())
latents = wt.functional.encode_image(photograph, "rgb_4x")

print(f"{photograph.width} x {photograph.height} x 3 = {math.prod(photograph.size) * 3:,} values of pixels")
print(f"{' x '.join(map(str, latents.shape))} = {latents.numel():,} values of latents")

# %%
# Latents know their codec and the size of the photograph, so decoding needs no more. It gives floats in [0, 1].

pixels = F.to_dtype(F.to_image(photograph), torch.float32, scale=True)
decoded = wt.functional.decode_image(latents, "rgb_4x")


def psnr(image: torch.Tensor) -> float:
    """Measure how near an image is to the photograph, in dB."""
    return float(-10 * (image - pixels).square().mean().log10())


print(f"{psnr(decoded):.1f} dB")

# %%
# Fewer channels
# --------------
# Channels are ordered by importance. The first k of them are a codec of their own, a prefix.


def first(channels: int) -> torch.Tensor:
    """Decode the first channels alone."""
    codec = wt.load_codec("rgb_4x", channels=channels)
    return wt.functional.decode_image(latents[:channels], codec, size=pixels.shape[-2:])


def resized(channels: int) -> torch.Tensor:
    """Resize to as many values as these channels have, and enlarge again."""
    factor = math.sqrt(channels / (3 * 8 * 8))
    small = F.resize(pixels, [round(factor * side) for side in pixels.shape[-2:]], InterpolationMode.BICUBIC)
    return F.resize(small, list(pixels.shape[-2:]), InterpolationMode.BICUBIC).clamp(0, 1)


# %%
# The upper row is decoded from latents, the lower one is resized, each to the same part of the values: a quarter, an
# eighth, a sixteenth, a 64th. Look at the fur. At a 64th nothing helps.

figure, panels = plt.subplots(2, 4, figsize=(6.4, 3.7), layout="constrained")
for column, channels in zip(panels.T, (48, 24, 12, 3), strict=True):
    for axes, image in zip(column, (first(channels), resized(channels)), strict=True):
        axes.imshow(F.crop(image, 60, 130, 140, 140).movedim(0, -1).numpy())
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"1/{192 // channels}: {psnr(image):.1f} dB", fontsize=10)
panels[0, 0].set_ylabel("latents")
panels[1, 0].set_ylabel("resized")
plt.show()

# %%
# Every number of channels
# ------------------------
# A prefix may have any number of channels, and the file or the tensor that holds all of them holds every prefix. The
# first channel is gray, and the second the most important color.

counts = [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48]

figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
axes.plot(counts, [psnr(first(k)) for k in counts], "o-", color="C3", label="latents")
axes.plot(counts, [psnr(resized(k)) for k in counts], "s-", color="C0", label="resized, and enlarged again")
axes.set(xscale="log", xlabel="values for each cell of 8x8 pixels (of 192)", ylabel="PSNR, dB")
axes.set_xticks([1, 3, 6, 12, 24, 48], ["1", "3", "6", "12", "24", "48"])
axes.minorticks_off()
axes.grid(alpha=0.3)
axes.legend()
plt.show()

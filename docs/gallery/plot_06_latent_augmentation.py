"""
Flips and crops of latents
==========================

Latents that are stored once can still be augmented. They are a grid, but no image: flipping the grid moves the cells,
and does not flip what is in them. So ``wt.Latents`` brings its own flips, which torchvision's transforms find by
themselves.
"""

import matplotlib.pyplot as plt
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

import walloc_transforms as wt
from walloc_transforms import transforms

# %%
# Latents are a tv_tensor
# -----------------------

photograph = v2.functional.center_crop(Image.fromarray(skimage.data.chelsea()), [288, 288])
latents = wt.WallocEncode("rgb_4x", quantize=True, dtype=torch.int8)(photograph)
print(latents.codec, tuple(latents.shape), latents.signal_size, latents.dtype)

# %%
# A flip that is right
# --------------------
# The last picture is what happens to latents that are taken for an image.

decode = wt.WallocDecode("rgb_4x")
wrong = decode(latents.as_subclass(Tensor).flip(-1))
right = decode(v2.functional.horizontal_flip(latents))

figure, panels = plt.subplots(1, 3, figsize=(6.4, 2.5), layout="constrained")
for axes, image, title in zip(
    panels,
    (decode(latents), right, wrong),
    ("latents", "horizontal_flip", "the grid flipped"),
    strict=True,
):
    axes.imshow(image.movedim(0, -1).numpy())
    axes.set_title(title, fontsize=10)
    axes.axis("off")
plt.show()

# %%
# How far is the flip from encoding the flipped photograph? Before rounding, it misses less than a percent of the
# variance.

exact = wt.functional.encode_image(v2.functional.horizontal_flip(photograph), "rgb_4x")
flipped = v2.functional.horizontal_flip(wt.functional.encode_image(photograph, "rgb_4x"))
missed = (exact - flipped).square().mean() / exact.var()
print(f"missed: {100 * missed:.2f} % of the variance")

# %%
# What refuses
# ------------
# Resizing latents would give nonsense, and nobody would notice. So it is an error.

try:
    v2.Resize(16)(latents)
except TypeError as error:
    print(error)

# %%
# Everything there is
# -------------------
# Transforms of ``wt.transforms`` draw anew for every record of a batch. Crops count cells: 24 cells are 192 pixels.
# Color changes and noise act on latents nearly as they act on pixels.

augmentations = {
    "stored": v2.Identity(),
    "flip": transforms.LatentRandomHorizontalFlip(1),
    "crop of 24 cells": transforms.LatentRandomCrop(24),
    "brightness": transforms.LatentColorJitter(brightness=(0.6, 0.6)),
    "contrast": transforms.LatentColorJitter(contrast=(1.5, 1.5)),
    "saturation": transforms.LatentColorJitter(saturation=(0.2, 0.2)),
    "noise": transforms.LatentNoise(0.12),
    "first channels alone": transforms.LatentChannelDropout(1),
}
figure, panels = plt.subplots(4, 2, figsize=(4.8, 10), layout="constrained")
for axes, (title, augment) in zip(panels.flat, augmentations.items(), strict=True):
    torch.manual_seed(5)
    axes.imshow(decode(augment(latents)).movedim(0, -1).numpy())
    axes.set_title(title, fontsize=10)
    axes.axis("off")
plt.show()

# %%
# What each of them misses is measured in :doc:`/latents`.

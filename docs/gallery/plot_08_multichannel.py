"""
A codec of your own, for images of sixteen channels
===================================================

``fit_codec`` finds the linear codec that reconstructs given images best, in closed form: one pass over the images, one
eigendecomposition, no GPU. Images may have any number of channels.
"""

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

import walloc_transforms as wt
from recipes.common.photographs import demo_photographs

# %%
# Images like those of a spectral camera
# --------------------------------------
# No such images come with this package, so these are made up: each channel is one wavelength, at which a pixel reflects
# a smooth mixture of its red, green and blue, bent by an exponent that changes along the spectrum. A little noise keeps
# it from being too easy.

wavelengths = torch.linspace(420, 680, 16)
centers, widths = torch.tensor([620.0, 540.0, 450.0]), torch.tensor([45.0, 40.0, 30.0])
bumps = torch.exp(-0.5 * ((wavelengths[:, None] - centers) / widths) ** 2)
bumps = bumps / bumps.sum(1, keepdim=True)
exponents = 1 + 0.5 * torch.sin(wavelengths / 40)


def spectral(photograph: Image.Image) -> Tensor:
    """Make sixteen channels of three, in [0, 1]."""
    pixels = F.resize(F.to_dtype(F.to_image(photograph), torch.float32, scale=True), 384, antialias=True)
    mixed = torch.einsum("kc,chw->khw", bumps, pixels.clamp(0, 1)) ** exponents[:, None, None]
    noise = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(0))
    return (mixed + 0.01 * noise).clamp(0, 1)


photographs = demo_photographs()
images = [spectral(photographs[i]) for i in (0, 1, 4, 5, 6)]
test = spectral(photographs[2])
print(tuple(test.shape))

# %%
# Fit
# ---
# 32 channels for 8x8 pixels of sixteen channels: a thirty-second of the values.

codec = wt.fit_codec(images, levels=3, channels=32, name="spectral_32x", progress=False)
c = codec.config
print(f"{c.packets} packets, {c.channels} channels, {c.dimensionality_reduction:g} times fewer values")

# %%
# It works as the codecs that come with the package do: transforms, stems, files and data sets take it. The photograph
# below was not among those that it was fitted to.

decoded = wt.functional.decode_image(wt.functional.encode_image(test, codec), codec)
small = F.resize(test, [round(side / 32**0.5) for side in test.shape[-2:]], InterpolationMode.BICUBIC, antialias=True)
resized = F.resize(small, list(test.shape[-2:]), InterpolationMode.BICUBIC)


def psnr(image: Tensor) -> float:
    """Measure how near an image is to the test image, in dB."""
    return float(-10 * (image - test).square().mean().log10())


# %%
# A part of three of the channels, and the spectra of two pixels.

ways = {"image": test, "latents": decoded, "resized": resized}
figure = plt.figure(figsize=(6.4, 6.6), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=[2, 1])
panels = upper.subplots(3, 3)
for line, (name, image) in zip(panels, ways.items(), strict=True):
    for axes, k in zip(line, (1, 8, 14), strict=True):
        axes.imshow(image[k, 90:290, 170:470].numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if name == "image":
            axes.set_title(f"{wavelengths[k]:.0f} nm", fontsize=10)
    line[0].set_ylabel(name if name == "image" else f"{name}\n{psnr(image):.1f} dB")
for axes, (y, x) in zip(lower.subplots(1, 2), ((150, 300), (280, 200)), strict=True):
    for (name, image), style in zip(ways.items(), ("k-", "C3o--", "C0s:"), strict=True):
        axes.plot(wavelengths.numpy(), image[:, y, x].numpy(), style, markersize=4, label=name)
    axes.set(xlabel="wavelength, nm", ylabel="reflected", ylim=(0, 1), title=f"pixel ({x}, {y})")
    axes.title.set_fontsize(10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
plt.show()

# %%
# How few channels would do?
# --------------------------
# A prefix of the fitted codec is the best codec of its own size.

counts = [1, 2, 4, 8, 12, 16, 24, 32]
latents = wt.functional.encode_image(test, codec)
nearness = [psnr(codec.prefix(k).decode(latents[:k], size=test.shape[-2:])) for k in counts]
figure, axes = plt.subplots(figsize=(5.4, 3), layout="constrained")
axes.plot(counts, nearness, "o-", color="C3")
axes.set(xlabel="channels of the prefix", ylabel="PSNR, dB", xticks=counts)
axes.grid(alpha=0.3)
plt.show()

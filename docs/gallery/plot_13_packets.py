"""
Wavelet packets
===============

The first step of a codec splits a signal into packets, one for each range of frequencies. Nothing is lost, and nothing
is learned. Most of the energy ends up in few of them.
"""

import matplotlib.pyplot as plt
import skimage.data
import torch
from torch import Tensor

import walloc_transforms as wt

# %%
# Two levels of one signal
# ------------------------
# A level filters a signal twice, low and high, and keeps every second value of each. The next level does the same to
# both halves. Synthesis puts zeros where values were dropped, filters, and adds.

time = torch.arange(512, dtype=torch.float64)
chirp = torch.sin(0.5 * torch.pi * time.square() / 512)  # from frequency 0 to the highest one
analyze = wt.wavelets.WaveletPacketAnalysis("bior4.4", levels=1, dims=1)
synthesize = wt.wavelets.WaveletPacketSynthesis("bior4.4", levels=1, dims=1)

rows = [chirp[None, None]]
for step in (analyze, analyze, synthesize, synthesize):
    rows.append(step(rows[-1]))
print(" -> ".join(" x ".join(map(str, row.shape[1:])) for row in rows))
print(f"largest error: {float((rows[-1] - rows[0]).abs().max()):.0e}")

# %%
# The signal is a tone that rises from nothing to the highest frequency. Each packet holds one quarter of that range: it
# is loud while the tone passes there. The third quarter is in "high, high", not in "high, low": dropping every second
# value reverses the order of high frequencies.

halves, quarters = ["low", "high"], ["low, low", "low, high", "high, low", "high, high"]
names = [["signal"], halves, quarters, halves, ["signal"]]
figure = plt.figure(figsize=(5.4, 6.8), layout="constrained")
figure.get_layout_engine().set(h_pad=0.1)
grid = figure.add_gridspec(5, 4)
for line, (row, titles) in enumerate(zip(rows, names, strict=True)):
    wide = 4 // len(titles)
    for k, (values, title) in enumerate(zip(row[0], titles, strict=True)):
        axes = figure.add_subplot(grid[line, k * wide : (k + 1) * wide])
        axes.plot(values.numpy(), color="C0" if line < 2 else "C3" if line == 2 else "C2", linewidth=0.6)
        axes.set(ylim=(-2.4, 2.4), xticks=[], yticks=[], xlim=(0, len(values) - 1))
        axes.set_title(title, fontsize=10, loc="left")
        if line in (1, 2):  # filtered, and every second value kept
            axes.annotate("", (0.9, 1.04), (0.9, 1.33), "axes fraction", arrowprops={"arrowstyle": "->"})
        if line in (2, 3):  # put together
            axes.annotate("", (0.9, -0.33), (0.9, -0.04), "axes fraction", arrowprops={"arrowstyle": "->"})
plt.show()

# %%
# Frequencies
# -----------
# Three levels make eight packets along each axis. A packet's filter is what it makes of single impulses. The filters
# overlap, because they are short: CDF 9/7, the wavelet of JPEG 2000, has nine taps and seven.

impulses = torch.eye(512, dtype=torch.float64)[:, None]
filters = wt.wavelets.WaveletPacketAnalysis("bior4.4", levels=3, dims=1)(impulses)[:, :, 32].T
gains = torch.fft.rfft(filters).abs()

figure, axes = plt.subplots(figsize=(5.4, 3.2), layout="constrained")
frequencies = torch.linspace(0, 1, gains.shape[1])
for packet, gain in enumerate(gains):
    axes.plot(frequencies.numpy(), gain.numpy())
    top = int(gain.argmax())
    axes.text(float(frequencies[top].clamp(0.04, 0.96)), float(gain[top]) + 0.1, f"{packet:03b}", ha="center")
axes.set(xlabel="frequency, as a part of the highest one", ylabel="gain", xlim=(0, 1), ylim=(0, 3.5))
axes.set_title("eight packets: 1 is high, 0 is low, the first level first", fontsize=10)
axes.grid(alpha=0.3)
plt.show()

# %%
# Packets of a photograph
# -----------------------
# An image is split along both axes, into four packets at one level, 16 at two, 64 at three. All of them together have
# as many values as the image.

gray = torch.from_numpy(skimage.data.camera()[None, None] / 255.0 - 0.5)


def mosaic(levels: int) -> Tensor:
    """Lay the packets side by side: high along the height is below, high along the width is on the right."""
    packets = wt.wavelets.WaveletPacketAnalysis("bior4.4", levels=levels, dims=2)(gray)[0] / 2**levels
    image = torch.zeros_like(gray[0, 0]).unflatten(0, (2**levels, -1)).unflatten(2, (2**levels, -1))
    for f, packet in enumerate(packets):
        digits = [f // 4**j % 4 for j in reversed(range(levels))]  # of the first level first; each is v + 2 h
        row = sum(digit % 2 * 2 ** (levels - 1 - j) for j, digit in enumerate(digits))
        column = sum(digit // 2 * 2 ** (levels - 1 - j) for j, digit in enumerate(digits))
        image[row, :, column] = packet if f == 0 else 4 * packet
    return image.flatten(2).flatten(0, 1)


# sphinx_gallery_thumbnail_number = 3
figure, panels = plt.subplots(2, 2, figsize=(5.4, 5.9), layout="constrained")
for levels, axes in enumerate(panels.flat):
    axes.imshow(mosaic(levels).numpy() if levels else gray[0, 0].numpy(), cmap="gray", vmin=-0.5, vmax=0.5)
    axes.set(xticks=[], yticks=[], title=f"J = {levels}: {4**levels} packets" if levels else "photograph")
plt.show()

# %%
# The first packet, low all the way, is a small photograph. The others hold edges and textures, and are shown four times
# as strong. In a tensor, packets are channels. Their number has one digit for each level, the first level first. A
# digit is ``v + 2 h``: ``v`` is 1 for high along the height, ``h`` for high along the width.

digits = {"low": 0, "v": 1, "h": 2, "both": 3}
print("high along the height at level 1, low twice:", 16 * digits["v"] + 4 * digits["low"] + digits["low"])
print("low twice, high both ways at level 3:", 16 * digits["low"] + 4 * digits["low"] + digits["both"])

# %%
# What it is good for
# -------------------
# The 64 pixels of a cell are much alike, and their packets are not. So most packets can be left out at little loss. The
# first picture shows the correlation of any two of the 64 numbers over all cells of the photograph. The second shows
# what is left out with the weakest of them.

pixels = gray[0, 0].unflatten(0, (64, 8)).unflatten(2, (64, 8)).permute(1, 3, 0, 2).flatten(2).flatten(0, 1)
packets = wt.wavelets.WaveletPacketAnalysis("bior4.4", levels=3, dims=2)(gray)[0].flatten(1)

numbers = {"pixels": pixels, "packets": packets}
figure, panels = plt.subplots(1, 2, figsize=(5.4, 2.7), layout="constrained")
for axes, (name, values) in zip(panels, numbers.items(), strict=True):
    correlation = torch.corrcoef(values)
    shown = axes.imshow(correlation.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    others = correlation[~torch.eye(64, dtype=torch.bool)]
    axes.set(xlabel=f"{name} of a cell", xticks=[0, 32, 63], yticks=[0, 32, 63])
    axes.set_title(f"{float(others.abs().mean()):.2f} on average", fontsize=10)
figure.colorbar(shown, ax=panels, label="correlation")
plt.show()

# %%

figure, axes = plt.subplots(figsize=(5.4, 3.2), layout="constrained")
for (name, values), color in zip(numbers.items(), ("C0", "C3"), strict=True):
    energy = values.var(1).sort(descending=True).values
    left_out = 100 * (1 - energy.cumsum(0) / energy.sum())
    axes.plot(range(1, 64), left_out[:63].numpy(), "o-", markersize=3, color=color, label=name)
axes.set(xscale="log", yscale="log", xlabel="numbers of a cell that are kept, of 64", ylabel="energy left out, %")
axes.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
axes.minorticks_off()
axes.legend()
axes.grid(alpha=0.3)
plt.show()

# %%
# The same packet of red, green and blue is another matter: these three are much alike. The matrix that follows the
# wavelet takes care of that, and :doc:`plot_14_pipeline` shows it.

color = torch.from_numpy(skimage.data.coffee()).movedim(-1, 0)[None] / 255.0 - 0.5
packets = wt.wavelets.WaveletPacketAnalysis("bior4.4", levels=3, dims=2)(color)[0].unflatten(0, (3, 64)).flatten(2)
alike = [float(torch.corrcoef(packets[:, f]).triu(1).abs().sum() / 3) for f in range(64)]
print(f"correlation of the same packet in two colors: {sum(alike) / 64:.2f} on average")

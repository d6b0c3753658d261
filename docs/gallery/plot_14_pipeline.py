"""
From pixels to latents and back, step by step
=============================================

``encode`` and ``decode`` are four steps each. Here they are taken one by one, with a picture of what each hands to the
next. Then one latent of each channel is decoded by itself.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import skimage.data
import torch
from torch import Tensor

import walloc_transforms as wt

# %%
# Four steps there
# ----------------
# Wavelet packets, a matrix that all cells share, companding, rounding. The codec's own ``encode`` computes the first
# two at once, and gives the same.

codec = wt.load_codec("rgb_16x")
photograph = torch.from_numpy(skimage.data.astronaut()[:256, 96:352]).movedim(-1, 0) / 255

packets = codec.analysis(photograph[None] - 0.5)[0]
projected = torch.einsum("dp,phw->dhw", codec.weight, packets) + codec.bias[:, None, None]
latents = codec.compand(projected)
rounded = latents.round().to(torch.int8)
print(f"differs from encode() by at most {float((latents - codec.encode(photograph)).abs().max()):.0e}")

# %%
# And four back
# -------------
# Reading the integers, undoing the companding, a matrix again, and the synthesis of the wavelet. A file holds the
# integers, without loss. A network needs no file, and no rounding: it reads the latents.

with tempfile.TemporaryDirectory() as folder:
    size = wt.save_latents(Path(folder) / "photograph.wlc", rounded, codec, size=photograph.shape[-2:])

expanded = codec.expand(rounded)
repacked = codec.decoder(expanded[None])[0]
decoded = codec.synthesis(repacked[None])[0] + 0.5
print(f"{photograph.numel():,} values of pixels, {rounded.numel():,} latents, {size:,} bytes in a file")
print(f"differs from decode() by at most {float((decoded - codec.decode(rounded, clamp=False)).abs().max()):.0e}")

# %%
# The left column goes down, the right one comes up. Of the 192 packets only the first of each color shows something to
# the eye; here the others are eight times as strong. On the right those of high frequencies are gone: the 12 channels
# do not hold them.


def tiles(channels: Tensor, columns: int) -> Tensor:
    """Lay channels side by side, ``(n, h, w)`` or colored ones ``(n, h, w, 3)``."""
    return torch.cat([torch.cat(list(row), 1) for row in channels.split(columns)], 0)


def picture(packets: Tensor) -> Tensor:
    """Show the 64 packets of three colors, 8 in a row, in the order of their numbers."""
    strength = torch.full((64, 1, 1, 1), 8.0)
    strength[0] = 1
    return tiles((0.5 + packets.unflatten(0, (3, 64)).permute(1, 2, 3, 0) / 8 * strength).clamp(0, 1), 8)


there = [
    ("photograph", photograph, photograph.movedim(0, -1)),
    ("packets", packets, picture(packets)),
    ("projected", projected, tiles(projected, 4)),
    ("latents", latents, tiles(latents, 4)),
]
back = [
    ("decoded", decoded, decoded.movedim(0, -1).clamp(0, 1)),
    ("packets", repacked, picture(repacked)),
    ("projected", expanded, tiles(expanded, 4)),
    ("rounded", rounded, tiles(rounded, 4)),
]
figure, panels = plt.subplots(4, 2, figsize=(5, 10), layout="constrained")
figure.get_layout_engine().set(h_pad=0.1, w_pad=0.15)
for column, steps, way in zip(
    panels.T, (there, back), ("analysis matrix companding", "synthesis matrix expansion"), strict=True
):
    for axes, (name, values, shown) in zip(column, steps, strict=True):
        axes.imshow(shown.numpy(), cmap="gray", vmin=-40, vmax=40)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{name}, {' x '.join(map(str, values.shape))}", fontsize=10)
    for line, word in enumerate(way.split()):
        ends = ((0.5, -0.04), (0.5, -0.2)) if steps is there else ((0.5, -0.2), (0.5, -0.04))
        column[line].annotate("", ends[1], ends[0], "axes fraction", arrowprops={"arrowstyle": "->", "lw": 1.5})
        column[line].text(0.54, -0.12, word, transform=column[line].transAxes, va="center", fontsize=10)
panels[3, 0].annotate("", (1.12, 0.5), (1.01, 0.5), "axes fraction", arrowprops={"arrowstyle": "->", "lw": 1.5})
plt.show()

# %%
# Companding
# ----------
# Companding follows the distribution function of a Gaussian. Rounding what it gives is rounding with steps that grow:
# small values, which are common, get fine steps, and large ones, which are rare, coarse steps. The values of
# ``rgb_16x`` stay where the curve is nearly straight. Those of ``rgb_4x`` are larger: they are rounded more finely, and
# use more of the curve.

z = torch.linspace(-260, 260, 1001)
figure, (upper, lower) = plt.subplots(2, 1, figsize=(5.4, 5), layout="constrained", sharex=True)
upper.plot(z.numpy(), codec.compand(z).numpy(), color="k")
codes = torch.arange(-120, 121, 20)
for code, at in zip(codes.tolist(), codec.expand(codes.to(torch.int8)).tolist(), strict=True):
    upper.plot([-260, at, at], [code, code, -128], color="C0", linewidth=0.7)
upper.set(ylabel="latent", ylim=(-128, 128), xlim=(-260, 260))
upper.set_title("every twentieth code, and the value that it stands for", fontsize=10)
for name, color in (("rgb_16x", "C3"), ("rgb_4x", "C2")):
    other = wt.load_codec(name)
    values = other.expand(other.encode(photograph)).flatten()
    lower.hist(values.numpy(), bins=130, range=(-260, 260), log=True, histtype="step", color=color, label=name)
lower.set(xlabel="projected value", ylabel="how many in the photograph")
lower.legend()
plt.show()

# %%
# What a latent paints
# --------------------
# All latents are zero, but one is 31. What it adds to the decoded image shows what its channel stands for. The first
# one is brightness, two are colors, the others waves: first slow, then faster, in all directions. The pictures show
# 3x3 cells. A latent reaches into the cells around its own, so that neighbors blend.


def painted(codec: wt.Codec) -> Tensor:
    """Decode a latent of 31 in each channel by itself, less what zeros give: ``(channels, 24, 24, 3)``."""
    channels = torch.arange(codec.config.channels)
    alone = torch.zeros(len(channels), len(channels), 3, 3)
    alone[channels, channels, 1, 1] = 31
    return (codec.decode(alone, clamp=False) - codec.decode(0 * alone, clamp=False)).movedim(1, -1)


# sphinx_gallery_thumbnail_number = 3
figure, panels = plt.subplots(3, 4, figsize=(5.4, 4.6), layout="constrained")
for k, (axes, image) in enumerate(zip(panels.flat, painted(codec), strict=True)):
    axes.imshow((0.5 + image).clamp(0, 1).numpy())
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"channel {k}", fontsize=10)
figure.suptitle("rgb_16x, 24x24 pixels", fontsize=10)
plt.show()

# %%
# The 48 channels of ``rgb_4x`` begin with the same twelve, and go on to faster waves and to waves of color. Its steps
# are finer, so 31 is a fainter stroke: these pictures have three times the contrast.

figure, panels = plt.subplots(8, 6, figsize=(5.4, 8), layout="constrained")
for k, (axes, image) in enumerate(zip(panels.flat, painted(wt.load_codec("rgb_4x")), strict=True)):
    axes.imshow((0.5 + 3 * image).clamp(0, 1).numpy())
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{k}", fontsize=10, pad=2)
figure.suptitle("rgb_4x, 24x24 pixels", fontsize=10)
plt.show()

# %%
# What a latent of sound is
# -------------------------
# The same for ``stereo_20x``: one latent of each of its 27 channels, in the middle of 17 frames. It is a short tone,
# alike in both loudspeakers or opposite: the codec found middle and side by itself. A packet is 86 Hz wide, 22,050 Hz
# over 256.

stereo = wt.load_codec("stereo_20x")
channels = torch.arange(27)
alone = torch.zeros(27, 27, 17)
alone[channels, channels, 8] = 31
sound = stereo.decode(alone)
middle, side = (sound[:, 0] + sound[:, 1]) / 2, (sound[:, 0] - sound[:, 1]) / 2

figure, panels = plt.subplots(4, 1, figsize=(5.4, 4.6), layout="constrained", sharex=True)
milliseconds = 1000 * torch.arange(sound.shape[-1]) / 44100
for axes, k in zip(panels, (0, 4, 10, 13), strict=True):
    axes.plot(milliseconds.numpy(), sound[k, 0].numpy(), color="C0", label="left")
    axes.plot(milliseconds.numpy(), sound[k, 1].numpy(), "--", color="C1", label="right")
    axes.set(yticks=[0], ylim=(-0.3, 0.3), xlim=(30, 70), ylabel="sound")
    axes.set_title(f"channel {k}", fontsize=10)
panels[0].legend(loc="upper right", ncols=2, fontsize=9)
panels[-1].set_xlabel("time, ms")
plt.show()

# %%
# Low tones come first, and the middle before the side: most of the energy of music lies there. Two channels hold both.

frequencies = torch.fft.rfftfreq(sound.shape[-1], 1 / 44100)
figure, panels = plt.subplots(1, 2, figsize=(5.4, 4.2), layout="constrained", sharey=True)
for axes, (name, waves) in zip(panels, {"middle": middle, "side": side}.items(), strict=True):
    power = 20 * (torch.fft.rfft(waves).abs() + 1e-3).log10()
    shown = axes.pcolormesh(frequencies.numpy()[:250], channels.numpy(), power.numpy()[:, :250], vmin=-20, vmax=35)
    axes.set(title=name, xlabel="frequency, Hz")
panels[0].set_ylabel("channel")
panels[0].invert_yaxis()
figure.colorbar(shown, ax=panels, label="power, dB")
plt.show()

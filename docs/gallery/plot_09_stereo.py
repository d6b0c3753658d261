"""
Stereo music as latents
=======================

Audio codecs do with frames of 256 samples what image codecs do with cells. Two of them come with the package, for
stereo at 44.1 kHz: ``stereo_5x`` and ``stereo_20x``.
"""

import base64
import io

import matplotlib.pyplot as plt
import soundfile
import torch
import torchaudio
from torch import Tensor

import walloc_transforms as wt
from recipes.common.demo_music import demo_track

RATE = 44100

# %%
# A small band
# ------------
# The music is made by a program: voice, drums, bass and chords.

track = demo_track(seed=4, seconds=4)
music = torch.stack(list(track.values())).sum(0)
print(tuple(music.shape))


class Player:
    """Shows a player where a page of this gallery is built, or a notebook runs."""

    def __init__(self, waveform: Tensor) -> None:
        content = io.BytesIO()
        soundfile.write(content, waveform.clamp(-1, 1).T.numpy(), RATE, format="FLAC")
        self.data = base64.b64encode(content.getvalue()).decode()

    def _repr_html_(self) -> str:
        return f'<audio controls src="data:audio/flac;base64,{self.data}"></audio>'


Player(music)

# %%
# Encode and decode
# -----------------
# A frame of ``stereo_5x`` has 108 channels for 2 x 256 samples, one of ``stereo_20x`` has 27. The transform can be told
# the sample rate of what it gets, and refuses another one.

encode = wt.WallocEncode("stereo_20x", sample_rate=RATE)
latents = encode(music)
more = wt.WallocEncode("stereo_5x", sample_rate=RATE)(music)
decoded = {"stereo_5x": wt.WallocDecode("stereo_5x")(more), "stereo_20x": wt.WallocDecode("stereo_20x")(latents)}
print(f"{music.numel():,} values of sound, {latents.numel():,} of latents")

Player(decoded["stereo_5x"])

# %%

Player(decoded["stereo_20x"])

# %%
# Spectrograms
# ------------
# Most of the energy of music lies in its lowest octaves, and so do most of the latents. Resampling keeps these too, so
# it is a stronger rival here than resizing is for images. The resampled sound has a few more values than
# ``stereo_20x``.


def psnr(waveform: Tensor) -> float:
    """Measure how near a waveform is to the music, in dB; its range is 2 wide."""
    return float(10 * (4 / (waveform - music).square().mean()).log10())


def spectrogram(waveform: Tensor) -> Tensor:
    """Compute the power in dB, ``(frequencies, times)``."""
    spectrum = torch.stft(waveform.mean(0), 2048, 512, window=torch.hann_window(2048), return_complex=True)
    return 10 * (spectrum.abs().square() + 1e-6).log10()


low = torchaudio.functional.resample(music, RATE, RATE // 18)
decoded["resampled to 2,450 Hz"] = torchaudio.functional.resample(low, RATE // 18, RATE)[:, : music.shape[1]]

sounds = {"music": music, **decoded}
figure, panels = plt.subplots(2, 2, figsize=(6.4, 5), layout="constrained", sharex=True, sharey=True)
for axes, (name, waveform) in zip(panels.flat, sounds.items(), strict=True):
    power = spectrogram(waveform)
    axes.imshow(
        power.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=-40, vmax=40, extent=(0, 4, 0, RATE / 2000)
    )
    axes.set_title(name if name == "music" else f"{name}: {psnr(waveform):.1f} dB", fontsize=10)
    axes.set_ylim(0, 10)
for axes in panels[1]:
    axes.set_xlabel("time, s")
for axes in panels[:, 0]:
    axes.set_ylabel("frequency, kHz")
plt.show()

# %%
# The latents themselves
# ----------------------
# Each row is a channel, each column a frame. The bass drum shows in the first channels, tones in later ones.

codec = encode.codec
normal = codec.normalize(latents.as_subclass(Tensor))
figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
axes.imshow(normal.numpy(), aspect="auto", cmap="RdBu", vmin=-3, vmax=3, extent=(0, 4, 27, 0), interpolation="nearest")
axes.set(xlabel="time, s", ylabel="channel", title="stereo_20x, normalized")
plt.show()

"""
A stream, chunk by chunk
========================

Sound that is too long for memory, or not over yet, is encoded and decoded while it arrives. What comes out is what
encoding the whole sound would give, except at its two ends.
"""

import matplotlib.pyplot as plt
import torch

import walloc_transforms as wt
from recipes.common.demo_music import demo_track

# %%
# Sound arrives
# -------------
# A second of music, in chunks of any length. A player or a microphone gives chunks of one length, but nothing depends
# on that.

music = torch.stack(list(demo_track(seed=1, seconds=1).values())).sum(0)
torch.manual_seed(0)
lengths = torch.randint(100, 5000, (100,)).cumsum(0)
chunks = torch.tensor_split(music, lengths[lengths < music.shape[1]], dim=1)
print([chunk.shape[1] for chunk in chunks])

# %%
# Encoder and decoder
# -------------------
# Each call gives what is finished: frames of latents, then samples. At first that may be nothing.

codec = wt.load_codec("stereo_5x")
encoder, decoder = wt.StreamEncoder(codec), wt.StreamDecoder(codec)
arrived, frames, played = [0], [torch.zeros(108, 0)], [torch.zeros(2, 0)]
for chunk in chunks:
    arrived.append(arrived[-1] + chunk.shape[1])
    frames.append(encoder(chunk))
    played.append(decoder(frames[-1]))
frames.append(encoder.finish())
played.append(torch.cat([decoder(frames[-1]), decoder.finish(music.shape[1])], 1))

delay = codec.config.stride + encoder.latency + decoder.latency
print(f"{sum(part.shape[1] for part in frames)} frames, {sum(part.shape[1] for part in played):,} samples")
print(f"a sample is played {delay} samples after it arrives, {1000 * delay / 44100:.0f} ms")

# %%
# The same as the whole
# ---------------------
# ``Codec.encode`` wraps the signal around: its end lies beside its beginning. A stream does not know the end, and
# assumes silence outside. So a few frames differ at both ends, and none between.

whole = codec.encode(music)
difference = (torch.cat(frames, 1) - whole).abs().amax(0)
print(f"frames that may differ: {encoder.edge_frames[0]} at the beginning, {encoder.edge_frames[1]} at the end")

# %%
# Upper: each dot is a chunk. What was given out follows what has arrived, less the delay. Lower: the largest difference
# between the latents of the stream and those of the whole.

time = torch.tensor(arrived) / 44100
encoded = torch.tensor([part.shape[1] for part in frames[:-1]]).cumsum(0) * codec.config.stride / 44100
given = torch.tensor([part.shape[1] for part in played[:-1]]).cumsum(0) / 44100

figure, (upper, lower) = plt.subplots(2, 1, figsize=(5.4, 5.4), layout="constrained", height_ratios=[2, 1])
upper.plot(time, time, "o-", color="0.5", markersize=3, label="arrived")
upper.step(time, encoded, "o-", where="post", color="C3", markersize=3, label="frames given out")
upper.step(time, given, "o-", where="post", color="C0", markersize=3, label="samples given out")
upper.set(xlabel="time, s", ylabel="sound so far, s", xlim=(0, 0.5), ylim=(0, 0.5))
upper.legend()
upper.grid(alpha=0.3)
lower.semilogy(difference + 1e-6, ".", color="C3", markersize=4)
lower.set(xlabel="frame", ylabel="largest difference", ylim=(5e-7, 200))
lower.grid(alpha=0.3)
plt.show()

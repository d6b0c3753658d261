"""Measure streams of video: ``python -m tests.codec.measure_streams [HEIGHT WIDTH CHUNK]``.

The first table is of memory. Every row is a process of its own: what it held most beyond what it held before, for a
stream of two chunks and one four times as long, encoded and decoded. Frames are drawn as they are needed, and results
thrown away.

The second table is of the ends, where a stream takes a video for still and ``Codec`` wraps it round: PSNR of ten clips
of drifting noise that the codec was not fitted to, of the first frames of a cell, those in the middle, and the last.
"""

import resource
import subprocess
import sys
import time

import torch
from torch import Tensor

import walloc_transforms as wt
from tests.codec.test_volumes import moving


def stream(frames: int, height: int, width: int, chunk: int) -> None:
    torch.set_num_threads(1)
    codec = wt.Codec(wt.CodecConfig("random", "volume", 3, 24, (2, 3, 3)))
    codec.decode(codec.encode(torch.zeros(3, 4, 64, 64)))
    encoder, decoder = wt.StreamEncoder(codec), wt.StreamDecoder(codec)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, held = time.perf_counter(), 0
    for _ in range(0, frames, chunk):
        decoder(encoder(torch.randint(0, 256, (3, chunk, height, width), dtype=torch.uint8)))
        held = max(held, encoder.held)
    decoder(encoder.finish())
    decoder.finish(frames)
    seconds = time.perf_counter() - start
    most = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"| {frames} | {chunk} | {held} | {most:.0f} | {frames / seconds:.2f} |", flush=True)


def streamed(codec: wt.Codec, clip: Tensor) -> Tensor:
    encoder, decoder = wt.StreamEncoder(codec, rounding="round"), wt.StreamDecoder(codec)
    latents = torch.cat([encoder(clip), encoder.finish()], 1)
    return torch.cat([decoder(latents), decoder.finish(clip.shape[1])], 1)


def ends(channels: int) -> None:
    levels, clips = (2, 3, 3), [moving(32, seed=seed) for seed in range(18)]
    codec = wt.fit_codec(clips[:8], levels=levels, channels=channels, progress=False)
    for name in ("whole", "stream"):
        errors = []
        for clip in clips[8:]:
            whole = codec.decode(codec.encode(clip, rounding="round"))
            decoded = whole if name == "whole" else streamed(codec, clip)
            errors.append((decoded - clip / 255).square().mean((0, 2, 3)))
        error = torch.stack(errors).mean(0)
        psnr = [float(-10 * part.mean().log10()) for part in (error[:4], error[12:20], error[-4:])]
        print(f"| {channels} | {name} | " + " | ".join(f"{of:.2f}" for of in psnr) + " |", flush=True)


def main(height: int = 1080, width: int = 1920, chunk: int = 16) -> None:
    print(f"| frames of {width} x {height} | per chunk | held by the encoder | MB | frames per second |")
    print("|---:|---:|---:|---:|---:|")
    for frames in (2 * chunk, 8 * chunk):
        sides = [str(side) for side in (frames, height, width, chunk)]
        subprocess.run([sys.executable, "-m", __spec__.name, "stream", *sides], check=True)
    print("\n| channels | | first 4 frames | middle | last 4 |\n|---:|---|---:|---:|---:|")
    for channels in (24, 96):
        ends(channels)


if __name__ == "__main__":
    if sys.argv[1:2] == ["stream"]:
        stream(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))

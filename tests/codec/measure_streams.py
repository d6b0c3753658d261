"""Measure the memory of streams of video: ``python -m tests.codec.measure_streams [HEIGHT WIDTH CHUNK]``.

Every row is a process of its own: what it held most beyond what it held before the stream, for streams of 32 frames and
four times as many, encoded and decoded. Frames are drawn as they are needed, and results thrown away.
"""

import resource
import subprocess
import sys
import time

import torch

import walloc_transforms as wt


def run(frames: int, height: int, width: int, chunk: int) -> None:
    torch.set_num_threads(1)
    config = wt.CodecConfig("random", "volume", 3, 24, (2, 3, 3))
    codec = wt.Codec(config)
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


def main(height: int = 1080, width: int = 1920, chunk: int = 16) -> None:
    print(f"| frames of {width} x {height} | per chunk | held by the encoder | MB | frames per second |")
    print("|---:|---:|---:|---:|---:|")
    for frames in (2 * chunk, 8 * chunk):
        sides = [str(side) for side in (frames, height, width, chunk)]
        subprocess.run([sys.executable, "-m", __spec__.name, "run", *sides], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))

"""Measure what differences from step to step save in files of volumes: ``python -m tests.files.measure_volumes FILES``.

A codec of its own is fitted to the first 32 frames of each file, an array or a video. The last 64 frames are coded, of
both up to 320 x 320 pixels from the middle. A video is read in color, an array of three axes as one channel.
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import walloc_transforms as wt
from walloc_transforms.files import CODERS, read_volume
from walloc_transforms.files.differences import rows_of, to_rows

SIDE, FITTED, CODED = 320, 32, 64
CODECS = {"video": [((2, 3, 3), 48), ((2, 3, 3), 12), ((1, 3, 3), 48)], "array": [((2, 3, 3), 16), ((1, 3, 3), 16)]}


def middle(frame: Tensor) -> Tensor:
    top, left = (max(0, (side - SIDE) // 2) for side in frame.shape[2:])
    return frame[..., top : top + SIDE, left : left + SIDE]


def read(file: Path) -> tuple[Tensor, Tensor]:
    """Return the frames to fit a codec to, and those to code."""
    with read_volume(file, 1 if file.suffix == ".npy" else 3) as volume:
        frames = map(middle, volume.frames)
        first = list(islice(frames, FITTED))
        return torch.cat(first, 1), torch.cat(list(frames)[-CODED:], 1)


def main() -> None:
    torch.set_num_threads(1)
    names = ", ".join(CODERS)
    print(f"| | levels | channels | PSNR, dB | differences | bits per pixel without them: {names} | with them |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for file in map(Path, sys.argv[1:]):
        fitted, coded = read(file)
        for levels, channels in CODECS["array" if file.suffix == ".npy" else "video"]:
            codec = wt.fit_codec([fitted], levels=levels, channels=channels, progress=False)
            latents = codec.encode(coded, rounding="round")
            high = torch.iinfo(coded.dtype).max if not coded.is_floating_point() else 1
            psnr = -10 * (codec.decode(latents, size=coded.shape[1:]) - coded / high).square().mean().log10()
            codes = latents.to(torch.int8).numpy()
            rows, flags = to_rows(codes)
            share = np.unpackbits(np.frombuffer(flags, np.uint8)).sum() / (channels * (codes.shape[1] - 1))
            plain, with_them = [], []
            for coder in CODERS.values():
                before = sum(map(len, coder.encode(codes.reshape(rows_of(codes.shape)))))
                after = len(flags) + sum(map(len, coder.encode(rows)))
                plain.append(f"{8 * before / coded[0].numel():.4f}")
                with_them.append(f"{100 * (after / before - 1):+.1f}")
            print(
                f"| {file.stem} | {levels} | {channels} | {psnr:.1f} | {share:.0%} | {', '.join(plain)} | "
                f"{', '.join(with_them)} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Speed of encoding, against the reference pipeline, measured in turn in one run.

    python -m recipes.benchmark

The reference is ``pytorch_wavelets`` (periodised bior4.4, one level at a time, every band split again), a 1x1
convolution with the same weights and companding, on float input. Ours takes uint8 and float32. The two alternate, and
the figures are medians; every row first checks that both give the same latents.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

import walloc_transforms as wt
from walloc_transforms.companding import compand
from walloc_transforms.packets import WaveletPacketAnalysis, conv1x1


@dataclass
class Config:
    """Time the encoders."""

    codecs: tuple[str, ...] = ("rgb_16x", "rgb_4x")
    shapes: tuple[tuple[int, int, int], ...] = ((1, 256, 256), (32, 256, 256), (1, 1024, 1536))
    """Batch size, height and width."""
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 7


def reference_encoder(codec: wt.Codec) -> Callable[[Tensor], Tensor]:
    """Encode as the reference does, float images in [0, 1]."""
    analysis = WaveletPacketAnalysis(codec.config.wavelet, codec.config.levels, backend="pytorch_wavelets")

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        return compand(conv1x1(analysis(images - 0.5), codec.weight, codec.bias))

    return encode


def seconds(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each call, the calls taking turns; one round to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(repeats + 1):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if round_:
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def main(config: Config) -> str:
    """Measure and return a Markdown table."""
    lines = ["| codec | threads | batch | reference, MP/s | float32, MP/s | uint8, MP/s | float32: times faster "
             "| uint8: times faster |", "|---|" + "---:|" * 7]  # fmt: skip
    jobs = [(t, c, s) for t in config.threads for c in config.codecs for s in config.shapes]
    for threads, name, (n, h, w) in tqdm(jobs, desc="benchmark"):
        torch.set_num_threads(threads)
        codec = wt.load_codec(name)
        reference = reference_encoder(codec)
        encode = partial(wt.functional.encode_image, codec=codec)
        whole = torch.randint(0, 256, (n, h, w, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # as decoded images lie
        floats = (whole / 255).contiguous()
        torch.testing.assert_close(encode(floats), reference(floats), atol=1e-3, rtol=0)
        torch.testing.assert_close(encode(whole), reference(floats), atol=1e-3, rtol=0)
        slow, fast, bytes_ = seconds(
            [partial(reference, floats), partial(encode, floats), partial(encode, whole)], config.repeats
        )  # fmt: skip
        mp = n * h * w / 1e6
        lines.append(f"| `{name}` | {threads} | {n}x{h}x{w} | {mp / slow:.1f} | {mp / fast:.1f} | {mp / bytes_:.1f} "
                     f"| {slow / fast:.1f} | {slow / bytes_:.1f} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(tyro.cli(Config, description=__doc__)))

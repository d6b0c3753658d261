"""Speed of encoding and decoding, against the reference pipeline and the resize it replaces, in turn in one run.

    python -m recipes.benchmark

The reference is ``pytorch_wavelets`` (periodised bior4.4, one level at a time, every band split again), a 1x1
convolution with the same weights and companding, on float input; for decoding it is the same codec level by level.
Resizing is torchvision's, antialiased and bicubic, to as many values. All alternate, and the figures are medians; every
row first checks that ours and the reference give the same.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

import walloc_transforms as wt
from walloc_transforms.companding import compand, expand
from walloc_transforms.packets import WaveletPacketAnalysis, conv1x1


@dataclass
class Config:
    """Time encoders, decoders and resizing."""

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


def reference_decoder(codec: wt.Codec) -> Callable[[Tensor], Tensor]:
    """Decode by the plain path, level by level, to images in [0, 1]."""

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        return (codec.synthesis(codec.decoder(expand(latents))) + 0.5).clamp(0, 1)

    return decode


COLUMNS = ("reference encode", "encode float32", "encode uint8", "resize float32", "resize uint8",
           "reference decode", "decode")  # fmt: skip


def measure(codec: wt.Codec, shape: tuple[int, int, int], repeats: int) -> list[float]:
    """Check, then time: megapixels per second of every column."""
    n, h, w = shape
    whole = torch.randint(0, 256, (n, h, w, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # as decoded images lie
    floats = (whole / 255).contiguous()
    reference, reference_decode = reference_encoder(codec), reference_decoder(codec)
    encode = partial(wt.functional.encode_image, codec=codec)
    decode = partial(wt.functional.decode_image, codec=codec)
    latents = reference(floats)
    torch.testing.assert_close(encode(floats), latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(encode(whole), latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(decode(latents), reference_decode(latents), atol=1e-4, rtol=0)
    side = codec.config.dimensionality_reduction**0.5
    resize = v2.Resize([round(h / side), round(w / side)], v2.InterpolationMode.BICUBIC, antialias=True)
    calls: list[Callable[[], object]] = [
        partial(reference, floats), partial(encode, floats), partial(encode, whole),
        partial(resize, floats), partial(resize, whole), partial(reference_decode, latents), partial(decode, latents),
    ]  # fmt: skip
    return [n * h * w / 1e6 / s for s in seconds(calls, repeats)]


def main(config: Config) -> str:
    """Measure and return a Markdown table."""
    heads = ["codec", "threads", "batch", *(f"{c}, MP/s" for c in COLUMNS), "encode uint8 / reference"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    jobs = [(t, c, s) for t in config.threads for c in config.codecs for s in config.shapes]
    for threads, name, shape in tqdm(jobs, desc="benchmark"):
        torch.set_num_threads(threads)
        rates = measure(wt.load_codec(name), shape, config.repeats)
        cells = " | ".join(f"{r:,.1f}" if r < 100 else f"{r:,.0f}" for r in rates)
        lines.append(f"| `{name}` | {threads} | {'x'.join(map(str, shape))} | {cells} | {rates[2] / rates[0]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(tyro.cli(Config, description=__doc__)))

"""The benchmark of images: encoding and decoding beside a reference, resizing and a strided convolution, in turns."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

import walloc_transforms as wt
from recipes.bench.reference import (
    check_decoded,
    check_latents,
    ptwt_encoder,
    reference_decoder,
    reference_encoder,
)
from recipes.bench.report import INPUTS
from recipes.common.timing import median_seconds, use_tf32
from walloc_transforms.wavelets.backends import missing

Timed = dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]
"""Calls by name, each with its input."""


def image_part(
    codecs: Sequence[str],
    shapes: Sequence[tuple[int, int, int]],
    threads: Sequence[int],
    repeats: int,
    row_seconds: float,
) -> list[dict[str, Any]]:
    """Rates in megapixels per second, a record per codec, batch and number of threads; on a GPU also bytes.

    Args:
        codecs: Names of codecs for images.
        shapes: Of the batches, ``(N, H, W)``.
        threads: Numbers of threads.
        repeats: Rounds of a row at most.
        row_seconds: Seconds after which no further round of a row begins, once three have been timed.

    Raises:
        AssertionError: Latents or images differ from the reference's.
    """
    where = [("cpu", count, False) for count in threads]
    if torch.cuda.is_available():
        where += [("cuda", 1, False), ("cuda", 1, True)]
    jobs = [(*place, name, shape) for place in where for name in codecs for shape in shapes]
    records: list[dict[str, Any]] = []
    for device, count, tf32, name, shape in tqdm(jobs, desc="image", unit="row"):
        torch.set_num_threads(count)
        with use_tf32(tf32):
            # TensorFloat-32 keeps 10 bits of each factor: latents then differ by more than the check allows.
            calls = image_calls(wt.load_codec(name).to(device), shape, device, check=not tf32)
            bound = {call: partial(function, x) for call, (function, x) in calls.items()}
            seconds = median_seconds(bound, repeats, row_seconds, device)
        record = {
            "codec": name,
            "batch": shape,
            "device": device,
            "threads": count,
            "tf32": tf32,
            "rates": {call: math.prod(shape) / 1e6 / s for call, s in seconds.items()},
        }
        if device == "cuda":
            moved = {call: x.nbytes + function(x).nbytes for call, (function, x) in calls.items()}
            record["bytes_per_second"] = {call: moved[call] / s for call, s in seconds.items()}
        records.append(record)
    return records


def image_calls(codec: wt.Codec, shape: tuple[int, int, int], device: str, *, check: bool) -> Timed:
    """What is timed on a batch of images; the reference and ``ptwt`` get float images, converted beforehand."""
    (n, h, w), c = shape, codec.config
    decoded = torch.randint(0, 256, (n, h, w, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)  # as files are
    images = {
        "uint8, channels last": decoded,
        "uint8, contiguous": decoded.contiguous(),
        "float32, channels last": decoded / 255,
        "float32, contiguous": decoded.contiguous() / 255,
    }
    floats = images["float32, contiguous"]
    encode = partial(wt.functional.encode_image, codec=codec)
    decode = partial(wt.functional.decode_image, codec=codec)
    convolving = copy.deepcopy(codec)  # what encoding comes to where numba is missing
    convolving.backend = "convolutions"
    convolve = (
        partial(wt.functional.encode_image, codec=convolving) if device == "cpu" and not missing(c.wavelet) else None
    )
    reference, reference_decode = reference_encoder(codec), reference_decoder(codec)
    ptwt_encode = ptwt_encoder(codec)
    latents = reference(floats)
    if check:
        for image in images.values():
            for path in (encode, convolve) if convolve is not None else (encode,):
                check_latents(path, image, latents)
        check_decoded(decode, latents, reference_decode(latents))
        if ptwt_encode is not None:
            torch.testing.assert_close(ptwt_encode(floats), latents, atol=1e-3, rtol=0)
    side = math.sqrt(c.dimensionality_reduction)
    resize = v2.Resize([round(h / side), round(w / side)], v2.InterpolationMode.BICUBIC, antialias=True)
    patches = nn.Conv2d(3, c.channels, c.stride, c.stride, device=device).requires_grad_(False)
    return {
        "reference encode": (reference, floats),
        **({} if ptwt_encode is None else {"ptwt encode": (ptwt_encode, floats)}),
        "patch convolution": (patches, floats),
        **{f"encode {kind}": (encode, images[kind]) for kind in INPUTS},
        **({} if convolve is None else {f"convolve {kind}": (convolve, images[kind]) for kind in INPUTS}),
        **{f"resize {kind}": (resize, images[kind]) for kind in INPUTS},
        "reference decode": (reference_decode, latents),
        "decode": (decode, latents),
    }

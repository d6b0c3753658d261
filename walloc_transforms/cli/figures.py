"""Draw a codec: what each latent channel responds to, and how its values are distributed.

These are figures 10 and 11 of the paper, for any codec.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..codec import Codec
from ..signals import pil_to_tensor

__all__ = ["impulse_responses", "inspect_codec", "sample_signal"]

_COLUMNS = 8  # of the filters
_REACH = {1: 8, 2: 4}  # by number of axes: how many cells beside its own the filter of a latent covers, at most


def impulse_responses(codec: Codec) -> Tensor:
    """Compute the filter of every latent channel: the derivative of a latent by the signal around it, at mid-gray.

    Returns:
        ``(D, C, side, side)`` or ``(D, C, side)``, with the latent's own cell in the middle. A linear encoder's are its
        filters, times the slope of the companding at 0.
    """
    c = codec.config
    reach = _REACH[c.dims]
    x = torch.zeros(1, c.signal_channels, *[(2 * reach + 1) * c.stride] * c.dims, device=codec.latent_mean.device)
    x.fill_(0.5 if c.modality == "image" else 0.0).requires_grad_(True)
    middle = (slice(None), *[reach + c.pad if c.dims == 1 else reach] * c.dims)
    latents = codec.encode(x)[0][middle]
    return torch.stack([torch.autograd.grad(z, x, retain_graph=True)[0][0] for z in latents]).detach().cpu()


def inspect_codec(codec: Codec, latents: Iterable[Tensor], source: str) -> Figure:
    """Draw the filter of every latent channel and the histograms of the rounded latents.

    Args:
        codec: The codec.
        latents: Rounded latents of signals, each ``(D, h, w)`` or ``(D, t)``.
        source: Where the signals come from, for the caption.

    Raises:
        ValueError: There are no latents.
    """
    c = codec.config
    responses = impulse_responses(codec)
    counts = _histograms(codec, latents)
    rows = math.ceil(c.channels / _COLUMNS)
    figure = Figure(figsize=(10, 0.9 + 1.25 * rows + 3.2), layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[1.25 * rows + 0.3, 3.2]))
    grid = upper.subplots(rows, _COLUMNS, squeeze=False)
    for channel, axes in enumerate(grid.flat):
        axes.axis("off")
        if channel < c.channels:
            _draw_response(axes, responses[channel])
            axes.set_title(f"{channel}", fontsize=8, pad=2)
    upper.suptitle(
        f"{c.name}: impulse responses of the {c.channels} latent channels, each scaled to its peak", fontsize=10
    )
    left, right = lower.subplots(1, 2)
    _draw_histograms(left, right, counts, c.latent_bits)
    lower.suptitle(f"rounded latents of {source}", fontsize=10)
    return figure


def _histograms(codec: Codec, latents: Iterable[Tensor]) -> np.ndarray:
    """Count how often each channel takes each code, ``(D, 2**bits - 1)``."""
    c = codec.config
    largest = 2 ** (c.latent_bits - 1) - 1
    counts = np.zeros((c.channels, 2 * largest + 1), dtype=np.int64)
    for own in latents:
        codes = own.long().cpu()
        codes = codes[..., c.pad : codes.shape[-1] - c.pad].flatten(1) + largest
        for channel, values in enumerate(codes):
            counts[channel] += np.bincount(values.numpy(), minlength=counts.shape[1])
    if not counts.any():
        raise ValueError("there is nothing to count: no signal could be read")
    return counts


def sample_signal(codec: Codec) -> Tensor:
    """Return the photograph that matplotlib comes with; noise for codecs that are not for color images."""
    c = codec.config
    if (c.modality, c.signal_channels) == ("image", 3):
        with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
            return pil_to_tensor(image)
    shape = (c.signal_channels, *[64 * c.stride] * c.dims)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return noise if c.dims == 2 else noise * 2 - 1


def _draw_response(axes: Axes, response: Tensor) -> None:
    peak = max(float(response.abs().max()), 1e-12)
    if response.ndim == 2:
        for signal in response:
            axes.plot(signal.numpy(), linewidth=0.6)
        axes.set_ylim(-1.05 * peak, 1.05 * peak)
        return
    picture = (response / peak + 1).movedim(0, -1).numpy() / 2
    if picture.shape[-1] == 3:
        axes.imshow(picture)
    else:
        axes.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=1)


def _draw_histograms(left: Axes, right: Axes, counts: np.ndarray, bits: int) -> None:
    codes = np.arange(counts.shape[1]) - counts.shape[1] // 2
    total = counts.sum(0)
    left.bar(codes, total / total.sum(), width=1.0)
    left.set(xlabel="code", ylabel="share", yscale="log", title=f"all channels: {_entropy(total):.2f} bits of {bits}")
    entropies = [_entropy(row) for row in counts]
    right.bar(np.arange(len(counts)), entropies)
    right.set(xlabel="channel", ylabel="bits per latent", title=f"entropy by channel, mean {np.mean(entropies):.2f}")
    for axes in (left, right):
        axes.title.set_fontsize(9)


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log2(share)).sum())

"""Losses and parameter groups of the separation network, and its estimates of test segments."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recipes.separation.network import Separator
from recipes.separation.tracks import Segment

_WIDE = 128  # inputs of a map around the trunk, from which on it learns more slowly


def parameter_groups(model: Separator, lr: float) -> list[dict[str, Any]]:
    """Make Adam's parameter groups: the trunk's with ``lr``, and the maps around it by their number of inputs.

    A step of Adam changes every weight by as much, and so the output of a wide map by more: at a rate that suits 108
    values per frame, the 512 of the full-rate waveform were torn apart.
    """
    trunk: list[nn.Parameter] = []
    wide: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        if name.startswith("trunk."):
            trunk.append(parameter)
        elif parameter.requires_grad:
            # Shapes are (out, in, 1), and (channels, frequencies, window) in the front end.
            inputs = 1 if parameter.ndim == 1 else max(parameter.shape[1:])
            wide.append({"params": [parameter], "lr": lr * min(1.0, _WIDE / inputs)})
    return [{"params": trunk, "lr": lr}, *wide]


def loss_of(parallel: Any, model: Separator, stems: Tensor, kind: str) -> Tensor:
    """Mean absolute error of the estimated sources.

    Args:
        parallel: The network, as it is or within DistributedDataParallel.
        model: The network.
        stems: The true sources, ``(batch, sources, 2, time)``; their sum is separated.
        kind: ``waveform`` compares waveforms, ``latent`` carriers, each of their channels by its spread.
    """
    estimates, carriers = parallel(stems.sum(1))
    if kind == "waveform":
        return (estimates - stems).abs().mean()
    with torch.no_grad():
        truth = model.front.analyze(stems.flatten(0, 1)).unflatten(0, stems.shape[:2])
    return ((carriers - truth) / model.carrier_scale).abs().mean()


@torch.no_grad()
def separate(
    model: Separator, segments: Sequence[Segment], samples: int, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Separate segments of ``samples``; yields estimates and truth of each, ``(sources, 2, samples)``, on the CPU."""
    model.to(device).eval()
    for first in range(0, len(segments), batch_size):
        truth = torch.stack([track.crop(start, samples) for track, start in segments[first : first + batch_size]])
        estimates, _ = model(truth.sum(1).to(device))
        yield from zip(estimates.cpu(), truth, strict=True)

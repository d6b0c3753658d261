"""Train a separation network for some steps, resumable, and apply it to segments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recipes.common.loop import train_steps
from recipes.common.ranks import Ranks
from recipes.separation.network import Separator
from recipes.separation.tracks import Crops, Track

_WIDE = 128  # inputs of a map around the trunk, from which on it learns more slowly


@dataclass
class Schedule:
    """How long, how fast, and towards what to train.

    Attributes:
        steps: Steps of Adam.
        batch_size: Crops per step, over all processes.
        lr: Peak learning rate; linear warm-up over the first tenth, then a half cosine to zero.
        loss: Mean absolute error of the ``waveform``, or of the ``latent``: the carriers, each channel by its spread.
        checkpoint_every: Steps.
    """

    steps: int
    batch_size: int
    lr: float
    loss: Literal["waveform", "latent"]
    checkpoint_every: int


def train(
    model: Separator, crops: Crops, schedule: Schedule, folder: Path, *, ranks: Ranks, resume: bool, description: str
) -> dict[str, Any]:
    """Train, writing ``metrics.jsonl`` and ``checkpoint.pt`` into a folder; see recipes/common/loop.py.

    Args:
        model: The network, with its statistics measured.
        crops: What to train on.
        schedule: How long and how fast.
        folder: Must be there.
        ranks: This process among others.
        resume: Go on from the checkpoint, if there is one.
        description: Of the progress bar.

    Returns:
        The last record.
    """
    s = schedule
    model.to(ranks.device)

    def batches_from(first: int) -> Iterator[Tensor]:
        return (crops.batch(step, s.batch_size, ranks.rank, ranks.world) for step in range(first, s.steps))

    return train_steps(
        model,
        torch.optim.Adam(groups(model, s.lr)),
        batches_from,
        lambda parallel, stems, _: _loss(parallel, model, stems, s.loss),
        steps=s.steps,
        checkpoint_every=s.checkpoint_every,
        folder=folder,
        ranks=ranks,
        resume=resume,
        description=description,
    )


def groups(model: Separator, lr: float) -> list[dict[str, Any]]:
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


def _loss(parallel: Any, model: Separator, stems: Tensor, kind: str) -> Tensor:
    estimates, carriers = parallel(stems.sum(1))
    if kind == "waveform":
        return (estimates - stems).abs().mean()
    with torch.no_grad():
        truth = model.front.analyze(stems.flatten(0, 1)).unflatten(0, stems.shape[:2])
    return ((carriers - truth) / model.carrier_scale).abs().mean()


@torch.no_grad()
def separate(
    model: Separator, pieces: Sequence[tuple[Track, int]], samples: int, batch_size: int, device: torch.device
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Apply a network to segments; yields number, estimates and truth, ``(sources, 2, samples)``, on the CPU."""
    model.to(device).eval()
    for first in range(0, len(pieces), batch_size):
        truth = torch.stack([track.crop(start, samples) for track, start in pieces[first : first + batch_size]])
        estimates, _ = model(truth.sum(1).to(device))
        for i, (estimate, true) in enumerate(zip(estimates.cpu(), truth, strict=True)):
            yield first + i, estimate, true

"""Train a separation network for some steps, resumable, and apply it to segments."""

import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from recipes.common.separators import Separator
from recipes.common.stems import Crops, Track
from recipes.common.training import Ranks, write_atomically

_LOG_EVERY = 20  # steps
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


def train(model: Separator, crops: Crops, schedule: Schedule, folder: Path, *, ranks: Ranks, resume: bool,
          description: str) -> dict[str, Any]:  # fmt: skip
    """Train, writing ``metrics.jsonl`` and ``checkpoint.pt`` into a folder.

    Args:
        model: The network, with its statistics measured.
        crops: What to train on. Step ``n`` sees the same crops whatever happened before it.
        schedule: How long and how fast.
        folder: Is made if need be.
        ranks: This process among others.
        resume: Go on from the checkpoint, if there is one: the result is that of an uninterrupted training.
        description: Of the progress bar.

    Returns:
        The last record: ``step``, ``loss`` (mean since the record before) and ``step_rate`` (per second, reading of
        crops excluded; here the median over all records).
    """
    s = schedule
    model.to(ranks.device).train()
    parallel = DistributedDataParallel(model) if ranks.world > 1 else model
    optimizer = torch.optim.Adam(groups(model, s.lr))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, s.steps))
    first, log, checkpoint = 0, [], folder / "checkpoint.pt"
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=ranks.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first, log = state["step"], state["log"]
    sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
    bar = tqdm(range(first, s.steps), desc=description, initial=first, total=s.steps, unit="step", leave=False,
               disable=not ranks.first)  # fmt: skip
    for step in bar:
        stems = crops.batch(step, s.batch_size, ranks.rank, ranks.world).to(ranks.device)
        start = time.perf_counter()
        loss = _loss(parallel, model, stems, s.loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        sums += torch.tensor([loss.item(), 1])  # .item() waits for the device
        seconds += time.perf_counter() - start
        done = step + 1
        save = done % s.checkpoint_every == 0 or done == s.steps
        if save or done % _LOG_EVERY == 0:
            total, count = ranks.sum(sums.to(ranks.device)).tolist()
            log.append({"step": done, "loss": total / count, "step_rate": count / ranks.world / seconds})
            bar.set_postfix_str(f"loss {log[-1]['loss']:.4f}")
            sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
        if save and ranks.first:
            write_atomically(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in log))
            partial = checkpoint.with_suffix(".partial")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done, "log": log,
                        "scheduler": scheduler.state_dict()}, partial)  # fmt: skip
            os.replace(partial, checkpoint)
    return {**log[-1], "step_rate": statistics.median(r["step_rate"] for r in log)}


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
        truth = model.front.analyse(stems.flatten(0, 1)).unflatten(0, stems.shape[:2])
    return ((carriers - truth) / model.carrier_scale).abs().mean()


def lr_factor(step: int, steps: int) -> float:
    """Learning rate of a step as a fraction of the peak."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def separate(model: Separator, pieces: Sequence[tuple[Track, int]], samples: int, batch_size: int,
             device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:  # fmt: skip
    """Apply a network to segments; yields number, estimates and truth, ``(sources, 2, samples)``, on the CPU."""
    model.to(device).eval()
    for first in range(0, len(pieces), batch_size):
        truth = torch.stack([track.crop(start, samples) for track, start in pieces[first : first + batch_size]])
        estimates, _ = model(truth.sum(1).to(device))
        for i, (estimate, true) in enumerate(zip(estimates.cpu(), truth, strict=True)):
            yield first + i, estimate, true

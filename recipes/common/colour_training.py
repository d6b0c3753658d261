"""Train a colourisation network for some steps, resumable, and colour photographs with it."""

import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from recipes.common.arms import STRIDE
from recipes.common.colour_arms import grey
from recipes.common.colour_data import Crops
from recipes.common.colour_network import Colouriser
from recipes.common.datasets import batches
from recipes.common.training import Ranks, lr_factor, write_atomically

_LOG_EVERY = 20  # steps


@dataclass
class Schedule:
    """How long, how fast, and towards what to train.

    Attributes:
        steps: Steps of AdamW.
        batch_size: Crops per step, over all processes.
        lr: Peak learning rate; linear warm-up over the first tenth, then a half cosine to zero.
        weight_decay: Of AdamW.
        loss: ``values`` or ``pixels``; see :func:`loss_of`.
        workers: Processes that read crops, per training process.
        checkpoint_every: Steps.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    loss: Literal["values", "pixels"]
    workers: int
    checkpoint_every: int


def train(model: Colouriser, crops: Crops, schedule: Schedule, folder: Path, *, ranks: Ranks, resume: bool,
          description: str) -> dict[str, Any]:  # fmt: skip
    """Train, writing ``metrics.jsonl`` and ``checkpoint.pt`` into a folder.

    Args:
        model: The network, with its statistics measured.
        crops: What to train on. Step ``n`` sees the same crops whatever happened before it.
        schedule: How long and how fast.
        folder: Must be there.
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
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, s.lr, weight_decay=s.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, s.steps))
    first, log, checkpoint = 0, [], folder / "checkpoint.pt"
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=ranks.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first, log = state["step"], state["log"]
    own = max(1, s.batch_size // ranks.world)
    indices = [(step * ranks.world + ranks.rank) * own + i for step in range(first, s.steps) for i in range(own)]
    loader = batches(crops, indices, own, workers=s.workers)
    sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
    bar = tqdm(loader, desc=description, initial=first, total=s.steps, unit="step", leave=False,
               disable=not ranks.first)  # fmt: skip
    for done, batch in enumerate(bar, first + 1):
        torch.manual_seed(crops.seed * 1_000_003 + done)  # for dropout, should the trunk have any
        start = time.perf_counter()
        loss = loss_of(parallel, model, batch.to(ranks.device) / 255, s.loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        sums += torch.tensor([loss.item(), 1])  # .item() waits for the device
        seconds += time.perf_counter() - start
        save = done % s.checkpoint_every == 0 or done == s.steps
        if save or done % _LOG_EVERY == 0:
            total, count = ranks.sum(sums.to(ranks.device)).tolist()
            log.append({"step": done, "loss": total / count, "step_rate": count / ranks.world / seconds})
            bar.set_postfix_str(f"loss {log[-1]['loss']:.5f}")
            sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
        if save and ranks.first:
            write_atomically(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in log))
            partial = checkpoint.with_suffix(".partial")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done, "log": log,
                        "scheduler": scheduler.state_dict()}, partial)  # fmt: skip
            os.replace(partial, checkpoint)
    return {**log[-1], "step_rate": statistics.median(r["step_rate"] for r in log)}


def loss_of(parallel: Any, model: Colouriser, images: Tensor, kind: str) -> Tensor:
    """Mean squared error per pixel and colour, in units where white is 1.

    Args:
        parallel: The network, as it is or within DistributedDataParallel.
        model: The network.
        images: Colour images ``(batch, 3, H, W)`` in [0, 1].
        kind: ``pixels`` compares images, through the arm's way back. ``values`` compares the values, each squared
            error times the energy that it has in the image: the same where the values are coefficients of an
            orthonormal transform, as pixels and DCT are, and without the part of the image that the arm cannot carry.
    """
    values = model.arm.read(grey(images))
    estimate = values + parallel(values)
    if kind == "pixels":
        return (model.arm.back(estimate, images.shape[-2:]) - images).square().mean()
    errors = (estimate - model.arm.read(images)).square() * model.energies
    return errors.sum() / images.numel()


@torch.no_grad()
def colour(model: Colouriser, image: Tensor, window: int) -> Tensor:
    """Colour an image of any size of which only the grey image is looked at.

    Args:
        model: The network.
        image: Colour image ``(3, H, W)`` in [0, 1].
        window: Side in pixels, a multiple of 8, of the windows that larger images are coloured in.

    Returns:
        ``(3, H, W)`` in [0, 1], on the CPU.
    """
    model.eval()
    values = model.arm.read(grey(image).to(model.mean.device)[None])
    coloured = values + model.colour(values, window // STRIDE)
    return model.arm.show(coloured, image.shape[-2:])[0].cpu()

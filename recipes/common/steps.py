"""Train for a number of steps, resumable at checkpoints: what recipes on endless random crops share."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from recipes.common.training import Ranks, lr_factor, write_atomically

_LOG_EVERY = 20  # steps


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches_from: Callable[[int], Iterable[Tensor]],
    loss_of: Callable[[nn.Module, Tensor, int], Tensor],
    *,
    steps: int,
    checkpoint_every: int,
    folder: Path,
    ranks: Ranks,
    resume: bool,
    description: str,
) -> dict[str, Any]:
    """Train, writing ``metrics.jsonl`` and ``checkpoint.pt`` into a folder.

    The learning rate rises linearly over the first tenth of the steps and falls to zero by a half cosine.

    Args:
        model: The network, on its device.
        optimizer: Of its parameters, with their peak learning rates.
        batches_from: Gives this process' batches from a step on; a step's must not depend on what happened before.
        loss_of: Maps the network (within ``DistributedDataParallel`` if there are several processes), a batch, on the
            device, and the number of the step to the loss.
        steps: How many.
        checkpoint_every: Steps.
        folder: Must be there.
        ranks: This process among others.
        resume: Go on from the checkpoint, if there is one: the result is that of an uninterrupted training.
        description: Of the progress bar.

    Returns:
        The last record: ``step``, ``loss`` (mean since the record before) and ``step_rate`` (per second, reading of
        batches excluded; here the median over all records).
    """
    model.train()
    parallel = DistributedDataParallel(model) if ranks.world > 1 else model
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
    first, log, checkpoint = 0, [], folder / "checkpoint.pt"
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=ranks.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first, log = state["step"], state["log"]
    sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
    bar = tqdm(batches_from(first), desc=description, initial=first, total=steps, unit="step", leave=False,
               disable=not ranks.first)  # fmt: skip
    for done, batch in enumerate(bar, first + 1):
        batch = batch.to(ranks.device)
        start = time.perf_counter()
        loss = loss_of(parallel, batch, done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        sums += torch.tensor([loss.item(), 1])  # .item() waits for the device
        seconds += time.perf_counter() - start
        save = done % checkpoint_every == 0 or done == steps
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

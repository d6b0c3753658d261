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

from recipes.common.ranks import Ranks, lr_factor, write_atomically

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
    ema: float | None = None,
    clip: float | None = None,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
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
        ema: Keep the average of the weights over the steps, with this decay per step (lower at first): it is what is
            validated, and what the network has in the end.
        clip: Limit the norm of all gradients together.
        schedule: Makes a scheduler that is told every step's loss. Default: as said above.
        validate: Called at checkpoints by the first process; its figures join the record.

    Returns:
        The last record: ``step``, ``loss`` (mean since the record before), ``step_rate`` (per second, reading of
        batches excluded; here the median over all records) and the last figures of ``validate``.
    """
    model.train()
    parallel = DistributedDataParallel(model) if ranks.world > 1 else model
    cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
    scheduler: Any = cosine if schedule is None else schedule(optimizer)
    first, log, checkpoint = 0, [], folder / "checkpoint.pt"
    trained = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in trained] if ema else []
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=ranks.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first, log, average = state["step"], state["log"], state.get("average", [])
    sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
    bar = tqdm(
        batches_from(first),
        desc=description,
        initial=first,
        total=steps,
        unit="step",
        leave=False,
        disable=not ranks.first,
    )
    for done, batch in enumerate(bar, first + 1):
        batch = batch.to(ranks.device)
        start = time.perf_counter()
        loss = loss_of(parallel, batch, done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        scheduler.step(*[] if schedule is None else [loss.item()])
        for mean, parameter in zip(average, trained, strict=bool(average)):
            mean.lerp_(parameter.detach(), 1 - min(ema or 0, done / (done + 10)))
        sums += torch.tensor([loss.item(), 1])  # .item() waits for the device
        seconds += time.perf_counter() - start
        save = done % checkpoint_every == 0 or done == steps
        if save or done % _LOG_EVERY == 0:
            total, count = ranks.sum(sums.to(ranks.device)).tolist()
            log.append({"step": done, "loss": total / count, "step_rate": count / ranks.world / seconds})
            bar.set_postfix_str(f"loss {log[-1]['loss']:.5f}")
            sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
        if save and validate and ranks.first:
            exchange(average, trained)
            log[-1] |= validate()
            exchange(average, trained)
            model.train()
        if save and ranks.first:
            write_atomically(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in log))
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "log": log,
                    "scheduler": scheduler.state_dict(),
                    "average": average,
                },
                partial,
            )
            os.replace(partial, checkpoint)
    exchange(average, trained)
    return {**log[-1], "step_rate": statistics.median(r["step_rate"] for r in log)}


@torch.no_grad()
def exchange(average: list[Tensor], trained: list[nn.Parameter]) -> None:
    """Let the averages and the weights change places; without averages, nothing happens."""
    for mean, parameter in zip(average, trained, strict=bool(average)):
        own = parameter.clone()
        parameter.copy_(mean)
        mean.copy_(own)

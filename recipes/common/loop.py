"""Train for a number of steps, resumable at checkpoints: the loop of every recipe on endless random crops."""

import functools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from recipes.common.runs import Run, lr_factor
from recipes.common.tables import Record

_LOG_EVERY = 20  # steps


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches_from: Callable[[int], Iterable[Tensor]],
    loss_of: Callable[[nn.Module, Tensor, int], Tensor],
    run: Run,
    *,
    steps: int,
    checkpoint_every: int,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    ema: float | None = None,
    clip: float | None = None,
    settle: int | None = None,
    validate: Callable[[Any], dict[str, float]] | None = None,
) -> Record:
    """Train, writing ``metrics.jsonl`` and ``checkpoint.pt`` into the run's folder.

    A run that is interrupted and resumed gives what it would have given without the interruption.

    Args:
        model: The network, on its device.
        optimizer: Of its parameters, with their peak learning rates. The rate of a group that holds ``steps`` reaches
            zero after so many and stays there; nothing is trained of that group any more.
        batches_from: Gives this process' batches from a step on. A step's batch must not depend on earlier steps.
        loss_of: Gives the loss, from the network (within ``DistributedDataParallel`` if there are several processes), a
            batch on the network's device, and the number of the step, from 1 on.
        run: Where the training is kept, and who works on it.
        steps: How many.
        checkpoint_every: Steps between checkpoints.
        schedule: Makes a scheduler whose ``step`` is told every step's loss, the mean over processes. Default: the
            learning rate rises linearly over the first tenth of the steps and falls to zero by a half cosine.
        ema: Decay per step of an average of the weights (lower at first), which is validated at checkpoints and which
            the network has in the end. Default: no average.
        clip: Limit the norm of all gradients together.
        settle: After this many steps the network goes on from the average of its weights.
        validate: Called at checkpoints by the first process with the network, or the average. Its figures join the
            record.

    Returns:
        The last record: ``step``, ``loss`` (mean since the record before), ``step_rate`` (per second, without reading
        batches; here the median over all records) and the last figures of ``validate``.
    """
    ranks = run.ranks
    model.train()
    average = AveragedModel(model, multi_avg_fn=_moving_average(ema)) if ema else None
    if average is not None:
        average.update_parameters(model)  # the first update copies: the average begins at the initial weights
    parallel = DistributedDataParallel(model) if ranks.world > 1 else model
    spans = [group.get("steps", steps) for group in optimizer.param_groups]
    factors = [functools.partial(lr_factor, steps=span) for span in spans]
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, factors) if schedule is None else schedule(optimizer)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts |= {} if average is None else {"average": average}
    trained = [p for p in model.parameters() if p.requires_grad]
    first, log = 0, []
    if state := run.load(parts):
        first, log = state["step"], state["log"]
    sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
    bar = tqdm(
        batches_from(first),
        desc=run.name,
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
        if schedule is None:
            scheduler.step()
        else:  # all processes must come to one rate
            scheduler.step(ranks.sum(loss.detach().clone()).item() / ranks.world)
        if average is not None:
            average.update_parameters(model)
            if done == settle:
                _copy(average.module, model)
        sums += torch.tensor([loss.item(), 1])  # .item() waits for the device
        seconds += time.perf_counter() - start
        save = done % checkpoint_every == 0 or done == steps
        if save or done % _LOG_EVERY == 0:
            total, count = ranks.sum(sums.to(ranks.device)).tolist()
            log.append({"step": done, "loss": total / count, "step_rate": count / ranks.world / seconds})
            bar.set_postfix_str(f"loss {log[-1]['loss']:.5f}")
            sums, seconds = torch.zeros(2, dtype=torch.float64), 0.0
        if save and ranks.first:
            if validate is not None:
                log[-1] |= validate(model if average is None else average.module)
                model.train()
            run.save(parts, log, step=done)
    if average is not None:
        _copy(average.module, model)
    return {**log[-1], "step_rate": statistics.median(r["step_rate"] for r in log)}


@torch.no_grad()
def _copy(average: nn.Module, model: nn.Module) -> None:
    for parameter, mean in zip(model.parameters(), average.parameters(), strict=True):
        parameter.copy_(mean)


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Make an average that forgets by ``decay`` per step, and faster at first, when the weights are far off."""

    def average(means: Any, parameters: Any, done: Any) -> None:
        steps = int(done)  # waits for the device, so once for all weights
        for mean, parameter in zip(means, parameters, strict=True):
            mean.lerp_(parameter, 1 - min(decay, steps / (steps + 10)))

    return average

"""Train a classifier epoch by epoch and measure its accuracy, on one process or many."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recipes.common.datasets import IGNORE, batches, iterate
from recipes.common.ranks import Ranks
from recipes.common.runs import Run, lr_factor


@dataclass
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples per step, over all processes.
        lr: Peak learning rate of AdamW; linear warm-up over the first tenth, then a half cosine to zero.
        weight_decay: Of AdamW.
        workers: Processes that load and encode, per training process.
        seed: Of initialization, order and random cuts.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    workers: int
    seed: int


def train_classifier(
    model: nn.Module,
    train_set: Any,
    validation_set: Any,
    schedule: Schedule,
    run: Run,
    groups: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train a classifier, with ``metrics.jsonl`` and ``checkpoint.pt`` in the run's folder after every epoch.

    Args:
        model: Maps a batch of features to logits.
        train_set: Pairs of features and class index.
        validation_set: The same, to measure accuracy on.
        schedule: How long and how fast.
        run: Where the training is kept, and who works on it.
        groups: Parameters to train, as an optimizer takes them: a group may have an ``lr`` of its own. Default: all.

    Returns:
        The last epoch's record: ``epoch, train_loss, validation_loss, accuracy`` (percent), ``unreadable`` (images left
        out in this epoch) and ``step_rate`` (training samples per second and process, without waiting for data).

    Raises:
        ValueError: There are fewer training images than processes, or no validation image can be read.
    """
    s, ranks = schedule, run.ranks
    model.to(ranks.device)
    volumes = any(isinstance(module, nn.Conv3d) for module in model.modules())
    layout = torch.channels_last_3d if volumes else torch.channels_last
    model.to(memory_format=layout)  # type: ignore[call-overload]  # missing from torch's annotations
    parallel = DistributedDataParallel(model) if ranks.world > 1 else model
    optimizer = torch.optim.AdamW(groups or model.parameters(), s.lr, weight_decay=s.weight_decay, fused=True)
    own_batch = max(1, s.batch_size // ranks.world)
    usable = len(train_set) // ranks.world
    if usable == 0:
        raise ValueError(f"{len(train_set)} training images are too few for {ranks.world} processes")
    steps = s.epochs * max(1, usable // own_batch)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    log: list[dict[str, Any]] = []
    if state := run.load(parts):
        log = state["log"]
    for epoch in range(len(log), s.epochs):
        seed = s.seed * 10007 + epoch
        order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(seed))
        indices = ranks.share(order, even=True)
        indices = indices[: max(own_batch, len(indices) // own_batch * own_batch)]
        loader = batches(train_set, indices, own_batch, workers=s.workers, seed=seed * ranks.world + ranks.rank)
        torch.manual_seed(seed)  # random cuts when there are no workers
        sums, seconds = torch.zeros(3, dtype=torch.float64), 0.0
        parallel.train()
        for x, y in iterate(loader, f"epoch {epoch + 1}/{s.epochs}", show=ranks.first):
            start = time.perf_counter()
            loss, seen = _loss(parallel, x.to(ranks.device), y.to(ranks.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            sums += torch.tensor([loss.item() * seen, seen, len(y)])  # .item() waits for the device
            seconds += time.perf_counter() - start
        step_rate = float(sums[2]) / seconds
        loss_sum, seen, given = ranks.sum(sums.to(ranks.device)).tolist()
        validation = evaluate_classifier(model, validation_set, own_batch, workers=s.workers, ranks=ranks)
        record = {"epoch": epoch + 1, "train_loss": loss_sum / max(1, seen), **validation, "step_rate": step_rate}
        record["unreadable"] += int(given - seen)
        log.append(record)
        run.save(parts, log)
    return log[-1]


@torch.no_grad()
def evaluate_classifier(
    model: nn.Module, dataset: Any, batch_size: int, *, workers: int, ranks: Ranks
) -> dict[str, Any]:
    """Measure ``validation_loss`` and ``accuracy`` (percent) on a dataset, every image once.

    Images that cannot be read are left out and counted as ``unreadable``.

    Raises:
        ValueError: No image can be read.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    indices = ranks.share(torch.arange(len(dataset)), even=False)
    for x, y in iterate(batches(dataset, indices, batch_size, workers=workers), "validate", show=ranks.first):
        y = y.to(ranks.device)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=ranks.device.type == "cuda"):
            logits = model(x.to(ranks.device))
        loss = F.cross_entropy(logits.float(), y, ignore_index=IGNORE, reduction="sum")
        readable = y != IGNORE
        correct = (logits.argmax(1) == y)[readable].sum()
        sums += torch.stack([loss, correct, readable.sum(), (~readable).sum()]).double()
    loss, correct, seen, unreadable = ranks.sum(sums).tolist()
    if not seen:
        raise ValueError("no validation image could be read")
    return {"validation_loss": loss / seen, "accuracy": 100 * correct / seen, "unreadable": int(unreadable)}


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy of the readable samples, and their number."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
        logits = model(x)
    seen = int((y != IGNORE).sum())
    return F.cross_entropy(logits.float(), y, ignore_index=IGNORE, reduction="sum") / max(1, seen), seen

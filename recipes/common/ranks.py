"""A plain training loop: one process or many, resumable, with a log a plotting script can read.

Under ``torchrun`` every process trains on its share of each epoch (NCCL on GPUs, gloo on CPUs); only rank 0 writes.
"""

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recipes.common.datasets import IGNORE, batches, iterate

# What may differ when a run is resumed: where things are, how often they are saved or shown, what else is run.
_NOT_OF_A_RUN = {"resume", "output_dir", "data_root", "memory_gb", "checkpoint_every", "sheet_images", "seeds", "arms"}


@dataclass
class Ranks:
    """This process among those that ``torchrun`` started; alone without it."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def start(cls) -> "Ranks":
        """Join the group that the environment names, once."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        gpu = torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
        if gpu:
            torch.cuda.set_device(device)
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if gpu else "gloo")
        return cls(rank, world, device)

    @property
    def first(self) -> bool:
        """Whether this process writes and shows progress."""
        return self.rank == 0

    def share(self, indices: Tensor, *, even: bool) -> list[int]:
        """Every ``world``-th index; ``even`` drops the remainder, so that all processes take as many steps."""
        if even:
            indices = indices[: len(indices) // self.world * self.world]
        return indices[self.rank :: self.world].tolist()

    def sum(self, values: Tensor) -> Tensor:
        """Add up over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values


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


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write next to ``file`` and rename."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, file)


def save_config(folder: Path, config: Any, *, resume: bool = False, file: str = "config.yaml") -> None:
    """Keep a run's settings, as it begins.

    Args:
        folder: Of the run; made if it is not there.
        config: A dataclass.
        resume: The run goes on from what the folder holds, which must have been made with the same settings. Otherwise
            ``result.json`` and ``checkpoint.pt`` of an earlier run there are removed: they are not of these settings.
        file: Name of the file.

    Raises:
        ValueError: The folder holds a run with other settings, which cannot be gone on with, nor taken for this one.
    """
    settings = _plain(asdict(config))
    if resume and (folder / file).is_file():
        now = _flat(settings)
        for name, before in _flat(yaml.safe_load((folder / file).read_text("utf-8"))).items():
            if name.split(".")[-1] not in _NOT_OF_A_RUN and now.get(name, before) != before:
                raise ValueError(
                    f"{folder} holds a run with {name} {before}, and is to be resumed with {now[name]}: "
                    "resume it with the same settings, or start in another folder"
                )
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in ("result.json", "checkpoint.pt"):
            (folder / old).unlink(missing_ok=True)
    write_atomically(folder / file, yaml.safe_dump(settings, sort_keys=False))


def _plain(value: Any) -> Any:
    """Put what YAML knows in the place of paths and tuples, in groups of settings too."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _flat(settings: dict[str, Any], group: str = "") -> dict[str, Any]:
    """Name settings of groups ``group.name``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{group}{name}.") if isinstance(value, dict) else {f"{group}{name}": value}
    return flat


def train(
    model: nn.Module,
    train_set: Any,
    validation_set: Any,
    schedule: Schedule,
    folder: Path,
    *,
    ranks: Ranks,
    resume: bool,
) -> dict[str, Any]:
    """Train a classifier and return the last epoch's record, also in ``folder/metrics.jsonl``.

    Args:
        model: Maps a batch of features to logits.
        train_set: Pairs of features and class index.
        validation_set: Likewise.
        schedule: How long and how fast.
        folder: Gets ``metrics.jsonl``, and ``checkpoint.pt`` after every epoch.
        ranks: This process among others.
        resume: Go on from the checkpoint, if there is one.

    Returns:
        ``epoch, train_loss, validation_loss, accuracy`` (percent), ``unreadable`` (images left out so far in this
        epoch) and ``step_rate`` (training samples per second and process, waiting for data excluded).
    """
    s = schedule
    model.to(ranks.device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
    parallel = DistributedDataParallel(model) if ranks.world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), s.lr, weight_decay=s.weight_decay, fused=True)
    own_batch = max(1, s.batch_size // ranks.world)
    usable = len(train_set) // ranks.world
    if usable == 0:
        raise ValueError(f"{len(train_set)} training images are too few for {ranks.world} processes")
    steps = s.epochs * max(1, usable // own_batch)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
    log: list[dict[str, Any]] = []
    checkpoint = folder / "checkpoint.pt"
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=ranks.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        log = state["log"]
    for epoch in range(len(log), s.epochs):
        order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(s.seed * 10007 + epoch))
        indices = ranks.share(order, even=True)
        indices = indices[: max(own_batch, len(indices) // own_batch * own_batch)]
        loader = batches(
            train_set, indices, own_batch, workers=s.workers, seed=(s.seed * 10007 + epoch) * ranks.world + ranks.rank
        )
        torch.manual_seed(s.seed * 10007 + epoch)  # random cuts when there are no workers
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
        rate = float(sums[2]) / seconds
        loss_sum, seen, given = ranks.sum(sums.to(ranks.device)).tolist()
        validation = evaluate(model, validation_set, own_batch, workers=s.workers, ranks=ranks)
        record = {"epoch": epoch + 1, "train_loss": loss_sum / max(1, seen), **validation, "step_rate": rate}
        record["unreadable"] += int(given - seen)
        log.append(record)
        if ranks.first:
            write_atomically(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in log))
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "log": log,
                },
                partial,
            )
            os.replace(partial, checkpoint)
    return log[-1]


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Any, batch_size: int, *, workers: int, ranks: Ranks) -> dict[str, Any]:
    """Loss and accuracy (percent) over a dataset, every image once; unreadable ones are counted and left out."""
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


def lr_factor(step: int, steps: int) -> float:
    """Learning rate of a step as a fraction of the peak: linear warm-up over the first tenth, then half a cosine."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

"""Train a network to imitate another: at one place inside it first, then in what it answers.

    training = Imitation(student, teacher, parameters, options)
    training.run(crops, held_back)
    training.score()                Agreement

A run depends on its options and crops alone, where it is told a number of steps. Interrupted, it goes on from its last
checkpoint as if nothing had happened.
"""

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .checkpoint import load_training, save_training
from .watched import Watched

__all__ = ["Agreement", "Imitation", "Options"]

FEATURES_WEIGHT = 0.3
"""Of the features' loss, beside that of the answers."""
WARMUP = 50
"""Steps in which the learning rate rises."""
CHECKPOINT_EVERY = 60.0
"""Seconds between checkpoints."""
_CHECK_EVERY = 10  # steps between looks at the loss, each of which waits for the device


class Agreement(NamedTuple):
    """How well a student imitates its teacher.

    Attributes:
        missed: Mean square of the features' error over each channel's variance.
        divergence: Kullback-Leibler divergence of the answers in nats, or, where the network does not classify, what
            ``missed`` is for its output.
        agreement: Fraction of pictures for which both answer the same class; None where they do not classify.
    """

    missed: float
    divergence: float
    agreement: float | None


@dataclasses.dataclass(frozen=True)
class Options:
    """How a student is trained.

    Attributes:
        steps: The number of steps, or None.
        minutes: How long, where ``steps`` is None.
        batch_size: Crops in a step, over all processes.
        lr: Peak learning rate of AdamW: a short warm-up, then linear decay to zero.
        features_only: Part of the training in which only features are compared.
        workers: Processes that read and cut pictures.
        checkpoint: File to keep the training in, or None.
        about: What else must be the same when a training is resumed.
        progress: Whether to show a progress bar.
    """

    steps: int | None
    minutes: float | None
    batch_size: int
    lr: float
    features_only: float
    workers: int
    checkpoint: Path | None
    about: Mapping[str, Any]
    progress: bool


class Imitation:
    """One training.

    Args:
        student: The network that learns, in evaluation mode but for ``training``.
        teacher: The network that it learns from.
        parameters: Those that are trained from the start, by name.
        later: Those that are trained, at a tenth of the rate, once answers are compared.
        training: The module of the student that is in training mode: batch norms there measure anew.
        channels_last: Whether features are ``(..., C)``; else they are ``(N, C, ...)``.
        classifies: Whether answers are logits of classes.
        options: How to train.
    """

    def __init__(
        self,
        student: Watched,
        teacher: Watched,
        parameters: Mapping[str, nn.Parameter],
        later: Mapping[str, nn.Parameter],
        training: nn.Module,
        channels_last: bool,
        classifies: bool,
        options: Options,
    ) -> None:
        self.student, self.teacher, self.training, self.options = student, teacher, training, options
        self.classifies, self.channel = classifies, -1 if channels_last else 1
        self.device = student.mean.device
        student.eval().requires_grad_(False)
        teacher.eval().requires_grad_(False)
        for network in (student, teacher):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
        self.parameters, self.later = dict(parameters), dict(later)
        # Scales and biases do not decay.
        groups = [
            {"params": [p for p in named.values() if (p.ndim > 1) == decays], "share": share, "weight_decay": decay}
            for named, share in ((self.parameters, 1.0), (self.later, 0.1))
            for decays, decay in ((True, 1e-4), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=options.lr)
        self.step, self.seconds = 0, 0.0
        self.held_back = self.wanted = self.taught = self.variances = torch.ones(())
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        if options.batch_size % self.world:
            raise ValueError(f"batch_size must be a multiple of the {self.world} processes, got {options.batch_size}")

    def run(self, crops: Dataset[Tensor], held_back: Tensor) -> None:
        """Train.

        Args:
            crops: The crops of all steps, one after the other, each ``(C, H, W)`` in [0, 1].
            held_back: ``(N, C, H, W)``, pictures for the variances of features and for showing progress.

        Raises:
            FloatingPointError: The loss is no number any more.
            ValueError: The checkpoint is of another training.
        """
        self._load()
        self._teach(held_back)
        if (done := self._done()) >= 1:
            return
        loader = DataLoader(crops, batch_sampler=self._batches(), num_workers=self.options.workers)
        bar = tqdm(
            loader,
            desc="distill stem",
            initial=self.step,
            total=self.options.steps,
            unit="step",
            disable=not self.options.progress or os.environ.get("RANK", "0") != "0",
        )
        kept, network, whole = time.monotonic(), nn.Module(), None
        for batch in bar:
            start = time.monotonic()
            if whole != (done >= self.options.features_only):
                whole = done >= self.options.features_only
                network = self._network(whole)
            loss = self._learn(network, batch.to(self.device), done)
            self.step += 1
            self.seconds += time.monotonic() - start
            before, done = done, self._done()
            if self.step % _CHECK_EVERY == 0 or done >= 1:
                self._check(loss)
                bar.set_postfix_str(f"loss {float(loss):.3f}")
            if int(10 * done) > int(10 * before) and not bar.disable:
                bar.write(f"step {self.step}: {in_words(self.score())}")
            if done >= 1 or time.monotonic() - kept > CHECKPOINT_EVERY:
                self._check(loss)
                self._save()
                kept = time.monotonic()
            if done >= 1:
                break
        if self.world > 1:  # after the last step, each process has statistics of its own
            for buffer in self.training.buffers():
                dist.broadcast(buffer, 0)

    @torch.no_grad()
    def score(self) -> Agreement:
        """Compare student and teacher on the pictures held back."""
        self.training.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for part, wanted, taught in zip(*map(self._parts, (self.held_back, self.wanted, self.taught)), strict=True):
            features, answers = self._run(self.student, part.to(self.device), whole=True)
            assert answers is not None  # as the whole network ran
            same = (answers.argmax(-1) == taught.argmax(-1)).float().mean()
            means = self._missed(features, wanted), self._divergence(answers, taught), same
            sums += len(part) * torch.stack(means).double().cpu()
        missed, divergence, same = (sums / len(self.held_back)).tolist()
        return Agreement(missed, divergence, same if self.classifies else None)

    def _learn(self, network: nn.Module, x: Tensor, done: float) -> Tensor:
        """Take one step; returns its loss."""
        whole = done >= self.options.features_only
        rate = self.options.lr * min(1.0, (self.step + 1) / WARMUP) * (1 - done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        with torch.no_grad():
            wanted, taught = self._run(self.teacher, x, whole)
        self.training.train()
        features, answers = self._run(network, x, whole)
        loss = self._missed(features, wanted)
        if answers is not None and taught is not None:
            loss = FEATURES_WEIGHT * loss + self._divergence(answers, taught)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, 1.0)
        self.optimizer.step()
        return loss.detach()

    def _run(self, network: nn.Module, x: Tensor, whole: bool) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return network(x, whole)

    def _network(self, whole: bool) -> nn.Module:
        """Free what is trained now, and share it with the other processes."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        for parameter in self.later.values():
            parameter.requires_grad_(whole)
        return DistributedDataParallel(self.student) if self.world > 1 else self.student

    def _missed(self, features: Tensor, wanted: Tensor) -> Tensor:
        return ((features - wanted).square() / self.variances).mean()

    def _divergence(self, answers: Tensor, taught: Tensor) -> Tensor:
        if not self.classifies:
            return F.mse_loss(answers, taught) / taught.var(correction=0).clamp(min=1e-12)
        ours, theirs = answers.log_softmax(-1), taught.log_softmax(-1)
        return F.kl_div(ours, theirs, log_target=True, reduction="batchmean")

    @torch.no_grad()
    def _teach(self, held_back: Tensor) -> None:
        """Ask the teacher about the pictures held back, and measure the variance of every channel of its features."""
        self.held_back = held_back
        parts = [self._run(self.teacher, part.to(self.device), whole=True) for part in self._parts(held_back)]
        self.wanted = torch.cat([features for features, _ in parts])
        self.taught = torch.cat([answers for _, answers in parts if answers is not None])
        others = [d for d in range(self.wanted.ndim) if d != self.channel % self.wanted.ndim]
        variances = self.wanted.var(others, correction=0, keepdim=True)
        self.variances = variances.clamp(min=1e-3 * float(variances.mean()) + 1e-12)  # nearly constant channels

    def _parts(self, pictures: Tensor) -> tuple[Tensor, ...]:
        return pictures.split(self.options.batch_size)

    def _batches(self) -> Iterator[list[int]]:
        """Number the crops of this process' share of every batch, from the next step on."""
        size, step = self.options.batch_size, self.step
        while self.options.steps is None or step < self.options.steps:
            yield list(range(step * size + self.rank, (step + 1) * size, self.world))
            step += 1

    def _done(self) -> float:
        """Part of the run that is done, the same for all processes."""
        if self.options.steps is not None:
            return self.step / self.options.steps
        assert self.options.minutes is not None  # where there are no steps
        done = torch.tensor(self.seconds / (60 * self.options.minutes), device=self.device)
        if self.world > 1:
            dist.broadcast(done, 0)
        return float(done)

    def _check(self, loss: Tensor) -> None:
        if not math.isfinite(float(loss)):
            kept = self.options.checkpoint
            where = f"; {kept} holds the training as it was before" if kept and kept.is_file() else ""
            raise FloatingPointError(
                f"the loss is {float(loss)} at step {self.step}: expected a lower learning rate than "
                f"{self.options.lr:g}{where}"
            )

    def _kept(self) -> dict[str, Tensor]:
        """Return what training changes in the student: parameters, and statistics of batch norms."""
        statistics = {f"training.{name}": buffer for name, buffer in self.training.named_buffers()}
        return {**self.parameters, **self.later, **statistics}

    def _save(self) -> None:
        file = self.options.checkpoint
        if file is not None and self.rank == 0:
            save_training(file, self._kept(), self.optimizer, self._about(), step=self.step, seconds=self.seconds)

    def _load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        file = self.options.checkpoint
        if file is not None and file.is_file():
            self.step, self.seconds = load_training(file, self._kept(), self.optimizer, self._about())

    def _about(self) -> dict[str, Any]:
        o = self.options
        return {**o.about, "steps": o.steps, "minutes": o.minutes, "batch_size": o.batch_size, "lr": o.lr}


def in_words(agreement: Agreement) -> str:
    """Say in a few words how well a student imitates."""
    same = "" if agreement.agreement is None else f", {100 * agreement.agreement:.1f} % of the answers agree"
    return (
        f"{100 * agreement.missed:.1f} % of the features' variance missed, divergence {agreement.divergence:.3f}{same}"
    )

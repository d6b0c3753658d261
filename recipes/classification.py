"""Train one classifier on one kind of input.

    python -m recipes.classification --arm walloc_16x
    python -m recipes.classification --arm resize_16x --data PHOTOS --image-size 256 --epochs 40
    torchrun --nproc-per-node 2 -m recipes.classification --arm walloc_4x

    walloc encode-dataset PHOTOS -o DATASET --codec rgb_16x --resize 288 --crop 288
    python -m recipes.classification --arm walloc_16x --data DATASET --image-size 256 --epochs 40

``PHOTOS`` holds one subfolder of images per class. ``DATASET`` holds their latents, encoded once: it is read by the arm
of its codec, or of fewer of its channels (``--arm rgb_4x:24``), and gives random crops and flips, of one scale. Other
arms need pixels.

The network is the same for every arm (see recipes/common/arms.py), and so are the crops of photographs, their order and
the number of steps for the same seed.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import nn
from torchvision.transforms import v2

from recipes.classify.training import Schedule, train_classifier
from recipes.classify.trunk import Classifier
from recipes.common.arms import STRIDE, Resize, make_arm, values_per_token
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.datasets import Features, Task, batches, cuts, in_memory, load_task
from recipes.common.digits import SIDE
from recipes.common.macs import count_macs
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run, finished_or_new
from recipes.common.stored import Cells, Records

WRITTEN = (*FILES, "curve.png")


@dataclass
class Settings:
    """What a run has in common with the others of a comparison."""

    data: str = "demo"
    """`demo` (a digit on a photograph), a folder with a subfolder of images per class, a latent data set, or a dataset
    of torchvision."""
    data_root: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    image_size: int = 128
    """Side of the crops in pixels, a multiple of 8; the demo's are 128."""
    demo_crops: tuple[int, int] = (5000, 1000)
    """Training and validation crops of the demo."""
    epochs: int = 5
    batch_size: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.05
    width: int = 16
    """Channels of the trunk's first stage."""
    stages: int = 3
    """Residual stages of the trunk."""
    workers: int = 2
    """Processes that load and encode."""
    resume: bool = False
    """Go on with the run that --output-dir holds, which must have the same settings."""
    overwrite: bool = False
    """Put this run in the place of the one that --output-dir holds."""
    protocol: Literal["same-view", "paper"] = "same-view"
    """What validation shows: the same field of view to every arm, or, as in the paper, a small center crop to the
    resize arms (a crop of the thumbnail's side, out of the image at 9/8 of the image size)."""


@dataclass
class Config(Settings):
    """Train one classifier on one kind of input."""

    arm: str = "walloc_16x"
    """What the network reads: resize_16x, resize_4x, patch, dct_16x, dct_4x, walloc_16x or walloc_4x; or a codec,
    as rgb_4x:24, of which the first 24 channels are read."""
    output_dir: Path = Path("runs/classification/TIME")
    """A new or empty folder, which gets config.yaml, metrics.jsonl, checkpoint.pt, result.json and curve.png. TIME
    stands for date and time."""
    seed: int = 0


def features(config: Config, task: Task) -> tuple[Features | Cells, Features | Cells]:
    """Training and validation features of the config's arm."""
    if isinstance(task.train, Records) and isinstance(task.validation, Records):
        if config.protocol == "paper":
            raise ValueError("a latent data set has no pixels: --protocol paper needs photographs")
        side = config.image_size
        return task.train.read(config.arm, side, training=True), task.validation.read(config.arm, side, training=False)
    arm = make_arm(config.arm)
    train_cut, validation_cut = cuts(config.image_size, fixed=task.fixed)
    validation_arm: nn.Module = arm
    if config.protocol == "paper":
        if task.fixed:
            raise ValueError("the demo's crops are fixed: --protocol paper needs photographs")
        side = config.image_size
        if isinstance(arm, Resize):
            side = config.image_size // STRIDE * arm.patch
            validation_arm = nn.PixelUnshuffle(arm.patch)
        validation_cut = v2.Compose([v2.Resize(config.image_size * 9 // 8, antialias=True), v2.CenterCrop(side)])
    return Features(task.train, train_cut, arm), Features(task.validation, validation_cut, validation_arm)


def measure_pipeline(dataset: Features | Cells, batch_size: int, workers: int, batches_timed: int = 12) -> float:
    """Samples per second that loading, decoding, cutting and encoding give, start of the workers excluded."""
    count = (batches_timed + 2 * workers + 1) * batch_size  # what the workers fetch ahead before the clock starts
    indices = [i % len(dataset) for i in range(count)]
    iterator = iter(batches(dataset, indices, batch_size, workers=workers))
    next(iterator)
    start, seen = time.perf_counter(), 0
    for x, _ in iterator:
        seen += len(x)
    return seen / (time.perf_counter() - start)


def check(config: Settings) -> None:
    """Raise a ValueError for settings that cannot be run."""
    if config.image_size < STRIDE or config.image_size % STRIDE:
        raise ValueError(f"image_size must be a multiple of {STRIDE}, got {config.image_size}")
    check_at_least(config, 1, ("epochs", "batch_size", "width", "stages", "demo_crops"))
    check_at_least(config, 0, ("workers", "weight_decay"))
    check_above_zero(config, ("lr",))


def open_task(config: Config, ranks: Ranks) -> Task:
    """Open the data, and check that the arm can be trained on it."""
    task = load_task(
        config.data, config.data_root, demo_crops=config.demo_crops, seed=config.seed, processes=ranks.world
    )
    if task.fixed and config.image_size != SIDE:
        raise ValueError(f"the demo's crops are {SIDE} pixels, got image_size={config.image_size}")
    features(config, task)
    return task


def main(config: Config) -> dict[str, Any]:
    """Train and write the result; a finished run with --resume is only read."""
    check(config)
    ranks = Ranks.start()
    with claim("classification", config, ranks, WRITTEN) as begin:
        task = open_task(config, ranks)
        if ranks.first and task.remark:
            print(task.remark)
        begin()
        run = Run(config.output_dir, ranks, config.resume)
        return finished_or_new(run, lambda: train_and_score(config, task, run))


def train_and_score(config: Config, task: Task, run: Run) -> dict[str, Any]:
    """Train one network on one kind of input; returns its accuracy and what that cost."""
    show = run.ranks.first
    train_set, validation_set = features(config, task)
    pipeline_rate = measure_pipeline(train_set, config.batch_size, config.workers)
    held_out = in_memory(validation_set, workers=config.workers, description="validation crops", show=show)
    seen = in_memory(train_set, workers=config.workers, description="crops", show=show) if task.fixed else train_set

    torch.manual_seed(config.seed)
    model = Classifier(values_per_token(config.arm), len(task.classes), config.width, config.stages)
    schedule = Schedule(config.epochs, config.batch_size, config.lr, config.weight_decay, config.workers, config.seed)
    record = train_classifier(model, seen, held_out, schedule, run)
    if show:
        draw_curve(run.folder)

    one = held_out[0][0][None].to(run.ranks.device)
    tokens = (config.image_size // STRIDE) ** 2
    return {
        "arm": config.arm,
        "seed": config.seed,
        "accuracy": record["accuracy"],
        "unreadable": record["unreadable"],
        "values": tokens * values_per_token(config.arm),
        "tokens": tokens,
        "macs": count_macs(model, lambda: model(one)),
        "pipeline_rate": pipeline_rate,
        "step_rate": record["step_rate"],
    }


def draw_curve(folder: Path) -> None:
    """Draw loss and accuracy over the epochs."""
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    epochs = [r["epoch"] for r in log]
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [r["train_loss"] for r in log], label="training")
    left.plot(epochs, [r["validation_loss"] for r in log], label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy")
    left.legend()
    right.plot(epochs, [r["accuracy"] for r in log])
    right.set(xlabel="epoch", ylabel="validation accuracy (%)")
    figure.savefig(folder / "curve.png", dpi=120)


if __name__ == "__main__":
    config, result = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print("\n".join(f"{key:>14}  {value}" for key, value in result.items()))
        print(f"written to {config.output_dir}")

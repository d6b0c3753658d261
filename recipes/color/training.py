"""Train a colorization network for some steps, resumable, and color photographs with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recipes.color.arms import gray
from recipes.color.data import Crops
from recipes.color.network import Colorizer
from recipes.common.arms import STRIDE
from recipes.common.datasets import batches
from recipes.common.loop import train_steps
from recipes.common.ranks import Ranks


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


def train(
    model: Colorizer, crops: Crops, schedule: Schedule, folder: Path, *, ranks: Ranks, resume: bool, description: str
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
    trained = [p for p in model.parameters() if p.requires_grad]
    own = max(1, s.batch_size // ranks.world)

    def batches_from(first: int) -> Iterable[Tensor]:
        indices = [(step * ranks.world + ranks.rank) * own + i for step in range(first, s.steps) for i in range(own)]
        return batches(crops, indices, own, workers=s.workers)

    def loss(parallel: nn.Module, images: Tensor, step: int) -> Tensor:
        torch.manual_seed(crops.seed * 1_000_003 + step)  # for dropout, should the trunk have any
        return loss_of(parallel, model, images / 255, s.loss)

    return train_steps(
        model,
        torch.optim.AdamW(trained, s.lr, weight_decay=s.weight_decay),
        batches_from,
        loss,
        steps=s.steps,
        checkpoint_every=s.checkpoint_every,
        folder=folder,
        ranks=ranks,
        resume=resume,
        description=description,
    )


def loss_of(parallel: Any, model: Colorizer, images: Tensor, kind: str) -> Tensor:
    """Mean squared error per pixel and color, in units where white is 1.

    Args:
        parallel: The network, as it is or within DistributedDataParallel.
        model: The network.
        images: Color images ``(batch, 3, H, W)`` in [0, 1].
        kind: ``pixels`` compares images, through the arm's way back. ``values`` compares the values, each squared
            error times the energy that it has in the image: the same where the values are coefficients of an
            orthonormal transform, as pixels and DCT are, and without the part of the image that the arm cannot carry.
    """
    values = model.arm.read(gray(images))
    estimate = values + parallel(values)
    if kind == "pixels":
        return (model.arm.back(estimate, images.shape[-2:]) - images).square().mean()
    errors = (estimate - model.arm.read(images)).square() * model.energies
    return errors.sum() / images.numel()


@torch.no_grad()
def color(model: Colorizer, image: Tensor, window: int) -> Tensor:
    """Color an image of any size of which only the gray image is looked at.

    Args:
        model: The network.
        image: Color image ``(3, H, W)`` in [0, 1].
        window: Side in pixels, a multiple of 8, of the windows that larger images are colored in.

    Returns:
        ``(3, H, W)`` in [0, 1], on the CPU.
    """
    model.eval()
    values = model.arm.read(gray(image).to(model.mean.device)[None])
    colored = values + model.color(values, window // STRIDE)
    return model.arm.show(colored, image.shape[-2:])[0].cpu()

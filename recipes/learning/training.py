"""Training of a WeConvene: rate-distortion loss, both kinds of parameters, schedules."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.crops import Crops
from recipes.common.datasets import batches
from recipes.common.loop import train_steps
from recipes.common.runs import Run
from recipes.common.tables import Record
from walloc_transforms.weconvene import Upsample, WeConvene

_SCALE_CROPS, _LATENT_SPREAD = 8, 2.0
_FALLS = (0.65, 0.9)  # of the steps; the reference's 201 epochs have them at 130 and 180


@dataclass
class Training:
    """Settings of the training, the same for every run of a comparison."""

    steps: int = 200
    """Steps of Adam: a few minutes on two cores. The reference takes hundreds of thousands."""
    batch_size: int = 2
    """Crops per step, over all processes. The reference: 8."""
    crop: int = 256
    """Side of the crops in pixels, a multiple of 64."""
    lr: float = 1e-3
    """Peak learning rate. The reference trains its large network with 1e-4."""
    auxiliary_lr: float = 1e-2
    """The same of the quantiles that say how wide the tables of the factorized prior are. The reference: 1e-3."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How the rates fall: by a half cosine to zero, after a rise in the first tenth; or to a tenth after 65 % and after
    90 % of the steps, as the reference's."""
    clip: float = 1.0
    """Largest norm of a step's gradient, without that of the quantiles."""
    checkpoint_every: int = 100
    """Steps between checkpoints, at which the test images are measured."""
    workers: int = 0
    """Processes that read crops: for folders beyond `memory_gb`."""

    def check(self) -> None:
        """Raise a ValueError for settings out of range."""
        check_at_least(self, 1, ("steps", "batch_size", "checkpoint_every"))
        check_at_least(self, 0, ("workers",))
        check_above_zero(self, ("lr", "auxiliary_lr", "clip"))
        if self.crop < 64 or self.crop % 64:
            raise ValueError(f"crop must be a multiple of 64 from 64 on, got {self.crop}")


class Objective(nn.Module):
    """What is minimized: ``lmbda * 255**2 * MSE + bits per pixel``; and the loss of the prior's quantiles.

    Args:
        model: The model that is trained.
        lmbda: The weight of the distortion.
    """

    def __init__(self, model: WeConvene, lmbda: float) -> None:
        super().__init__()
        self.model, self.lmbda = model, lmbda

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return both losses of images ``(N, 3, H, W)``, uint8."""
        x = images / 255
        given = self.model(x)
        error = (given["x_hat"] - x).square().mean()
        bpp = bits_of(given["likelihoods"]) / (x.shape[0] * x.shape[2] * x.shape[3])
        return self.lmbda * 255**2 * error + bpp, self.model.auxiliary_loss()


@torch.no_grad()
def scale_latents(model: WeConvene, crops: Crops) -> None:
    """Give the latents of an untrained model a standard deviation of 2 on some crops, and decode them as before.

    Those of torch's usual weights have about 0.1: all round to zero, so that at first the decoder sees nothing of the
    image, and training takes longer.
    """
    images = torch.stack([crops[i] for i in range(_SCALE_CROPS)]).to(next(model.parameters()).device) / 255
    factor = _LATENT_SPREAD / model.analysis(images).std()
    for parameter in model.analysis[-1].parameters():
        parameter.mul_(factor)
    first = model.synthesis[0]
    assert isinstance(first, Upsample)
    for convolution in (first.conv[0], first.skip[0]):
        assert isinstance(convolution, nn.Conv2d)
        convolution.weight.div_(factor)


def bits_of(likelihoods: dict[str, Tensor]) -> Tensor:
    """Add up what an ideal coder needs for symbols of these likelihoods."""
    return -torch.stack([likelihood.log2().sum() for likelihood in likelihoods.values()]).sum()


class BothAdams(torch.optim.Adam):
    """The main and the auxiliary optimizer in one.

    Adam treats every parameter by itself, so that two groups are two optimizers, with one state and one schedule. Only
    the gradients of the first group are clipped together: those of the quantiles are large and would drown the others.

    Args:
        model: Its quantiles are the second group.
        lr: Of the first group.
        auxiliary_lr: Of the second.
        clip: The largest norm of the first group's gradient.
    """

    def __init__(self, model: nn.Module, lr: float, auxiliary_lr: float, clip: float) -> None:
        named = [*model.named_parameters()]
        main = [parameter for name, parameter in named if not name.endswith("quantiles")]
        quantiles = [parameter for name, parameter in named if name.endswith("quantiles")]
        super().__init__([{"params": main, "lr": lr}, {"params": quantiles, "lr": auxiliary_lr}])
        self.clip = clip

    def step(self, closure: Any = None) -> Any:
        """Clip, and take a step."""
        nn.utils.clip_grad_norm_(self.param_groups[0]["params"], self.clip)
        return super().step(closure)


class Falls(torch.optim.lr_scheduler.MultiStepLR):
    """Divide the learning rates by ten after 65 % and after 90 % of the steps."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        super().__init__(optimizer, [round(share * steps) for share in _FALLS])

    def step(self, epoch: Any = None) -> None:
        """Count a step; its loss does not matter."""
        super().step()


def train(
    model: WeConvene,
    lmbda: float,
    crops: Crops,
    settings: Training,
    run: Run,
    validate: Callable[[WeConvene], dict[str, float]] | None = None,
) -> Record:
    """Train a model; ``train_steps`` says what is written.

    Args:
        model: Trained in place, and moved to the run's device.
        lmbda: The weight of the distortion.
        crops: To train on; their seed is that of the noise, too.
        settings: How.
        run: Where the training is kept, and who works on it.
        validate: Measures the model at checkpoints.

    Returns:
        The last record.
    """
    s, ranks = settings, run.ranks
    objective = Objective(model, lmbda).to(ranks.device)
    own = s.batch_size // ranks.world

    def batches_from(first: int) -> Iterable[Tensor]:
        starts = [(step * ranks.world + ranks.rank) * own for step in range(first, s.steps)]
        return batches(crops, [start + i for start in starts for i in range(own)], own, workers=s.workers)

    def loss(parallel: nn.Module, images: Tensor, step: int) -> Tensor:
        torch.manual_seed(crops.seed * 1_000_003 + step * ranks.world + ranks.rank)  # of the noise
        main, auxiliary = parallel(images)
        return main + auxiliary - auxiliary.detach()  # the log is to show the main loss alone

    return train_steps(
        objective,
        BothAdams(model, s.lr, s.auxiliary_lr, s.clip),
        batches_from,
        loss,
        run,
        steps=s.steps,
        checkpoint_every=s.checkpoint_every,
        schedule=(lambda optimizer: Falls(optimizer, s.steps)) if s.schedule == "steps" else None,
        validate=(lambda trained: validate(trained.model)) if validate is not None else None,
    )

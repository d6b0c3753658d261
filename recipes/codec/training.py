"""Train a codec by gradient descent from its closed form: a refiner, or the projection and the linear decoder too.

    signal --projection--> z --compand, round or noise--> latents --linear decoder [+ refiner]--> packets' ~ packets

The error is measured in packets, each weighted by the energy of its synthesis filter. That is nearly the error of the
signal, which need not be synthesized. Losses are in dB, so that hard batches do not make larger steps.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import walloc_transforms as wt
from recipes.codec.crops import Crops
from recipes.codec.schedules import PaperSchedule
from recipes.common.loop import train_steps
from recipes.common.runs import Run
from recipes.common.tables import Record
from walloc_transforms.codec import Refiner
from walloc_transforms.signals import value_range
from walloc_transforms.wavelets import FoldedAnalysis, band_positions, synthesis_bank

_SCALE_BATCHES = 16


@dataclass
class Training:
    """Settings of the gradient descent that follows the closed form."""

    steps: int = 0
    """Steps of AdamW. 0: the codec stays as it was fitted."""
    projection: bool = False
    """Train projection and linear decoder too, with noise in place of rounding. Otherwise latents stay the same, and
    only a refiner is trained."""
    projection_lr: float = 0.02
    """With `projection`: peak learning rate of projection and linear decoder, relative to the size of their weights."""
    linear_weight: float = 0.1
    """With `projection` and a refiner: weight of the linear decoder's own error, of a total of 1."""
    refiner_width: int = 128
    """Channels of the refiner."""
    refiner_blocks: int = 4
    """Residual blocks of the refiner. 0: no refiner. The codec's own refiner is trained further if it is as wide and
    has no more; blocks that are new do nothing at first."""
    batch_size: int = 4
    """Crops per step, over all processes."""
    crop: int = 40
    """Side of a crop in latents; of sound its length."""
    first_crop: int = 0
    """Side of the first crops, which grow to `crop` while the batch shrinks, so that all steps take as long. 0: as
    `crop`."""
    lr: float = 2e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "paper"] = "cosine"
    """How the rate falls after its rise in the first tenth of the steps: by a half cosine to zero; or as in the paper,
    where it rises from a 300th and then falls by 2 % whenever the loss stagnates."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip: float = 5.0
    """Largest norm of a step's gradient; losses are in dB."""
    ema: float = 0.999
    """The codec gets the average of the weights over the steps, with this decay per step."""
    prefixes: float = 0.2
    """Share of the steps that see only the first channels, a random number of them, so that every prefix is a codec."""
    rate_weight: float = 0.0
    """With `projection`: how many dB of PSNR one bit per latent is worth; high-rate theory says 6."""
    frozen_share: float = 0.0
    """With `projection`: in this share of the steps, the last ones, the projection stays as it is and latents are
    rounded; the decoders are trained on. Its learning rate has fallen to zero by then."""
    amp: bool = True
    """Run the refiner in bfloat16 while training."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, with validation on `held_out` signals."""
    held_out: int = 6
    """Signals to validate on, evenly spread over the sorted files; none of them is trained on."""
    seed: int = 0
    """Of initialization, crops, channels and noise."""

    def __post_init__(self) -> None:
        if self.steps and not (self.projection or self.refiner_blocks):
            raise ValueError("there is nothing to train: expected --training.projection or a refiner")
        if min(self.batch_size, self.crop, self.checkpoint_every, self.refiner_width) < 1 or self.steps < 0:
            raise ValueError("batch_size, crop, checkpoint_every and refiner_width must be at least 1, steps 0")
        if not (0 <= self.ema < 1 and 0 <= self.prefixes <= 1 and 0 <= self.linear_weight <= 1):
            raise ValueError(
                "expected 0 <= ema < 1, 0 <= prefixes <= 1 and 0 <= linear_weight <= 1, got "
                f"{self.ema}, {self.prefixes} and {self.linear_weight}"
            )
        if not 0 <= self.first_crop <= self.crop:
            raise ValueError(f"first_crop must be from 0 to crop, {self.crop}, got {self.first_crop}")
        if not 0 <= self.frozen_share < 1 or (self.frozen_share and (self.schedule != "cosine" or not self.projection)):
            raise ValueError(
                "frozen_share must be at least 0 and below 1, and goes with projection and the cosine schedule, got "
                f"{self.frozen_share} with projection {self.projection} and {self.schedule!r}"
            )
        if self.rate_weight < 0 or self.projection_lr <= 0:
            raise ValueError(
                "rate_weight must be at least 0 and projection_lr above 0, got "
                f"{self.rate_weight} and {self.projection_lr}"
            )


class Trained(nn.Module):
    """A codec in training.

    Args:
        codec: Where to begin; trained in place, or frozen.
        refiner: A refiner to train with it, or None.
        projection: Train projection and linear decoder.
        amp: Run the refiner in bfloat16.

    Attributes:
        frozen: Round the latents, so that the projection gets no gradient, and keep their statistics.
    """

    gains: Tensor

    def __init__(self, codec: wt.Codec, refiner: Refiner | None, *, projection: bool, amp: bool) -> None:
        super().__init__()
        c = codec.config
        self.codec, self.refiner, self.projection, self.amp = codec, refiner, projection, amp
        self.frozen = not projection
        for part in (codec.weight, codec.bias, codec.decoder.weight, codec.decoder.bias):
            part.requires_grad_(projection)
        self.analysis = FoldedAnalysis(
            torch.eye(c.packets), torch.zeros(c.packets), wavelet=c.wavelet, levels=c.axis_levels
        )
        norms = torch.from_numpy(synthesis_bank(c.wavelet, c.levels).filters).square().sum(1).sqrt()
        gains = norms[torch.from_numpy(band_positions(c.axis_levels))].prod(0)
        self.register_buffer("gains", gains.repeat(c.signal_channels).float(), persistent=False)

    def prepare(self, x: Tensor, cut: int) -> tuple[Tensor, Tensor]:
        """Return latents ``(N, D, ...)``, with noise or rounded, and weighted packets ``(N, ..., C * bands)``."""
        low, high = value_range(x, self.codec.config.modality)
        scale = 1 / (high - low)  # packets are of the codec's own range, from -0.5 to 0.5
        inner = (slice(None), slice(None), *[slice(cut, -cut)] * (x.ndim - 2)) if cut else ...
        latents = self.codec.encode(x, rounding="round" if self.frozen else "noise")[inner]
        with torch.no_grad():
            packets = self.analysis(x, scale, -0.5 - low * scale)[inner]
        return latents, packets.movedim(1, -1).contiguous() * self.gains

    def linear(self, z: Tensor) -> Tensor:
        """Decode expanded latents ``(N, D, ...)`` linearly to weighted packets ``(N, ..., C * bands)``."""
        weight, bias = self.codec.decoder.weight, self.codec.decoder.bias
        return nn.functional.linear(z.movedim(1, -1), weight * self.gains[:, None], bias * self.gains)

    def forward(self, x: Tensor, cut: int, channels: int) -> tuple[Tensor, Tensor]:
        """Return the errors of the decoders that are trained, and the rate.

        Args:
            x: Signals, uint8 images or waveforms.
            cut: Cells to leave out at every end.
            channels: How many of the latent channels to decode.

        Returns:
            Mean squared errors per sample, ``(1,)`` or ``(2,)``: of the linear decoder if it is trained, and of the
            refiner if there is one. Bits per latent, up to a constant: the mean log2 of the channels' spreads.
        """
        latents, packets = self.prepare(x, cut)
        if self.training and not self.frozen:
            self._follow(latents.detach())
        shape = (-1, *[1] * (latents.ndim - 2))
        seen = (torch.arange(latents.shape[1], device=x.device) < channels).float().view(shape)
        estimate = self.linear(self.codec.expand(latents) * seen)
        errors = [(estimate - packets).square().mean()] if self.projection else []
        if self.refiner is not None:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
                features = self.refiner(self.codec.normalize(latents) * seen)
                left = nn.functional.linear(features.movedim(1, -1), self.refiner.head)
            estimate = estimate + left.float() * (self.refiner.scale * self.gains)
            errors.append((estimate - packets).square().mean())
        return torch.stack(errors), latents.transpose(0, 1).flatten(1).std(1).log2().mean()

    @torch.no_grad()
    def _follow(self, latents: Tensor) -> None:
        """Let the statistics of the latents, which normalize the refiner's input, follow the training."""
        values = latents.transpose(0, 1).flatten(1)
        self.codec.latent_mean.lerp_(values.mean(1), 0.01)
        self.codec.latent_std.lerp_(values.std(1), 0.01)

    @torch.no_grad()
    def measure_scale(self, crops: Crops, count: int) -> None:
        """Set the refiner's ``scale`` to the spread of the linear decoder's error in every packet."""
        assert self.refiner is not None
        left = []
        for step in range(2**31 - _SCALE_BATCHES, 2**31):
            x = crops.batch(step, count)
            latents, packets = self.prepare(x, crops.cut(step))
            left.append((packets - self.linear(self.codec.expand(latents))).flatten(0, -2))
        self.refiner.scale.copy_(torch.cat(left).square().mean(0).sqrt() / self.gains)

    def snapshot(self) -> wt.Codec:
        """Return the codec as it is now, frozen."""
        codec = copy.deepcopy(self.codec).requires_grad_(False).cpu()
        if self.refiner is not None:
            codec.set_refiner(copy.deepcopy(self.refiner).cpu())
        return codec


def parameter_groups(model: Trained, settings: Training, frozen: int) -> list[dict[str, Any]]:
    """Make AdamW's parameter groups, with learning rates that suit the size of their weights.

    AdamW changes a weight by about the learning rate in a step, however large the weight is. The weights of a
    projection are about as large as latents, those of a linear decoder about one over that: each gets a rate relative
    to its weights, and no weight decay. A refiner's rate would hardly move them. ``frozen`` is the last step that
    trains the projection.
    """
    made: list[dict[str, Any]] = []
    if model.refiner is not None:
        made.append({"params": [*model.refiner.parameters()], "lr": settings.lr, "weight_decay": settings.weight_decay})
    if model.projection:
        for part, steps in ((model.codec, frozen), (model.codec.decoder, settings.steps)):
            rate = settings.projection_lr * float(part.weight.detach().square().mean().sqrt())
            made.append({"params": [part.weight, part.bias], "lr": rate, "weight_decay": 0.0, "steps": steps})
    return made


def train(
    codec: wt.Codec,
    signals: Sequence[Tensor],
    settings: Training,
    run: Run,
    *,
    validate: Callable[[wt.Codec], dict[str, float]],
) -> tuple[wt.Codec, Record]:
    """Train a codec, its refiner, or both; ``train_steps`` says what is written.

    Args:
        codec: Where to begin. Its refiner is kept if it is as wide as asked for and has no more blocks.
        signals: To train on, as :class:`Crops` takes them; they are kept on the device.
        settings: What to train, and how.
        run: Where the training is kept, and who works on it.
        validate: Measures a codec at checkpoints.

    Returns:
        The trained codec and the last record.
    """
    s, c, ranks = settings, codec.config, run.ranks
    crops = Crops([signal.to(ranks.device) for signal in signals], s.crop, codec, s.seed)  # a GPU cuts faster
    torch.manual_seed(s.seed)
    codec, refiner = copy.deepcopy(codec), None
    if s.refiner_blocks:
        refiner = Refiner(c.channels, c.packets, s.refiner_width, s.refiner_blocks, c.dims)
        if c.refiner_width == s.refiner_width and c.refiner_blocks <= s.refiner_blocks:
            refiner.load_state_dict(codec.load_refiner().state_dict(), strict=False)
    model = Trained(codec, refiner, projection=s.projection, amp=s.amp).to(ranks.device)
    count = max(1, s.batch_size // ranks.world) * ranks.world
    if refiner is not None and not bool(refiner.head.any()):
        model.measure_scale(crops, count)

    frozen = s.steps - round(s.steps * s.frozen_share)

    def batches_from(first: int) -> Iterator[Tensor]:
        for step in range(first, s.steps):
            side = s.crop - (s.crop - s.first_crop) * (s.steps - step) // s.steps if s.first_crop else s.crop
            more = round(count * (s.crop / side) ** c.dims / ranks.world) * ranks.world
            yield crops.batch(step, more, ranks.rank, ranks.world, side)

    def loss(parallel: nn.Module, x: Tensor, done: int) -> Tensor:
        model.frozen = done > frozen or not s.projection
        random = np.random.default_rng((s.seed, done, 1))
        torch.manual_seed(s.seed * 1_000_003 + done * ranks.world + ranks.rank)  # of the noise
        channels = int(random.integers(1, c.channels + 1)) if random.random() < s.prefixes else c.channels
        errors, bits = parallel(x, crops.cut(done - 1), channels)
        weights = errors.new_tensor([s.linear_weight, 1 - s.linear_weight] if len(errors) == 2 else [1.0])
        return 10 * (weights * errors.log10()).sum() + (s.rate_weight * bits if s.projection else 0)

    optimizer = torch.optim.AdamW(parameter_groups(model, s, frozen), s.lr, betas=(0.9, 0.99))
    paper = (lambda optimizer: PaperSchedule(optimizer, s.steps)) if s.schedule == "paper" else None
    record = train_steps(
        model,
        optimizer,
        batches_from,
        loss,
        run,
        steps=s.steps,
        checkpoint_every=s.checkpoint_every,
        schedule=paper,
        ema=s.ema,
        clip=s.clip,
        settle=frozen if s.frozen_share else None,
        validate=lambda average: validate(average.snapshot()),
    )
    return model.snapshot(), record

"""The network that colors, the same for every arm: it reads the values of a gray image and gives what to add to them.

    values --features, normalized--> trunk (any timm model that keeps the token grid) --1x1 convolution--> difference

The last convolution starts at zero: an untrained network shows the gray image, as far as the arm carries it.
"""

from collections.abc import Iterator
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from recipes.color.arms import ColorArm, gray
from recipes.common.arms import STRIDE
from recipes.common.macs import count_macs

_WINDOWS = 16  # at once


class Colorizer(nn.Module):
    """Estimates the values of an image's color from those of the gray image.

    Args:
        arm: What it reads and writes.
        trunk: Name of a timm model with ``forward_intermediates``.
        grid: Tokens along each side of the crops to train on.
        options: Further arguments of ``timm.create_model``.

    Raises:
        ValueError: There is no such model, or it does not give one feature vector per token.
    """

    mean: Tensor
    scale: Tensor
    color_scale: Tensor
    energies: Tensor

    def __init__(self, arm: ColorArm, trunk: str, grid: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.arm = arm.requires_grad_(False)
        self.trunk, width = _make_trunk(trunk, arm.values, grid, options)
        self.head = nn.Conv2d(width, arm.values, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(cast(Tensor, self.head.bias))
        self.register_buffer("energies", arm.energies()[:, None, None])
        for name, start in (("mean", 0.0), ("scale", 1.0), ("color_scale", 1.0)):
            self.register_buffer(name, torch.full((arm.values, 1, 1), start))

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Set the statistics that bring every arm to one scale, from color images ``(batch, 3, H, W)`` in [0, 1]."""
        values = self.arm.read(gray(images))
        features = self.arm.features(values)
        self.mean.copy_(features.mean((0, 2, 3))[:, None, None])
        color = self.arm.read(images) - values
        for buffer, spread in (
            (self.scale, features.std((0, 2, 3))),
            (self.color_scale, color.square().mean((0, 2, 3)).sqrt()),
        ):
            # A channel that is flat in the sample must not blow up when it is not.
            buffer.copy_(spread.clamp(min=max(1e-3 * float(spread.max()), 1e-6))[:, None, None])
        # Impulses say how the energies of an arm's values compare, not what they add up to where they overlap, as the
        # pixels of a thumbnail do: let the color in these images have the energy that it has once it is shown.
        size = images.shape[-2:]
        shown = self.arm.back(values + color, size) - self.arm.back(values, size)
        counted = (color.square() * self.energies).sum()
        if counted > 0:
            self.energies.mul_(shown.square().sum() / counted)

    def forward(self, values: Tensor) -> Tensor:
        """Map values ``(batch, values, h, w)`` of gray images to the difference to those of the color images."""
        features = (self.arm.features(values) - self.mean) / self.scale
        with torch.autocast(values.device.type, torch.bfloat16, enabled=values.device.type == "cuda"):
            x = _feature_map(self.trunk, features)
        return self.head(x.float()) * self.color_scale

    def color_values(self, values: Tensor, window: int) -> Tensor:
        """Estimate the difference, in overlapping windows if a side has more than ``window`` tokens.

        Neighboring windows share at least a quarter and are blended by linear ramps. Only the difference is cut and
        joined, never the image itself. Windows of the training crops' size serve a small trunk better than whole
        images: attention over many more tokens than in training cost up to 1.5 dB. They also bound the memory.
        """
        height, width = values.shape[-2:]
        if max(height, width) <= window:
            return self(values)
        total, weight = torch.zeros_like(values), torch.zeros_like(values[:1, :1])
        places = [(rows, columns) for rows in spans(height, window) for columns in spans(width, window)]
        for first in range(0, len(places), _WINDOWS):
            some = places[first : first + _WINDOWS]
            batch = self(torch.cat([values[..., rows, columns] for rows, columns in some]))
            for (rows, columns), difference in zip(some, batch.split(len(values)), strict=True):
                ramp = _ramp(rows, values.device)[:, None] * _ramp(columns, values.device)
                total[..., rows, columns] += ramp * difference
                weight[..., rows, columns] += ramp
        return total / weight


def spans(length: int, window: int) -> Iterator[slice]:
    """Cover a side with windows that share at least a quarter with the next, evenly spaced."""
    window = min(length, window)
    overlap = window // 4
    count = max(1, -(-(length - overlap) // (window - overlap)))
    for i in range(count):
        start = round(i * (length - window) / max(1, count - 1))
        yield slice(start, start + window)


def _ramp(span: slice, device: torch.device) -> Tensor:
    n = span.stop - span.start
    ascending = torch.arange(1.0, n + 1, device=device)
    return torch.minimum(ascending, ascending.flip(0))


def _make_trunk(name: str, values: int, grid: int, options: dict[str, Any]) -> tuple[nn.Module, int]:
    """Make a timm model whose feature map is the token grid, and say how many channels that has."""
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}")
    vit = {"patch_size": 1, "img_size": (grid, grid), "dynamic_img_size": True}
    reasons: list[str] = []
    for extra in (vit, {}):  # models that are no ViT know none of these
        try:
            model = timm.create_model(name, in_chans=values, num_classes=0, **extra, **options)
            model.eval()
            for shape in ((grid, grid), (grid + 3, max(1, grid - 1))):  # images have any size
                features = _feature_map(model, torch.zeros(1, values, *shape))
                if features.shape[-2:] != shape:
                    raise ValueError(
                        f"{shape[0]}x{shape[1]} tokens give a feature map of shape {tuple(features.shape)}"
                    )
        except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError) as error:
            reasons.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            continue
        features.sum().backward()
        for parameter in model.parameters():
            # As that of a head, which would stall distributed training.
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        return model.train(), features.shape[1]
    raise ValueError(
        f"timm's {name!r} cannot be the trunk, which must keep the token grid, of any size: as a ViT: "
        f"{reasons[0]}; as it is: {reasons[1]}"
    )


def _feature_map(model: Any, x: Tensor) -> Tensor:
    return model.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[-1]


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
    """Color an image of any size, of which the network sees the gray image only.

    Args:
        model: The network.
        image: Color image ``(3, H, W)`` in [0, 1].
        window: Side in pixels, a multiple of 8, of the windows that larger images are colored in.

    Returns:
        ``(3, H, W)`` in [0, 1], on the CPU.
    """
    model.eval()
    values = model.arm.read(gray(image).to(model.mean.device)[None])
    colored = values + model.color_values(values, window // STRIDE)
    return model.arm.show(colored, image.shape[-2:])[0].cpu()


def macs_per_image(model: Colorizer, side: int) -> tuple[int, int]:
    """Multiply-adds for one image of ``side`` pixels: of the trunk, and of all from the gray image to the colored one.

    Bicubic interpolation is not counted.
    """
    device = model.mean.device
    image = torch.full((1, 3, side, side), 0.5, device=device)
    features = torch.zeros(1, model.arm.values, side // STRIDE, side // STRIDE, device=device)

    def color_image() -> None:
        values = model.arm.read(image)
        model.arm.show(values + model(values), image.shape[-2:])

    return count_macs(model, lambda: _feature_map(model.trunk, features)), count_macs(model, color_image)

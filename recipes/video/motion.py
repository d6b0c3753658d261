"""The demo task: say how an object moves. A single frame does not tell.

A disc cut out of one photograph lies on a still crop of another. Over the frames it moves left, right, up or down,
turns clockwise or counterclockwise, grows or shrinks. In the middle frame every class looks alike: place, angle, size
and texture are drawn from the same distribution. Photographs are those that scikit-image and scikit-learn install, at
half their size; training clips come from the left 70 % of each, validation clips from the rest.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from recipes.common.photographs import demo_photographs

MOTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise", "growing", "shrinking")
LARGEST = 64
"""Side of the clips at most: the narrowest part of a photograph is not much wider."""
_TRAINING_PART = 0.7
_CONTRAST = 30.0  # least standard deviation of an object: one of a single color cannot be seen to turn
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # columns, rows
_TURNS = {"clockwise": 1, "counterclockwise": -1}
_GROWTH = {"growing": 1, "shrinking": -1}


def moving_objects(
    count: int, size: tuple[int, int, int], *, training: bool, seed: int, motions: Sequence[str] = MOTIONS
) -> tuple[Tensor, Tensor]:
    """Make clips ``(count, 3, T, H, W)``, uint8, and the index of the motion in each.

    Args:
        count: How many.
        size: ``(T, H, W)``.
        training: Training or validation part of the photographs.
        seed: Another seed, other clips.
        motions: Which there are, one after the other.
    """
    parts = []
    for photograph in demo_photographs():
        pixels = F.avg_pool2d(pil_to_tensor(photograph).float(), 2)
        border = round(pixels.shape[2] * _TRAINING_PART)
        parts.append(pixels[..., :border] if training else pixels[..., border:])
    clips = torch.empty(count, 3, *size, dtype=torch.uint8)
    labels = torch.arange(count) % len(motions)
    for index in range(count):
        random = np.random.default_rng((seed, int(training), index))
        clips[index] = _clip(parts, size, motions[index % len(motions)], random)
    return clips, labels


def _clip(parts: list[Tensor], size: tuple[int, int, int], motion: str, random: np.random.Generator) -> Tensor:
    frames, height, width = size
    side = min(height, width)
    radius = side * random.uniform(0.11, 0.17)
    under, over = random.choice(len(parts), 2, replace=False)
    still = _crop(parts[under], height, width, random)
    texture = _crop(parts[over], height, width, random)
    inner = (slice(None), *(slice(n // 2 - int(radius), n // 2 + int(radius)) for n in (height, width)))
    for _ in range(50):
        if texture[inner].mean(0).std() >= _CONTRAST:
            break
        texture = _crop(parts[over], height, width, random)
    angle = random.uniform(0, 2 * math.pi)
    row, column = height * random.uniform(0.35, 0.65), width * random.uniform(0.35, 0.65)
    # How far the motion has gone: zero in the middle frame, which is the same for all classes.
    t = (torch.arange(frames) - frames // 2) / frames
    away = side * random.uniform(0.15, 0.3) * t
    x, y = _DIRECTIONS.get(motion, (0, 0))
    turned = angle + _TURNS.get(motion, 0) * random.uniform(0.5, 1.2) * math.pi * t
    scale = torch.exp(_GROWTH.get(motion, 0) * random.uniform(0.5, 0.9) * t)
    rows = torch.arange(height).view(-1, 1) - (row + y * away).view(-1, 1, 1)
    columns = torch.arange(width) - (column + x * away).view(-1, 1, 1)
    # What of the texture lies under each pixel: the object undone.
    cos, sin = (f(turned).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    u, v = ((cos * columns + sin * rows), (cos * rows - sin * columns))
    u, v = u / scale.view(-1, 1, 1), v / scale.view(-1, 1, 1)
    grid = torch.stack([u / (width / 2), v / (height / 2)], -1)
    drawn = F.grid_sample(
        texture.expand(frames, -1, -1, -1), grid.float(), align_corners=False, padding_mode="reflection"
    )
    distance = torch.hypot(rows, columns) - radius * scale.view(-1, 1, 1)
    inside = (0.5 - distance).clamp(0, 1)[:, None]  # a border of one pixel
    return (still + inside * (drawn - still)).round().clamp(0, 255).to(torch.uint8).transpose(0, 1)


def _crop(photograph: Tensor, height: int, width: int, random: np.random.Generator) -> Tensor:
    top, left = (int(random.integers(n - m + 1)) for n, m in zip(photograph.shape[1:], (height, width), strict=True))
    return photograph[:, top : top + height, left : left + width]

"""The trunk every arm shares: a small residual network on a grid of frames, rows and columns."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Pre-activation residual block of two 3x3x3 convolutions."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = nn.Conv3d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, 1, 1, bias=False)
        same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv3d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, t, h, w)`` to ``(N, out_channels, t / stride, h / stride, w / stride)``."""
        y = self.conv1(F.relu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.relu(self.norm2(y)))


class VideoClassifier(nn.Module):
    """Normalize the input channels, project them, residual stages of halving grid and doubling width, classify.

    Args:
        values: Input channels: values per token.
        classes: Number of classes.
        width: Channels of the first stage.
        stages: Number of stages of one block each.
    """

    def __init__(self, values: int, classes: int, width: int = 16, stages: int = 2) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm3d(values, affine=False)  # the same for every arm, whatever its range
        self.stem = nn.Conv3d(values, width, 1)
        widths = [width * 2**s for s in range(stages)]
        self.blocks = nn.Sequential(
            *(Block(widths[max(0, s - 1)], widths[s], 1 if s == 0 else 2) for s in range(stages))
        )
        self.norm = nn.BatchNorm3d(widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, values, t, h, w)`` of any dtype to logits ``(N, classes)``."""
        x = features.float().contiguous(memory_format=torch.channels_last_3d)
        x = self.stem(self.normalize(x))
        return self.head(F.relu(self.norm(self.blocks(x))).mean((-3, -2, -1)))

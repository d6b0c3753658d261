"""The trunk every arm shares: a small residual network on the grid of tokens, of images or of clips."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


class Block(nn.Module):
    """Pre-activation residual block, ``x + conv(relu(bn(conv(relu(bn(x))))))``."""

    def __init__(self, channels: int, out_channels: int, stride: int, dims: int) -> None:
        super().__init__()
        convolution, norm = _CONVOLUTIONS[dims], _NORMS[dims]
        self.norm1 = norm(channels)
        self.conv1 = convolution(channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = norm(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3, 1, 1, bias=False)
        kernel = stride if dims == 2 else 1  # grids of clips may have odd sides, which larger kernels cut off
        same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if same else convolution(channels, out_channels, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, ...)`` to ``(N, out_channels, ...)`` with sides divided by the stride."""
        y = self.conv1(F.relu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.relu(self.norm2(y)))


class Classifier(nn.Module):
    """Normalize the input channels, project them, residual stages of halving grid and doubling width, classify.

    Args:
        values: Input channels: values per token.
        classes: Number of classes.
        width: Channels of the first stage.
        stages: Number of stages of one block each.
        dims: 2 for images, 3 for clips.
    """

    def __init__(self, values: int, classes: int, width: int = 16, stages: int = 3, dims: int = 2) -> None:
        super().__init__()
        self._layout = _LAYOUTS[dims]
        self.normalize = _NORMS[dims](values, affine=False)  # the same for every arm, whatever its range
        self.stem = _CONVOLUTIONS[dims](values, width, 1)
        widths = [width * 2**s for s in range(stages)]
        self.blocks = nn.Sequential(
            *(Block(widths[max(0, s - 1)], widths[s], 1 if s == 0 else 2, dims) for s in range(stages))
        )
        self.norm = _NORMS[dims](widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, values, h, w)``, or ``(N, values, t, h, w)``, of any dtype to logits ``(N, classes)``."""
        x = features.float().contiguous(memory_format=self._layout)  # a third faster on CPUs
        x = self.stem(self.normalize(x))
        return self.head(F.relu(self.norm(self.blocks(x))).flatten(2).mean(2))

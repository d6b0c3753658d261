"""``Adapter``: a small network at the resolution of latents, which stands for the layers that a cut drops."""

import dataclasses
from typing import Any

from torch import Tensor, nn

__all__ = ["Adapter", "AdapterShape"]

_LARGEST = {"width": 1024, "blocks": 32, "expansion": 16, "kernel": 31}


@dataclasses.dataclass(frozen=True)
class AdapterShape:
    """Size of an :class:`Adapter`.

    Attributes:
        width: Channels.
        blocks: Number of inverted residual blocks.
        expansion: Channels inside a block, in widths.
        kernel: Side of the depthwise convolutions; odd.

    Raises:
        ValueError: A number is not an integer from 1 to the largest (0 for ``blocks``), or ``kernel`` is even.

    Example:
        >>> import walloc_transforms as wt
        >>> stem = wt.WallocStem("rgb_16x", 40, stride=8, adapter=wt.AdapterShape(48, blocks=3))
        >>> stem.adapter.shape
        AdapterShape(width=48, blocks=3, expansion=4, kernel=5)
    """

    width: int
    blocks: int
    expansion: int = 4
    kernel: int = 5

    def __post_init__(self) -> None:
        for name, largest in _LARGEST.items():
            value, least = getattr(self, name), 0 if name == "blocks" else 1
            if type(value) is not int or not least <= value <= largest:
                raise ValueError(f"{name} of an adapter must be an integer from {least} to {largest}, got {value!r}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel of an adapter must be odd, got {self.kernel}")

    def macs(self, in_channels: int) -> int:
        """Multiply-adds for one cell."""
        inside = self.width * self.expansion
        return self.width * in_channels * 9 + self.blocks * inside * (2 * self.width + self.kernel**2)


class Adapter(nn.Sequential):
    """A 3x3 convolution, then inverted residual blocks: ``(N, D, h, w)`` to ``(N, width, h, w)``.

    Args:
        in_channels: Channels of the latents.
        shape: Its size.
        options: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(self, in_channels: int, shape: AdapterShape, **options: Any) -> None:
        width = shape.width
        convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False, **options)
        blocks = [_Block(shape, **options) for _ in range(shape.blocks)]
        super().__init__(convolution, nn.BatchNorm2d(width, **options), nn.SiLU(), *blocks)
        self.shape = shape


class _Block(nn.Sequential):
    """An inverted residual block."""

    def __init__(self, shape: AdapterShape, **options: Any) -> None:
        width, inside, kernel = shape.width, shape.width * shape.expansion, shape.kernel
        super().__init__(
            nn.Conv2d(width, inside, 1, bias=False, **options),
            nn.BatchNorm2d(inside, **options),
            nn.SiLU(),
            nn.Conv2d(inside, inside, kernel, padding=kernel // 2, groups=inside, bias=False, **options),
            nn.BatchNorm2d(inside, **options),
            nn.SiLU(),
            nn.Conv2d(inside, width, 1, bias=False, **options),
            nn.BatchNorm2d(width, **options),
        )

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)

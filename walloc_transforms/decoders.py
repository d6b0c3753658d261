"""Decoders: what maps expanded latents back to wavelet packets."""

import torch
from torch import Tensor, nn

from .packets import conv1x1

__all__ = ["LinearDecoder"]


class LinearDecoder(nn.Module):
    """One matrix per location: ``packets = weight @ z + bias``.

    Args:
        channels: Latent channels D.
        packets: Packet channels, ``C * bands``.
    """

    def __init__(self, channels: int, packets: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(packets, channels), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(packets), requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(N, D, ...)`` to ``(N, C * bands, ...)``."""
        return conv1x1(z, self.weight, self.bias)

"""A network with a look inside: what one of its modules gives, beside what the whole network answers."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Watched"]


class Watched(nn.Module):
    """A network with a look at what one of its modules gives: maps pictures in [0, 1] to features and answers.

    Args:
        model: The network.
        path: Path of the module; the network runs on behind it only where its answers are asked for.
        size: ``(H, W)`` of the pictures that the network reads; others are resized to it.
        mean: Of each channel of its pictures.
        std: Of each channel of its pictures.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, path: str, size: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self._features, self._whole = torch.empty(0), True
        self.unwatch = model.get_submodule(path).register_forward_hook(self._look).remove

    def forward(self, x: Tensor, whole: bool) -> tuple[Tensor, Tensor | None]:
        """Return the features, and the answers where the whole network is run."""
        if tuple(x.shape[-2:]) != tuple(self.size):
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        self._whole, answers = whole, None
        with contextlib.suppress(_Seen):
            answers = self.model(x)
        features, self._features = self._features, torch.empty(0)
        return features.float(), None if answers is None else answers.float()

    def _look(self, module: nn.Module, args: Any, out: Tensor) -> None:
        self._features = out
        if not self._whole:
            raise _Seen


class _Seen(Exception):
    """End a forward pass: what is behind the module is not needed."""

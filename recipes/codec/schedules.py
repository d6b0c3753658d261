"""The learning rate schedule of the WaLLoC paper's experiments."""

import math
from typing import Any

import torch

_WINDOW = 128  # steps; the rate changes between windows only
_PATIENCE = 64  # windows
_FACTOR, _THRESHOLD = 0.98, 1e-5
_SPAN = 300  # from the lowest to the peak rate


class PaperSchedule:
    """A cosine rise on a logarithmic scale, then a fall by 2 % whenever the mean loss of a window stagnates.

        rate(window i) = low * (peak / low) ** ((1 - cos(pi * i / windows)) / 2)     while rising, low = peak / 300

    Afterwards torch's ``ReduceLROnPlateau`` compares the windows' mean losses.

    Args:
        optimizer: Whose rates are set; they are the peaks now.
        steps: Of the whole training; the first tenth rises.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.optimizer, self.low = optimizer, [group["lr"] / _SPAN for group in optimizer.param_groups]
        self.rising = max(1, steps // 10 // _WINDOW)  # windows
        self.steps, self.loss = 0, 0.0
        self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=_FACTOR, patience=_PATIENCE, threshold=_THRESHOLD, min_lr=self.low
        )
        self._set(1.0)

    def step(self, loss: float) -> None:
        """Take note of a step's loss, and at the end of a window set the rate of the next."""
        self.steps, self.loss = self.steps + 1, self.loss + loss
        if self.steps % _WINDOW:
            return
        window, mean = self.steps // _WINDOW, self.loss / _WINDOW
        self.loss = 0.0
        if window <= self.rising:
            self._set(_SPAN ** ((1 - math.cos(math.pi * window / self.rising)) / 2))
        else:
            self._plateau.step(mean)

    def _set(self, factor: float) -> None:
        for group, low in zip(self.optimizer.param_groups, self.low, strict=True):
            group["lr"] = low * factor

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs."""
        return {"steps": self.steps, "loss": self.loss, "plateau": self._plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the rate is the optimizer's."""
        self.steps, self.loss = state["steps"], state["loss"]
        self._plateau.load_state_dict(state["plateau"])

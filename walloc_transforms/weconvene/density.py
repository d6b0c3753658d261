"""Densities of latents: learned ones for the channels of the hyperprior, Gaussian ones for all else.

Both give the likelihood of a real number as the mass of the interval of width 1 around it (Ballé et al., "Variational
image compression with a scale hyperprior", ICLR 2018). Training adds uniform noise instead of rounding.

What codes are integers (:class:`~walloc_transforms.weconvene.coding.Tables`). The 64 tables of the Gaussian densities
are the same on every machine: float64 gives a mass within a few 1e-16, and none lies within 1e-12 of where rounding
would turn. The tables of the learned densities depend on parameters, so :meth:`FactorizedPrior.update` makes them once.
They are buffers: a saved model has them, and loading does not make them again.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .bounds import lower_bound
from .coding import Tables

__all__ = ["SCALES", "FactorizedPrior", "GaussianConditional"]

_LEAST_LIKELIHOOD = 1e-9
_TAIL = 1e-9  # mass outside the outer quantiles of a learned density
_WIDTHS = (1, 3, 3, 3, 3, 1)
_LONGEST_SIDE = 4096  # of a learned density's table, from its median

#: The scales that select a table: 64 of equal ratio, from 0.11 to 256.
SCALES = tuple(0.11 * (256 / 0.11) ** (i / 63) for i in range(64))


def _add_noise(x: Tensor) -> Tensor:
    return x + torch.rand_like(x) - 0.5


def _wide(x: Tensor) -> Tensor:
    """Return at least float32: the least likelihood is zero in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _make_room(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Give the buffers of tables the sizes of those that are loaded."""
    for name in ("frequencies", "lengths", "offsets"):
        if prefix + name in state:
            setattr(module, name, getattr(module, name).new_empty(state[prefix + name].shape))


class FactorizedPrior(nn.Module):
    """A learned density for each channel, the same at every position.

    The cumulative distribution is a small monotonous network, of three units in each of four hidden layers.

    Args:
        channels: Channels of the latents.

    Shape:
        ``(N, channels, ...)`` to two tensors of the same shape.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> prior = wt.weconvene.FactorizedPrior(8).eval()
        >>> rounded, likelihoods = prior(torch.randn(2, 8, 4, 4))
        >>> bits = -likelihoods.log2().sum()
        >>> prior.update()
        >>> len(prior.tables())
        8
    """

    frequencies: Tensor
    lengths: Tensor
    offsets: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = list(pairwise(_WIDTHS))
        ratio = 10 ** (1 / len(layers))  # so that the density begins about 10 wide
        self.channels = channels
        self.matrices = nn.ParameterList(
            torch.full((channels, wide, narrow), math.log(math.expm1(1 / ratio / wide))) for narrow, wide in layers
        )
        self.biases = nn.ParameterList(torch.rand(channels, wide, 1) - 0.5 for _, wide in layers)
        self.factors = nn.ParameterList(torch.zeros(channels, wide, 1) for _, wide in layers[:-1])
        self.quantiles = nn.Parameter(torch.tensor([-10.0, 0.0, 10.0]).repeat(channels, 1, 1))
        self._set_tables(*(np.empty(0, np.int32) for _ in range(3)))
        self.register_load_state_dict_pre_hook(_make_room)

    @property
    def medians(self) -> Tensor:
        """The middle of each channel's density, ``(channels,)``: what rounding leaves unchanged."""
        return self.quantiles[:, 0, 1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add noise (in training) or round around the medians, and give the likelihood of what comes of it."""
        x = self._checked(x)
        if self.training:
            x_hat = _add_noise(x)
        else:
            medians = self.medians.detach().view(-1, *[1] * (x.ndim - 2))
            x_hat = torch.round(x - medians) + medians
        return x_hat, self.likelihood(x_hat)

    def likelihood(self, x: Tensor) -> Tensor:
        """Give the mass of the interval around each value, at least 1e-9."""
        channels_first = self._checked(x).transpose(0, 1)
        mass = self._mass(channels_first.reshape(self.channels, 1, -1))
        return lower_bound(mass, _LEAST_LIKELIHOOD).view(channels_first.shape).transpose(0, 1)

    def auxiliary_loss(self) -> Tensor:
        """Give the distance of the quantiles from where they belong; it moves nothing but the quantiles."""
        edge = math.log(2 / _TAIL - 1)
        targets = self.quantiles.new_tensor([-edge, 0.0, edge])
        return (self._logits(self.quantiles, frozen=True) - targets).abs().sum()

    @torch.no_grad()
    def update(self) -> None:
        """Make the tables of the densities as they are now.

        Call it once after training, before the model is saved. ``train()`` drops the tables, which would no longer fit.
        """
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            raise ValueError("a prior with parameters that are NaN or infinite has no tables")
        low, median, high = self.quantiles[:, 0].double().unbind(1)
        below = (median - low).ceil().clamp(0, _LONGEST_SIDE)
        above = (high - median).ceil().clamp(0, _LONGEST_SIDE)
        steps = torch.arange(int((below + above).max()) + 1, dtype=torch.float64, device=low.device)
        mass = self._mass((median - below)[:, None, None] + steps)[:, 0].cpu().numpy()
        rows = []
        for masses, length in zip(mass, (below + above + 1).int().tolist(), strict=True):
            inside = masses[:length]
            rows.append(np.append(inside, max(0.0, 1 - inside.sum())))
        tables = Tables.from_probabilities(rows, (-below).int().cpu().numpy())
        self._set_tables(tables.frequencies, tables.lengths, tables.offsets)

    def tables(self) -> Tables:
        """Give the tables that :meth:`update` made or that came with the model: one for each channel.

        Raises:
            ValueError: There are none, or they are damaged.
        """
        arrays = [b.cpu().numpy() for b in (self.frequencies, self.lengths, self.offsets)]
        if len(arrays[1]) != self.channels:
            raise ValueError(f"a prior of {self.channels} channels has {len(arrays[1])} tables: call update() first")
        return Tables(*arrays)

    def train(self, mode: bool = True) -> "FactorizedPrior":
        """Set the mode; training drops the tables."""
        if mode:
            self._set_tables(*(np.empty(0, np.int32) for _ in range(3)))
        return super().train(mode)

    def _set_tables(self, frequencies: NDArray, lengths: NDArray, offsets: NDArray) -> None:
        device = self.quantiles.device
        self.register_buffer("frequencies", torch.from_numpy(frequencies).to(device))
        self.register_buffer("lengths", torch.from_numpy(lengths).to(device))
        self.register_buffer("offsets", torch.from_numpy(offsets).to(device))

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ValueError(f"latents have the shape (N, {self.channels}, ...), got {tuple(x.shape)}")
        return _wide(x)

    def _mass(self, x: Tensor) -> Tensor:
        lower, upper = self._logits(x - 0.5), self._logits(x + 0.5)
        sign = torch.where((lower + upper).detach() > 0, -1.0, 1.0)  # sigmoid resolves more near 0 than near 1
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    def _logits(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Map ``(channels, 1, values)`` to the logits of the cumulative distribution."""

        def parameter(values: nn.ParameterList, layer: int) -> Tensor:
            return (values[layer].detach() if frozen else values[layer]).to(x.dtype)

        with torch.autocast(x.device.type, enabled=False):
            for layer in range(len(self.matrices)):
                x = F.softplus(parameter(self.matrices, layer)) @ x + parameter(self.biases, layer)
                if layer < len(self.factors):
                    x = x + torch.tanh(parameter(self.factors, layer)) * torch.tanh(x)
        return x


class GaussianConditional(nn.Module):
    """Gaussian densities whose scale, and perhaps mean, is given for every value.

    Scales below 0.11 count as 0.11. To code, each is replaced by one of 64.

    Shape:
        Latents, scales and means of one shape to two tensors of this shape.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> conditional = wt.weconvene.GaussianConditional().eval()
        >>> scales = torch.full((1, 4, 2, 2), 2.0)
        >>> rounded, likelihoods = conditional(torch.randn(1, 4, 2, 2), scales)
        >>> conditional.table_of(torch.tensor([0.01, 2.0, 1000.0]))
        tensor([ 0, 24, 63])
    """

    def forward(self, x: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add noise (in training) or round around the means, and give the likelihood of what comes of it."""
        x = _wide(x)
        if self.training:
            x_hat = _add_noise(x)
        elif means is None:
            x_hat = torch.round(x)
        else:
            x_hat = torch.round(x - means) + means
        return x_hat, self.likelihood(x_hat, scales, means)

    def likelihood(self, x: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """Give the mass of the interval around each value, at least 1e-9."""
        distance = (_wide(x) if means is None else _wide(x) - means).abs()
        unit = lower_bound(_wide(scales), SCALES[0]) * math.sqrt(2)
        mass = (torch.erfc((distance - 0.5) / unit) - torch.erfc((distance + 0.5) / unit)) / 2
        return lower_bound(mass, _LEAST_LIKELIHOOD)

    @staticmethod
    def table_of(scales: Tensor) -> Tensor:
        """Give the table of each scale: the first of the 64 scales that is no smaller, or the last."""
        borders = torch.tensor(SCALES[:-1], dtype=torch.float32, device=scales.device)
        return torch.bucketize(scales.float(), borders)

    @staticmethod
    def tables() -> Tables:
        """Give the 64 tables."""
        return _gaussian_tables()


@lru_cache(maxsize=1)
def _gaussian_tables() -> Tables:
    """Make a table for each of :data:`SCALES`, of the middle of those that select it, which costs least."""
    centers = [SCALES[0], *(math.sqrt(a * b) for a, b in pairwise(SCALES))]
    rows, offsets = [], []
    for scale in centers:
        half = math.ceil(5 * scale)
        tails = [math.erfc((k - 0.5) / (scale * math.sqrt(2))) / 2 for k in range(1, half + 2)]
        side = [a - b for a, b in pairwise(tails)]
        rows.append(np.array([*side[::-1], 1 - 2 * tails[0], *side, 2 * tails[-1]]))
        offsets.append(-half)
    return Tables.from_probabilities(rows, offsets)

"""What all transforms of stored latents have in common: they draw for every record of a batch.

Torchvision's random transforms draw once for a batch. Latents are read in batches from where they are stored, so these
draw once for every record; single latents are a batch of one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..codec import Codec
from ..latents import Latents, apply_raw, codec_of

__all__ = [
    "RecordTransform",
    "ValueTransform",
    "between",
    "check_probability",
    "count_of",
    "lead",
    "put_records",
    "records_of",
]

_KINDS = {1: "waveforms", 2: "images", 3: "volumes"}  # by the sides of the signal


class RecordTransform(v2.Transform):
    """Base of the transforms that read ``Latents``: refuse samples without any, and those they would tear apart."""

    _transformed_types = (Latents,)
    _sides: tuple[int, ...] = (1, 2, 3)  # that signals may have
    _moves = True  # cells: what else belongs to a place would stay where it is

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse a sample that is not latents of records alike, and their labels; called by torchvision."""
        found = [entry for entry in flat_inputs if isinstance(entry, Latents)]
        if not found:
            kinds = ", ".join(sorted({type(entry).__name__ for entry in flat_inputs})) or "an empty sample"
            raise TypeError(
                f"{type(self).__name__} reads wt.Latents, got {kinds}: transform latents before default_collate makes "
                "them a plain tensor, and after WallocEncode, if that encodes them"
            )
        leads = {lead(latents) for latents in found}
        if len(leads) > 1 or (
            self._moves and len({tuple(latents.shape[len(lead(latents)) + 1 :]) for latents in found}) > 1
        ):
            shapes = ", ".join(str(tuple(latents.shape)) for latents in found)
            raise ValueError(
                f"{type(self).__name__} draws once for all latents of a record, which must agree: got {shapes}"
            )
        other = next((latents for latents in found if len(latents.signal_size) not in self._sides), None)
        if other is not None:
            what = " and ".join(_KINDS[sides] for sides in self._sides)
            raise ValueError(
                f"{type(self).__name__} is for latents of {what}: those of {other.codec!r} are of "
                f"{_KINDS[len(other.signal_size)]}"
            )
        kept = next((e for e in flat_inputs if isinstance(e, tv_tensors.TVTensor) and not isinstance(e, Latents)), None)
        if self._moves and kept is not None:
            raise TypeError(
                f"{type(self).__name__} would leave the {type(kept).__name__} of the sample where it is: "
                "v2.RandomHorizontalFlip and v2.RandomCrop move latents and targets alike; see WallocEncode(targets=)"
            )


class ValueTransform(RecordTransform):
    """Base of the transforms that leave every cell where it is."""

    _moves = False

    def change(self, latents: Latents, chosen: Tensor | None, change: Callable[[Tensor, Codec], Tensor]) -> Latents:
        """Change some records of latents.

        Args:
            latents: ``(..., D, h, w)``, ``(..., D, t)`` or ``(..., D, t, h, w)``.
            chosen: Numbers of the records; None: all.
            change: Takes the chosen records in one batch, plain and not normalized, and their codec; returns float32.
        """
        codec = codec_of(latents)

        def of_records(raw: Tensor) -> Tensor:
            batch = records_of(raw, len(latents.signal_size))
            return change(batch, codec).view(raw.shape)

        if chosen is None:
            return apply_raw(latents, codec, of_records)
        if not len(chosen):
            return latents
        plain = latents.as_subclass(Tensor)
        batch = records_of(plain, len(latents.signal_size))
        part = Latents.wrap(batch.index_select(0, chosen), latents)
        changed = apply_raw(part, codec, of_records).as_subclass(Tensor)
        return Latents.wrap(put_records(batch, chosen, changed).view(plain.shape), latents)


def lead(latents: Latents) -> tuple[int, ...]:
    """Return the shape before channels and grid."""
    return tuple(latents.shape[: -len(latents.signal_size) - 1])


def count_of(flat_inputs: Sequence[Any]) -> int:
    """Count the records of the sample's latents."""
    return math.prod(lead(next(entry for entry in flat_inputs if isinstance(entry, Latents))))


def records_of(plain: Tensor, dims: int) -> Tensor:
    """View latents as a batch of records, ``(N, D, ...)``."""
    return plain.reshape(math.prod(plain.shape[: -dims - 1]), *plain.shape[-dims - 1 :])


def put_records(batch: Tensor, chosen: Tensor, changed: Tensor) -> Tensor:
    """Return the batch with ``changed`` in the place of the chosen records; several times as fast as ``index_copy``."""
    order = torch.arange(len(batch), device=batch.device)
    order[chosen] = torch.arange(len(batch), len(batch) + len(changed), device=batch.device)
    return torch.cat([batch, changed]).index_select(0, order)


def check_probability(p: float) -> float:
    """Return a probability.

    Raises:
        ValueError: It is not from 0 to 1.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability, from 0 to 1, got {p}")
    return float(p)


def between(value: float | Sequence[float], name: str, center: float, least: float = -math.inf) -> tuple[float, float]:
    """Read the bounds that something is drawn between: two numbers, or one, to either side of the center.

    Raises:
        ValueError: A number alone is negative, the bounds are not two in order, or one is infinite or below the least.
    """
    if isinstance(value, int | float):
        bounds = [max(center - value, least), center + value] if value >= 0 else []
    else:
        bounds = [float(bound) for bound in value]
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] or not all(map(math.isfinite, bounds)):
        below = "" if least == -math.inf else f"below {least:g} or "
        raise ValueError(f"{name} is one number of at least 0 or two in order, none {below}infinite, got {value}")
    return bounds[0], bounds[1]

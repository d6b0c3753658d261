"""How large an adapter may be, for a budget of multiply-adds."""

import copy
from typing import Any

from ..codec import Codec
from .adapter import AdapterShape
from .families import Plan
from .layers import WallocStem
from .replace import put_stem

__all__ = ["adapter_for", "count_macs"]

BUDGET, LEAST_SHARE = 0.85, 0.05
SHAPES = [AdapterShape(width, blocks) for blocks in (2, 3) for width in range(16, 129, 8)]


def adapter_for(plan: Plan, model: Any, codec: Codec, budget: float | None = None) -> AdapterShape:
    """Choose the largest adapter, by its multiply-adds, for which the model stays within a budget.

    Widths are multiples of 8 from 16 to 128, with 2 or 3 blocks of expansion 4 and 5x5 kernels.

    Args:
        plan: How the model's stem is to be replaced.
        model: The model; nothing is changed.
        codec: The codec.
        budget: Multiply-adds of the model afterwards, without encoding, relative to those before. Default: 0.85, or,
            where what follows the cut leaves less, as in a ViT, 0.05 more than that takes, or the smallest adapter.

    Raises:
        ValueError: The smallest is too large; the message says what budget would do.
    """
    before, own = plan.look.macs, {shape: _macs(plan, codec, shape) for shape in SHAPES}
    smallest = min(own, key=own.__getitem__)
    rest = count_macs(plan, model, codec, smallest) - own[smallest]
    if budget is None:
        budget = max(BUDGET, rest / before + LEAST_SHARE, (rest + own[smallest]) / before)
    if fitting := [shape for shape in SHAPES if rest + own[shape] <= budget * before]:
        return max(fitting, key=own.__getitem__)
    least = (rest + own[smallest]) / before
    raise ValueError(
        f"no adapter fits a budget of {budget:g}: what follows {plan.cut!r} takes {rest / before:.3f} of the "
        f"{before / 1e6:,.1f} million multiply-adds of this {type(model).__name__}, with the smallest adapter "
        f"{least:.3f}: expected a budget of at least {-(-least // 0.001) / 1000:.3f}, or a later cut"
    )


def count_macs(plan: Plan, model: Any, codec: Codec, shape: AdapterShape) -> int:
    """Count the multiply-adds of a model with an adapter, in a copy on the meta device."""
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor.detach().to("meta") for tensor in tensors})
    stem = WallocStem(
        codec, plan.channels, stride=plan.strides, output_fmt=plan.family.output_fmt, adapter=shape, device="meta"
    )
    return put_stem(twin, plan, stem).walloc.macs


def _macs(plan: Plan, codec: Codec, shape: AdapterShape) -> int:
    """Count the multiply-adds of an adapter and the projection after it."""
    c = codec.config
    height, width = (-(-side // c.stride) for side in plan.image_size)
    projection = shape.width * plan.channels * max(1, c.stride // plan.strides[0]) ** 2
    return height * width * (shape.macs(c.channels) + projection)

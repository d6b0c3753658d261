"""Where latents enter a model whose first layers are dropped: at a cut, the last unit that goes."""

from typing import Any

from .families import Family, Look, Plan, Sides
from .layers import shown_strides

__all__ = ["enter_later", "find_cuts", "last_of_stage"]


def find_cuts(look: Look, steps: Sides) -> dict[str, Sides]:
    """List the units after which latents of strides ``steps`` can enter a model, with the strides there.

    What a unit gives must have the cells of the latents, or groups of them.
    """
    cells = tuple(-(-side // step) for side, step in zip(look.image_size, steps, strict=True))
    found: dict[str, Sides] = {}
    for unit in look.units[look.in_stem - 1 :]:
        if len(unit.shape) != len(cells) + 1 or max(grid := look.grid(unit)) == 1:  # pooled: the head begins
            break
        ratios = [of_latents // own for of_latents, own in zip(cells, grid, strict=True)]
        if min(ratios) and all(own * r == n for own, r, n in zip(grid, ratios, cells, strict=True)):
            found[unit.path] = tuple(r * step for r, step in zip(ratios, steps, strict=True))
    return found


def last_of_stage(look: Look, steps: Sides) -> str:
    """Find the cut that drops the most layers without coming below the resolution of the latents.

    Args:
        look: A model.
        steps: Strides of the codec.

    Returns:
        Path of the last unit at that stride, without what prepares the next stage; for a transformer on patches, of
        its patch embedding.

    Raises:
        ValueError: There is none; the message lists other cuts.
    """
    cuts = find_cuts(look, steps)
    at_step = [path for path, strides in cuts.items() if strides == steps]
    if paths := [path for path in at_step if ".downsample" not in path] or at_step:
        return paths[-1]
    if list(cuts) == ["patch_embed"]:
        return "patch_embed"
    raise ValueError(
        f"after its stem, of stride {shown_strides(look.strides)}, the model has no unit whose cells are those of "
        f"latents of stride {shown_strides(steps)}{_hint(cuts)}"
    )


def enter_later(model: Any, family: Family, look: Look, steps: Sides, cut: str | None) -> Plan:
    """Plan to replace everything up to a cut: by default the unit that comes down to the strides of the codec.

    Of a model of volumes that has no such unit it is the first cut, where strides differ along some axis.

    Raises:
        ValueError: There is no such unit, or it is no cut; the message lists the cuts.
    """
    if look.strides == steps:
        plan = family.replace_first(model, look, "entry", steps, look.image_size)
        if cut in (None, plan.cut):
            return plan
    cuts, shown = find_cuts(look, steps), shown_strides(steps)
    if cut is None:
        others = list(cuts)[:1] if family.dims == 3 else []
        cut = next(iter([path for path, strides in cuts.items() if strides == steps] + others), None)
    elif cut not in cuts:
        name = type(model).__name__
        raise ValueError(f"latents of stride {shown} cannot enter this {name} after cut={cut!r}{_hint(cuts)}")
    if cut is None:
        coarse = any(own >= step for own, step in zip(look.strides, steps, strict=True))
        reason = (
            f"its stem has a stride of {shown_strides(look.strides)}" if coarse else "its stages are not a plain chain"
        )
        raise ValueError(
            f"match='entry' needs a model that comes down to the codec's stride of {shown} after its "
            f"stem; {type(model).__name__}: {reason}{_hint(cuts)}"
        )
    paths = [unit.path for unit in look.units]
    last = paths.index(cut)
    channels = look.channels(look.units[last])
    return Plan(family, look, "entry", paths[0], paths[1 : last + 1], channels, cuts[cut], look.image_size)


def _hint(cuts: dict[str, Sides]) -> str:
    """Say what would do."""
    if not cuts:
        return ": there is no cut; match='grid' keeps all layers"
    shown = ", ".join(f"{path!r} ({shown_strides(strides)})" for path, strides in cuts.items())
    return f"; cuts, with their strides: {shown}"

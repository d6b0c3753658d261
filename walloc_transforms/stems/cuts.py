"""Where latents enter a model whose first layers are dropped: at a cut, the last unit that goes."""

from typing import Any

from .families import Family, Look, Plan

__all__ = ["enter_later", "find_cuts", "last_of_stage"]


def find_cuts(look: Look, step: int) -> dict[str, int]:
    """List the units after which latents of stride ``step`` can enter a model, with the strides there.

    What a unit gives must have the cells of the latents, or groups of them.
    """
    rows, columns = (-(-side // step) for side in look.image_size)
    found: dict[str, int] = {}
    for unit in look.units[look.in_stem - 1 :]:
        if len(unit.shape) != 3 or (grid := look.grid(unit)) == (1, 1):  # pooled: the head begins
            break
        ratio = rows // grid[0]
        if ratio and (grid[0] * ratio, grid[1] * ratio) == (rows, columns):
            found[unit.path] = ratio * step
    return found


def last_of_stage(look: Look, step: int) -> str:
    """Find the cut that drops the most layers without coming below the resolution of the latents.

    Args:
        look: A model.
        step: Stride of the codec.

    Returns:
        Path of the last unit at that stride, without what prepares the next stage; for a transformer on patches, of
        its patch embedding.

    Raises:
        ValueError: There is none; the message lists other cuts.
    """
    cuts = find_cuts(look, step)
    at_step = [path for path, stride in cuts.items() if stride == step]
    if paths := [path for path in at_step if ".downsample" not in path] or at_step:
        return paths[-1]
    if list(cuts) == ["patch_embed"]:
        return "patch_embed"
    raise ValueError(
        f"after its stem, of stride {look.stride}, the model has no unit whose cells are those of latents of stride "
        f"{step}{_hint(cuts)}"
    )


def enter_later(model: Any, family: Family, look: Look, step: int, cut: str | None) -> Plan:
    """Plan to replace everything up to a cut: by default the unit that comes down to the stride of the codec.

    Raises:
        ValueError: There is no such unit, or it is no cut; the message lists the cuts.
    """
    if look.stride == step:
        plan = family.replace_first(model, look, "entry", step, look.image_size)
        if cut in (None, plan.cut):
            return plan
    cuts = find_cuts(look, step)
    if cut is None:
        cut = next((path for path, stride in cuts.items() if stride == step), None)
    elif cut not in cuts:
        name = type(model).__name__
        raise ValueError(f"latents of stride {step} cannot enter this {name} after cut={cut!r}{_hint(cuts)}")
    if cut is None:
        reason = (
            f"its stem has a stride of {look.stride}" if look.stride >= step else "its stages are not a plain chain"
        )
        raise ValueError(
            f"match='entry' needs a model that comes down to the codec's stride of {step} after its "
            f"stem; {type(model).__name__}: {reason}{_hint(cuts)}"
        )
    paths = [unit.path for unit in look.units]
    last = paths.index(cut)
    channels = look.channels(look.units[last])
    return Plan(family, look, "entry", paths[0], paths[1 : last + 1], channels, cuts[cut], look.image_size)


def _hint(cuts: dict[str, int]) -> str:
    """Say what would do."""
    if not cuts:
        return ": there is no cut; match='grid' keeps all layers"
    return f"; cuts, with their strides: {', '.join(f'{path!r} ({stride})' for path, stride in cuts.items())}"

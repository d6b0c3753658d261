"""Fit a new stem to the one that it replaces, so that a trained model reads latents without training.

    model = fit_stem(timm.create_model("convnext_tiny", pretrained=True), "rgb_4x", images)

Latents determine the pixels up to the codec's error, and, with their companding undone, linearly. A stem that is linear
too, as the patches of a ViT or a ConvNeXt, is then a linear function of the latents in a cell and around it, plus an
error. The best one in the mean square is found from a few hundred images, in closed form.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Sized
from typing import Any, NamedTuple, TypeVar, get_args

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ..codec import Codec
from ..signals import check_several
from ..zoo import CodecLike
from .families import Match, Plan
from .layers import Input, WallocStem, check_choice, load_stem_codec, pack, shown_strides
from .preparation import prepare_clip, prepare_image, resize
from .replace import plan_replacement, put_stem

__all__ = ["StemFit", "fit_stem"]

Model = TypeVar("Model", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class StemFit:
    """What ``fit_stem`` leaves at ``model.walloc_fit``.

    Attributes:
        residual: Part of the variance of the old stem's output, over all channels, that the new one misses on the
            images it was fitted to: 1 - R^2. Large where the old stem is not linear, or the codec drops what it saw.
            It says nothing where there are fewer cells than regressors, as few images always fit: give more.
        images: Number of images.
        cells: Number of equations for each output channel: cells of all images.
        regressors: Number of unknowns for each output channel, bias not counted.

    Example:
        >>> import timm, torch, walloc_transforms as wt
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1)
        >>> model = wt.fit_stem(model, "rgb_16x", [torch.rand(3, 64, 64)] * 2, neighbors=0, progress=False)
        >>> fit = model.walloc_fit
        >>> fit.images, fit.cells, fit.regressors, 0 <= fit.residual < 1
        (2, 32, 48, True)
    """

    residual: float
    images: int
    cells: int
    regressors: int


@torch.no_grad()
def fit_stem(
    model: Model,
    codec: CodecLike,
    images: Iterable[Tensor | Image.Image],
    *,
    input: Input = "pixels",
    match: Match = "grid",
    neighbors: int = 1,
    ridge: float = 1e-5,
    progress: bool = True,
) -> Model:
    """Replace a trained model's stem as :func:`replace_stem` does, and fit the new one to the old by least squares.

    The target is what the old stem gives, in evaluation mode, for the same picture at the size the model was made for;
    ``match="grid"`` may read a larger picture than that, which is reduced for the old stem (of a clip of more frames,
    some are averaged to one). Of a stem of several layers it is what the first convolution gives, as the others stay.
    With ``match="entry"`` it is the output of the last stage dropped, which a linear stem comes less near: fitting
    gives a start for training there.

    The new stem undoes the companding (``WallocStem(expand=True)``) and has a bias in any case. Where the old one is
    not linear, least squares shrink what it gives: measure the statistics of batch norms anew then, with
    ``torch.optim.swa_utils.update_bn`` on batches as the new model reads them.

    Args:
        model: A model that ``replace_stem`` takes, trained. Modified in place; where an error is raised, it is left as
            it was. The old stem is shown images with the mean and deviation of its ``pretrained_cfg``. Where a video
            model of torchvision has none, they are those of torchvision's weights: set it for a model that you
            trained otherwise.
        codec: A codec of images, or for video models of volumes, or what ``load_codec`` takes.
        images: A few hundred images like those the model was trained on: PIL, or ``(C, H, W)`` tensors, uint8 or
            uint16 in their full range or float in [0, 1]. Of any size: each is resized to cover the size that the new
            model reads, ``model.walloc.pixels_shape``, also upwards if it is smaller, and cut to it around its center.
            One pass is made; memory does not grow with their number. For a video model, clips: ``(C, T, H, W)``, or
            ``tv_tensors.Video`` in its order. Of longer ones the frames in the middle are taken.
        input: As for ``replace_stem``: the fit is the same for both.
        match: As for ``replace_stem``.
        neighbors: Cells of the codec around its own that a cell of the stem reads, to every side. Filters of stem and
            wavelet reach across the borders of cells.
        ridge: Penalty on the squared weights, relative to the mean variance of the regressors times the cells.
        progress: Show a progress bar.

    Returns:
        The same model. It carries ``walloc`` and ``walloc_fit``, a :class:`StemFit`.

    Raises:
        ValueError: As ``replace_stem``; model and codec differ in their channels; no images, or all of one color; an
            image of another number of channels, not in [0, 1], or with NaN or infinite values; a clip of too few
            frames; ``ridge=0`` where the images do not determine the stem; ``neighbors`` or ``ridge`` is negative.
        TypeError: ``images`` is one image or the name of a folder; an image is neither a tensor nor PIL's, or
            of an unsupported dtype.

    Example:
        >>> import timm, torch, walloc_transforms as wt
        >>> images = [torch.rand(3, 64, 64) for _ in range(3)]
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1)
        >>> model = wt.fit_stem(model, "rgb_16x", images, neighbors=0, progress=False)
        >>> model.walloc_fit.images, model.walloc_fit.cells, model.walloc_fit.regressors
        (3, 48, 48)
    """
    check_choice("input", input, get_args(Input))
    if neighbors < 0 or not ridge >= 0:
        raise ValueError(f"neighbors and ridge must not be negative, got {neighbors} and {ridge}")
    check_several(images)
    codec = load_stem_codec(codec)
    plan = plan_replacement(model, codec, match)
    check_channels(plan, codec)
    like = next(model.parameters())
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are not used
        stem = WallocStem(
            codec, plan.channels, stride=plan.strides, neighbors=neighbors, expand=True, device=like.device
        )

    equations = _gather(stem, Teacher(model, plan).to(like.device), plan, images, progress)
    weight, bias, residual = equations.solve(ridge)
    assert stem.proj.bias is not None
    stem.proj.weight.copy_(weight.view_as(stem.proj.weight))
    stem.proj.bias.copy_(bias)

    stem.input, stem.output_fmt = input, plan.family.output_fmt
    put_stem(model, plan, stem)
    fit = StemFit(residual, equations.images, equations.cells, len(equations.sum_x))
    setattr(model, "walloc_fit", fit)  # noqa: B010 (type checkers allow no plain values on a module)
    return model


def check_channels(plan: Plan, codec: Codec) -> None:
    """Raise a ValueError where a model and a codec read other numbers of channels: there is nothing to imitate then."""
    reads, signal = plan.look.reads.shape[0], codec.config.signal_channels
    if reads != signal:
        what = "images" if plan.family.dims == 2 else "clips"
        raise ValueError(
            f"the model reads {what} of {reads} channels, codec {codec.config.name!r} those of {signal}: expected the "
            "same number"
        )


def _gather(
    stem: WallocStem, teacher: nn.Module, plan: Plan, images: Iterable[Tensor | Image.Image], progress: bool
) -> "Equations":
    """Take up the equations of all images: what the stem's projection reads, and what the teacher gives."""
    equations, device, contrast = Equations(), stem.proj.weight.device, 0.0
    what, prepare = ("image", prepare_image) if plan.family.dims == 2 else ("clip", prepare_clip)
    total = len(images) if isinstance(images, Sized) else None
    disable = not progress or os.environ.get("RANK", "0") != "0"
    with torch.autocast(device.type, enabled=False):
        for i, image in enumerate(tqdm(images, desc="fit stem", total=total, unit=what, disable=disable)):
            x = prepare(image, stem.codec.config.signal_channels, plan.image_size, i).to(device)
            contrast = max(contrast, float((x.flatten(2).amax(2) - x.flatten(2).amin(2)).max()))
            targets, regressors = teacher(x), _regressors(stem, x)
            if targets[0, 0].numel() != regressors.shape[1] * math.prod(stem.shuffle):
                raise ValueError(_unequal(plan, tuple(targets.shape[2:]), stem.codec.config.strides))
            equations.add(regressors, pack(targets, stem.shuffle)[0].flatten(1))
    if equations.images == 0:
        raise ValueError(f"there are no {what}s to fit a stem to")
    if contrast < 1e-3:
        raise ValueError(
            f"each of the {equations.images} {what}s is of one color: expected {what}s that show something"
        )
    return equations


def _unequal(plan: Plan, cells: tuple[int, ...], strides: tuple[int, ...]) -> str:
    """Say that old and new stem differ in their cells, and the size of images for which they would not."""
    look, sides = plan.look, plan.look.image_size
    wholes = look.strides if plan.match == "grid" else tuple(map(math.lcm, plan.strides, strides))
    size = tuple(-(-side // whole) * whole for side, whole in zip(sides, wholes, strict=True))
    found = (
        f"the old stem gives {_by(cells)} cells for {'images' if len(cells) == 2 else 'clips'} of {_by(sides)} pixels, "
        f"the new one not: expected sides that are multiples of {shown_strides(wholes)}, such as {_by(size)}: "
    )
    config = f"{{'input_size': {(look.reads.shape[0], *size)}}}"
    if plan.family.dims == 3:
        return f"{found}model.pretrained_cfg = {config}"
    return (
        f"{found}timm.create_model(..., pretrained_cfg_overlay={config}), or, for a model of fixed size, "
        f"img_size={size}"
    )


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))


class Teacher(nn.Module):
    """What the new stem shall imitate, in float32: from pictures or clips in [0, 1] to ``(N, C, *cells)``."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, plan: Plan) -> None:
        super().__init__()
        self.size = plan.look.image_size
        self.taught = plan.family.teacher(model, plan).requires_grad_(False)
        ones = [1] * len(self.size)
        self.register_buffer("mean", torch.tensor(plan.look.reads.mean).view(-1, *ones))
        self.register_buffer("std", torch.tensor(plan.look.reads.std).view(-1, *ones))
        self.float().eval()

    def forward(self, x: Tensor) -> Tensor:
        if len(self.size) == 3 and x.shape[2] != self.size[0]:
            x = F.interpolate(x, (self.size[0], *x.shape[3:]), mode="area")
        if tuple(x.shape[2:]) != tuple(self.size):
            x = resize(x, self.size[-2:])
        return self.taught((x - self.mean) / self.std)


def _regressors(stem: WallocStem, x: Tensor) -> Tensor:
    """What a stem's projection multiplies its weights with, ``(weights of an output channel, cells)``."""
    seen: list[Tensor] = []
    hook = stem.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        stem(x)
    finally:
        hook.remove()
    proj: Any = stem.proj
    x = F.pad(seen[0], [pad for pad in reversed(proj.padding) for _ in range(2)])
    for axis, (kernel, step) in enumerate(zip(proj.kernel_size, proj.stride, strict=True), 2):
        x = x.unfold(axis, kernel, step)
    n = len(proj.kernel_size)
    return x[0].permute(0, *range(n + 1, 2 * n + 1), *range(1, n + 1)).flatten(0, n).flatten(1)


class _Solution(NamedTuple):
    weight: Tensor
    bias: Tensor
    residual: float


class Equations:
    """Normal equations of a linear regression with a bias, in float64, in memory that does not grow."""

    def __init__(self) -> None:
        self.images = self.cells = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take up regressors ``(p, n)`` and targets ``(q, n)``."""
        x, y = x.double(), y.double()
        if not self.images:
            self.sum_x, self.sum_y = x.new_zeros(len(x)), y.new_zeros(len(y))
            self.squares_y = torch.zeros_like(self.sum_y)
            self.gram, self.cross = x.new_zeros(len(x), len(x)), x.new_zeros(len(x), len(y))
        self.images, self.cells = self.images + 1, self.cells + x.shape[1]
        self.sum_x += x.sum(1)
        self.sum_y += y.sum(1)
        self.squares_y += y.square().sum(1)
        self.gram.addmm_(x, x.T)
        self.cross.addmm_(x, y.T)

    def solve(self, ridge: float) -> _Solution:
        """Minimize the squared error plus ``ridge`` times the mean variance of the regressors times the weights'."""
        n, mean_x, mean_y = self.cells, self.sum_x / self.cells, self.sum_y / self.cells
        gram = self.gram - n * torch.outer(mean_x, mean_x)
        cross = self.cross - n * torch.outer(mean_x, mean_y)
        penalized = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(penalized)
        if failed or not torch.isfinite(factor).all():
            raise ValueError(
                f"{n} cells of {self.images} images do not determine the {len(gram)} weights of the stem: "
                "expected more images that differ, or a larger ridge"
            )
        weight = torch.cholesky_solve(cross, factor)
        total = (self.squares_y - n * mean_y.square()).sum()
        missed = total - 2 * (weight * cross).sum() + (weight * (gram @ weight)).sum()
        residual = float((missed / total).clamp(min=0)) if total > 0 else 0.0
        return _Solution(weight.T, mean_y - mean_x @ weight, residual)

"""Adapt a trained model to latents without labels: train what reads them to give what the layers it replaces gave.

    model = distill_stem(timm.create_model("resnet50", pretrained=True), "rgb_16x", "photographs/", steps=2000)

The teacher is the model as it was. Teacher and student are compared at the *cut*: the place in the network where both
have come down to the stride of the latents. First the student learns the teacher's features there, which is cheap as
nothing behind the cut runs. Then it learns what the whole network answers (Hinton et al., 2015, arXiv:1503.02531).
"""

import copy
import dataclasses
import os
import sys
from pathlib import Path
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from ..codec import Codec
from ..zoo import CodecLike
from .adapter import AdapterShape
from .budget import adapter_for
from .cuts import last_of_stage
from .families import Match, Plan
from .fit import check_channels, fit_stem
from .imitation import Imitation, Options
from .layers import Input, WallocStem, check_choice, find_stem, load_stem_codec
from .pictures import Crops, Images, Pictures
from .replace import plan_replacement, put_stem
from .table import find_family
from .watched import Watched

__all__ = ["StemDistillation", "distill_stem"]

Model = TypeVar("Model", bound=nn.Module)
Trunk = Literal["frozen", "tuned"]

FITTED = 300
"""Images that a stem is fitted to before it is trained, with ``match="resolution"`` and ``"grid"``."""


@dataclasses.dataclass(frozen=True)
class StemDistillation:
    """What ``distill_stem`` leaves at ``model.walloc_distillation``.

    Attributes:
        cut: Path of the module that the features were compared at.
        steps: Steps of training.
        images: Images that crops were drawn from.
        held_back: Images that were held back; all that follows is measured on their centers.
        missed: Mean square of the features' error at the cut, over the variance of each channel.
        divergence: Kullback-Leibler divergence of the answers from those of the model before, in nats; for a model that
            does not classify, what ``missed`` is, for its output.
        agreement: Fraction of images for which both answer the same class; None for a model that does not classify.

    Example:
        >>> import timm, torch, walloc_transforms as wt
        >>> model = timm.create_model("resnet18", num_classes=3)
        >>> images = [torch.rand(3, 224, 224) for _ in range(3)]
        >>> model = wt.distill_stem(model, "rgb_16x", images, steps=2, batch_size=2, progress=False)
        >>> model.walloc_distillation.steps, model.walloc_distillation.images, model.walloc_distillation.held_back
        (2, 2, 1)
    """

    cut: str
    steps: int
    images: int
    held_back: int
    missed: float
    divergence: float
    agreement: float | None


def distill_stem(
    model: Model,
    codec: CodecLike,
    images: Images,
    *,
    input: Input = "pixels",
    match: Match = "entry",
    cut: str | None = None,
    budget: float | None = None,
    adapter: AdapterShape | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int = 32,
    lr: float | None = None,
    trunk: Trunk = "frozen",
    seed: int = 0,
    workers: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Model:
    """Replace a trained model's stem, and train what reads the latents to imitate the model as it was.

    * ``match="entry"`` is the cheap way: all layers up to the cut are dropped, and a small adapter takes their place, a
      few inverted residual blocks (:class:`AdapterShape`) between the latents and the cut.
    * ``match="resolution"`` is the accurate way: it starts from :func:`fit_stem` and trains the stem and the layers
      from there to the cut. The image keeps its size and the model its layers. ``match="grid"`` does the same where the
      trunk keeps its grid and the image grows.

    No labels are needed. In the first 40 % of the training, or 20 % where all layers stay, the features at the cut are
    compared, by the mean square over each channel's variance; then the answers too, by the Kullback-Leibler divergence
    of the logits, or the mean square of the output of a model that does not classify. The trunk behind the cut is
    frozen, and batch norms outside the adapter keep their statistics. Every tenth image, and at most a hundred, is held
    back to measure on.

    On several GPUs, call it in every process of ``torchrun`` after ``torch.distributed.init_process_group``: each takes
    its share of every batch. On a GPU, networks run under bfloat16 autocast.

    Args:
        model: A timm model that ``replace_stem`` takes, trained. Modified in place; where an error is raised, it is
            left as it was.
        codec: An image codec, or what ``load_codec`` takes.
        images: Some hundreds or thousands of images like those the model was trained on: a folder, whose image files
            are found at any depth; or PIL images or ``(C, H, W)`` tensors, uint8 or uint16 in their full range or float
            in [0, 1]. Of what has a length and takes an index, such as a list or a data set, images are fetched again
            and again; anything else is gone through once and kept in memory. Each step draws random resized crops, a
            quarter of an image or more, half of them flipped.
        input: As for ``replace_stem``; the training is the same for both.
        match: As above.
        cut: Path of the last module that the features are compared at, and that is replaced with ``match="entry"``.
            Default: the last one at the stride of the latents, or the patch embedding of a ViT.
        budget: With ``match="entry"``, multiply-adds of the new model at most, as a part of those of the old one: the
            largest adapter within it is taken. Default: 0.85, or, where nearly all is behind the cut as in a ViT, 0.05
            more than that.
        adapter: The size of the adapter, instead of ``budget``.
        steps: Steps to train; 2000 where neither they nor ``minutes`` are given.
        minutes: Minutes to train instead, reading images not counted. What comes out depends on the machine then.
        batch_size: Crops in a step.
        lr: Peak learning rate of AdamW. Default: 0.002 for an adapter, else 0.0005.
        trunk: ``"tuned"`` trains the layers behind the cut too, at a tenth of ``lr``, once answers are compared.
        seed: Of crops, flips and initial weights: with ``steps``, the same on the same machine give the same model.
        workers: Processes that read and cut images.
        checkpoint: A file in which the training is kept, written every minute. If it is there, the training goes on
            from it.
        progress: Show a progress bar with the loss, and after every tenth of the training a line on how well the
            student imitates on images held back.

    Returns:
        The same model. ``model.walloc``, a :class:`StemInfo`, tells the cut, the multiply-adds before and after and the
        agreement; ``model.walloc_distillation`` is a :class:`StemDistillation`.

    Raises:
        ValueError: As ``replace_stem``; the model has no such cut, or no adapter fits the budget; model and codec
            differ in their channels; fewer than two images, or one that is too small, cannot be read or is not in
            range; both ``steps`` and ``minutes``; a number out of range; the checkpoint is of another training.
        TypeError: ``images`` is one image, or holds something else.
        FileNotFoundError: There is no such folder.
        FloatingPointError: The loss is infinite or no number: the learning rate is too high. The checkpoint stays.

    Example:
        >>> import timm, torch, walloc_transforms as wt
        >>> images = [torch.rand(3, 224, 224) for _ in range(3)]
        >>> model = timm.create_model("resnet18")
        >>> model = wt.distill_stem(model, "rgb_16x", images, steps=2, batch_size=2, progress=False)
        >>> model.walloc.cut, round(model.walloc.macs / model.walloc.macs_before, 2)
        ('layer2.1', 0.65)
    """
    check_choice("input", input, get_args(Input))
    check_choice("match", match, get_args(Match))
    check_choice("trunk", trunk, get_args(Trunk))
    if steps is not None and minutes is not None:
        raise ValueError(f"expected steps or minutes, got both: {steps} and {minutes}")
    if minutes is None:
        steps = 2000 if steps is None else steps
    # An adapter begins at nothing, a fitted stem near its end.
    default_lr, features_only = (2e-3, 0.4) if match == "entry" else (5e-4, 0.2)
    lr = default_lr if lr is None else lr
    for name, value, least in (("steps", steps, 1), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    for name, value in (("minutes", minutes), ("lr", lr), ("budget", budget)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0, got {value}")
    if match != "entry" and (adapter is not None or budget is not None):
        raise ValueError(f"adapter and budget are for match='entry', got match={match!r}")
    if adapter is not None and budget is not None:
        raise ValueError(f"expected an adapter or a budget for one, got both: {adapter} and {budget}")

    codec = load_stem_codec(codec)
    if codec.config.dims != 2:
        raise ValueError(
            f"distill_stem is for models of images, codec {codec.config.name!r} for volumes: fit_stem takes both"
        )
    plan, place = _plan(model, codec, match, cut)
    check_channels(plan, codec)
    pictures = Pictures(images, codec.config.signal_channels)
    seen, held_back = pictures.hold_back()
    teacher = copy.deepcopy(model).float()
    student = copy.deepcopy(teacher)
    if match == "entry":
        adapter = adapter or adapter_for(plan, student, codec, budget)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed % 2**64)  # those of other devices are left alone
            stem = _new_stem(codec, plan, adapter)
        put_stem(student, plan, stem)
    else:
        some = [pictures[i] for i in seen[:: -(-len(seen) // FITTED)]]
        fit_stem(student, codec, some, match=match, progress=progress)
        stem = find_stem(student)
    trained, later = _parameters(student, stem, plan, place)
    about = {
        "model": f"{type(model).__name__} of {sum(p.numel() for p in model.parameters())} parameters",
        "codec": codec.fingerprint(),
        "images": len(pictures),
        "cut": place,
        "adapter": None if adapter is None else dataclasses.asdict(adapter),
        "match": match,
        "trunk": trunk,
        "seed": seed,
    }
    options = Options(
        steps,
        minutes,
        batch_size,
        lr,
        features_only,
        workers,
        None if checkpoint is None else Path(checkpoint),
        about,
        progress,
    )
    reads = plan.look.reads
    device, signal = next(model.parameters()).device, codec.config.signal_channels
    training = Imitation(
        Watched(student, place, plan.image_size, (0.0,) * signal, (1.0,) * signal).to(device),
        Watched(teacher, place, plan.look.image_size, reads.mean, reads.std).to(device),
        trained,
        later if trunk == "tuned" else {},
        stem.adapter,
        plan.look.channels_last,
        getattr(model, "num_classes", 0) > 1,
        options,
    )
    count = (steps or sys.maxsize // batch_size) * batch_size
    shown = pictures.centers(held_back, plan.image_size)
    if float((shown.amax((2, 3)) - shown.amin((2, 3))).max()) < 1e-3:
        raise ValueError("each of the images held back is of one color: expected images that show something")
    training.run(Crops(pictures, seen, plan.image_size, count, seed), shown)
    agreement = training.score()
    training.student.unwatch()

    values = {name: parameter.detach() for name, parameter in {**trained, **later}.items()}
    stem.input = input
    put_stem(model, plan, stem.requires_grad_(True))
    stem.codec.requires_grad_(False)
    model.load_state_dict(values, strict=False)
    report = StemDistillation(place, training.step, len(seen), len(held_back), *agreement)
    info = dataclasses.replace(getattr(model, "walloc"), agreement=agreement.agreement)  # noqa: B009 (see put_stem)
    for name, value in (("walloc", info), ("walloc_distillation", report)):
        setattr(model, name, value)
    return model


def _plan(model: nn.Module, codec: Codec, match: Match, cut: str | None) -> tuple[Plan, str]:
    """Plan the replacement, and find the module at which features are compared."""
    if match != "entry":
        plan = plan_replacement(model, codec, match)
        return plan, _place(plan, codec, cut)
    cut = cut or last_of_stage(find_family(model).look(model), codec.config.strides)
    plan = plan_replacement(model, codec, match, cut=cut)
    return plan, plan.cut


def _new_stem(codec: Codec, plan: Plan, adapter: AdapterShape) -> WallocStem:
    return WallocStem(
        codec, plan.channels, stride=plan.strides, output_fmt=plan.family.output_fmt, expand=True, adapter=adapter
    )


def _place(plan: Plan, codec: Codec, cut: str | None) -> str:
    """Find the module to compare features at where all layers are kept: the last at the stride of the latents."""
    look = plan.look
    known = [unit.path for unit in look.units[look.in_stem - 1 :] if len(unit.shape) == 3]
    if cut is None:
        try:
            step = codec.config.stride * look.image_size[0] // plan.image_size[0]
            return last_of_stage(look, (step, step))
        except ValueError:  # it never is at that stride
            return known[0]
    if cut not in known:
        raise ValueError(f"features cannot be compared at cut={cut!r}: expected one of {', '.join(known)}")
    return cut


def _parameters(
    student: nn.Module, stem: WallocStem, plan: Plan, place: str
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Split the parameters at the place where features are compared; those of the codec are in neither part."""
    codec = {id(parameter) for parameter in stem.codec.parameters()}
    own = {id(parameter) for parameter in stem.parameters()}
    units = [unit.path for unit in plan.look.units]
    front = tuple(f"{unit}." for unit in units[: units.index(place) + 1]) if place in units else ()
    trained, later = {}, {}
    for name, parameter in student.named_parameters():
        if id(parameter) not in codec:
            part = trained if id(parameter) in own or name.startswith(front) else later
            part[name] = parameter
    return trained, later

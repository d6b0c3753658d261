"""The kinds of stems that torchvision's video models have: a convolution, or patches, of three axes.

These models do not say what they were made to read. Their ``pretrained_cfg`` does where there is one, as timm's; else
it is what torchvision's weights of the class were trained on.
"""

from typing import Any

from torch import Tensor, nn
from torchvision.models.video import R3D_18_Weights, Swin3D_T_Weights

from .families import ConvStem, Look, PatchStem, Plan, Reads
from .layers import OutputFormat, WallocStem
from .tracing import Trace

__all__ = ["VideoConvStem", "VideoPatchStem"]


class VideoConvStem(ConvStem):
    """Convolutions of three axes and norms, then stages."""

    dims = 3

    def look(self, model: Any) -> Look:
        """Trace the model: its first units are the stem."""
        return self.trace(model, _reads(model, R3D_18_Weights.DEFAULT, 16))


class VideoPatchStem(PatchStem):
    """torchvision's ``PatchEmbed3d``, then stages on a grid."""

    dims = 3
    output_fmt: OutputFormat = "NHWC"

    def __init__(self, models: str) -> None:
        super().__init__(models, stages=True)

    def look(self, model: Any) -> Look:
        """Trace the model, and read the sizes of the patches."""
        embed = model.patch_embed
        reads = _reads(model, Swin3D_T_Weights.DEFAULT, 32)
        trace = Trace(model, reads.shape)
        strides, bias = tuple(embed.tuple_patch_size), embed.proj.bias is not None
        return Look(reads, trace.macs, trace.units(self.stem), 1, strides, bias, channels_last=True)

    def module(self, model: Any, plan: Plan, stem: WallocStem) -> nn.Module:
        """Keep the norm of the patch embedding; it goes where stages are dropped."""
        norm = nn.Identity() if plan.dropped else model.patch_embed.norm
        return VideoPatches(stem, norm or nn.Identity())


class VideoPatches(nn.Module):
    """A ``WallocStem`` in place of a ``PatchEmbed3d``.

    Args:
        stem: The stem, of output format NHWC.
        norm: The norm that follows.
    """

    def __init__(self, stem: WallocStem, norm: nn.Module) -> None:
        super().__init__()
        self.backbone, self.norm = stem, norm

    def forward(self, x: Tensor) -> Tensor:
        """Map volumes or their latents to ``(N, t, h, w, C)``."""
        return self.norm(self.backbone(x))


def _reads(model: Any, weights: Any, frames: int) -> Reads:
    """Say what a model reads: as its ``pretrained_cfg`` has it, or torchvision's weights."""
    preset, given = weights.transforms(), getattr(model, "pretrained_cfg", None) or {}
    shape = tuple(given.get("input_size", (3, frames, *preset.crop_size)))
    mean, std = (tuple(given.get(name, getattr(preset, name))) for name in ("mean", "std"))
    if len(shape) != 4 or min(shape) < 1 or not len(mean) == len(std) == shape[0] == _channels(model):
        raise ValueError(
            f"pretrained_cfg of this {type(model).__name__} must have input_size=({_channels(model)}, T, H, W), with a "
            f"mean and std of each channel, got {shape}, {mean} and {std}"
        )
    return Reads(shape, mean, std)


def _channels(model: nn.Module) -> int:
    return next(part for part in model.modules() if isinstance(part, nn.Conv3d)).in_channels

"""A ``WallocStem`` as the patch embedding of a transformer: of timm's, or of Hiera."""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.helpers import to_2tuple
from timm.layers.hybrid_embed import HybridEmbed
from torch import Tensor, nn

from ..zoo import CodecLike
from .layers import Input, WallocStem

__all__ = ["WallocPatchEmbed", "WallocTokens"]


class WallocPatchEmbed(HybridEmbed):
    """A :class:`WallocStem` as a patch embedding of timm's transformers, in place of ``timm.layers.PatchEmbed``.

    The arguments are those of ``PatchEmbed``, so that a model can be made with it. ``img_size`` is in pixels always,
    also where the model reads latents.

    Args:
        img_size: Height and width in pixels.
        patch_size: Pixels per token along each side: a multiple or a divisor of the codec's stride. Default: 16, or
            those of ``stem``.
        in_chans: Channels of the input, or of the image. Default: those of the input.
        embed_dim: Channels of a token. Default: 768, or those of ``stem``.
        norm_layer: Makes the norm that follows: ``norm_layer(embed_dim, device=device, dtype=dtype)``.
        flatten: Give tokens ``(N, L, C)`` rather than ``(N, C, h, w)``.
        output_fmt: ``"NCHW"``, ``"NHWC"``, ``"NLC"`` or ``"NCL"`` instead of what ``flatten`` says.
        bias: Whether the projection has one.
        strict_img_size: Whether images of another size are refused.
        dynamic_img_pad: Must be False.
        device: Of the embedding.
        dtype: Of the projection.
        codec: An image codec, or what ``load_codec`` takes.
        input: ``"pixels"`` or ``"latents"``, as for ``WallocStem``.
        stem: A stem to use instead of a new one.

    Raises:
        ValueError: As ``WallocStem``; sizes that do not fit each other; ``in_chans`` that are neither the codec's
            signal channels nor those of the input; a codec of volumes; ``dynamic_img_pad``; or neither ``codec`` nor
            ``stem``.

    Example:
        >>> from functools import partial
        >>> import torch, walloc_transforms as wt
        >>> from timm.models import VisionTransformer
        >>> embed = partial(wt.WallocPatchEmbed, codec="rgb_16x")
        >>> model = VisionTransformer(img_size=64, embed_dim=48, depth=1, num_heads=3, num_classes=5, embed_layer=embed)
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """

    backbone: WallocStem
    img_size: tuple[int, int]

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] | None = None,
        in_chans: int | None = None,
        embed_dim: int | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
        flatten: bool = True,
        output_fmt: str | None = None,
        bias: bool = True,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        codec: CodecLike | None = None,
        input: Input = "pixels",
        stem: WallocStem | None = None,
    ) -> None:
        side = patch_size[0] if isinstance(patch_size, tuple) else patch_size
        if patch_size not in (side, (side, side)):
            raise ValueError(f"a WaLLoC stem has square patches, got patch_size={patch_size}")
        if dynamic_img_pad:
            raise ValueError("a WaLLoC stem does not pad images: dynamic_img_pad must be False")
        if stem is None:
            if codec is None:
                raise ValueError("expected a codec, such as codec='rgb_16x', or a stem")
            channels, stride = 768 if embed_dim is None else embed_dim, 16 if side is None else side
            stem = WallocStem(codec, channels, stride=stride, input=input, bias=bias, device=device, dtype=dtype)
        if len(stem.strides) != 2:
            raise ValueError(f"a patch embedding reads images, codec {stem.codec.config.name!r} is for volumes")
        if side not in (None, stem.stride) or embed_dim not in (None, stem.out_channels):
            raise ValueError(
                f"the stem has patches of {stem.stride} pixels and {stem.out_channels} channels, got "
                f"patch_size={patch_size} and embed_dim={embed_dim}"
            )
        if in_chans not in (None, stem.in_channels, stem.codec.config.signal_channels):
            raise ValueError(
                f"in_chans must be {stem.in_channels}, the channels of the {stem.input} that the stem reads, "
                f"got {in_chans}"
            )
        super().__init__(
            stem,
            img_size,
            in_chans=stem.in_channels,
            embed_dim=stem.out_channels,
            proj=False,
            flatten=flatten,
            output_fmt=output_fmt,
            strict_img_size=strict_img_size,
        )
        self.norm = nn.Identity() if norm_layer is None else norm_layer(stem.out_channels, device=device, dtype=dtype)
        self.resizable = True
        """Whether ``set_input_size`` may be called."""

    def _init_backbone(self, img_size: Any = 224, patch_size: Any = 1, *_: Any, **__: Any) -> tuple[Any, ...]:
        """Compute what timm finds out by a forward pass, which latents would break and meta tensors too."""
        stem, img_size = self.backbone, to_2tuple(img_size)
        if any(side % stem.stride for side in img_size):
            raise ValueError(f"img_size must be multiples of {stem.stride} pixels, got {tuple(img_size)}")
        grid = stem.grid_size(stem.input_size(img_size))
        ratio = (stem.stride, stem.stride)
        return tuple(img_size), to_2tuple(patch_size), grid, ratio, stem.out_channels, grid, grid[0] * grid[1]

    def set_input_size(self, img_size: Any = None, patch_size: Any = None, *_: Any, **__: Any) -> None:
        """Expect images of ``img_size`` pixels from now on (if the stem reads latents: those of such images)."""
        if not self.resizable:
            raise ValueError("this model is entered after its first stages: its size is fixed, create it for another")
        if patch_size is not None:
            raise ValueError(
                f"the patch size of a WaLLoC stem is fixed at {self.backbone.stride} pixels, "
                f"got patch_size={patch_size}"
            )
        super().set_input_size(img_size)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Grid for the sides of the tensor that the model was given: pixels or latents."""
        rows, columns = self.backbone.grid_size(img_size)
        return rows, columns

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels or latents to tokens."""
        expected = self.backbone.input_size(self.img_size)
        if self.strict_img_size and x.ndim == 4 and x.shape[1] == self.in_chans and x.shape[2:] != expected:
            raise ValueError(
                f"this model reads {self.backbone.input} of {expected[0]}x{expected[1]} (images of "
                f"{self.img_size[0]}x{self.img_size[1]} pixels), got {x.shape[2]}x{x.shape[3]}: "
                "call set_input_size, in pixels, for other sizes"
            )
        return self.norm(super().forward(x))


class WallocTokens(nn.Module):
    """A ``WallocStem`` in place of Hiera's patch embedding.

    Args:
        stem: The stem, of output format NLC.
        img_size: ``(H, W)`` in pixels that the model reads, no other.
    """

    def __init__(self, stem: WallocStem, img_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.img_size = stem, img_size

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map pixels or latents to tokens; masked training is not supported."""
        if mask is not None:
            raise ValueError("a WaLLoC stem does not take the mask of masked training")
        expected = self.backbone.input_size(self.img_size)
        if x.ndim == 4 and x.shape[1] == self.backbone.in_channels and tuple(x.shape[2:]) != expected:
            raise ValueError(
                f"this model reads {self.backbone.input} of {expected[0]}x{expected[1]}, got {x.shape[2]}x{x.shape[3]}"
            )
        return self.backbone(x)

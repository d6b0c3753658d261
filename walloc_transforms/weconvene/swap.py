"""``swap_conv``: wavelet-domain convolutions in a network that has ordinary ones."""

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

from torch import Tensor, nn

from ..wavelets import Extension, Wavelet
from .layers import High, Norm, WeConv2d

__all__ = ["Branch", "ParallelConv2d", "swap_conv"]

Branch = Literal["replace", "parallel"]
Model = TypeVar("Model", bound=nn.Module)


class ParallelConv2d(nn.Module):
    """A convolution and, added to it, one in the wavelet domain.

    Attributes:
        conv: The ordinary convolution.
        weconv: The :class:`WeConv2d`.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> conv, branch = torch.nn.Conv2d(8, 8, 3, padding=1), wt.weconvene.WeConv2d(8, 8).zero_()
        >>> both, x = wt.weconvene.ParallelConv2d(conv, branch), torch.rand(1, 8, 7, 5)
        >>> torch.equal(both(x), conv(x))
        True
    """

    def __init__(self, conv: nn.Conv2d, weconv: WeConv2d) -> None:
        super().__init__()
        self.conv, self.weconv = conv, weconv

    def forward(self, x: Tensor) -> Tensor:
        """Add what both give."""
        return self.conv(x) + self.weconv(x)


def swap_conv(
    model: Model,
    predicate: Callable[[str, nn.Conv2d], bool] | None = None,
    *,
    branch: Branch = "replace",
    high: High = "joint",
    wavelet: Wavelet = "haar",
    extension: Extension = "symmetric",
    norm: Norm | None = None,
) -> Model:
    """Put wavelet-domain convolutions into a network, in place of ordinary ones or beside them.

    A :class:`WeConv2d` has no path between the low and the high bands, which a trained 3x3 kernel has: it cannot take
    over weights. So ``branch="replace"`` is for a network that is trained from scratch, and gives new weights.
    ``branch="parallel"`` keeps a convolution and its weights and adds a wavelet-domain one whose weights are zero: the
    network gives what it gave before, until it is trained on.

    Args:
        model: The network. Modified in place; where an error is raised, it is left as it was.
        predicate: Called with the name of every ``nn.Conv2d`` of the network and the convolution; true for those to
            swap. Default: the 3x3 convolutions of stride 1 that are named ``conv2``, as the basic blocks and
            bottlenecks of a ResNet have them, in timm and in torchvision.
        branch: ``"replace"`` or ``"parallel"``.
        high: As for :class:`WeConv2d`; with ``"band"``, multiply-adds stay about what they were when replacing.
        wavelet: As for :class:`WeConv2d`.
        extension: As for :class:`WeConv2d`.
        norm: As for :class:`WeConv2d`.

    Returns:
        The same network.

    Raises:
        ValueError: It has no such convolutions, one of them cannot be swapped (its kernel is even or no square, it is
            dilated or padded otherwise than by half its kernel), or an argument is unknown.

    Example:
        >>> import timm, torch, walloc_transforms as wt
        >>> model, images = timm.create_model("resnet18").eval(), torch.rand(1, 3, 64, 64)
        >>> before = model(images)
        >>> model = wt.weconvene.swap_conv(model, branch="parallel", wavelet="bior4.4")
        >>> torch.equal(model(images), before), sum(isinstance(m, wt.weconvene.WeConv2d) for m in model.modules())
        (True, 8)
    """
    if branch not in get_args(Branch):
        raise ValueError(f"unknown branch {branch!r}: expected 'replace' or 'parallel'")
    known = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    chosen = {name: conv for name, conv in known.items() if (predicate or _is_second_of_block)(name, conv)}
    if not chosen:
        wanted = "that the predicate takes" if predicate else "of 3x3, stride 1, named 'conv2' as in a ResNet"
        raise ValueError(f"{type(model).__name__} has no convolution {wanted}: it has {len(known)} others")
    made: dict[nn.Conv2d, nn.Module] = {}
    for name, conv in chosen.items():
        _check(name, conv)
        made[conv] = weconv = WeConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            stride=conv.stride[0],
            groups=conv.groups,
            bias=conv.bias is not None,
            high=high,
            wavelet=wavelet,
            extension=extension,
            norm=norm,
        ).to(conv.weight.device, conv.weight.dtype)
        if branch == "parallel":
            made[conv] = ParallelConv2d(conv, weconv.zero_())
        made[conv].train(conv.training)
    for name, module in [*model.named_modules(remove_duplicate=False)]:  # under every name that a shared one has
        if isinstance(module, nn.Conv2d) and module in made:
            model.set_submodule(name, made[module])
    return model


def _is_second_of_block(name: str, conv: nn.Conv2d) -> bool:
    return (
        name.rpartition(".")[2] == "conv2"
        and conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation == (1, 1)
    )


def _check(name: str, conv: nn.Conv2d) -> None:
    """Raise a ``ValueError`` if no ``WeConv2d`` gives results of the same size."""
    side = conv.kernel_size[0]
    half = (side // 2, side // 2)
    padding = half if conv.padding == "same" else conv.padding
    if (
        not name  # the model is the convolution: there is nothing to put another one into
        or conv.kernel_size != (side, side)
        or side % 2 == 0
        or conv.stride[0] != conv.stride[1]
        or conv.dilation != (1, 1)
        or padding != half
        or conv.padding_mode != "zeros"
    ):
        raise ValueError(
            f"cannot swap {name or 'the model itself'}, {conv}: expected a convolution within a model, with an odd "
            "square kernel, padding by zeros of half of it, no dilation, and one stride"
        )

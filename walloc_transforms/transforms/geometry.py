"""Crops and flips of stored latents of images and volumes, and windows of those of waveforms and volumes.

A crop of latents is cut in whole cells. It is no approximation inside: a cell holds what the filters saw around it,
which is the uncropped image. ``docs/latents.md`` says by how much its border differs from encoding the cropped image,
which would wrap around at the crop's own border.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..latents import Latents, codec_of, whole_cells
from .records import RecordTransform, check_probability, count_of, lead, put_records, records_of

__all__ = ["LatentCenterCrop", "LatentRandomCrop", "LatentRandomHorizontalFlip", "LatentRandomWindow"]


class LatentRandomCrop(RecordTransform):
    """Cut a part of given size out of every record, each at a place of its own.

    Cells that encoding has filled up, at the right and the bottom of images whose sides are no multiples of the stride,
    are never taken. So all crops of a batch show as many pixels.

    Args:
        size: ``(h, w)`` in cells, or one number for both.
        margin: Cells at the border of a record that no crop takes. Encoding wraps around at the border of the image, so
            that the outermost cells have seen some of the opposite side.

    Shapes:
        ``Latents`` ``(..., D, H, W)`` to ``(..., D, h, w)``, contiguous, of the same dtype; of volumes, the same for
        all cells of the first axis.

    Raises:
        ValueError: ``size`` or ``margin`` is no such number. On call: the records are too small.
        TypeError: On call: the sample has no ``Latents``, or targets that would not be cropped.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> from torchvision.transforms import v2
        >>> latents = wt.WallocEncode("rgb_16x", quantize=True, dtype=torch.int8)(torch.rand(8, 3, 256, 256))
        >>> augment = v2.Compose([wt.transforms.LatentRandomCrop(28), wt.transforms.LatentRandomHorizontalFlip()])
        >>> crops = augment(latents)
        >>> tuple(crops.shape), crops.dtype, crops.signal_size
        ((8, 12, 28, 28), torch.int8, (224, 224))
    """

    _sides = (2, 3)

    def __init__(self, size: int | Sequence[int], margin: int = 0) -> None:
        super().__init__()
        self.size, self.margin = _cells(size), _margin(margin)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the upper left cells; called by torchvision."""
        cells, _ = whole_cells(flat_inputs[0])
        room = _room(cells, self.size, self.margin)
        return {"first": _draw(room, self.margin, count_of(flat_inputs))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut latents; called by torchvision."""
        return _crop(inpt, params["first"], self.size)


class LatentCenterCrop(RecordTransform):
    """Cut the middle out of every record, in whole cells: for validation, what ``LatentRandomCrop`` is for training.

    Args:
        size: ``(h, w)`` in cells, or one number for both.

    Shapes:
        ``Latents`` ``(..., D, H, W)`` to ``(..., D, h, w)``, contiguous, of the same dtype; of volumes, the same for
        all cells of the first axis.

    Raises:
        ValueError: ``size`` is no such number. On call: the records are too small.
        TypeError: On call: the sample has no ``Latents``, or targets that would not be cropped.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> crop = wt.transforms.LatentCenterCrop(28)(wt.WallocEncode("rgb_16x")(torch.rand(3, 300, 260)))
        >>> tuple(crop.shape), crop.signal_size
        ((12, 28, 28), (224, 224))
    """

    _sides = (2, 3)

    def __init__(self, size: int | Sequence[int]) -> None:
        super().__init__()
        self.size = _cells(size)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut latents; called by torchvision."""
        first = [round(room / 2) for room in _room(whole_cells(inpt)[0], self.size, 0)]
        return _crop(inpt, [first] * count_of([inpt]), self.size)


class LatentRandomHorizontalFlip(RecordTransform):
    """Flip some records left and right, as ``v2.RandomHorizontalFlip``, which flips a batch as one.

    The flip of latents is an approximation: see ``docs/latents.md``. It is better before a crop, which takes the
    neighbors of its outermost cells away, and cheaper after it.

    Args:
        p: Probability that a record is flipped.

    Shapes:
        ``Latents`` ``(..., D, h, w)`` or ``(..., D, t, h, w)`` to the same.

    Raises:
        ValueError: ``p`` is no probability. On call: the codec's latents cannot be flipped, it is not known in this
            process, or the width of the images is no multiple of its stride.
        TypeError: On call: the sample has no ``Latents``, or targets that would not be flipped.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.WallocEncode("rgb_16x")(torch.rand(8, 3, 64, 64))
        >>> tuple(wt.transforms.LatentRandomHorizontalFlip(0.5)(latents).shape)
        (8, 12, 8, 8)
    """

    _sides = (2, 3)

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_probability(p)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw which records to flip; called by torchvision."""
        return {"chosen": (torch.rand(count_of(flat_inputs)) < self.p).nonzero()[:, 0]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Flip latents; called by torchvision."""
        chosen = params["chosen"].to(inpt.device)
        if not len(chosen):
            return inpt
        batch = records_of(inpt.as_subclass(Tensor), len(inpt.signal_size))
        flipped = F.horizontal_flip(Latents.wrap(batch.index_select(0, chosen), inpt))
        return Latents.wrap(put_records(batch, chosen, flipped.as_subclass(Tensor)).view(inpt.shape), inpt)


class LatentRandomWindow(RecordTransform):
    """Cut a window of given length out of every record of sound or video, each at a place of its own.

    It is cut along time, which is the first axis of all volumes. A last frame that encoding has filled up is never
    taken. Codecs that add frames at either end, as the published ones do, take a window's outermost frames for those
    when they decode.

    Args:
        frames: Length of the window in frames of latents.
        margin: Frames at either end of a record that no window takes: encoding wraps around there.

    Shapes:
        ``Latents`` ``(..., D, T)`` to ``(..., D, frames)``, or ``(..., D, T, h, w)`` to ``(..., D, frames, h, w)``,
        contiguous, of the same dtype.

    Raises:
        ValueError: ``frames`` or ``margin`` is no such number. On call: the records are too short, or their codec is
            not known in this process.
        TypeError: On call: the sample has no ``Latents``.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> latents = wt.WallocEncode("stereo_5x")(torch.rand(2, 44100))
        >>> window = wt.transforms.LatentRandomWindow(16)(latents)
        >>> tuple(latents.shape), tuple(window.shape), window.signal_size
        ((108, 173), (108, 16), (4096,))
    """

    _sides = (1, 3)

    def __init__(self, frames: int, margin: int = 0) -> None:
        super().__init__()
        (self.frames, _), self.margin = _cells([frames]), _margin(margin)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the first frames; called by torchvision."""
        c = codec_of(flat_inputs[0]).config
        if self.frames <= 2 * c.pad:
            raise ValueError(f"a window of codec {c.name!r} has more than {2 * c.pad} frames, got frames={self.frames}")
        room = _room([flat_inputs[0].signal_size[0] // c.strides[0] + 2 * c.pad], [self.frames], self.margin)
        return {"first": _draw(room, self.margin, count_of(flat_inputs))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut latents; called by torchvision."""
        c = codec_of(inpt).config
        return _cut(inpt, params["first"], (self.frames,), [(self.frames - 2 * c.pad) * c.strides[0]], 0)


def _cells(size: int | Sequence[int]) -> tuple[int, int]:
    sides = [size] if isinstance(size, int) else [*size]
    if not 1 <= len(sides) <= 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"a size counts cells, one number or (h, w), each at least 1, got {size}")
    return sides[0], sides[-1]


def _margin(margin: int) -> int:
    if not isinstance(margin, int) or margin < 0:
        raise ValueError(f"margin counts cells, at least 0, got {margin}")
    return margin


def _room(cells: Sequence[int], size: Sequence[int], margin: int) -> list[int]:
    """Say how far a crop can be moved along each axis."""
    room = [n - 2 * margin - side for n, side in zip(cells, size, strict=True)]
    if min(room) < 0:
        raise ValueError(
            f"a crop of {' x '.join(map(str, size))} cells does not fit into {' x '.join(map(str, cells))} whole cells"
            + (f" within a margin of {margin}" if margin else "")
        )
    return room


def _draw(room: Sequence[int], margin: int, count: int) -> list[list[int]]:
    """Draw the first cell of every record's crop."""
    axes = [torch.randint(margin, margin + n + 1, (count,)) for n in room]
    return torch.stack(axes, 1).tolist()


def _crop(latents: Latents, first: Sequence[Sequence[int]], size: Sequence[int]) -> Latents:
    """Cut the same height and width out of every record."""
    sides = [cells * stride for cells, stride in zip(size, whole_cells(latents)[1], strict=True)]
    return _cut(latents, first, size, sides, len(latents.signal_size) - 2)


def _cut(
    latents: Latents, first: Sequence[Sequence[int]], size: Sequence[int], sides: Sequence[int], axis: int
) -> Latents:
    """Cut the same size out of every record, into memory of its own.

    Args:
        latents: Of any signals.
        first: Of every record, where the part begins.
        size: Cells of the part.
        sides: What they hold of the signal.
        axis: Of the grid, the first of those that ``size`` counts along.
    """
    own = slice(axis, axis + len(size))
    grid, signal_size, cropped = ([*of] for of in (latents.shape, latents.signal_size, latents.cropped))
    grid = grid[-len(signal_size) :]
    cropped[own] = [was or n < all_cells for was, n, all_cells in zip(cropped[own], size, grid[own], strict=True)]
    grid[own], signal_size[own] = size, sides
    batch, whole = records_of(latents.as_subclass(Tensor), len(grid)), [slice(None)] * (1 + axis)
    parts = [
        record[(*whole, *(slice(begin, begin + n) for begin, n in zip(start, size, strict=True)))]
        for record, start in zip(batch.unbind(), first, strict=True)
    ]
    out = torch.stack(parts) if parts else batch.new_empty(0, batch.shape[1], *grid)
    return Latents.wrap(
        out.view(*lead(latents), *out.shape[1:]), latents, signal_size=tuple(signal_size), cropped=tuple(cropped)
    )

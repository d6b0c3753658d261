"""Tensors that are still in their file."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from .archive import Record

__all__ = ["DTYPES", "LazyTensor", "Storage", "check", "view"]

MAX_AXES, MAX_ELEMENTS = 16, 2**48  # sizes and strides up to here cannot overflow inside PyTorch

DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor still in its file. It keeps the file's path, not the open file, and can be pickled."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]
    storage_offset: int
    record: Record

    @property
    def cost(self) -> int:
        """Bytes that :meth:`read` takes from the file, or its tensor takes in memory, whichever is more."""
        elements = math.prod(self.shape)
        return max(elements, _span(self.shape, self.stride) if elements else 0) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Read the tensor, contiguous and in memory of its own, and no more of the file than it spans.

        Raises:
            ValueError: The file is damaged: cut off, or, where the tensor spans its whole storage, of another CRC-32.
                Of a view of a part there is no checksum.
        """
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        start, stop = self.storage_offset, self.storage_offset + _span(self.shape, self.stride)
        content = self.record.read(start * self.dtype.itemsize, stop * self.dtype.itemsize)
        return torch.frombuffer(content, dtype=self.dtype).as_strided(self.shape, self.stride).contiguous()


@dataclasses.dataclass(frozen=True)
class Storage:
    """A storage that a pickle names: so many elements in a record."""

    dtype: torch.dtype
    numel: int
    record: Record


def view(storage: Storage, start: Any, size: Any, stride: Any) -> LazyTensor:
    """Make a tensor of what a pickle says about it.

    Raises:
        ValueError: It is no view of a part of the storage, or an expanded one.
    """
    check(
        type(size) is type(stride) is tuple
        and len(size) == len(stride) <= MAX_AXES
        and all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in (start, *size, *stride)),
        "the offset, size and stride of a tensor must be integers, none negative or huge",
    )
    empty = 0 in size  # and may then have any other sizes, and no memory of its own
    # More elements than the storage has would be an expanded tensor: a few bytes that become any amount of memory.
    check(
        math.prod(max(n, 1) for n in size) <= (MAX_ELEMENTS if empty else storage.numel)
        and start + (0 if empty else _span(size, stride)) <= storage.numel,
        f"a tensor of size {str(size)[:200]} and stride {str(stride)[:200]} exceeds its storage of "
        f"{storage.numel} elements",
    )
    return LazyTensor(size, storage.dtype, stride, start, storage.record)


def _span(size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last of a view that is not empty."""
    return 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))


def check(condition: bool, message: str) -> None:
    """Raise a ``ValueError`` with a message unless a condition holds."""
    if not condition:
        raise ValueError(message)

"""The interface of the coders of integer latents."""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["INT8", "INT16", "Coder", "Shape", "import_package"]

Shape = tuple[int, int, int]

INT8, INT16 = np.dtype(np.int8), np.dtype(np.int16)


class Coder(ABC):
    """Encode channels of integers to byte streams, and decode them.

    Attributes:
        name: The name for users.
        number: The number in files; it is never given to another coder.
        dtypes: The dtypes of codes that the coder stores.
    """

    name: ClassVar[str]
    number: ClassVar[int]
    dtypes: ClassVar[tuple[np.dtype, ...]] = (INT8, INT16)

    def channels_per_stream(self, shape: Shape) -> int:
        """Return how many consecutive channels of ``(D, h, w)`` share a stream; the last one may have fewer."""
        return 1

    def work(self, shape: Shape, dtype: np.dtype) -> int:
        """Bound what decoding all channels costs, whatever the streams hold.

        A unit is 8 bytes of memory or 50 ns, whichever is more; it is about what a byte of codes costs.

        Raises:
            ValueError: The coder cannot have written this shape or dtype.
        """
        return math.prod(shape) * dtype.itemsize + 512 * shape[0]

    @abstractmethod
    def encode(self, codes: NDArray) -> list[bytes]:
        """Encode channels.

        Args:
            codes: ``(D, h, w)``, no side zero.

        Returns:
            The streams.

        Raises:
            ValueError: The coder cannot hold the dtype or the shape.
            ImportError: It needs a package that is not installed.
        """

    @abstractmethod
    def decode(self, streams: Sequence[bytes], shape: Shape, dtype: np.dtype, channels: int) -> NDArray:
        """Decode the first channels.

        Args:
            streams: The streams that hold these channels. More may follow; they are not looked at.
            shape: ``(D, h, w)`` of all that was encoded.
            dtype: The dtype of the codes.
            channels: Number of channels to decode, from 1 to D.

        Returns:
            ``(channels, h, w)``.

        Raises:
            ValueError: A stream is damaged, or the coder cannot have written this dtype or shape.
            ImportError: The coder needs a package that is not installed.
        """

    def check_dtype(self, dtype: np.dtype) -> None:
        """Refuse a dtype that the coder does not store."""
        if dtype not in self.dtypes:
            known = " and ".join(str(d) for d in self.dtypes)
            raise ValueError(f"coder {self.name!r} stores {known}, got {dtype}; coder 'zlib' stores both")

    def too_large(self, limit: str, shape: Shape) -> ValueError:
        """Make the error that says what the coder holds at most."""
        return ValueError(
            f"coder {self.name!r} holds {limit}, got channels of shape {shape}; coder 'zlib' has no limit"
        )


def import_package(package: str, coder: str) -> Any:
    """Import a package that a coder needs.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f'coder {coder!r} needs {package}: pip install "walloc_transforms[coders]"') from error

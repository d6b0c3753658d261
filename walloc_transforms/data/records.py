"""One entry of a latent data set: the rounded latents of an image, of a view of it, or of a window of a sound."""

from dataclasses import dataclass

import numpy as np

__all__ = ["NO_LABEL", "Record", "integers"]

NO_LABEL = -1
"""The label of a record that has none."""


@dataclass(frozen=True)
class Record:
    """One entry of a latent data set.

    Attributes:
        latents: Rounded latents ``(D, h, w)`` or ``(D, t)``: int8, or int16 of a codec of more than 8 bits.
        size: ``(H, W)`` or ``(T,)`` of what was encoded.
        key: What names the sample in its source, such as the path of a file below the folder.
        label: Index of the class, or ``NO_LABEL``.
        part: Number of the view or window, of those made of one sample.
    """

    latents: np.ndarray
    size: tuple[int, ...]
    key: str
    label: int = NO_LABEL
    part: int = 0


def integers(latent_bits: int) -> np.dtype:
    """Return the dtype of latents that are rounded to a number of bits."""
    return np.dtype(np.int8 if latent_bits <= 8 else np.int16)

"""One entry of a latent data set: the rounded latents of a signal, of a view of an image, or of a window of time."""

from dataclasses import dataclass

import numpy as np

__all__ = ["NO_LABEL", "Record", "integers"]

NO_LABEL = -1
"""The label of a record that has none."""


@dataclass(frozen=True)
class Record:
    """One entry of a latent data set.

    Attributes:
        latents: Rounded latents ``(D, h, w)``, ``(D, t)`` or ``(D, t, h, w)``: int8, or int16 of a codec of more than 8
            bits.
        size: ``(H, W)``, ``(T,)`` or ``(T, H, W)`` of what was encoded.
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

"""One level of a wavelet transform of images into four bands, and back, by lifting in plain torch.

    image (N, C, H, W)  --split_bands-->  [LL | LH | HL | HH] (N, 4C, ceil(H/2), ceil(W/2))  --join_bands-->  image

It serves as a layer of networks: of any floating dtype, differentiable in both directions, and compiled or exported
like any other arithmetic. A lifting step adds to every second sample a multiple of its neighbors, which a later step of
opposite sign takes away again: so the transform can be undone whatever stands for the neighbors beyond the border, and
for every wavelet, not for Haar's alone.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Extension", "Wavelet", "check_wavelet", "join_bands", "split_bands"]

Wavelet = Literal["haar", "bior2.2", "bior4.4"]
Extension = Literal["symmetric", "periodic"]

# Steps in turn on odd and even samples, and the factor of LL. In PyWavelets' scale the factors of a low and a high band
# have the product -1, so LH and HL only change sign, and HH is divided by the factor of LL.
_STEPS: dict[str, tuple[float, ...]] = {
    "haar": (-1.0, 0.5),
    "bior2.2": (-0.5, 0.25),
    "bior4.4": (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971),
}
_GAIN: dict[str, float] = {"haar": 2.0, "bior2.2": 2.0, "bior4.4": 1.149604398860241**2}


def check_wavelet(wavelet: str, extension: str) -> None:
    """Raise a ``ValueError`` if there is no such wavelet or extension."""
    for name, value, known in (("wavelet", wavelet, Wavelet), ("extension", extension, Extension)):
        if value not in get_args(known):
            raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(map(repr, get_args(known)))}")


def split_bands(x: Tensor, wavelet: Wavelet = "haar", extension: Extension = "symmetric") -> Tensor:
    """Split images into their four wavelet bands, once.

    Odd sides are first extended by one sample at the end: by repeating the last one for Haar with ``"symmetric"``, else
    by reflection.

    Args:
        x: ``(N, C, H, W)``, floating, every side at least 1.
        wavelet: ``"haar"`` (orthonormal: LL is twice the mean), ``"bior2.2"`` (CDF 5/3) or ``"bior4.4"`` (CDF 9/7), in
            PyWavelets' scale.
        extension: ``"symmetric"`` reflects at the border without repeating the last sample. ``"periodic"`` wraps, as
            :class:`WaveletPacketAnalysis` does.

    Returns:
        ``(N, 4C, ceil(H/2), ceil(W/2))``: all LL, then LH (high-pass along height), HL (along width) and HH.

    Raises:
        ValueError: Wrong number of dimensions, a side without samples, or an unknown wavelet or extension.
        TypeError: Not floating.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> x = torch.rand(1, 16, 7, 5)
        >>> bands = wt.wavelets.split_bands(x, "bior4.4")
        >>> bands.shape
        torch.Size([1, 64, 4, 3])
        >>> torch.allclose(wt.wavelets.join_bands(bands, (7, 5), "bior4.4"), x, atol=1e-5)
        True
    """
    check_wavelet(wavelet, extension)
    _check_input(x, "images")
    for dim in (2, 3):
        if x.shape[dim] % 2:
            repeats = x.shape[dim] == 1 or (wavelet == "haar" and extension == "symmetric")
            x = torch.cat([x, x.narrow(dim, x.shape[dim] - (1 if repeats else 2), 1)], dim)
    low, high = _split(x, 2, wavelet, extension)
    (ll, hl), (lh, hh) = _split(low, 3, wavelet, extension), _split(high, 3, wavelet, extension)
    gain = _GAIN[wavelet]
    return torch.cat([ll * gain, -lh, -hl, hh / gain], 1)


def join_bands(
    bands: Tensor, size: Sequence[int], wavelet: Wavelet = "haar", extension: Extension = "symmetric"
) -> Tensor:
    """Join four wavelet bands to images: the exact inverse of :func:`split_bands`.

    Args:
        bands: ``(N, 4C, h, w)``, floating.
        size: ``(H, W)`` of the images, of which ``h`` and ``w`` are the halves, rounded up.
        wavelet: As for :func:`split_bands`.
        extension: As for :func:`split_bands`.

    Returns:
        ``(N, C, H, W)``.

    Raises:
        ValueError: Wrong number of dimensions, channels that are no multiple of 4, ``size`` does not belong to these
            bands, or an unknown wavelet or extension.
        TypeError: Not floating.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> bands = torch.zeros(1, 4, 1, 1)
        >>> bands[:, 0] = 1  # LL alone
        >>> wt.wavelets.join_bands(bands, (2, 2))
        tensor([[[[0.5000, 0.5000],
                  [0.5000, 0.5000]]]])
    """
    check_wavelet(wavelet, extension)
    _check_input(bands, "bands")
    if bands.shape[1] % 4:
        raise ValueError(f"expected bands with a multiple of 4 channels, got {bands.shape[1]}")
    if len(size) != 2 or any((side + 1) // 2 != half for side, half in zip(size, bands.shape[2:], strict=True)):
        height, width = (2 * half for half in bands.shape[2:])
        raise ValueError(
            f"expected size to be ({height} or {height - 1}, {width} or {width - 1}) for bands of shape "
            f"{tuple(bands.shape)}, got {tuple(size)}"
        )
    ll, lh, hl, hh = bands.chunk(4, 1)
    gain = _GAIN[wavelet]
    low = _join(ll / gain, -hl, 3, wavelet, extension)
    high = _join(-lh, hh * gain, 3, wavelet, extension)
    return _join(low, high, 2, wavelet, extension)[:, :, : size[0], : size[1]]


def _check_input(x: Tensor, what: str) -> None:
    if x.ndim != 4:
        raise ValueError(f"expected {what} of shape (N, C, H, W), got {tuple(x.shape)}")
    if min(x.shape[2:]) < 1:
        raise ValueError(f"expected {what} with at least one sample along every side, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"expected {what} of a floating dtype, got {x.dtype}")


def _split(x: Tensor, dim: int, wavelet: str, extension: str) -> tuple[Tensor, Tensor]:
    """Lift even and odd samples along ``dim`` to a low and a high band, without their factors."""
    pairs = x.unflatten(dim, (x.shape[dim] // 2, 2))
    parts = [pairs.select(dim + 1, 0), pairs.select(dim + 1, 1)]
    for step, weight in enumerate(_STEPS[wavelet]):
        target, source = (step + 1) % 2, step % 2
        parts[target] = parts[target] + weight * _beside(parts[source], source, dim, wavelet, extension)
    return parts[0], parts[1]


def _join(low: Tensor, high: Tensor, dim: int, wavelet: str, extension: str) -> Tensor:
    """Undo :func:`_split`: the same steps backwards, with opposite signs."""
    parts = [low, high]
    for step, weight in reversed(list(enumerate(_STEPS[wavelet]))):
        target, source = (step + 1) % 2, step % 2
        parts[target] = parts[target] - weight * _beside(parts[source], source, dim, wavelet, extension)
    return torch.stack(parts, dim + 1).flatten(dim, dim + 1)


def _beside(x: Tensor, odd: int, dim: int, wavelet: str, extension: str) -> Tensor:
    """Sum the samples on both sides of those that a step changes.

    Even sample k has odd samples k - 1 and k beside it, odd sample k has even samples k and k + 1. Haar looks at the
    one of the same pair alone.
    """
    if wavelet == "haar":
        return x
    if extension == "periodic":
        return x + x.roll(1 if odd else -1, dim)
    count = x.shape[dim]
    if odd:  # what lies before the first sample mirrors the one after it
        return x + torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, count - 1)], dim)
    return x + torch.cat([x.narrow(dim, 1, count - 1), x.narrow(dim, count - 1, 1)], dim)

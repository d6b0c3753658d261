"""What a network may read instead of all pixels of a clip, at one token per cell: the arms of the comparison.

Every arm turns uint8 clips ``(N, 3, T, H, W)`` into features ``(N, values, T / t, H / h, W / w)``, so that stem, trunk
and tokens are the same for all and only the values differ. For cells of 4 frames and 8x8 pixels, at 32 times fewer:

    still           all pixels of the middle frame, in place of every frame: does a single frame tell the class?    192
    patch           all pixels, through patches as large as a cell                                                  768
    resize          a clip of half the frames, and sides 4 times shorter                                             24
    dct             3-D block DCT per color, the lowest frequencies                                                  24
    frames_few      2-D latents of every second frame                                                                24
    frames_merged   2-D latents of the means of two frames                                                           24
    frames_coarse   2-D latents of every frame, of half the channels                                                 24
    walloc          3-D latents of a codec that was fitted to the training clips                                     24
    walloc_motion   of a codec that was fitted to them with what moves exaggerated                                   24
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import walloc_transforms as wt
from walloc_transforms.stems.layers import pack

LEVELS = (2, 3, 3)
CELL = (4, 8, 8)
"""Frames, rows and columns."""
VALUES = 24
"""Per cell of a reduced arm."""
_FRAMES = "rgb_16x"
_GAIN = 4.0
_LESS = (2, 2, 2)  # cells of the resized clip in a cell

Arm = Callable[[Tensor], Tensor]


def make_arm(name: str, training_clips: Tensor) -> Arm:
    """Make an arm by name; a codec is fitted to the training clips."""
    if name in FITTED:
        return fit_codec(training_clips if name == "walloc" else exaggerate(training_clips)).encode
    return _PLAIN[name]


def fit_codec(clips: Tensor) -> wt.Codec:
    """Fit a codec to clips ``(N, 3, T, H, W)``."""
    return wt.fit_codec(list(clips), levels=LEVELS, channels=VALUES, name="clips", progress=False)


def exaggerate(clips: Tensor) -> Tensor:
    """Enlarge how uint8 clips differ from their mean frame, as far as they stay in range.

    A codec is fitted to the mean square. Of clips in which most rests, it keeps what rests.
    """
    x = clips.float()
    mean = x.mean(2, keepdim=True)
    return (mean + _GAIN * (x - mean)).round().clamp(0, 255).to(torch.uint8)


def values_of(name: str) -> int:
    """Count the values of a cell."""
    pixels = 3 * math.prod(CELL)
    return {"still": pixels // CELL[0], "patch": pixels}.get(name, VALUES)


def _still(clips: Tensor) -> Tensor:
    frame = clips[:, :, clips.shape[2] // 2]
    return F.pixel_unshuffle(frame, CELL[1])[:, :, None].expand(-1, -1, clips.shape[2] // CELL[0], -1, -1)


def _patch(clips: Tensor) -> Tensor:
    return pack(clips, CELL)


def _resize(clips: Tensor) -> Tensor:
    frames, height, width = (n * less // side for n, less, side in zip(clips.shape[2:], _LESS, CELL, strict=True))
    x = F.interpolate(clips.float(), (frames, *clips.shape[3:]), mode="area")
    x = F.interpolate(x.flatten(1, 2), (height, width), mode="bicubic", antialias=True).unflatten(1, (3, frames))
    return pack(x, _LESS)


def _dct(clips: Tensor) -> Tensor:
    x = F.conv3d(clips.flatten(0, 1)[:, None].float() / 255 - 0.5, _DCT, stride=CELL)
    return x.unflatten(0, (len(clips), 3)).flatten(1, 2)


def _basis(count: int) -> Tensor:
    """Make the lowest frequencies of an orthonormal DCT-II of a cell, ``(count, 1, *CELL)``.

    Frequencies are ordered by the sum of their numbers of half waves over the sides.
    """
    axes = [_cosines(side) for side in CELL]
    numbers = sorted(
        ((i, j, k) for i in range(CELL[0]) for j in range(CELL[1]) for k in range(CELL[2])),
        key=lambda f: (sum(n / side for n, side in zip(f, CELL, strict=True)), f),
    )
    kept = [torch.einsum("t,h,w->thw", *(axis[n] for axis, n in zip(axes, f, strict=True))) for f in numbers[:count]]
    return torch.stack(kept)[:, None].float()


def _cosines(side: int) -> Tensor:
    n = torch.arange(side, dtype=torch.float64)
    cosines = torch.cos(math.pi * (n + 0.5) * n[:, None] / side) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    return cosines


_DCT = _basis(VALUES // 3)


def _by_frames(frames: Tensor, channels: int) -> Tensor:
    """Encode frames ``(N, 3, T, H, W)`` one by one, and lay those of a cell out as channels."""
    latents = wt.functional.encode_image(frames.transpose(1, 2), _FRAMES).as_subclass(Tensor)[:, :, :channels]
    return pack(latents.transpose(1, 2), (VALUES // channels, 1, 1))


_CHANNELS = 12  # of the codec of frames
_PLAIN: dict[str, Arm] = {
    "still": _still,
    "patch": _patch,
    "resize": _resize,
    "dct": _dct,
    "frames_few": lambda clips: _by_frames(clips[:, :, 1::2], _CHANNELS),
    "frames_merged": lambda clips: _by_frames(clips.float().unflatten(2, (-1, 2)).mean(3) / 255, _CHANNELS),
    "frames_coarse": lambda clips: _by_frames(clips, VALUES // CELL[0]),
}
FITTED = ("walloc", "walloc_motion")
ARMS: Sequence[str] = (*_PLAIN, *FITTED)

"""Random crops of images and waveforms to train codecs on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import walloc_transforms as wt
from walloc_transforms.wavelets import analysis_bank

_UNCUT = 4  # every fourth batch shows the ends of signals


class Crops:
    """Random crops of signals, turned and mirrored; the same step gives the same crops.

    The probability of a signal grows with the root of its size. With equal probabilities small signals would be seen
    over and over; with probabilities by size large ones, which are smoother, would leave little room for them.

    Most crops are cut with a margin that is dropped after encoding, because latents within a signal have signal around
    them. Every fourth batch keeps the margin and shows how wavelets wrap round the ends of a signal.

    Args:
        signals: ``(C, H, W)`` uint8 or ``(C, T)`` float; those too short for a crop with its margins are left out.
        side: Of a crop, in latents.
        codec: Whose latents they become.
        seed: Another seed, other crops.

    Raises:
        ValueError: No signal is long enough.
    """

    def __init__(self, signals: Sequence[Tensor], side: int, codec: wt.Codec, seed: int) -> None:
        c = codec.config
        self.side, self.stride, self.seed = side, c.stride, seed
        self.margin = -(-max(analysis_bank(c.wavelet, c.levels).reach) // c.stride)
        least = (side + 2 * self.margin) * c.stride
        self.signals = [signal for signal in signals if min(signal.shape[1:]) >= least]
        if not self.signals:
            raise ValueError(
                f"none of {len(signals)} training signals has {least} samples per side: set a smaller --training.crop"
            )
        sizes = np.array([signal[0].numel() for signal in self.signals], np.float64)
        self.shares = np.sqrt(sizes) / np.sqrt(sizes).sum()

    def cut(self, step: int) -> int:
        """Return how many cells to leave out at every end of the crops of a step."""
        return self.margin if step % _UNCUT else 0

    def batch(self, step: int, count: int, rank: int = 0, world: int = 1, side: int | None = None) -> Tensor:
        """Cut ``count`` crops from any of the signals, and return this process' share.

        Args:
            step: Another step, other crops.
            count: Of all processes.
            rank: This process.
            world: How many processes there are.
            side: A smaller side for this batch.
        """
        random = np.random.default_rng((self.seed, step))
        length = ((side or self.side) + 2 * self.cut(step)) * self.stride
        crops = []
        for i in range(count):
            signal = self.signals[int(random.choice(len(self.signals), p=self.shares))]
            starts = [int(random.integers(n - length + 1)) for n in signal.shape[1:]]
            turns = random.integers(2, size=3)
            if i % world == rank:
                crop = signal[(slice(None), *(slice(start, start + length) for start in starts))]
                crops.append(_turn(crop, *turns.tolist()))
        return torch.stack(crops)


def _turn(crop: Tensor, mirror: int, flip: int, transpose: int) -> Tensor:
    if crop.ndim == 2:  # time does not run backwards; channels and polarity may be exchanged
        crop = crop.flip(0) if mirror else crop
        return -crop if flip else crop
    crop = crop.flip(2) if mirror else crop
    crop = crop.flip(1) if flip else crop
    return crop.transpose(1, 2) if transpose else crop

"""Wavelet packets: filters, transforms level by level, and the same folded into few operations.

Linear algebra alone: nothing here knows a codec.
"""

from .backends import Backend, check_backend, in_full_precision, refuse_vmap
from .filters import (
    FilterBank,
    analysis_bank,
    analysis_taps,
    band_frequencies,
    band_positions,
    check_filters,
    library_taps,
    synthesis_bank,
)
from .folded import FoldedAnalysis, FoldedSynthesis
from .packets import WaveletPacketAnalysis, WaveletPacketSynthesis, check_size, conv1x1, crop, pad_to_multiple

__all__ = [
    "Backend",
    "FilterBank",
    "FoldedAnalysis",
    "FoldedSynthesis",
    "WaveletPacketAnalysis",
    "WaveletPacketSynthesis",
    "analysis_bank",
    "analysis_taps",
    "band_frequencies",
    "band_positions",
    "check_backend",
    "check_filters",
    "check_size",
    "conv1x1",
    "crop",
    "in_full_precision",
    "library_taps",
    "pad_to_multiple",
    "refuse_vmap",
    "synthesis_bank",
]

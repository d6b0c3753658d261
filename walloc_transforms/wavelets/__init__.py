"""Wavelet packets: filters, transforms level by level, the same folded into few operations, and bands for networks.

Linear algebra alone: nothing here knows a codec.
"""

from .backends import Backend, check_backend, in_full_precision, refuse_vmap
from .bands import Extension, Wavelet, check_wavelet, join_bands, split_bands
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
from .packets import (
    Levels,
    WaveletPacketAnalysis,
    WaveletPacketSynthesis,
    check_size,
    conv1x1,
    crop,
    levels_of_axes,
    pad_to_multiple,
    shown_levels,
)
from .polyphase import Finish
from .volumes import FoldedVolumeAnalysis, FoldedVolumeSynthesis

__all__ = [
    "Backend",
    "Extension",
    "FilterBank",
    "Finish",
    "FoldedAnalysis",
    "FoldedSynthesis",
    "FoldedVolumeAnalysis",
    "FoldedVolumeSynthesis",
    "Levels",
    "Wavelet",
    "WaveletPacketAnalysis",
    "WaveletPacketSynthesis",
    "analysis_bank",
    "analysis_taps",
    "band_frequencies",
    "band_positions",
    "check_backend",
    "check_filters",
    "check_size",
    "check_wavelet",
    "conv1x1",
    "crop",
    "in_full_precision",
    "join_bands",
    "levels_of_axes",
    "library_taps",
    "pad_to_multiple",
    "refuse_vmap",
    "shown_levels",
    "split_bands",
    "synthesis_bank",
]

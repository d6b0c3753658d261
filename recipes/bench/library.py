"""Wavelet packets by the library ``pytorch_wavelets``, which the benchmark and tests compare with."""

import warnings

import torch
from torch import Tensor, nn

from walloc_transforms.wavelets import library_taps, pad_to_multiple

__all__ = ["PytorchWaveletsAnalysis"]


class PytorchWaveletsAnalysis(nn.Module):
    """Split signals into wavelet packets as ``WaveletPacketAnalysis`` does, each level by ``pytorch_wavelets``.

    Args:
        wavelet: Name of a discrete wavelet of PyWavelets.
        levels: Number of levels J.
        dims: 2 for images, 1 for waveforms.
    """

    def __init__(self, wavelet: str = "bior4.4", levels: int = 3, dims: int = 2) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            import pytorch_wavelets  # slow to import

        self.levels, self.dims = levels, dims
        self.least = library_taps(wavelet).shape[1] * 2 ** (levels - 1)
        kind = pytorch_wavelets.DWTForward if dims == 2 else pytorch_wavelets.DWT1DForward
        self.level = kind(J=1, wave=wavelet, mode="periodization")

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, H, W)`` or ``(N, C, T)``, float32 or float64.

        Raises:
            ValueError: A side is shorter than the filter at some level. The library wraps such sides wrongly and says
                nothing.
        """
        x = pad_to_multiple(x, [2**self.levels] * self.dims)
        if min(x.shape[2:]) < self.least:
            raise ValueError(
                f"pytorch_wavelets is wrong below {self.least} samples per side at {self.levels} levels, "
                f"got {tuple(x.shape[2:])}"
            )
        self.level.to(x.dtype)
        for _ in range(self.levels):
            low, (high,) = self.level(x)
            if self.dims == 1:
                x = torch.stack([low, high], 2).flatten(1, 2)
            else:  # low-low, then high along height, along width, along both
                x = torch.cat([low.unsqueeze(2), high], 2).flatten(1, 2)
        return x

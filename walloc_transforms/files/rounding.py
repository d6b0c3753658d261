"""How finely the latents of one image, waveform or volume are rounded in a ``.wlc`` file, by what that may cost.

Latents are rounded to integers, whatever the signal. Where a codec loses little, as of dull music, this costs most of
the quality; where it loses much, it wastes bits. A file may hold steps instead: every channel is stored in multiples of
its own step.

:func:`rounding_steps` gives all channels the same step in units of the *signal*, which takes the fewest bits for an
error. A channel whose latents are scaled down, so that they fit 8 bits, gets a smaller step for it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..codec import Codec
from ..signals import as_tensor, value_range
from ..zoo import CodecLike, load_codec
from .steps import ONE, PER_OCTAVE, factors, scaled, step_values

__all__ = ["rounding_steps"]

_CODE_BITS = 15  # of int16, without the sign
_OUTPUT = {"image": (0.0, 1.0), "audio": (-1.0, 1.0), "volume": (0.0, 1.0)}
_REACH = 4  # cells to either side that one cell changes


@torch.no_grad()
def rounding_steps(signal: Tensor | Image.Image, codec: CodecLike, *, loss: float) -> Tensor:
    """Find the coarsest steps of rounding that cost an image, waveform or volume no more PSNR than ``loss``.

    It is encoded once and decoded nine times for that.

    Args:
        signal: An image, PIL or ``(C, H, W)``, a waveform ``(C, T)``, or a volume ``(C, T, H, W)``, as ``Codec.encode``
            takes it.
        codec: The codec that is to encode it.
        loss: PSNR in dB that rounding may cost, compared with latents that are not rounded. The codec's own decoder
            decodes both.

    Returns:
        Steps ``(D,)``, float32, for ``save_latents(..., steps=)``: for a linear decoder equal in units of the signal.
        What int16 cannot hold is not asked for: where the loss would need finer steps, it is larger.

    Raises:
        ValueError: ``loss`` is not positive, or as for ``Codec.encode``.
        TypeError: Not a tensor or PIL image, or of another dtype.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> waveform = torch.rand(2, 44100) - 0.5
        >>> steps = wt.functional.rounding_steps(waveform, "stereo_20x", loss=0.2)
        >>> latents = wt.functional.encode_waveform(waveform, "stereo_20x")
        >>> length = wt.save_latents("noise.wlc", latents, "stereo_20x", steps=steps)
        >>> wt.load_latents("noise.wlc").latents.dtype
        torch.float32
    """
    if not loss > 0:
        raise ValueError(f"loss must be above 0 dB, got {loss}")
    codec = load_codec(codec)
    c = codec.config
    signal = as_tensor(signal, c.signal_channels)
    latents = codec.encode(signal)
    (low, high), (dark, bright) = value_range(signal, c.modality), _OUTPUT[c.modality]
    expected = (signal.to(torch.float32) - low) * ((bright - dark) / (high - low)) + dark

    def error(latents: Tensor) -> float:
        decoded = codec.decode(latents, size=expected.shape[1:])
        return float((decoded - expected).square().mean(dtype=torch.float64))

    relative = _relative_steps(codec)
    least = max(0, PER_OCTAVE * (c.latent_bits - 1 - _CODE_BITS) + ONE)  # of which int16 holds all multiples in range
    allowed = error(latents) * 10 ** (loss / 10)

    def steps(largest: int) -> Tensor:
        return step_values((relative + largest).clip(least, 255).astype(np.uint8).tobytes()).to(latents.device)

    finest, coarsest = least, 256
    while coarsest - finest > 1:
        middle = (finest + coarsest) // 2
        if error(scaled(factors(latents, steps(middle)), steps(middle))) <= allowed:
            finest = middle
        else:
            coarsest = middle
    return steps(finest)


def _relative_steps(codec: Codec) -> NDArray[np.int32]:
    """Return logarithms of steps that are equal in units of the decoded signal, the largest 0.

    Where the decoder is a network, whose units nobody knows, all are 0.
    """
    c = codec.config
    if c.decoder != "linear":
        return np.zeros(c.channels, np.int32)
    silence = torch.zeros(1, c.channels, *[2 * _REACH + 1] * c.dims, device=codec.latent_mean.device)
    sizes = []
    for channel in range(c.channels):
        impulse = silence.clone()
        impulse[(0, channel, *[_REACH] * c.dims)] = 1
        sizes.append(codec.synthesis(codec.decoder(impulse) - codec.decoder(silence)).norm().item())
    octaves = np.log2(np.maximum(sizes, 1e-12))
    return np.rint(PER_OCTAVE * (octaves.min() - octaves)).astype(np.int32)

"""How near a decoded signal comes to the original: PSNR; of images also MS-SSIM, LPIPS and DISTS.

Images are ``(3, H, W)``, uint8: every method is measured on the 8-bit image that it gives. Waveforms are
``(channels, time)``, float, in [-1, 1].
"""

import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

METRICS = ("psnr", "ms_ssim", "lpips_db", "dists_db")

MS_SSIM_SIDE = 176
"""Pixels of the shorter side that MS-SSIM needs: its window of 11 must fit into the smallest of five scales."""

NETWORK_SIDE = 32
"""Pixels of the shorter side that VGG16 needs: it halves an image five times."""

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Networks:
    """The distances that need a trained network.

    Attributes:
        distances: By name, ``lpips`` and ``dists``; each takes two images ``(1, 3, H, W)`` in [0, 1].
        missing: Why the others cannot be had, by name.
    """

    distances: Mapping[str, Distance] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def to_8_bits(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to uint8; truncation would cost up to half a step of brightness."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def psnr(original: Tensor, decoded: Tensor) -> float:
    """PSNR in dB of images against 255, of waveforms against their peak-to-peak, 2, as in the WaLLoC paper.

    Raises:
        ValueError: The shapes differ; nothing is cropped or filled up to make them agree.
        TypeError: Images that are not uint8, or waveforms that are not float.
    """
    _check(original, decoded)
    error = float((original.double() - decoded.double()).square().mean())
    return psnr_of_error(error, 255 if original.dtype == torch.uint8 else 2)


def psnr_of_error(error: float, peak: float) -> float:
    """PSNR in dB for a mean squared error and the range of the values."""
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ms_ssim(image: Tensor, decoded: Tensor) -> float:
    """MS-SSIM of two uint8 images; NaN where a side is shorter than ``MS_SSIM_SIDE``.

    Raises:
        ValueError: The shapes differ.
        TypeError: They are not uint8.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure  # takes seconds

    _check(image, decoded)
    if min(image.shape[-2:]) < MS_SSIM_SIDE:
        return math.nan
    pair = (decoded[None] / 255, image[None] / 255)
    similarity = multiscale_structural_similarity_index_measure(*pair, data_range=1.0)
    assert isinstance(similarity, Tensor)
    return float(similarity)


def measure_quality(image: Tensor, decoded: Tensor, networks: Networks) -> dict[str, float]:
    """Measure all that can be had: ``psnr`` in dB, ``ms_ssim``, and ``-10 log10`` of LPIPS and DISTS as ``..._db``.

    Args:
        image: ``(3, H, W)``, uint8.
        decoded: As ``image``.
        networks: Of LPIPS and DISTS.

    Raises:
        ValueError: The shapes differ.
        TypeError: The images are not uint8.
    """
    figures = {"psnr": psnr(image, decoded), "ms_ssim": ms_ssim(image, decoded)}
    if min(image.shape[-2:]) >= NETWORK_SIDE:
        pair = (decoded[None] / 255, image[None] / 255)
        for name, distance in networks.distances.items():
            value = float(distance(*pair))
            figures[f"{name}_db"] = -10 * math.log10(value) if value > 0 else math.inf
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _check(original: Tensor, decoded: Tensor) -> None:
    if decoded.shape != original.shape:
        raise ValueError(f"the decoded signal has shape {tuple(decoded.shape)}, the original {tuple(original.shape)}")
    if original.dtype != decoded.dtype or (original.ndim > 2) != (original.dtype == torch.uint8):
        raise TypeError(f"expected uint8 images or float waveforms, got {original.dtype} and {decoded.dtype}")


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Let connections that say nothing for so long fail."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def load_networks(timeout: float = 10.0) -> Networks:
    """Load LPIPS and DISTS, both on VGG16 as in the WaLLoC paper, from the cache of torch.hub or the internet.

    Args:
        timeout: Seconds without an answer after which a download is given up.

    Returns:
        What could be had; the rest is in ``missing``, with the reason.
    """
    from torchvision.models import VGG16_Weights

    weights = VGG16_Weights.DEFAULT
    try:
        with _time_limit(timeout):
            # torchmetrics would load this file with any pickle in it; one that loads so holds tensors only.
            weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:  # no connection, no space, a damaged file
        return Networks(missing=dict.fromkeys(("lpips", "dists"), f"{weights.url}: {error}"))
    distances: dict[str, Distance] = {}
    missing: dict[str, str] = {}
    for name, load in (("lpips", _lpips), ("dists", _dists)):
        try:
            distances[name] = load()
        except (ImportError, OSError) as error:  # DISTS came to torchmetrics late
            missing[name] = str(error)
    return Networks(distances, missing)


def _lpips() -> Distance:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return torch.no_grad()(LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True))  # takes [0, 1]


def _dists() -> Distance:
    # torchmetrics' own function reads the network from the disk anew with every call.
    from torchmetrics.functional.image.dists import DISTSNetwork

    network = DISTSNetwork().eval()
    return torch.no_grad()(network)

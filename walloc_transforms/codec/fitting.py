"""Fit a codec to data in closed form: one streaming pass, one eigendecomposition, no gradient and no GPU.

The best D numbers per cell, in mean squared error of the *signal*, are the leading principal components of the packets
in the metric of the synthesis. With packet mean ``m`` and covariance ``S``, and ``G = L L^T`` the inner products of the
synthesis filters within a cell (the wavelet is nearly orthogonal, so G is nearly the identity):

    L^T S L = V diag(variance) V^T          eigenvectors by falling variance
    encoder  z = gain * V_D^T L^T (x - m)
    decoder  x = L^-T V_D (z / gain) + m

Any prefix of the channels is the best codec of its own size. The gain sets the rounding step. It is the same for every
channel, as reverse water-filling asks, but lower for a channel whose latents would leave the 8 bits.

With ``relative``, the weight of every signal is 1 / (its error when it is resized to the same number of values).
``V_D`` then spans the leading directions of the weighted covariance. It is turned within that span to the directions of
the plain covariance, so that any prefix holds the most energy it can.
"""

import copy
import dataclasses
import math
import os
from collections.abc import Iterable, Sequence, Sized

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..signals import Modality, as_tensor, check_several, value_range
from ..wavelets import band_positions, synthesis_bank
from .codec import Codec
from .companding import compand, saturation, slope
from .config import CodecConfig
from .packet_statistics import PacketStatistics
from .ranges import check_values

__all__ = ["fit_codec", "fit_statistics"]

# How far the largest latent of the sample may reach into the range in which the expansion is exact. The step grows as
# exp(z**2 / 2s**2): at half the range it is 5.6 times what it is at 0; beyond, it costs more than it gains.
_HEADROOM = 0.5
_LEAST = 1e-6  # of the largest latent of any channel: what a smaller one holds is float32's rounding
_MAX_LOSS = 100.0  # dB, at which every latent is rounded to 0
_MODALITIES: dict[int, Modality] = {2: "audio", 3: "image", 4: "volume"}  # by the axes of a signal
_CPU = torch.device("cpu")  # where fits are solved, whatever the default device is


def fit_codec(
    signals: Iterable[Tensor | Image.Image],
    *,
    levels: int | Sequence[int],
    channels: int,
    rounding_loss: float = 0.25,
    relative: bool = False,
    wavelet: str = "bior4.4",
    name: str = "custom",
    source: str = "",
    sample_rate: int | None = None,
    progress: bool = True,
) -> Codec:
    """Fit the linear codec that reconstructs ``signals`` best.

    Args:
        signals: Images, waveforms or volumes, any number, each of any size from ``2**levels`` samples per side. Images:
            PIL (read as RGB), or ``(C, H, W)`` tensors, uint8 or uint16 in their full range or float in [0, 1].
            Volumes and video, ``(C, T, H, W)``, likewise. Waveforms: ``(C, T)`` tensors of any number of channels,
            float in [-1, 1] or integer PCM. One pass is made; memory does not grow with their number.
        levels: Wavelet levels J; a cell covers ``2**J`` samples per axis. Or one number for each axis: ``(2, 3, 3)``.
        channels: Latent channels D. The dimensionality reduction is ``C * 2**(J + J + ...) / D``, J of every axis.
        rounding_loss: PSNR in dB that rounding the latents to integers may cost on ``signals``. Less means a finer step
            and a higher rate. A channel whose latents would leave the range of 8 bits gets a coarser step.
        relative: Divide the error of every signal by its error when resized to the same number of values, so that quiet
            and smooth signals count like others. This raises the mean of PSNRs in dB, not the PSNR of the mean error.
            ``rounding_loss`` then refers to a signal of average PSNR.
        wavelet: Name of a discrete wavelet of PyWavelets.
        name: Name of the codec.
        source: Where the data come from, in a sentence, kept with the codec.
        sample_rate: Of waveforms, in Hz, kept with the codec. Default: not known.
        progress: Show a progress bar.

    Returns:
        A frozen codec with its latent statistics.

    Raises:
        ValueError: ``signals`` is one signal or empty, one has another number of channels or dimensions than the
            first, NaN values, values out of range, too few samples to determine the codec or samples that do not vary,
            or an argument out of range.
        TypeError: ``signals`` is one PIL image or the name of a folder, or a signal is neither a tensor nor a PIL
            image, or of an unsupported dtype.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> images = [torch.rand(3, 64, 64) for _ in range(4)]
        >>> codec = wt.fit_codec(images, levels=3, channels=12, name="noise", progress=False)
        >>> codec.config.name, codec.encode(images[0]).shape
        ('noise', torch.Size([12, 8, 8]))
    """
    if not 0 < rounding_loss <= _MAX_LOSS:
        raise ValueError(f"rounding_loss must be above 0 and at most {_MAX_LOSS:g} dB, got {rounding_loss}")
    check_several(signals)
    total = len(signals) if isinstance(signals, Sized) else None
    disable = not progress or os.environ.get("RANK", "0") != "0"
    seen: PacketStatistics | None = None
    for given in tqdm(signals, desc="fit codec", total=total, unit="signal", disable=disable):
        try:
            signal = centered(given)
        except (TypeError, ValueError) as error:
            raise _at(seen.signals if seen else 0, error) from None
        if seen is None:  # the first signal tells modality and channels: a wrong number of channels is an error at once
            rate = sample_rate or 0
            axes = levels if isinstance(levels, int) else tuple(levels)
            geometry = (name, _MODALITIES[signal.ndim], len(signal), channels, axes, wavelet)
            with _CPU:
                seen = PacketStatistics(CodecConfig(*geometry, source=source, sample_rate=rate), relative)
        try:
            with _CPU:
                seen.add(signal)
        except ValueError as error:
            raise _at(seen.signals, error) from None
    if seen is None:
        raise ValueError("there are no signals to fit a codec to")
    with _CPU:
        return _solve(seen, rounding_loss)


@torch.no_grad()
def fit_statistics(codec: Codec, signals: Iterable[Tensor | Image.Image], *, progress: bool = True) -> Codec:
    """Measure mean and spread of a codec's latents, which published codecs come without.

    Args:
        codec: The codec; it is not changed.
        signals: Images or waveforms as :func:`fit_codec` takes them. One pass is made.
        progress: Show a progress bar.

    Returns:
        A copy of the codec with its statistics. A refiner goes on with those that it was trained with, so that all
        decoders decode as before.

    Raises:
        ValueError: ``signals`` is one signal, there are fewer than two cells, the signals are all alike, or the codec
            does not encode one.
        TypeError: No codec, ``signals`` is one PIL image or the name of a folder, or a signal is neither a tensor nor a
            PIL image, or of an unsupported dtype.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> images = [torch.rand(3, 64, 64) for _ in range(4)]
        >>> codec = wt.fit_statistics(wt.load_codec("rgb_16x"), images, progress=False)
        >>> codec.normalize(codec.encode(images[0])).shape
        torch.Size([12, 8, 8])
    """
    if not isinstance(codec, Codec):
        raise TypeError(f"expected a codec, as load_codec gives it, got {type(codec).__name__}")
    check_several(signals)
    c = codec.config
    total = squares = torch.zeros(c.channels, dtype=torch.float64, device="cpu")
    count = 0
    disable = not progress or os.environ.get("RANK", "0") != "0"
    for i, signal in enumerate(tqdm(signals, desc="fit statistics", unit="signal", disable=disable)):
        try:
            signal = _check_signal(signal, c.signal_channels)
            if signal.ndim != c.dims + 1:
                axes = "1 axis" if c.dims == 1 else f"{c.dims} axes"
                raise ValueError(
                    f"expected signals of {c.signal_channels} channels and {axes} for codec {c.name!r}, one at "
                    f"a time, got shape {tuple(signal.shape)}"
                )
            latents = codec.encode(signal.to(codec.latent_mean.device))
        except (TypeError, ValueError) as error:
            raise _at(i, error) from None
        latents = latents[..., c.pad : latents.shape[-1] - c.pad].flatten(1).double().cpu()
        total, squares, count = total + latents.sum(1), squares + latents.square().sum(1), count + latents.shape[1]
    if count < 2:
        raise ValueError("there are too few signals to measure latents on")
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=1e-6).sqrt()
    if bool((spread <= 1e-3).all()):
        raise ValueError(f"the signals vary in none of the {c.channels} channels of codec {c.name!r}: use others")
    with torch.inference_mode(False):
        measured = copy.deepcopy(codec)
        if c.refiner_width:
            measured.load_refiner().keep_statistics(codec.latent_mean, codec.latent_std)
        measured.latent_mean.copy_(mean)
        measured.latent_std.copy_(spread)
    measured.config = dataclasses.replace(c, statistics=True)
    return measured


def centered(signal: Tensor | Image.Image, channels: int = 3) -> Tensor:
    """Bring a signal to [-0.5, 0.5], in which packets are measured."""
    signal = _check_signal(signal, channels).cpu()
    modality = _MODALITIES[signal.ndim]
    low, high = value_range(signal, modality)
    check_values(signal, modality, "fitting")
    return signal.float() / (high - low) + (-0.5 - low / (high - low))  # quiet sound keeps its precision


def _check_signal(signal: Tensor | Image.Image, channels: int) -> Tensor:
    signal = as_tensor(signal, channels)
    shape, hint = tuple(signal.shape), ""
    if signal.ndim == 3 and shape[2] <= 4 < min(shape[:2]):
        hint = ", which looks like (H, W, C): use permute(2, 0, 1)"
    elif signal.ndim == 2 and shape[1] < shape[0]:
        hint = ", which looks like (T, C), or like a gray image (H, W)"
    elif signal.ndim == 4 and shape[1] in (1, 3) and shape[0] not in (1, 3):
        hint = ", which looks like video (T, C, H, W): use transpose(0, 1)"
    if signal.ndim not in _MODALITIES or hint:
        raise ValueError(
            f"expected images (C, H, W), waveforms (C, T) or volumes (C, T, H, W), got shape {shape}{hint}"
        )
    return signal


def _at(index: int, error: Exception) -> Exception:
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"signal {index}: {error}")


def synthesis_gram(config: CodecConfig) -> Tensor:
    """Inner products of the synthesis filters of one cell, ``(packets, packets)``."""
    gram = torch.ones(1, 1, dtype=torch.float64)
    for level, row in zip(config.axis_levels, band_positions(config.axis_levels), strict=True):
        filters, band = torch.from_numpy(synthesis_bank(config.wavelet, level).filters), torch.from_numpy(row)
        gram = gram * (filters @ filters.T)[band][:, band]
    return torch.block_diag(*[gram] * config.signal_channels)


@torch.no_grad()
def _solve(seen: PacketStatistics, rounding_loss: float) -> Codec:
    config, relative = seen.config, seen.relative
    if seen.count < config.packets:
        raise ValueError(
            f"{seen.count} cells are too few to determine {config.packets} packets: "
            "expected at least as many; add signals"
        )
    mean, covariance = seen.weighted_covariance() if relative else seen.covariance()
    root = torch.linalg.cholesky(synthesis_gram(config))
    variance, vectors = torch.linalg.eigh(root.T @ covariance @ root)
    variance, vectors = variance.flip(0).clamp(min=0), vectors.flip(1)[:, : config.channels]
    dropped = float(variance[config.channels :].sum())
    if relative:
        span = root @ vectors
        vectors = vectors @ torch.linalg.eigh(span.T @ seen.covariance()[1] @ span)[1].flip(1)
        dropped = seen.mean_lost()
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)  # their sign is arbitrary: fix it
    encoder = vectors.T @ root.T
    decoder = torch.linalg.solve_triangular(root.T, vectors, upper=True)

    # Rounding adds step**2 / 12 to the error of every kept channel; the dropped channels' error is their variance.
    allowed = dropped * (10 ** (rounding_loss / 10) - 1)
    step = math.sqrt(12 * allowed / config.channels)
    sample = encoder.float() @ (seen.sample - mean.float()[:, None])
    largest = sample.abs().amax(1)
    if not bool((largest > _LEAST * largest.max()).all()):
        raise ValueError(
            f"the signals do not vary in {config.channels} directions: fit fewer channels, or other signals"
        )
    gain = (_HEADROOM * saturation(config.latent_bits) / largest).double()  # the finest that keeps a channel in range
    if step > 0:
        gain = gain.clamp(max=1 / (step * slope(config.latent_bits)))

    codec = Codec(config)
    codec.weight.copy_(encoder * gain[:, None])
    codec.bias.copy_(-gain * (encoder @ mean))
    codec.decoder.weight.copy_(decoder / gain)
    codec.decoder.bias.copy_(mean)
    latents = compand(sample * gain[:, None].float(), config.latent_bits)
    codec.latent_mean.copy_(latents.mean(1))
    codec.latent_std.copy_(latents.std(1).clamp(min=1e-3))
    return codec

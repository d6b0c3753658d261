"""Measure a codec on a few signals while it is trained: PSNR of every decoder, rate, and pictures."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import walloc_transforms as wt
from recipes.common import image_quality
from recipes.evaluation import sound_formats as sound_quality
from recipes.evaluation.image_report import draw_sheet
from walloc_transforms.files import save_latents

_SHOWN = 3


@torch.no_grad()
def measure(codec: wt.Codec, signals: Sequence[Tensor], sheet: Path | None = None) -> dict[str, float]:
    """Encode signals, write them to files, and decode them.

    Args:
        codec: The codec.
        signals: ``(C, H, W)`` uint8 images, or ``(C, T)`` waveforms within +-1.
        sheet: Where to draw the middle of the first images as every decoder gives it.

    Returns:
        Means over the signals: PSNR in dB of the rounded latents, ``psnr_linear`` and for a refiner ``psnr_refiner``,
        and ``bits``, of the whole file, per pixel or per sample of a channel.
    """
    c = codec.config
    decoders = ["linear", *["refiner"] * (c.refiner_width > 0)]
    rows: list[dict[str, float]] = []
    pictures: list[list[tuple[str, Tensor]]] = []
    for signal in signals:
        size, row = tuple(signal.shape[1:]), {}
        encode = wt.functional.encode_image if c.modality == "image" else wt.functional.encode_waveform
        latents = encode(signal, codec, quantize=True, dtype=torch.int8 if c.latent_bits <= 8 else torch.int16)
        with TemporaryDirectory() as folder:
            length = save_latents(Path(folder) / "signal.wlc", latents, codec, size=size)
        row["bits"] = 8 * length / (signal[0].numel() if c.modality == "image" else signal.numel())
        shown = [("original", signal)]
        for decoder in decoders:
            if c.modality == "image":
                decoded = wt.functional.decode_image(latents, codec, size=size, decoder=decoder)
                image = image_quality.to_8_bits(decoded)
                quality = row[f"psnr_{decoder}"] = image_quality.psnr(signal, image)
                shown.append((f"{decoder}\n{quality:.2f} dB, {row['bits']:.2f} bpp", image))
            else:
                decoded = wt.functional.decode_waveform(latents, codec, size=size, decoder=decoder)
                row[f"psnr_{decoder}"] = sound_quality.psnr(signal, decoded)
        rows.append(row)
        pictures.append(shown)
    if sheet is not None and c.modality == "image" and c.signal_channels in (1, 3):
        draw_sheet(pictures[:_SHOWN], sheet)
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}

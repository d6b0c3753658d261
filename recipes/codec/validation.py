"""Measure a codec on a few signals while it is trained: PSNR of every decoder, rate, and pictures."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import walloc_transforms as wt
from recipes.common.codecs import decoders_of, stored_dtype
from recipes.common.quality import psnr, to_8_bits
from recipes.common.tables import Record, means
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
    is_image = codec.config.modality == "image"
    encode = wt.functional.encode_image if is_image else wt.functional.encode_waveform
    decode = wt.functional.decode_image if is_image else wt.functional.decode_waveform
    rows: list[Record] = []
    pictures: list[list[tuple[str, Tensor]]] = []
    for signal in signals:
        size = tuple(signal.shape[1:])
        latents = encode(signal, codec, quantize=True, dtype=stored_dtype(codec))
        with TemporaryDirectory() as folder:
            length = save_latents(Path(folder) / "signal.wlc", latents, codec, size=size)
        row: Record = {"bits": 8 * length / (signal[0].numel() if is_image else signal.numel())}
        shown = [("original", signal)]
        for decoder in decoders_of(codec):
            decoded: Tensor = decode(latents, codec, size=size, decoder=decoder)
            decoded = to_8_bits(decoded) if is_image else decoded
            quality = row[f"psnr_{decoder}"] = psnr(signal, decoded)
            shown.append((f"{decoder}\n{quality:.2f} dB, {row['bits']:.2f} bpp", decoded))
        rows.append(row)
        pictures.append(shown)
    if sheet is not None and is_image and codec.config.signal_channels in (1, 3):
        draw_sheet(pictures[:_SHOWN], sheet)
    return means(rows, rows[0])

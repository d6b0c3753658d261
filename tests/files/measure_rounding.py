"""Measure what rounding costs pieces of music, and the size of their files, by the loss that is allowed.

    python -m tests.files.measure_rounding FOLDER_OR_FILE ... [--losses none 0.2 0.35] [--coders zlib ans]

Pieces are prepared and compared as ``recipes.evaluate_codec`` does it, and decoded linearly from their files. ``none``
rounds to integers. Rates are bits per sample of whole files, CR compares them with 16-bit PCM.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

import walloc_transforms as wt
from recipes.common.quality import psnr
from recipes.common.sounds import SoundFiles, full_scale, sound_files

CODECS = ("stereo_5x", "stereo_20x")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--losses", nargs="+", default=["none", "0.2", "0.35"])
    parser.add_argument("--coders", nargs="+", default=["zlib", "ans"])
    options = parser.parse_args()
    files = [file for path in options.paths for file in (sound_files(path) if path.is_dir() else [path])]
    rates = [f"{coder}: bits per sample (CR)" for coder in options.coders]
    print(f"| codec | piece | loss allowed | unrounded, dB | loss, dB | {' | '.join(rates)} |")
    print("|---|---|---:|---:|---:|" + "---:|" * len(rates))
    rows: dict[tuple[str, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, sound in SoundFiles(files, 44100):
            for codec in CODECS:
                for loss in options.losses:
                    row = measure(full_scale(sound), codec, loss, options.coders, Path(folder) / "piece.wlc")
                    rows.setdefault((codec, loss), []).append(row)
                    show(codec, name, loss, row)
    for (codec, loss), own in rows.items():
        show(codec, "mean", loss, [statistics.fmean(column) for column in zip(*own, strict=True)])
        show(codec, "at most", loss, [max(column) for column in zip(*own, strict=True)])


@torch.no_grad()
def measure(sound: torch.Tensor, codec: str, loss: str, coders: list[str], file: Path) -> list[float]:
    """Return the PSNR in dB of latents that are not rounded, what rounding costs, and bits per sample by coder."""
    latents = wt.functional.encode_waveform(sound, codec)
    steps = None if loss == "none" else wt.functional.rounding_steps(sound, codec, loss=float(loss))
    unrounded = psnr(sound, wt.functional.decode_waveform(latents, codec))
    lengths = [
        wt.save_latents(
            file, latents.round() if steps is None else latents, codec, size=sound.shape[1:], coder=coder, steps=steps
        )
        for coder in coders
    ]
    rounded = psnr(sound, wt.functional.decode_waveform(wt.load_latents(file).latents, codec))
    return [unrounded, unrounded - rounded, *(8 * length / sound.numel() for length in lengths)]


def show(codec: str, piece: str, loss: str, row: list[float]) -> None:
    unrounded, lost, *rates = row
    cells = [f"{rate:.4f} ({16 / rate:.1f})" for rate in rates]
    print(f"| `{codec}` | {piece} | {loss} | {unrounded:.2f} | {lost:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

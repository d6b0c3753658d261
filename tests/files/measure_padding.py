"""Measure the files of signals without content, which are padded: ``python -m tests.files.measure_padding``."""

import tempfile
from pathlib import Path

import torch

import walloc_transforms as wt

SIGNALS = {  # name: codec, shape, and the value of all pixels or samples
    "white page, 8.7 megapixels": ("rgb_16x", (3, 3508, 2480), 255),
    "black frame of 1080 lines": ("rgb_4x", (3, 1080, 1920), 0),
    "black, 48 megapixels": ("rgb_16x", (3, 6000, 8000), 0),
    "four minutes of silence": ("stereo_5x", (2, 240 * 44100), 0),
}
CODERS = ("zlib", "ans", "jpegls", "webp")


def main() -> None:
    print(f"| latents | codes | {' | '.join(f'`{coder}`' for coder in CODERS)} |")
    print("|---|---:|" + "---:|" * len(CODERS))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flat.wlc"
        for name, (codec, shape, value) in SIGNALS.items():
            image = len(shape) == 3
            signal = torch.full(shape, value, dtype=torch.uint8 if image else torch.int16)
            encode = wt.functional.encode_image if image else wt.functional.encode_waveform
            latents = encode(signal, codec, quantize=True, dtype=torch.int8)
            cells = []
            for coder in CODERS if image else CODERS[:-1]:
                wt.save_latents(file, latents, codec, coder=coder)
                cells.append(f"{file.stat().st_size:,}")
            print(f"| {name}, `{codec}` | {latents.numel() / 1e6:.1f} M | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

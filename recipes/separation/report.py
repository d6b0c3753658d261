"""Pictures and sounds of a separation: mixture, truth and every arm's estimate of one excerpt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile
import torch
from matplotlib.figure import Figure
from torch import Tensor

_FLOOR = -110.0  # dB of full scale that is drawn black


def write_sounds(sounds: Mapping[str, Tensor], folder: Path, sample_rate: int) -> None:
    """Write waveforms ``(2, time)`` as ``NAME.wav`` of 16 bits; what is beyond full scale is clipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, sound in sounds.items():
        soundfile.write(folder / f"{name}.wav", sound.clamp(-1, 1).T.numpy(), sample_rate, subtype="PCM_16")


def draw_spectrograms(sounds: Mapping[str, Tensor], file: Path, sample_rate: int, title: str) -> None:
    """Draw spectrograms of waveforms ``(2, time)`` up to 12 kHz, on one scale."""
    columns = min(4, len(sounds))
    rows = -(-len(sounds) // columns)
    figure = Figure((3.4 * columns, 2.6 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for axes in panels.flat[len(sounds) :]:
        axes.axis("off")
    for axes, (name, sound) in zip(panels.flat, sounds.items(), strict=False):
        image = axes.imshow(
            spectrogram(sound).numpy(),
            origin="lower",
            aspect="auto",
            vmin=_FLOOR,
            vmax=-20,
            extent=(0, sound.shape[-1] / sample_rate, 0, sample_rate / 2000),
            cmap="magma",
        )
        axes.set_title(name, fontsize=9)
        axes.set_ylim(0, min(12.0, sample_rate / 2000))
    for axes in panels[:, 0]:
        axes.set_ylabel("frequency (kHz)")
    for axes in panels[-1]:
        axes.set_xlabel("time (s)")
    if image is not None:
        figure.colorbar(image, ax=panels, label="power (dB of full scale)", shrink=0.8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=120)


def spectrogram(waveform: Tensor) -> Tensor:
    """Power of the mean of both channels in dB, ``(frequencies, frames)``; window of 2048 samples, hop of 512."""
    window = torch.hann_window(2048)
    padded = torch.nn.functional.pad(waveform.mean(0), (1024, 1024))
    spectrum = torch.stft(padded, 2048, 512, window=window, center=False, return_complex=True)
    return 10 * torch.log10(spectrum.abs().square() * (2 / float(window.sum())) ** 2 + 1e-12)


def caption(sources: Sequence[str], segment_seconds: float, total: int, scored: Mapping[str, int]) -> str:
    """Say what the table's figures were measured on."""
    counts = ", ".join(f"{scored[source]} with {source}" for source in sources)
    return (
        f"Means over segments of {segment_seconds:.2f} s, the same for every row: {total} in all, {counts}; where "
        "a source is silent it is not scored. After ±: standard deviation over seeds. Multiply-adds are per second "
        "of audio, Fourier transforms excluded. PSNR is against a peak-to-peak of 2. `source through ...` "
        "is the true source after that front end and back: no estimate of that arm can be better than about "
        "that.\n\n"
    )

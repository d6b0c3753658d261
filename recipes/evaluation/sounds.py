"""Evaluation of audio codecs on pieces of music, beside resampling and lossy formats; for recipes.evaluate_codec.

Protocol, after the WaLLoC paper: a piece is one stereo waveform, its mean subtracted, at full scale. PSNR is against a
peak-to-peak of 2, that of full scale, to which what is decoded is clipped. The rate is that of the whole ``.wlc`` file,
from which the piece is decoded, by a refiner too where the codec has one; the compression ratio is against PCM of 16
bits. Speeds count samples of both channels.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.codecs import decoders_of, stored_dtype
from recipes.common.demo_music import demo_track
from recipes.common.quality import psnr
from recipes.common.sounds import SoundFiles, full_scale
from recipes.common.tables import Record, group, means
from recipes.evaluation.means import BY, mean_curve, notes_of
from recipes.evaluation.sound_formats import FORMATS, RESAMPLERS, LossyFile, si_sdr
from walloc_transforms.files import load_latents, save_latents

DEFAULT_RATE = 44100
"""Hz, for codecs that do not say theirs."""


class DemoMusic:
    """Generated pieces, none of them among those that recipes.train_codec fits to."""

    skipped = clipped = 0

    def __init__(self, sample_rate: int, pieces: int = 2, seconds: float = 12.0) -> None:
        self.sample_rate, self.pieces, self.seconds = sample_rate, pieces, seconds

    def __len__(self) -> int:
        return self.pieces

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for seed in range(100, 100 + self.pieces):
            stems = demo_track(seed, self.seconds, self.sample_rate)
            yield f"demo {seed}", sum(stems.values(), torch.zeros(()))


def sample_rate_of(codec: wt.Codec) -> int:
    """Return the sample rate in Hz at which a codec is measured."""
    return codec.config.sample_rate or DEFAULT_RATE


class Piece:
    """A piece at full scale, with what several codecs compare with on it."""

    def __init__(self, name: str, sound: Tensor, sample_rate: int) -> None:
        self.name, self.sound, self.sample_rate = name, sound, sample_rate
        self._resampled: dict[tuple[str, Fraction], Record] = {}
        self._lossy: dict[str, LossyFile] = {}

    @property
    def values(self) -> int:
        """Samples of all channels."""
        return self.sound.numel()

    def lossy(self, name: str) -> LossyFile:
        """Return the piece in one of ``FORMATS``."""
        if name not in self._lossy:
            self._lossy[name] = LossyFile(self.sound, self.sample_rate, FORMATS[name])
        return self._lossy[name]

    def resampled(self, name: str, share: Fraction) -> Record:
        """Figures of one of ``RESAMPLERS`` at a share of the values."""
        if (name, share) not in self._resampled:
            self._resampled[name, share] = self._resample(name, share)
        return self._resampled[name, share]

    def _resample(self, name: str, share: Fraction) -> Record:
        start = time.perf_counter()
        decoded = RESAMPLERS[name](self.sound, share)
        speed = self.values / 1e6 / (time.perf_counter() - start)
        quality = psnr(self.sound, decoded)
        return {
            "reduction": float(1 / share),
            "psnr_unrounded": quality,
            "si_sdr": si_sdr(self.sound, decoded),
            "encode_msps": speed,
        }

    def best_resampling(self, share: Fraction) -> float:
        """PSNR in dB of the better resampler."""
        return max(self.resampled(name, share)["psnr_unrounded"] for name in RESAMPLERS)


def measure(piece: Piece, codec: wt.Codec, coder: str) -> tuple[list[tuple[str, Record]], int]:
    """Encode a piece to a ``.wlc`` file and decode it from there, by each of the codec's decoders.

    Returns:
        Of each decoder, the codec's own first, its name and the figures; the bytes of the file.
    """
    sound, samples, c = piece.sound, piece.sound.shape[-1], codec.config
    rate, decoders = piece.sample_rate, decoders_of(codec)
    # This also sets up kernels for the calls that are timed, and reads a refiner from its file.
    unrounded = _decode_all(piece, codec, wt.functional.encode_waveform(sound, codec))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "piece.wlc"
        start = time.perf_counter()
        latents = wt.functional.encode_waveform(sound, codec, quantize=True, dtype=stored_dtype(codec))
        length = save_latents(file, latents, codec, size=(samples,), sample_rate=rate, coder=coder)
        encode_msps = piece.values / 1e6 / (time.perf_counter() - start)
        measured: list[tuple[str, Record]] = []
        for decoder in decoders:
            start = time.perf_counter()
            decoded = wt.functional.decode_waveform(load_latents(file).latents, codec, size=samples, decoder=decoder)
            decode_msps = piece.values / 1e6 / (time.perf_counter() - start)
            measured.append(
                (
                    decoder,
                    {
                        "reduction": c.dimensionality_reduction,
                        **_rate(piece, length),
                        "psnr_unrounded": unrounded[decoder],
                        "psnr": psnr(sound, decoded),
                        "si_sdr": si_sdr(sound, decoded),
                        "encode_msps": encode_msps,
                        "decode_msps": decode_msps,
                    },
                )
            )
    return measured, length


def _decode_all(piece: Piece, codec: wt.Codec, latents: Tensor) -> dict[str, float]:
    """PSNR in dB of latents ``(D, t)`` by each of a codec's decoders."""
    decode, samples = wt.functional.decode_waveform, piece.sound.shape[-1]
    return {
        decoder: psnr(piece.sound, decode(latents, codec, size=samples, decoder=decoder))
        for decoder in decoders_of(codec)
    }


def _rate(piece: Piece, length: int) -> Record:
    return {"bits_per_sample": 8 * length / piece.values, "compression_ratio": 2 * piece.values / length}


def measure_format(piece: Piece, name: str, size: int) -> Record:
    """Encode a piece in a format of libsndfile to about ``size`` bytes, or say why that cannot be done."""
    note = FORMATS[name].missing()
    if note:
        return {"note": note}
    lossy = piece.lossy(name)
    try:
        coded = lossy.nearest(size)
    except soundfile.SoundFileError as error:
        return {"note": f"refused: {error}"}
    decoded, delay, seconds = lossy.decode(coded)
    off = len(coded.content) / size - 1
    note = "lowest rate" if off > 0.05 else "highest rate" if off < -0.05 else ""
    million = piece.values / 1e6
    return {
        "reduction": 1.0,
        **_rate(piece, len(coded.content)),
        "psnr": psnr(piece.sound, decoded),
        "si_sdr": si_sdr(piece.sound, decoded),
        "encode_msps": million / coded.seconds,
        "decode_msps": million / seconds,
        "delay": delay,
        "level": coded.setting,
        "note": note,
    }


def prefix_lengths(channels: int) -> list[int]:
    """List the prefixes on the curve: 8, 16, ..., and all channels."""
    return sorted({*range(8, channels + 1, 8), channels})


def measure_prefixes(piece: Piece, codec: wt.Codec) -> list[Record]:
    """PSNR of the first 8, 16, ... channels of latents that are not rounded, beside resampling.

    That of a refiner, if there is one, is ``refiner_psnr``.
    """
    latents = wt.functional.encode_waveform(piece.sound, codec)
    rows: list[Record] = []
    for n in prefix_lengths(codec.config.channels):
        decibels = _decode_all(piece, codec.prefix(n), latents[:n])
        rows.append(
            {
                "codec": codec.config.name,
                "channels": n,
                "reduction": codec.config.packets / n,
                **{"refiner_psnr" if d == "refiner" else "psnr": value for d, value in decibels.items()},
                "resampling_psnr": piece.best_resampling(Fraction(n, codec.config.packets)),
            }
        )
    return rows


@torch.no_grad()
def evaluate(
    sounds: SoundFiles | DemoMusic, codecs: Sequence[wt.Codec], coder: str, formats: Sequence[str]
) -> tuple[list[Record], list[Record]]:
    """Measure codecs of one sample rate on all pieces.

    Args:
        sounds: The pieces, at that rate.
        codecs: For stereo sound.
        coder: Of the latent files.
        formats: Names of ``FORMATS`` to compare with.

    Returns:
        A row per piece, codec and method, and the rows of the prefix curve, one per piece, codec and prefix. A codec
        with a refiner has two rows, which ``decoder`` tells apart. Pieces that are silent or shorter than a codec's
        stride are named and count as skipped.
    """
    records: list[Record] = []
    curve: list[Record] = []
    shortest = max(codec.config.stride for codec in codecs)
    for name, sound in tqdm(sounds, desc="pieces", unit="piece"):
        why = (
            "silent"
            if not (sound != sound[0, 0]).any()
            else f"shorter than {shortest} samples"
            if sound.shape[-1] < shortest
            else ""
        )
        if why:
            tqdm.write(f"skipped {name}: {why}")
            sounds.skipped += 1
            continue
        piece = Piece(name, full_scale(sound), sounds.sample_rate)
        for codec in tqdm(codecs, desc=name, unit="codec", leave=False):
            c = codec.config
            about = {"piece": name, "seconds": sound.shape[-1] / sounds.sample_rate, "codec": c.name}
            measured, size = measure(piece, codec, coder)
            share = Fraction(c.channels, c.packets)
            for decoder, figures in measured:
                records.append({**about, "method": c.name, "decoder": decoder, **figures})
            others = {method: piece.resampled(method, share) for method in RESAMPLERS}
            others |= {method: measure_format(piece, method, size) for method in formats}
            records += [{**about, "method": method, "decoder": "", **figures} for method, figures in others.items()]
            if c.is_linear:
                curve += [{"piece": name, **row} for row in measure_prefixes(piece, codec)]
    return records, curve


def differences(records: Sequence[Record]) -> list[Record]:
    """Subtract the PSNR of the better resampler from every codec's: per piece and, as piece ``mean``, over all pieces.

    A refiner has rows of its own, with its gain over the linear decoder.
    """
    rows: list[Record] = []
    for name, decoder in group((r for r in records if r["method"] == r["codec"]), ("codec", "decoder")):
        pieces = group((r for r in records if r["codec"] == name), ("piece",))
        figures = [_differences_of_piece(own, name, decoder) for own in pieces.values()]
        figures.append({key: statistics.fmean(row[key] for row in figures) for key in figures[0]})
        about = {"codec": name, "decoder": decoder}
        names = (*(piece for (piece,) in pieces), "mean")
        rows += [{**about, "piece": piece, **row} for piece, row in zip(names, figures, strict=True)]
    return rows


def _differences_of_piece(own: Sequence[Record], name: str, decoder: str) -> Record:
    """Compare the PSNR of a decoder on a piece with the better resampler's, and a refiner's with the linear one's."""
    ours = {r["decoder"]: r for r in own if r["method"] == name}
    resampling = max(r["psnr_unrounded"] for r in own if r["method"] in RESAMPLERS)
    unrounded, rounded = ours[decoder]["psnr_unrounded"], ours[decoder]["psnr"]
    row: Record = {
        "resampling": resampling,
        "psnr_unrounded": unrounded,
        "psnr": rounded,
        "unrounded_less": unrounded - resampling,
        "rounded_less": rounded - resampling,
    }
    if decoder == "refiner":
        row |= {
            "unrounded_gain": unrounded - ours["linear"]["psnr_unrounded"],
            "rounded_gain": rounded - ours["linear"]["psnr"],
        }
    return row


def mean_over_pieces(records: Sequence[Record]) -> list[Record]:
    """Average over pieces, a row per codec, method and decoder; the compression ratio is that of the mean rate.

    What a method has for some pieces only is averaged over those, and ``pieces`` counts them.
    """
    figures = ("reduction", "bits_per_sample", "psnr_unrounded", "psnr", "si_sdr", "encode_msps", "decode_msps")
    rows: list[Record] = []
    for key, own in group(records, BY).items():
        measured = [r for r in own if "reduction" in r]
        row: Record = {**dict(zip(BY, key, strict=True)), "pieces": len(measured), **means(measured, figures)}
        row["compression_ratio"] = 16 / row["bits_per_sample"]
        delays = [r["delay"] for r in measured if "delay" in r]
        row["delay"] = f"{min(delays)} to {max(delays)}" if len(set(delays)) > 1 else "".join(map(str, delays[:1]))
        rows.append({**row, "note": "; ".join(notes_of(own))})
    return rows


def mean_prefixes(curve: Sequence[Record]) -> list[Record]:
    """Average the prefix curve over pieces, with the difference to resampling."""
    rows = mean_curve(curve, ("codec", "channels"), "piece")
    for row in rows:
        for name in ("", "refiner_"):
            if f"{name}psnr" in row:
                row[f"{name}difference"] = row[f"{name}psnr"] - row["resampling_psnr"]
    return rows

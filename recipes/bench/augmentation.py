"""How far stored latents that are augmented are from the latents of augmented signals.

Both ways are gone for every signal: change it and encode it; encode it, round it or not, and change the latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.checks import check_at_least
from recipes.common.demo_music import demo_track
from recipes.common.photographs import demo_photographs, image_files, read_image
from recipes.common.quality import psnr, to_8_bits
from recipes.common.sounds import full_scale, read_sound, sound_files
from recipes.common.tables import Record, figure, markdown_table

SIDE = 512  # pixels of the photographs, of which the middle is taken
SECONDS = 20  # of the sounds, from their beginning
FRAMES = 512  # of the windows
CELLS = 28  # per side of the crops
RINGS = 5  # cells from the border of a crop that are looked at one by one
NOISE = 0.05

T = wt.transforms


@dataclass
class AugmentationSettings:
    """What latents are augmented of."""

    photographs: Path | None = None
    """A folder of images of 512 x 512 pixels or more. Default: the demo's that are so large."""
    sounds: Path | None = None
    """A folder of stereo sounds of 20 seconds or more, of which the last three are taken. Default: three tracks of the
    demo."""
    most: int = 6
    """Images at most: the first ones."""


def check_augmentation(settings: AugmentationSettings, sound_codec: str) -> None:
    """Refuse settings that cannot be measured.

    Raises:
        ValueError: No image at most, or no signal of a folder is large enough.
        FileNotFoundError: There is no such folder, or no signal in it.
    """
    check_at_least(settings, 1, ("most",))
    if settings.photographs is not None:
        read_photographs(settings)
    if settings.sounds is not None:
        read_sounds(settings, wt.load_codec(sound_codec))


@dataclass(frozen=True)
class Case:
    """One augmentation, of latents and of the signal ``(N, C, ...)``."""

    name: str
    latents: Callable[[Any], Any]
    signal: Callable[[Tensor], Tensor]


def image_cases(stride: int) -> list[Case]:
    """List what is done to images."""
    crop, cut = T.LatentCenterCrop(CELLS), partial(F.center_crop, output_size=[CELLS * stride] * 2)
    flip = T.LatentRandomHorizontalFlip(1)
    cases = [
        Case("nothing, rounding alone", lambda x: x, lambda x: x),
        Case("crop of 28 x 28 cells", crop, cut),
        Case("horizontal flip", flip, F.horizontal_flip),
        Case("flip, then crop", lambda x: crop(flip(x)), lambda x: cut(F.horizontal_flip(x))),
        Case("crop, then flip", lambda x: flip(crop(x)), lambda x: F.horizontal_flip(cut(x))),
    ]
    for name in ("brightness", "contrast", "saturation"):
        adjust: Any = getattr(F, f"adjust_{name}")
        for factor in (0.7, 1.3):
            jitter = T.LatentColorJitter(**{name: (factor, factor)})
            cases.append(Case(f"{name} {factor}", jitter, lambda x, adjust=adjust, factor=factor: adjust(x, factor)))
    return cases


def sound_cases(codec: wt.Codec, samples: int) -> list[Case]:
    """List what is done to sounds."""
    stride = codec.config.stride
    start = (samples // stride - FRAMES) // 2
    window = T.LatentRandomWindow(FRAMES, margin=start)  # there is one such window
    return [
        Case("nothing, rounding alone", lambda x: x, lambda x: x),
        Case(f"window of {FRAMES} frames", window, lambda x: x[..., start * stride : (start + FRAMES) * stride]),
        Case("gain -6 dB", T.LatentGain((-6, -6)), lambda x: x * 10 ** (-6 / 20)),
        Case("gain +6 dB", T.LatentGain((6, 6)), lambda x: x * 10 ** (6 / 20)),
        Case("polarity", T.LatentPolarity(1), lambda x: -x),
        Case("swapped channels", T.LatentSwapChannels(1), lambda x: x.flip(-2)),
    ]


def augmentation_part(codecs: Sequence[str], sound_codecs: Sequence[str], settings: AugmentationSettings) -> Record:
    """Measure all cases of all codecs; returns a record per codec and case, rings of crops, and noise."""
    results: Record = {"cases": [], "rings": [], "noise": []}
    photographs = read_photographs(settings)
    for name in tqdm(codecs, desc="augmented images", unit="codec"):
        codec = wt.load_codec(name)
        for case in image_cases(codec.config.stride):
            results["cases"].append({"codec": name, "case": case.name, **compare(case, photographs, codec)})
        results["rings"].append({"codec": name, **rings(photographs, codec)})
        results["noise"].append({"codec": name, "ratio": noise_ratio(photographs, codec)})
    for name in tqdm(sound_codecs, desc="augmented sounds", unit="codec"):
        codec = wt.load_codec(name)
        sounds = read_sounds(settings, codec)
        for case in sound_cases(codec, sounds.shape[-1]):
            results["cases"].append({"codec": name, "case": case.name, **compare(case, sounds, codec)})
        results["noise"].append({"codec": name, "ratio": noise_ratio(sounds, codec)})
    return results


def read_photographs(settings: AugmentationSettings) -> Tensor:
    """Read the middles of photographs, ``(N, 3, 512, 512)``, uint8.

    Raises:
        ValueError: None is large enough.
    """
    found = demo_photographs() if settings.photographs is None else map(read_image, image_files(settings.photographs))
    kept: list[Tensor] = []
    for image in found:
        if image is not None and min(image.size) >= SIDE:
            kept.append(F.center_crop(F.pil_to_tensor(image), [SIDE, SIDE]))
        if len(kept) == settings.most:
            break
    if not kept:
        raise ValueError(f"no photograph has {SIDE} x {SIDE} pixels")
    return torch.stack(kept)


def read_sounds(settings: AugmentationSettings, codec: wt.Codec) -> Tensor:
    """Read the beginnings of sounds, ``(N, 2, T)``, of an even number of frames, at half of full scale: gains fit.

    Raises:
        ValueError: None is long enough.
    """
    rate = codec.config.sample_rate or 44100
    length = SECONDS * rate // (2 * codec.config.stride) * 2 * codec.config.stride
    if settings.sounds is None:
        sounds = [sum(demo_track(seed, SECONDS + 1, rate).values(), torch.zeros(())) for seed in range(3)]
    else:
        sounds = [read_sound(file, rate) for file in sound_files(settings.sounds)[-3:]]
    kept = [full_scale(sound[:, :length]) / 2 for sound in sounds if sound.shape[-1] >= length]
    if not kept:
        raise ValueError(f"no sound has {SECONDS} seconds")
    return torch.stack(kept)


def compare(case: Case, signals: Tensor, codec: wt.Codec) -> Record:
    """Compare both ways, unrounded and in int8: what is missed, in percent, and PSNR of decoding linearly.

    ``unchanged`` is what latents miss that nothing is done to.
    """
    changed, expected = case.signal(signals), wt.WallocEncode(codec)(case.signal(signals))
    record: Record = {}
    for kind, options in (("float", {}), ("int8", {"quantize": True, "dtype": torch.int8})):
        encode = wt.WallocEncode(codec, **options)
        before, fresh = encode(signals), encode(changed)
        ours = case.latents(before)
        record[f"missed {kind}"] = missed(ours, expected, codec)
        if before.shape == expected.shape:
            record["unchanged"] = missed(before, expected, codec)
        record[f"psnr {kind}"] = mean_psnr(changed, wt.WallocDecode(codec)(ours))
        record[f"fresh psnr {kind}"] = mean_psnr(changed, wt.WallocDecode(codec)(fresh))
    return record


def missed(ours: Tensor, expected: Tensor, codec: wt.Codec) -> float:
    """The squared error of latents in percent of the variance of all channels together."""
    axis = -codec.config.dims - 1
    a, b = ours[...].float().transpose(0, axis).flatten(1), expected[...].float().transpose(0, axis).flatten(1)
    return 100 * float((a - b).square().sum() / (b - b.mean(1, keepdim=True)).square().sum())


def mean_psnr(signals: Tensor, decoded: Tensor) -> float:
    """Average PSNR in dB over signals."""
    if signals.dtype == torch.uint8:
        decoded = to_8_bits(decoded)
    return sum(psnr(a, b) for a, b in zip(signals, decoded, strict=True)) / len(signals)


def rings(photographs: Tensor, codec: wt.Codec) -> Record:
    """Measure how far every ring of cells of a crop is from the cropped image's latents, in percent of the variance.

    What is compared with wraps around at the border of the crop, where the crop of latents knows the whole image.
    """
    stride, first = codec.config.stride, (SIDE // codec.config.stride - CELLS) // 2
    encode = wt.WallocEncode(codec)
    crop = T.LatentCenterCrop(CELLS)(encode(photographs))
    start, side = first * stride, CELLS * stride
    fresh = encode(photographs[..., start : start + side, start : start + side])
    total = fresh[...].var((0, 2, 3)).sum()
    errors = (crop[...] - fresh[...]).square().mean(0).sum(0) / total * 100
    n = torch.arange(CELLS)
    depth = torch.minimum(n, CELLS - 1 - n)
    depth = torch.minimum(depth[:, None], depth)
    return {"all": float(errors.mean()), "rings": [float(errors[depth == ring].mean()) for ring in range(RINGS)]}


def noise_ratio(signals: Tensor, codec: wt.Codec) -> list[float]:
    """Spread of the noise that ``LatentNoise`` adds to expanded latents, over that of noise on signals, by channel.

    The signals are gray or silent, so that nothing is clipped.
    """
    still = torch.full(signals[:1].shape, 0.5 if codec.config.modality == "image" else 0.0)
    torch.manual_seed(0)
    encode = wt.WallocEncode(codec)
    latents = encode(still)
    spreads = [
        (codec.expand(x[...]) - codec.expand(latents[...])).transpose(0, 1).flatten(1).std(1)
        for x in (T.LatentNoise(NOISE)(latents), encode(still + NOISE * torch.randn_like(still)))
    ]
    return (spreads[0] / spreads[1]).tolist()


def augmentation_report(results: Record) -> str:
    """Write what was measured as Markdown tables."""
    heads = ["codec", "change", "missed, %", "int8", "done nothing", "PSNR: change, encode", "encode, change"]
    heads += ["int8: change, encode", "encode, change"]
    names = ("missed float", "missed int8", "unchanged")
    psnrs = ("fresh psnr float", "psnr float", "fresh psnr int8", "psnr int8")
    rows = [
        [f"`{r['codec']}`", r["case"], *(figure(r.get(n), 3) for n in names), *(figure(r[n], 2) for n in psnrs)]
        for r in results["cases"]
    ]
    ring_heads = ["codec", "all", *("outermost" if i == 0 else f"{i + 1}." for i in range(RINGS))]
    ring_rows = [[f"`{r['codec']}`", *(figure(x, 3) for x in (r["all"], *r["rings"]))] for r in results["rings"]]
    noise = [f"`{r['codec']}`: {min(r['ratio']):.3f} to {max(r['ratio']):.3f}" for r in results["noise"]]
    return "\n\n".join(
        [
            "## Augmented latents, against latents of augmented signals",
            markdown_table(heads, rows, text_columns=2),
            "Rings of cells of a crop, against encoding the cropped image; squared error in percent of the variance:",
            markdown_table(ring_heads, ring_rows),
            f"Spread of LatentNoise over that of noise on signals, lowest and highest channel: {'; '.join(noise)}.",
        ]
    )

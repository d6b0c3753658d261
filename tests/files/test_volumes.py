"""Latent files of volumes: what differs from those of images."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch

import walloc_transforms as wt
from tests.codec.test_volumes import moving
from tests.files.test_wlc import MOST, codes, read_bytes, with_crc, write, written
from walloc_transforms.files import read_header

# version, coder zlib, int8, a volume; (2, 3, 2, 4) of (9, 16, 30); 30000/1001 frames per second; "clips"; fingerprint;
# two streams; which steps are differences; CRC-32
GOLDEN = (
    "89574c430d0a1a0a010101030203020409101eb0ea01e90705636c697073"
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    "121310006360640003560686df0c0c9c0c50c008000063808206a3bfec510c0cfbfe3380002303001c97f669"
)
GOLDEN_LATENTS = [
    [[[0, 1, 0, 0], [0, 0, 0, 0]], [[5, 0, 0, -5], [0, 0, 9, 0]], [[0, 0, 0, 0], [0, 0, 0, 1]]],
    [[[0, 0, 0, 0], [0, 0, 0, 0]], [[-128, 50, -3, 7], [90, 0, 0, -66]], [[127, 50, -3, 7], [90, 0, 1, -66]]],
]


@pytest.fixture(scope="module")
def codec() -> wt.Codec:
    clips = [moving(frames=8, side=24, seed=seed) for seed in range(4)]
    return wt.fit_codec(clips, levels=(1, 2, 2), channels=6, progress=False)


def test_format_is_stable(tmp_path: Path) -> None:
    read = read_bytes(tmp_path, bytes.fromhex(GOLDEN))
    assert read.latents.tolist() == GOLDEN_LATENTS
    assert (read.codec, read.size, read.frame_rate, read.sample_rate) == (
        "clips",
        (9, 16, 30),
        Fraction(30000, 1001),
        None,
    )


def test_save_and_load(codec: wt.Codec, tmp_path: Path) -> None:
    latents = wt.functional.encode_volume(moving(frames=9, side=21), codec, quantize=True)
    wt.save_latents(tmp_path / "clip.wlc", latents, codec, frame_rate=29.97003)
    stored = wt.load_latents(tmp_path / "clip.wlc")
    assert (stored.size, stored.shape, stored.frame_rate) == ((9, 21, 21), (6, 5, 6, 6), Fraction(30000, 1001))
    assert torch.equal(stored.latents.float(), latents)
    volume = wt.functional.decode_volume(stored.latents, wt.stored_codec(stored, codec))
    assert torch.equal(volume, wt.functional.decode_volume(latents, codec))
    few = wt.load_latents(tmp_path / "clip.wlc", channels=2)
    assert torch.equal(few.latents.float(), latents[:2])
    assert wt.stored_codec(few, codec).decode(few.latents, size=few.size).shape == (3, 9, 21, 21)
    with pytest.raises(ValueError, match=r"a signal of size \(12, 21, 21\) has latents of \(6, 6, 6\)"):
        wt.save_latents(tmp_path / "x.wlc", latents.as_subclass(torch.Tensor), codec, size=(12, 21, 21))
    with pytest.raises(ValueError, match=r"has latents of shape \(6, t, h, w\), got \(6, 6, 6\)"):
        wt.save_latents(tmp_path / "x.wlc", latents[:, 0], codec, size=(9, 21, 21))


@pytest.mark.parametrize("coder", ["zlib", "webp"])
def test_what_rests_takes_little(tmp_path: Path, coder: str) -> None:
    scene = codes(4, 1, 16, 16)
    rests = write(tmp_path / "a.wlc", scene + codes(1, 12, 1, 1) // 40, coder=coder)
    assert rests < 2 * write(tmp_path / "b.wlc", scene, coder=coder)
    assert torch.equal(wt.load_latents(tmp_path / "a.wlc").latents, scene + codes(1, 12, 1, 1) // 40)


def test_steps(codec: wt.Codec, tmp_path: Path) -> None:
    clip = moving(frames=16, seed=9)
    steps = wt.functional.rounding_steps(clip, codec, loss=0.2)
    latents = codec.encode(clip)
    wt.save_latents(tmp_path / "a.wlc", latents, codec, size=clip.shape[1:], steps=steps)

    def psnr(latents: torch.Tensor) -> float:
        return float(-10 * (codec.decode(latents) - clip / 255).square().mean().log10())

    assert psnr(latents) - 0.2 <= psnr(wt.load_latents(tmp_path / "a.wlc").latents) < psnr(latents) - 0.1


@pytest.mark.parametrize(
    ("start", "replaced", "by", "match"),
    [
        (12, 2, MOST * 2, "does not have latents of shape"),
        (12, 8, MOST * 8, "cannot hold latents"),
        (12, 1, MOST, "cannot hold latents"),
        (19, 2, b"\0\0", "fraction in lowest terms, got 0/0"),
        (19, 2, b"\x32\2", "fraction in lowest terms, got 50/2"),
        (-1, 1, b"\1", "more differences than steps of time"),
        (-1, 1, b"", "streams and padding have"),
    ],
)
def test_forged(start: int, replaced: int, by: bytes, match: str, tmp_path: Path) -> None:
    content = written(tmp_path, codes(3, 2, 4, 5), frame_rate=25)[:-4]
    assert content[11:21] == b"\3\3\2\4\5\x10\x20\x28\x19\1"
    if start < 0:
        start = len(content) - sum(read_header(tmp_path / "x.wlc").stream_lengths) - 1
    forged = with_crc(content[:start] + by + content[start + replaced :])
    with pytest.raises(ValueError, match=match):
        read_bytes(tmp_path, forged)

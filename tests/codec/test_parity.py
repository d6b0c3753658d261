"""Beside the reference implementation itself, at full size, with the same random weights.

    pip install -e ".[parity]" && pytest tests/codec/test_parity.py

Encoding must agree to 1e-3, rounded latents but for one in a thousand off by one, decoding to 1e-4.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import walloc_transforms as wt
from tests.reference import Case, make_case, make_state, run_reference
from walloc_transforms.codec import Codec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports is deprecated
    reference = pytest.importorskip(
        "walloc.walloc", reason='compares with the reference implementation: pip install -e ".[parity]"'
    )

_RGB = {"Ne": None, "Nd": 768, "latent_bits": 8, "lightweight_encode": True}
_STEREO = {"channels": 2, "J": 8, **_RGB, "post_filter": True}
IMAGES = [(256, 256), (512, 768), (500, 741)]  # the last is no multiple of anything
SECONDS = [(2**18,)]
RELEASED = {
    "RGB_16x": (make_case("Codec2D", (), channels=3, J=3, latent_dim=12, **_RGB), IMAGES),
    "RGB_4x": (make_case("Codec2D", (), channels=3, J=3, latent_dim=48, **_RGB), IMAGES),
    "stereo_5x": (make_case("Codec1D", (), latent_dim=108, **_STEREO), SECONDS),
    "stereo_20x": (make_case("Codec1D", (), latent_dim=27, **_STEREO), SECONDS),
}
OTHERS = {
    "linear": (make_case("LinearCodec2D", (), channels=3, J=4, latent_dim=48, latent_bits=8), IMAGES),
    "residual": (make_case("ResidualCodec2D", (), channels=3, J=3, latent_dim=12, latent_bits=8, num_stages=4), IMAGES),
    "deep": (
        make_case(
            "Codec2D", (), channels=3, J=4, Ne=128, Nd=128, latent_dim=48, latent_bits=4, lightweight_encode=False
        ),
        IMAGES,
    ),
    "stereo_deep": (
        make_case(
            "Codec1D",
            (),
            channels=2,
            J=8,
            Ne=96,
            Nd=96,
            latent_dim=48,
            latent_bits=8,
            lightweight_encode=False,
            post_filter=False,
        ),
        SECONDS,
    ),
}
ALL = {**RELEASED, **OTHERS}


def build(name: str, case: Case, folder: Path) -> tuple[Any, Codec]:
    model = getattr(reference, case.kind)(**case.arguments).eval()
    taps = {key: value for key, value in model.state_dict().items() if key.startswith(("wt.", "iwt."))}
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key not in taps}
    state = {**make_state(shapes, volume=1e-4), **taps}
    model.load_state_dict(state)
    torch.save({"model_state_dict": state, "config": case.settings}, folder / f"{name}.pth")
    return model, wt.load_codec(str(folder / f"{name}.pth"))


def public(signal: Tensor) -> Tensor:
    """From the reference's range, [-0.5, 0.5], to that of images ``(N, C, H, W)`` or waveforms ``(N, C, T)``."""
    return signal + 0.5 if signal.ndim == 4 else 2 * signal


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_parity(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, sizes = ALL[name]
    model, codec = build(name, case, tmp_path)
    for size in sizes:
        x = torch.rand(1, case.arguments["channels"], *size) - 0.5
        if len(size) == 2:  # as the reference pads an image itself; where it need not, it does nothing
            x = reference.pad(x, 2 ** case.arguments["J"])
        expected = run_reference(model, x, case.arguments["J"])
        rounded = codec.encode(public(x), rounding="round")
        off = (rounded - expected["rounded"]).abs()
        decoded = codec.decode(expected["rounded"], clamp=name == "residual")
        report = {
            "rounded": float((off > 0).float().mean()),
            "decoded": difference(decoded, public(expected["decoded"])),
            "of magnitude": float(expected["decoded"].abs().max()),
        }
        if "latents" in expected:
            report["latents"] = difference(codec.encode(public(x)), expected["latents"])
            assert report["latents"] <= 1e-3
        with capsys.disabled():
            print(f"{name} {tuple(x.shape)}:", ", ".join(f"{key} {value:.1e}" for key, value in report.items()))
        # Where one stage of four is off by one, what the next ones see is another signal.
        assert off[:, : case.arguments["latent_dim"]].max() <= 1
        assert report["rounded"] <= 1e-3
        assert report["decoded"] <= 1e-4


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert float(b.std()) > 0.02
    return float((a - b).abs().max())


def test_sides_that_are_no_multiple(tmp_path: Path) -> None:
    """There the reference repeats samples and its borders are wrong; ours reflects. Inside both agree."""
    model, codec = build("linear", OTHERS["linear"][0], tmp_path)
    x = torch.rand(1, 3, 250, 330) - 0.5
    expected = run_reference(model, x, 4)["latents"]
    latents = codec.encode(public(x))
    assert latents.shape == expected.shape
    assert float((latents - expected)[..., 4:-5, 4:-5].abs().max()) <= 1e-3  # a latent reaches 4 cells far


def test_mosaics(tmp_path: Path) -> None:
    """Latents as pictures: the bytes of the reference's, and its reader reads ours."""

    for channels, planes, mode in [(12, 3, "RGB"), (48, 3, "RGB"), (16, 1, "L"), (16, 4, "CMYK")]:
        latents = torch.randint(-127, 128, (2, channels, 5, 7)).float()
        theirs = reference.latent_to_pil(latents, 8, planes)
        ours = wt.functional.latents_to_pil(latents, mode)
        for a, b in zip(theirs, ours, strict=True):
            assert a.mode == b.mode
            assert np.array_equal(np.asarray(a), np.asarray(b))
        assert torch.equal(reference.pil_to_latent(ours, channels, 8, planes), latents)
        assert torch.equal(wt.functional.pil_to_latents(theirs, channels).float(), latents)

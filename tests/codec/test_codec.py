import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import walloc_transforms as wt
from tests.helpers import (
    BACKENDS,
    PRODUCTS,
    assert_close_float32,
    give_refiner,
    loaded_refiner,
    make_codec,
    make_refiner,
    reference_decode,
    reference_encode,
    signal,
)
from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.codec.refiner import Refiner
from walloc_transforms.wavelets import Backend

DTYPES = [torch.float16, torch.bfloat16, torch.float64]
# channels, levels, signal channels, size
GEOMETRIES = [
    (12, 3, 3, (40, 48)),
    (48, 3, 3, (16, 24)),
    (192, 3, 3, (17, 11)),
    (12, 4, 1, (16, 33)),
    (4, 1, 3, (2, 5)),
    (8, 4, 2, (100,)),
    (24, 8, 2, (600,)),
]


@pytest.fixture(scope="module")
def frozen() -> Codec:
    """One codec for all tests that do not change it."""
    return make_codec()


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize(("channels", "levels", "signals", "size"), GEOMETRIES)
def test_encode(channels: int, levels: int, signals: int, size: tuple[int, ...], plain: bool) -> None:
    codec = make_codec(channels, levels, signals, len(size)).requires_grad_(plain)
    x = signal(3, signals, *size)
    expected = reference_encode(codec, x)
    assert expected.abs().max() > 64  # the test uses the range
    assert expected.shape == (3, channels, *[-(-side // 2**levels) for side in size])
    assert_close(codec.encode(x).detach(), expected, rtol=0, atol=1e-3)
    off = (codec.encode(x, rounding="round").detach() - expected.round()).abs()
    assert off.max() <= 1
    assert off.mean() <= 1e-3


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("channels", "levels", "signals", "size"), GEOMETRIES)
def test_decode(channels: int, levels: int, signals: int, size: tuple[int, ...], rounded: bool, plain: bool) -> None:
    codec = make_codec(channels, levels, signals, len(size)).requires_grad_(plain)
    latents = reference_encode(codec, signal(3, signals, *size))
    latents = latents.round() if rounded else latents
    expected = reference_decode(codec, latents, clamp=False)
    assert_close(codec.decode(latents, clamp=False).detach(), expected, rtol=0, atol=1e-3)
    low = 0.0 if len(size) == 2 else -1.0
    cropped = expected[(..., *map(slice, size))].clamp(low, 1)
    assert_close(codec.decode(latents, size=size).detach(), cropped, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("levels", "size"), [(3, (40, 48)), (3, (8, 8)), (3, (17, 11)), (3, (8, 15)), (2, (4, 7)), (4, (40,)), (6, (300,))]
)
def test_codec_of_all_channels_reconstructs(levels: int, size: tuple[int, ...]) -> None:
    codec = make_codec(3 * 2 ** (levels * len(size)), levels, 3, len(size), gain=60)
    x = signal(2, 3, *size)
    assert_close(codec.decode(codec.encode(x), size=size), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("batch", [(), (0,), (5, 0), (1,), (2, 3)])
@pytest.mark.parametrize("size", [(16, 24), (17, 11), (40,)])
def test_batch_dimensions(batch: tuple[int, ...], size: tuple[int, ...]) -> None:
    codec = make_codec(12, 3, 3, len(size))
    x = signal(*batch, 3, *size)
    latents = codec.encode(x)
    grid = tuple(-(-side // 8) for side in size)
    assert latents.shape == (*batch, 12, *grid)
    decoded = codec.decode(latents, size=size)
    assert decoded.shape == x.shape
    for one, many, back in zip(
        x.reshape(-1, 3, *size), latents.reshape(-1, 12, *grid), decoded.reshape(-1, 3, *size), strict=True
    ):
        assert_close(codec.encode(one), many, rtol=0, atol=1e-3)
        assert_close_float32(codec.decode(many, size=size), back, terms=PRODUCTS, factor=8)


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize("size", [(16, 24), (17, 11), (300,)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_give_the_latents_of_float32(dtype: torch.dtype, size: tuple[int, ...], plain: bool) -> None:
    codec = make_codec(12, 3, 3, len(size)).requires_grad_(plain)
    x = torch.randint(0, 256, (2, 3, *size)) / 256  # which every float type holds exactly
    latents = codec.encode(x.to(dtype))
    assert latents.dtype == torch.float32
    assert torch.equal(latents, codec.encode(x))


# dtype, its values and the floats that they mean, for images and for waveforms
VALUES = [
    (2, torch.uint8, [0, 255, 51], [0.0, 1.0, 0.2]),
    (2, torch.uint16, [0, 65535, 13107], [0.0, 1.0, 0.2]),
    (1, torch.uint8, [0, 128, 192], [-1.0, 0.0, 0.5]),
    (1, torch.int16, [-32768, 0, 16384], [-1.0, 0.0, 0.5]),
    (1, torch.int32, [-(2**31), 0, 2**30], [-1.0, 0.0, 0.5]),
]


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize(("dims", "dtype", "values", "meant"), VALUES)
def test_integers_mean_what_their_dtype_says(
    dims: int, dtype: torch.dtype, values: list[int], meant: list[float], plain: bool
) -> None:
    codec = make_codec(dims=dims).requires_grad_(plain)
    chosen = torch.randint(3, (2, 3, *[24] * dims))
    latents = codec.encode(torch.tensor(values)[chosen].to(dtype)).detach()
    assert_close(latents, codec.encode(torch.tensor(meant)[chosen]).detach(), rtol=0, atol=1e-3)
    transform = wt.functional.encode_image if dims == 2 else wt.functional.encode_waveform
    assert torch.equal(latents, transform(torch.tensor(values)[chosen].to(dtype), codec).detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int16])
def test_decode_dtypes(frozen: Codec, dtype: torch.dtype) -> None:
    codes = frozen.encode(signal(2, 3, 16, 24), rounding="round")
    decoded = frozen.decode(codes.to(dtype))
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, frozen.decode(codes))


def test_nothing_depends_on_the_mode(frozen: Codec) -> None:
    x = signal(2, 3, 17, 11)
    again = make_codec()
    again.load_state_dict(frozen.state_dict())
    codecs = (frozen, frozen.train(), frozen.eval(), again)
    results = [(codec.encode(x), codec.decode(codec.encode(x, rounding="round"))) for codec in codecs]
    for latents, decoded in results[1:]:
        assert torch.equal(latents, results[0][0])
        assert torch.equal(decoded, results[0][1])


def test_rounding(frozen: Codec) -> None:
    x = signal(4, 3, 64, 64)
    latents = frozen.encode(x)
    assert torch.equal(frozen.encode(x, rounding="none"), latents)
    assert torch.equal(frozen.encode(x, rounding="round"), latents.round())
    assert latents.round().abs().max() <= 127
    noise = frozen.encode(x, rounding="noise") - latents
    assert noise.abs().max() <= 0.5 + 1e-4
    assert noise.mean().abs() < 0.02
    assert not torch.equal(frozen.encode(x, rounding="noise") - latents, noise)
    with pytest.raises(ValueError, match=r"rounding must be one of 'none', 'round', 'noise', got True"):
        frozen.encode(x, rounding=True)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("channels", "levels", "signals", "size"), [(12, 3, 3, (16, 24)), (8, 4, 2, (100,))])
def test_normalize(channels: int, levels: int, signals: int, size: tuple[int, ...]) -> None:
    codec = make_codec(channels, levels, signals, len(size))
    latents = codec.encode(signal(2, signals, *size))
    normalized = codec.normalize(latents)
    for d in range(channels):
        assert_close(normalized[:, d], (latents[:, d] - codec.latent_mean[d]) / codec.latent_std[d])
    assert_close(codec.denormalize(normalized), latents, rtol=0, atol=1e-4)
    assert_close(codec.normalize(latents[0]), normalized[0])


@pytest.mark.parametrize("channels", [1, 5, 12])
def test_prefix_is_the_first_channels(frozen: Codec, channels: int) -> None:
    x, shorter = signal(2, 3, 16, 24), frozen.prefix(channels)
    latents = frozen.encode(x)
    assert shorter.config.channels == channels
    assert_close(shorter.encode(x), latents[:, :channels], rtol=0, atol=1e-4)
    assert_close(shorter.normalize(latents[:, :channels]), frozen.normalize(latents)[:, :channels])
    silent = latents.clone()
    silent[:, channels:] = 0
    assert_close_float32(shorter.decode(latents[:, :channels]), frozen.decode(silent), terms=PRODUCTS, factor=8)
    assert not any(p.requires_grad for p in shorter.parameters())


@pytest.mark.parametrize("channels", [0, 13, -1])
def test_prefix_refuses(frozen: Codec, channels: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 12, got {channels}"):
        frozen.prefix(channels)


ENCODE_ERRORS = [
    (lambda: torch.rand(16, 16), ValueError, r"'random' expects signals of shape \(..., 3, H, W\), got \(16, 16\)"),
    (lambda: torch.rand(16), ValueError, r"got \(16,\)"),
    (lambda: torch.rand(4, 16, 16), ValueError, r"\(..., 3, H, W\), got \(4, 16, 16\)"),
    (lambda: torch.rand(16, 16, 3), ValueError, r"\(..., 3, H, W\), got \(16, 16, 3\)"),
    (lambda: torch.ones(3, 16, 16, dtype=torch.int64), TypeError, "dtype uint8, uint16 or float, got torch.int64"),
    (lambda: torch.ones(3, 16, 16, dtype=torch.bool), TypeError, "got torch.bool"),
    (lambda: torch.ones(3, 16, 16, dtype=torch.complex64), TypeError, "got torch.complex64"),
    (lambda: torch.rand(3, 16, 16).numpy(), TypeError, r"tensor of shape \(..., 3, H, W\), got ndarray"),
    (lambda: [1.0], TypeError, "got list"),
    (lambda: torch.rand(3, 7, 16), ValueError, "got 7x16 samples, expected at least 8"),
    (lambda: torch.rand(2, 3, 16, 1), ValueError, "got 16x1 samples, expected at least 8"),
    (lambda: torch.rand(2, 3, 16, 0), ValueError, r"without samples: shape \(2, 3, 16, 0\)"),
    (lambda: torch.full((3, 16, 16), torch.nan), ValueError, "NaN or infinite"),
    (lambda: torch.rand(2, 3, 16, 16).index_fill(3, torch.tensor(5), -torch.inf), ValueError, "NaN or infinite"),
]


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize(("make", "error", "match"), ENCODE_ERRORS)
def test_encode_refuses(make, error: type[Exception], match: str, plain: bool) -> None:
    codec = make_codec().requires_grad_(plain)
    with pytest.raises(error, match=match):
        codec.encode(make())


def test_mono_for_a_stereo_codec() -> None:
    codec = make_codec(8, 4, 2, 1)
    for shape in ((1, 160), (5, 1, 160)):
        with pytest.raises(
            ValueError, match=r"got \(.*1, 160\): repeat the one channel, with .repeat_interleave\(2, -2\)"
        ):
            codec.encode(torch.rand(shape))
    assert codec.encode(torch.rand(5, 1, 160).repeat_interleave(2, -2)).shape == (5, 8, 10)
    for shape in ((160,), (3, 160)):
        with pytest.raises(ValueError, match=r"got \(.*160,?\)$"):
            codec.encode(torch.rand(shape))


def test_audio_codec_refuses_images() -> None:
    with pytest.raises(ValueError, match=r"\(..., 2, T\), got \(3, 16, 16\)"):
        make_codec(8, 4, 2, 1).encode(torch.rand(3, 16, 16))


@pytest.mark.parametrize(
    ("shape", "dtype", "size", "error", "match"),
    [
        ((11, 2, 2), torch.float32, None, ValueError, r"latents of shape \(..., 12, H, W\), got \(11, 2, 2\)"),
        ((12, 2), torch.float32, None, ValueError, r"got \(12, 2\)"),
        ((12, 0, 2), torch.float32, None, ValueError, "without samples"),
        ((12, 2, 2), torch.uint8, None, TypeError, "int8 or int16 latents, got torch.uint8"),
        ((12, 2, 2), torch.float32, (16,), ValueError, r"size must be \(H, W\) for codec .*, got \(16,\)"),
        ((12, 2, 2), torch.float32, (3, 16, 16), ValueError, r"got \(3, 16, 16\)"),
        (
            (12, 2, 2),
            torch.float32,
            (17, 16),
            ValueError,
            "size 17x16 does not belong .* hold 16x16 samples, at most 7",
        ),
        ((12, 2, 2), torch.float32, (16, 8), ValueError, "size 16x8 does not belong"),
        ((12, 2, 2), torch.float32, (16, -1), ValueError, "size must be"),
    ],
)
def test_decode_refuses(frozen: Codec, shape, dtype, size, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        frozen.decode(torch.zeros(shape, dtype=dtype), size=size)


OUT_OF_RANGE = [
    ("rgb_16x", lambda x: x * 255, r"float images in \[0, 1\], got values from .* 0..255 as floats\? Pass uint8"),
    ("rgb_4x", lambda x: x * 255, "0..255 as floats"),
    ("rgb_16x", lambda x: (x - 0.45) / 0.225, "normalized pixels"),
    ("rgb_4x_viewing", lambda x: (x - 0.45) / 0.225, "normalized pixels"),
    ("rgb_4x", lambda x: x * 2 - 1, "normalized pixels"),
    ("stereo_5x", lambda x: x * 32767, r"float waveforms in \[-1, 1\], got values .*: PCM as floats\?"),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("name", "change", "match"), OUT_OF_RANGE)
def test_floats_out_of_range(name: str, change: Callable[[Tensor], Tensor], match: str, threads: int) -> None:
    codec = wt.load_codec(name)
    ramp = torch.linspace(0, 1, 2560).expand(2, -1)
    x = ramp if codec.config.dims == 1 else ramp.view(2, 40, 64)[:1].expand(3, -1, -1)
    assert codec.encode(x).isfinite().all()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch in (change(x), torch.stack([*[x] * 9, change(x)])):  # and one among others
            with pytest.raises(ValueError, match=match):
                codec.encode(batch)
    finally:
        torch.set_num_threads(before)


def test_overshoot_of_resampling_is_in_range() -> None:
    edges = (torch.rand(3, 64, 64) > 0.5).float()
    larger = torch.nn.functional.interpolate(edges[None], (128, 128), mode="bicubic")
    assert larger.max() > 1.1
    for name in ("rgb_16x", "rgb_4x"):
        assert wt.load_codec(name).encode(larger).isfinite().all()
    assert wt.load_codec("stereo_5x").encode(1.9 * torch.randn(2, 4000).sign()).isfinite().all()


@pytest.fixture(scope="module")
def refined() -> Codec:
    return give_refiner(make_codec(), blocks=2)


@pytest.mark.parametrize("path", [*BACKENDS, "plain", "trainable head"])
@pytest.mark.parametrize(("name", "size"), [("rgb_16x", (17, 11)), ("rgb_4x", (40, 24)), ("stereo_20x", (2050,))])
def test_decode_with_a_refiner(name: str, size: tuple[int, ...], path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = give_refiner(wt.load_codec(name), blocks=2)
    latents = codec.encode(signal(2, codec.config.signal_channels, *size), rounding="round")
    expected, linear = (reference_decode(codec, latents, refined, clamp=False) for refined in (True, False))
    assert (expected - linear).abs().mean() > 0.05  # the refiner has a say
    if path == "plain":
        codec.requires_grad_()
    elif path == "trainable head":
        loaded_refiner(codec).head.requires_grad_()
    else:
        codec.backend = cast(Backend, path)
        monkeypatch.setattr(codec, "synthesis", None)
    decoded = codec.decode(latents, decoder="refiner", clamp=False)
    assert decoded.dtype == torch.float32
    assert decoded.requires_grad is (path in ("plain", "trainable head"))
    assert_close(decoded, expected, rtol=0, atol=1e-4)
    low = 0.0 if codec.config.dims == 2 else -1.0
    assert expected.min() < low < 1 < expected.max()
    clamped = expected.clamp(low, 1)[(..., *map(slice, size))]
    assert_close(codec.decode(latents, size=size, decoder="refiner"), clamped, rtol=0, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize(("channels", "levels", "signals", "size"), GEOMETRIES)
def test_refiners_of_all_geometries(
    channels: int, levels: int, signals: int, size: tuple[int, ...], plain: bool
) -> None:
    codec = give_refiner(make_codec(channels, levels, signals, len(size))).requires_grad_(plain)
    latents = reference_encode(codec, signal(3, signals, *size))
    expected = reference_decode(codec, latents, refined=True)
    assert_close(codec.decode(latents, decoder="refiner").detach(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dims", [1, 2])
def test_untrained_refiner_is_the_linear_decoder(dims: int) -> None:
    codec = make_codec(dims=dims)
    c, latents = codec.config, codec.encode(signal(2, 3, *[72] * dims))
    linear = codec.decode(latents)
    codec.set_refiner(Refiner(c.channels, c.packets, 8, 1, dims))
    assert_close_float32(codec.decode(latents, decoder="refiner"), linear, terms=PRODUCTS, factor=8)
    linear = codec.requires_grad_().decode(latents)
    assert torch.equal(codec.decode(latents, decoder="refiner"), linear)


def test_a_refiner_changes_nothing_else() -> None:
    codec, x = make_codec(), signal(2, 3, 17, 24)
    latents, fingerprint = codec.encode(x), codec.fingerprint()
    decoded = codec.decode(latents)
    give_refiner(codec)
    assert (codec.config.refiner_width, codec.config.refiner_blocks) == (8, 1)
    assert codec.fingerprint() == fingerprint
    assert torch.equal(codec.encode(x), latents)
    assert torch.equal(codec.decode(latents), decoded)
    assert torch.equal(codec.decode(latents, decoder="linear"), decoded)
    assert not torch.allclose(codec.decode(latents, decoder="refiner"), decoded, atol=0.05)
    assert codec.fingerprint() == fingerprint


@pytest.mark.parametrize("batch", [(), (0,), (5, 0), (1,), (2, 3)])
@pytest.mark.parametrize("size", [(16, 24), (17, 11), (40,)])
def test_batch_dimensions_with_a_refiner(batch: tuple[int, ...], size: tuple[int, ...]) -> None:
    codec = give_refiner(make_codec(12, 3, 3, len(size)))
    grid = tuple(-(-side // 8) for side in size)
    latents = 40 * torch.randn(*batch, 12, *grid)
    decoded = codec.decode(latents, size=size, decoder="refiner")
    assert decoded.shape == (*batch, 3, *size)
    assert torch.equal(codec.decode(latents, size=size, decoder="refiner"), decoded)
    for many, back in zip(latents.reshape(-1, 12, *grid), decoded.reshape(-1, 3, *size), strict=True):
        assert_close(codec.decode(many, size=size, decoder="refiner"), back, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int16])
def test_dtypes_with_a_refiner(refined: Codec, dtype: torch.dtype) -> None:
    codes = refined.encode(signal(2, 3, 16, 24), rounding="round")
    decoded = refined.decode(codes.to(dtype), decoder="refiner")
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, refined.decode(codes, decoder="refiner"))


@pytest.mark.parametrize("tile", [8, 24, 40, 1 << 20])
@pytest.mark.parametrize("size", [(90, 75), (800,)])
def test_tiles_of_a_refiner(size: tuple[int, ...], tile: int) -> None:
    codec = give_refiner(make_codec(dims=len(size)))
    latents, tiles = codec.encode(signal(2, 3, *size)), []
    whole = codec.decode(latents, size=size, decoder="refiner")
    loaded_refiner(codec).stem.register_forward_hook(lambda *args: tiles.append(args))
    assert_close(codec.decode(latents, size=size, decoder="refiner", tile=tile), whole, rtol=0, atol=1e-4)
    assert len(tiles) == math.prod(-(-side // tile) for side in size)
    with pytest.raises(ValueError, match=f"tile must be a multiple of 8 samples, .* got {tile + 1}"):
        codec.decode(latents, decoder="refiner", tile=tile + 1)


def test_padded_latents_with_a_refiner() -> None:
    codec = give_refiner(make_codec(8, 4, 2, 1, pad=1))
    latents = codec.encode(signal(2, 2, 300))
    expected = reference_decode(codec, latents[..., 1:-1], refined=True)
    assert_close(codec.decode(latents, decoder="refiner"), expected, rtol=0, atol=1e-3)


def refined_prefix(codec: Codec, latents: Tensor, channels: int) -> Tensor:
    """Decode with the other latents at their mean for the refiner, and at zero for the linear decoder."""
    refiner, silent = loaded_refiner(codec), latents.clone()
    silent[:, channels:] = 0
    normal = codec.normalize(latents)
    normal[:, channels:] = 0
    centered = codec.synthesis(codec.decoder(codec.expand(silent)) + refiner.packets(refiner(normal)))
    return (centered + 0.5).clamp(0, 1) if codec.config.dims == 2 else (centered * 2).clamp(-1, 1)


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("size", [(17, 24), (100,)])
@pytest.mark.parametrize("channels", [1, 5, 12])
def test_prefix_with_a_refiner(size: tuple[int, ...], channels: int, loaded: bool, tmp_path: Path) -> None:
    whole = give_refiner(make_codec(dims=len(size)), blocks=2)
    latents = whole.encode(signal(2, 3, *size))
    expected = refined_prefix(whole, latents, channels)
    whole.save_pretrained(tmp_path)
    codec = whole if loaded else Codec.from_pretrained(tmp_path)
    shorter = codec.prefix(channels)
    assert (shorter is codec) is (channels == 12)
    assert shorter.config.refiner_width == 8
    assert (shorter.refiner is None) is (codec.refiner is None) is not loaded
    again = codec.prefix(max(channels, 7)).prefix(channels)
    pickled = pickle.loads(pickle.dumps(shorter))
    for other in (shorter, again, pickled):
        decoded = other.decode(latents[:, :channels], decoder="refiner")
        assert_close(decoded, expected, rtol=0, atol=1e-4)
    assert not any(p.requires_grad for p in shorter.parameters())


def test_prefix_has_a_refiner_of_its_own() -> None:
    codec = give_refiner(make_codec())
    latents = codec.encode(signal(1, 3, 16, 24))
    shorter, other = codec.prefix(5), codec.prefix(5)
    decoded = [c.decode(latents[:, : c.config.channels], decoder="refiner") for c in (codec, other)]
    with torch.no_grad():
        for p in loaded_refiner(shorter).parameters():
            p.zero_()
    assert torch.equal(codec.decode(latents, decoder="refiner"), decoded[0])
    with torch.no_grad():
        for p in loaded_refiner(codec).parameters():
            p.zero_()
    assert torch.equal(other.decode(latents[:, :5], decoder="refiner"), decoded[1])


def test_unknown_decoder(refined: Codec) -> None:
    latents = torch.zeros(12, 2, 2)
    for name in ("magic", "", "autoencoder_kl"):
        with pytest.raises(ValueError, match=f"decoder of codec 'random' must be 'linear' or 'refiner', got '{name}'"):
            refined.decode(latents, decoder=name)
    with pytest.raises(ValueError, match="decoder of codec 'random' must be 'linear', got 'refiner'"):
        make_codec().decode(latents, decoder="refiner")
    network = Codec(CodecConfig("deep", "image", 3, 12, 3, decoder="autoencoder_kl", decoder_width=32))
    with pytest.raises(ValueError, match="decoder of codec 'deep' must be 'autoencoder_kl', got 'refiner'"):
        network.decode(latents, decoder="refiner")
    assert network.decoder is None  # it was not read for this
    with pytest.raises(ValueError, match="codec 'random' has no refiner"):
        make_codec().load_refiner()


@pytest.mark.parametrize(
    ("make", "refiner", "match"),
    [
        (make_codec, Refiner(11, 192, 8, 1, 2), "from 12 channels to 192 packets in 2-D, got 11 to 192 in 2-D"),
        (make_codec, Refiner(12, 64, 8, 1, 2), "got 12 to 64 in 2-D"),
        (make_codec, Refiner(12, 192, 8, 1, 1), "got 12 to 192 in 1-D"),
        (make_codec, Refiner(12, 192, 8, 0, 2), "refiner_width and refiner_blocks must both be 0, or neither"),
        (lambda: make_codec(stages=3), Refiner(12, 192, 8, 1, 2), "a refiner goes with a linear encoder and decoder"),
        (lambda: make_codec(statistics=False), Refiner(12, 192, 8, 1, 2), "whose mean and spread are known"),
        (lambda: make_codec(decoder="autoencoder_kl", decoder_width=32), Refiner(12, 192, 8, 1, 2), "a refiner goes"),
    ],
)
def test_refiners_that_do_not_fit(make: Callable[[], Codec], refiner: Refiner, match: str) -> None:
    codec = make()
    config = codec.config
    with pytest.raises(ValueError, match=match):
        codec.set_refiner(refiner)
    assert (codec.config, codec.refiner) == (config, None)


def test_refiner_is_frozen_and_in_float32() -> None:
    codec = make_codec()
    refiner = make_refiner(12, 192).requires_grad_().half()
    codec.set_refiner(refiner)
    assert codec.refiner is refiner is codec.load_refiner()
    assert not any(p.requires_grad for p in codec.parameters())
    assert all(value.dtype == torch.float32 for value in refiner.state_dict().values())
    assert not codec.decode(torch.zeros(12, 2, 2), decoder="refiner").requires_grad


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "rgb_4x",
            "Codec('rgb_4x', image, signal_channels=3, channels=48, stride=8, reduction=4, wavelet='bior4.4', "
            "decoder='linear', refiner=True)",
        ),
        (
            "stereo_5x",
            "Codec('stereo_5x', audio, signal_channels=2, sample_rate=44100, channels=108, stride=256, "
            "reduction=4.74074, wavelet='bior4.4', decoder='linear', refiner=True)",
        ),
    ],
)
def test_repr_is_one_line(name: str, expected: str) -> None:
    codec = wt.load_codec(name)
    codec.decode(codec.encode(torch.zeros(codec.config.signal_channels, *[256] * codec.config.dims)))  # folds
    assert repr(codec) == expected
    assert repr(torch.nn.Sequential(codec)) == f"Sequential(\n  (0): {expected}\n)"

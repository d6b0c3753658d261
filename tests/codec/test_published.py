"""Codecs with networks, stages, padding or clipping, as the published ones have them: made here with random weights."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import walloc_transforms as wt
from tests.helpers import make_codec, reference_encode, signal
from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.codec.companding import compand, expand

pytest.importorskip("diffusers")

KL = {"decoder": "autoencoder_kl", "decoder_width": 32}
OOBLECK = {"decoder": "oobleck", "decoder_width": 16, "pad": 1, "post_filter": True}


def make_stages() -> Codec:
    codec = make_codec(12, stages=3)
    codec.decoder.weight += torch.randn_like(codec.decoder.weight) * 1e-3  # so that a stage leaves something to code
    return codec


CODECS: dict[str, Any] = {
    "image": lambda: make_codec(12, **KL),
    "image_deep": lambda: Codec(
        CodecConfig(
            "deep",
            "image",
            3,
            12,
            3,
            encoder="autoencoder_kl",
            encoder_width=32,
            decoder="autoencoder_kl",
            decoder_width=32,
        )
    ),
    "audio": lambda: make_codec(8, levels=4, signals=2, dims=1, **OOBLECK),
    "audio_deep": lambda: Codec(
        CodecConfig(
            "deep", "audio", 2, 8, 4, encoder="oobleck", encoder_width=16, decoder="oobleck", decoder_width=16, pad=1
        )
    ),
    "stages": lambda: make_stages(),
    "clip": lambda: make_codec(12, companding="clip", latent_bits=5),
    "pad": lambda: make_codec(8, levels=4, signals=2, dims=1, pad=1),
}
KINDS = list(CODECS)


def sides(codec: Codec, cells: int = 6) -> list[int]:
    return [cells * codec.config.stride] * codec.config.dims


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [(), (2,), (5, 0), (0,), (2, 1)])
def test_batches(kind: str, batch: tuple[int, ...]) -> None:
    codec = CODECS[kind]()
    c = codec.config
    x = signal(*batch, c.signal_channels, *sides(codec))
    latents = codec.encode(x)
    expected = [side + 2 * c.pad for side in [6] * c.dims]
    assert latents.shape == (*batch, c.channels, *expected)
    assert latents.dtype == torch.float32
    assert codec.decode(latents).shape == x.shape
    if batch == (2,):
        assert_close(codec.encode(x[1]), latents[1], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_sizes(kind: str) -> None:
    codec = CODECS[kind]()
    size = [side - 3 - i for i, side in enumerate(sides(codec))]
    x = signal(1, codec.config.signal_channels, *size)
    assert codec.decode(codec.encode(x), size=size).shape == x.shape
    with pytest.raises(ValueError, match="does not belong to these latents"):
        codec.decode(codec.encode(x), size=[side + codec.config.stride for side in size])


@pytest.mark.parametrize("kind", KINDS)
def test_modes_devices_and_copies(kind: str) -> None:
    codec = CODECS[kind]()
    x = signal(1, codec.config.signal_channels, *sides(codec))
    latents, decoded = codec.encode(x), codec.decode(codec.encode(x))
    for other in (codec.train(), copy.deepcopy(codec), pickle.loads(pickle.dumps(codec)), codec.bfloat16()):
        assert torch.equal(other.encode(x), latents)
        assert torch.equal(other.decode(latents), decoded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(x), latents)
        assert torch.equal(codec.decode(latents), decoded)
    assert not any(p.requires_grad for p in codec.parameters())
    assert not decoded.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_folder(kind: str, tmp_path: Path) -> None:
    codec = CODECS[kind]()
    codec.save_pretrained(tmp_path)
    again = Codec.from_pretrained(tmp_path)
    assert again.config == codec.config
    assert again.fingerprint() == codec.fingerprint()
    x = signal(1, codec.config.signal_channels, *sides(codec))
    assert torch.equal(again.encode(x), codec.encode(x))
    assert torch.equal(again.decode(codec.encode(x)), codec.decode(codec.encode(x)))


def test_fingerprint_tells_encoders_apart() -> None:
    assert len({CODECS[kind]().fingerprint() for kind in KINDS if kind not in ("image",)}) == len(KINDS) - 1
    codec = make_codec(12)
    before = codec.fingerprint()
    codec.decoder.bias.add_(1)
    codec.latent_mean.add_(1)
    assert codec.fingerprint() == before  # the same latents
    codec.bias[3] += 1e-6
    assert codec.fingerprint() != before
    stages = CODECS["stages"]()
    before = stages.fingerprint()
    stages.decoder.weight[0, 0] += 1e-3
    assert stages.fingerprint() != before  # later stages see what the decoder makes of earlier ones


def encode_stages(codec: Codec, x: Tensor, mode: str) -> Tensor:
    """The definition: encode what the stages before have left of the packets."""
    c, per = codec.config, codec.config.channels // codec.config.stages
    packets, latents = codec.analysis(x - 0.5), []
    for first in range(0, c.channels, per):
        rows = slice(first, first + per)
        z = torch.einsum("dc,nchw->ndhw", codec.weight[rows], packets) + codec.bias[rows].view(-1, 1, 1)
        u = compand(z)
        latents.append(u.round() if mode == "round" else u)
        packets = packets - torch.einsum("cd,ndhw->nchw", codec.decoder.weight[:, rows], expand(latents[-1]))
    return torch.cat(latents, 1)


@pytest.mark.parametrize("mode", ["none", "round"])
@pytest.mark.parametrize("frozen", [True, False])
def test_stages(mode: Any, frozen: bool) -> None:
    codec = CODECS["stages"]().requires_grad_(not frozen)
    x = signal(2, 3, 40, 48)
    latents = codec.encode(x, rounding=mode)
    expected = encode_stages(codec, x, mode)
    if mode == "none":
        assert_close(latents, expected, atol=1e-3, rtol=0)
    if mode == "round":
        assert (latents != expected).float().mean() < 1e-2  # where rounding ties, the later stages differ
        assert (latents != codec.encode(x).round()).any()  # rounding comes between the stages


class Encoding(torch.nn.Module):
    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> Tensor:
        return self.codec.encode(x)


def test_stages_are_exported() -> None:
    codec, x = CODECS["stages"](), signal(2, 3, 40, 48)
    latents = codec.encode(x)
    assert_close(torch.export.export(Encoding(codec), (x,)).module()(x), latents, atol=1e-3, rtol=0)


def test_clip() -> None:
    codec, x = CODECS["clip"](), signal(2, 3, 40, 48)
    linear = expand(reference_encode(make_like(codec), x), 16)
    assert_close(codec.encode(x), linear.clamp(-15.499, 15.499), atol=1e-2, rtol=0)
    assert codec.encode(x).abs().max() == pytest.approx(15.499)


def make_like(codec: Codec) -> Codec:
    """The same projection with companding so wide that it is nearly linear."""
    other = Codec(CodecConfig("wide", "image", 3, 12, 3, latent_bits=16))
    other.load_state_dict(codec.state_dict())
    return other


def test_padding_holds_the_bias() -> None:
    codec = CODECS["pad"]()
    latents = codec.encode(signal(3, 2, 96))
    assert latents.shape == (3, 8, 8)
    for column in (0, -1):
        assert_close(latents[..., column], compand(codec.bias).expand(3, -1))
    whole = make_codec(8, levels=4, signals=2, dims=1)
    whole.load_state_dict(codec.state_dict())
    assert_close(codec.decode(latents), whole.decode(latents[..., 1:-1]))
    with pytest.raises(ValueError, match="pads its latents by 1 at either end: expected at least 3 of them, got 2"):
        codec.decode(latents[..., :2])


def test_clamp() -> None:
    codec = CODECS["image"]()
    latents = codec.encode(signal(1, 3, 48, 48))
    free = codec.decode(latents, clamp=False)
    assert float(free.min()) < 0 < 1 < float(free.max())
    assert_close(codec.decode(latents), free.clamp(0, 1))


def test_tile() -> None:
    codec = CODECS["image"]()
    latents = codec.encode(signal(1, 3, 200, 136))
    whole, tiled = codec.decode(latents), codec.decode(latents, tile=64)
    assert torch.equal(codec.decode(latents, tile=200), whole)
    assert 0 < float((tiled - whole).square().mean()) < float(whole.var())
    for tile in (63, 0, -8):
        with pytest.raises(ValueError, match=f"tile must be a multiple of 8 samples, .* got {tile}"):
            codec.decode(latents, tile=tile)
    with pytest.raises(ValueError, match="at least 8 cells wide, got 7"):
        codec.decode(latents, tile=56)
    linear = make_codec(12)
    with pytest.raises(ValueError, match="tile=64 is for decoders that are networks"):
        linear.decode(latents, tile=64)


def test_transforms() -> None:
    codec = CODECS["image"]()
    latents = wt.WallocEncode(codec, quantize=True, dtype=torch.int8)(torch.rand(3, 70, 90))
    image = wt.WallocDecode(codec, decoder="autoencoder_kl", size=(70, 90), tile=64)(latents)
    assert image.shape == (3, 70, 90)
    assert torch.equal(image, wt.functional.decode_image(latents, codec, size=(70, 90), tile=64))
    with pytest.raises(ValueError, match="decoder of codec 'random' must be 'autoencoder_kl', got 'linear'"):
        wt.WallocDecode(codec, decoder="linear")
    with pytest.raises(ValueError, match=r"tile=64 is for decoders that are networks.*'linear'"):
        wt.WallocDecode("rgb_16x", tile=64)


@pytest.mark.parametrize("kind", ["image", "image_deep", "audio"])
def test_networks_need_all_channels(kind: str) -> None:
    codec = CODECS[kind]()
    assert wt.load_codec(codec, channels=codec.config.channels) is codec
    with pytest.raises(ValueError, match="has a network that needs all of its"):
        codec.prefix(4)


def test_prefix_of_stages() -> None:
    codec, x = CODECS["stages"](), signal(2, 3, 40, 48)
    for channels in (4, 8, 12):
        shorter = codec.prefix(channels)
        assert shorter.config.stages == channels // 4
        assert torch.equal(shorter.encode(x, rounding="round"), codec.encode(x, rounding="round")[:, :channels])
    with pytest.raises(ValueError, match="multiple of 4, the size of a stage, got 6"):
        codec.prefix(6)


def test_without_statistics() -> None:
    codec = make_codec(12, statistics=False)
    match = r"codec 'random' came without statistics .* fit_statistics\(codec, signals\)"
    with pytest.raises(ValueError, match=match):
        wt.WallocEncode(codec, normalize=True)
    with pytest.raises(ValueError, match=match):
        codec.normalize(torch.zeros(12, 3, 3))
    with pytest.raises(ValueError, match=match):
        codec.denormalize(torch.zeros(12, 3, 3))
    with pytest.raises(ValueError, match=match):
        wt.WallocStem(codec, 16, stride=8)


def test_statistics_can_be_measured() -> None:
    codec = make_codec(12, statistics=False)
    images = [torch.rand(3, 64, 80), torch.rand(3, 48, 48), torch.randint(0, 256, (3, 40, 64), dtype=torch.uint8)]
    unmeasured, codec = codec, wt.fit_statistics(codec, images, progress=False)
    assert not unmeasured.config.statistics
    assert not torch.equal(unmeasured.latent_mean, codec.latent_mean)
    encoded = [wt.functional.encode_image(image, codec).flatten(1) for image in images]
    assert_close(codec.latent_mean, torch.cat(encoded, 1).mean(1), atol=1e-3, rtol=1e-4)
    assert_close(codec.latent_std, torch.cat(encoded, 1).std(1, correction=0), atol=1e-3, rtol=1e-4)
    normal = torch.cat([wt.functional.encode_image(image, codec, normalize=True).flatten(1) for image in images], 1)
    assert float(normal.mean().abs()) < 1e-3
    padded = make_codec(8, levels=4, signals=2, dims=1, pad=1, statistics=False)
    wave = torch.rand(2, 320) * 2 - 1
    padded = wt.fit_statistics(padded, [wave], progress=False)
    inner = wt.functional.encode_waveform(wave, padded)[:, 1:-1]
    assert_close(padded.latent_mean, inner.mean(1), atol=1e-3, rtol=1e-4)  # the padding is no signal
    with pytest.raises(ValueError, match="too few signals"):
        wt.fit_statistics(codec, [], progress=False)


def test_compiled_encoding(tmp_path: Path) -> None:
    codec, x = CODECS["image"](), signal(1, 3, 48, 64)
    compiled = torch.compile(codec.encode, backend="eager", fullgraph=True)
    assert_close(compiled(x), codec.encode(x), atol=1e-3, rtol=1e-4)


def test_decoder_can_be_trained() -> None:
    codec = CODECS["image"]()
    decoder = codec.load_decoder().requires_grad_(True)
    codec.decode(codec.encode(signal(1, 3, 48, 48))).square().mean().backward()
    assert all(p.grad is not None for p in decoder.parameters())
    assert codec.weight.grad is None


def test_decoder_read_in_inference_mode(tmp_path: Path) -> None:
    CODECS["image"]().save_pretrained(tmp_path)
    codec, latents = Codec.from_pretrained(tmp_path), torch.randn(1, 12, 6, 6, requires_grad=True)
    with torch.inference_mode():
        codec.decode(latents)
    codec.decode(latents).square().mean().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


def test_fingerprint_of_a_network_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, hashed = CODECS["image_deep"](), []
    monkeypatch.setattr("walloc_transforms.codec.codec.fingerprint", lambda *_: hashed.append(1) or "hash")
    for _ in range(3):
        assert codec.fingerprint() == "hash"
    assert len(hashed) == 1
    with torch.no_grad():
        next(codec.encoder.parameters()).mul_(2)
    codec.fingerprint()
    assert len(hashed) == 2

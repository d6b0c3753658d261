"""Streams against the codec on the whole signal, and at the ends against the codec on a signal between silence."""

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import walloc_transforms as wt
from tests.helpers import BACKENDS, PRODUCTS, assert_close_float32, give_refiner, make_codec, signal
from tests.reference import save_checkpoint
from walloc_transforms.codec import Codec, CodecConfig, streaming
from walloc_transforms.codec.streaming import StreamDecoder, StreamEncoder
from walloc_transforms.wavelets import Backend, pad_to_multiple

CHUNKINGS: dict[str, Sequence[int]] = {
    "single": [1],
    "7": [7],
    "255": [255],
    "256": [256],
    "257": [257],
    "1000": [1000],
    "whole": [1 << 20],
    "mixed": [0, 1, 300, 0, 17, 2049, 3, 64],
    "large, then small": [3000, 1, 1, 1, 40],
}
OOBLECK: dict[str, Any] = {"decoder": "oobleck", "decoder_width": 16, "pad": 1}


def cut(x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    parts, start = [], 0
    for length in itertools.cycle(lengths):
        if start >= x.shape[-1]:
            return parts
        parts.append(x[..., start : start + length])
        start += length
    raise AssertionError


def encode(stream: StreamEncoder, x: Tensor, lengths: Sequence[int] = (100,)) -> Tensor:
    return torch.cat([*map(stream, cut(x, lengths)), stream.finish()], -1)


def decode(stream: StreamDecoder, z: Tensor, lengths: Sequence[int] = (10,), size: int | None = None) -> Tensor:
    return torch.cat([*map(stream, cut(z, lengths)), stream.finish(size)], -1)


def between_silence(codec: Codec, x: Tensor, frames: int = 200) -> Tensor:
    """What the stream encoder promises, by the codec on one long signal."""
    c = codec.config
    n = -(-x.shape[-1] // c.stride)
    silence = x.new_zeros(*x.shape[:-1], frames * c.stride)
    latents = codec.encode(torch.cat([silence, pad_to_multiple(x, [c.stride]), silence], -1)).detach()
    if codec.encoder is not None:
        return latents.narrow(-1, frames, n + 2 * c.pad)
    own = latents.narrow(-1, frames + c.pad, n)
    return torch.cat([latents[..., : c.pad], own, latents[..., : c.pad]], -1)


def between_silent_latents(codec: Codec, z: Tensor, frames: int = 200, decoder: str | None = None) -> Tensor:
    """What the stream decoder promises, likewise."""
    c = codec.config
    silence = codec.encode(torch.zeros(c.signal_channels, 301 * c.stride)).detach()[:, 150, None]
    silence = silence.expand(*z.shape[:-1], frames)
    decoded = codec.decode(torch.cat([silence, z, silence], -1), decoder=decoder).detach()
    return decoded.narrow(-1, frames * c.stride, (z.shape[-1] - 2 * c.pad) * c.stride)


backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
@pytest.mark.parametrize("lengths", CHUNKINGS.values(), ids=CHUNKINGS)
@pytest.mark.parametrize(
    ("channels", "levels", "signals", "samples"), [(2, 1, 1, 501), (8, 3, 2, 3000), (12, 6, 3, 4001), (24, 8, 2, 6000)]
)
def test_encode(
    backend: Backend, channels: int, levels: int, signals: int, samples: int, lengths: Sequence[int]
) -> None:
    codec = make_codec(channels, levels, signals, 1)
    codec.backend = backend
    x, stream = signal(signals, samples), StreamEncoder(codec)
    latents, whole = encode(stream, x, lengths), codec.encode(x)
    left, right = stream.edge_frames
    assert latents.shape == whole.shape
    assert latents.dtype == torch.float32
    inner = slice(left, whole.shape[-1] - right)
    assert whole[:, inner].shape[-1] > 5
    assert_close(latents[:, inner], whole[:, inner], rtol=0, atol=1e-3)
    assert_close(latents, between_silence(codec, x), rtol=0, atol=1e-3)


@backends
@pytest.mark.parametrize("lengths", [[1], [7], [100], [0, 3, 1, 0, 20]], ids=str)
@pytest.mark.parametrize(
    ("channels", "levels", "signals", "samples"), [(2, 1, 1, 101), (8, 3, 2, 401), (12, 6, 3, 1999), (24, 8, 2, 6000)]
)
def test_decode(
    backend: Backend, channels: int, levels: int, signals: int, samples: int, lengths: Sequence[int]
) -> None:
    codec = make_codec(channels, levels, signals, 1)
    codec.backend = backend
    stream = StreamDecoder(codec)
    latents = codec.encode(signal(signals, samples))
    decoded, whole = decode(stream, latents, lengths, samples), codec.decode(latents, size=(samples,))
    left, right = (frames * codec.config.stride for frames in stream.edge_frames)
    assert decoded.shape == whole.shape
    assert decoded.dtype == torch.float32
    assert samples > left + right + codec.config.stride
    inner = slice(left, codec.config.stride * latents.shape[-1] - right)
    assert_close_float32(decoded[:, inner], whole[:, inner], terms=PRODUCTS, factor=8)
    assert_close_float32(decoded, between_silent_latents(codec, latents)[:, :samples], terms=PRODUCTS, factor=8)


@pytest.mark.parametrize("levels", range(1, 9))
@pytest.mark.parametrize("wavelet", ["bior4.4", "haar", "db4", "rbio3.1"])
def test_levels_wavelets_and_lengths(levels: int, wavelet: str) -> None:
    codec = make_codec(2, levels, 1, 1, wavelet=wavelet)
    stride = 2**levels
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    for samples in (stride, stride + 1, 2 * stride - 1, 3 * stride, 9 * stride + stride // 2):  # also below the reach
        encoder.reset()
        decoder.reset()
        x = signal(1, samples)
        latents = encode(encoder, x, [3, stride])
        assert_close(latents, between_silence(codec, x, 10), rtol=0, atol=1e-3)
        decoded = decode(decoder, latents, [1, 2], samples)
        assert_close_float32(decoded, between_silent_latents(codec, latents, 10)[:, :samples], terms=PRODUCTS, factor=8)


def test_edge_frames_are_the_fewest() -> None:
    """The frame next to the edge differs, at either end."""
    codec = make_codec(24, 4, 2, 1)
    x = signal(2, 64 * 16)
    whole = codec.encode(x)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    differs = ((encode(encoder, x) - whole).abs().amax(0) > 1e-3).nonzero().flatten()
    assert encoder.edge_frames == (4, 3)
    assert differs.tolist() == [0, 1, 2, 3, 61, 62, 63]
    off = (decode(decoder, whole) - codec.decode(whole)).abs().amax(0).view(64, 16).amax(1)
    assert decoder.edge_frames == (4, 3)
    assert (off > 1e-6).nonzero().flatten().tolist() == [0, 1, 2, 3, 61, 62, 63]


def test_a_signal_between_silence_has_no_edges() -> None:
    codec = make_codec(32, 4, 2, 1)
    x = torch.nn.functional.pad(signal(2, 1000), (64, 72))
    latents = encode(StreamEncoder(codec), x)
    assert_close(latents, codec.encode(x), rtol=0, atol=1e-3)
    assert_close_float32(
        decode(StreamDecoder(codec), latents, size=1136), codec.decode(latents, size=(1136,)), terms=PRODUCTS, factor=8
    )
    assert_close(decode(StreamDecoder(codec), latents, size=1136), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("batch", [(), (2,), (5, 0), (0,), (2, 1, 3)])
def test_leading_dimensions(batch: tuple[int, ...]) -> None:
    codec = make_codec(8, 4, 2, 1)
    x = signal(*batch, 2, 777)
    parts = [StreamEncoder(codec)(x[..., :1]), StreamEncoder(codec)(x[..., :0])]
    assert [part.shape for part in parts] == [(*batch, 8, 0)] * 2
    latents = encode(StreamEncoder(codec), x)
    assert latents.shape == (*batch, 8, 49)
    decoded = decode(StreamDecoder(codec), latents, size=777)
    assert decoded.shape == x.shape
    for one, many, back in zip(
        x.reshape(-1, 2, 777), latents.reshape(-1, 8, 49), decoded.reshape(-1, 2, 777), strict=True
    ):
        assert_close(encode(StreamEncoder(codec), one), many, rtol=0, atol=1e-3)
        assert_close_float32(decode(StreamDecoder(codec), many, size=777), back, terms=PRODUCTS, factor=8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    codec = make_codec(8, 4, 2, 1)
    x = torch.randint(0, 256, (2, 700)) / 256  # which every float type holds exactly
    latents = encode(StreamEncoder(codec), x.to(dtype))
    assert latents.dtype == torch.float32
    assert torch.equal(latents, encode(StreamEncoder(codec), x))


@pytest.mark.parametrize(("dtype", "zero", "one"), [(torch.uint8, 128, 128), (torch.int16, 0, 2**15)])
def test_pcm(dtype: torch.dtype, zero: int, one: int) -> None:
    codec = make_codec(8, 4, 2, 1)
    x = torch.randint(0, 64, (2, 700))
    latents = encode(StreamEncoder(codec), (x + zero).to(dtype))
    assert_close(latents, encode(StreamEncoder(codec), x / one), rtol=0, atol=1e-3)
    assert_close(latents[:, 4:-3], codec.encode((x + zero).to(dtype))[:, 4:-3], rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8, torch.int16])
def test_quantized(dtype: torch.dtype) -> None:
    codec = make_codec(8, 4, 2, 1)
    x = signal(2, 4000)
    latents = encode(StreamEncoder(codec, rounding="round"), x)
    assert torch.equal(latents, latents.round())
    assert (latents != encode(StreamEncoder(codec), x).round()).float().mean() < 1e-3
    noise = encode(StreamEncoder(codec, rounding="noise"), x) - encode(StreamEncoder(codec), x)
    assert 0.4 < noise.abs().max() <= 0.5 + 1e-4
    assert torch.equal(decode(StreamDecoder(codec), latents.to(dtype)), decode(StreamDecoder(codec), latents))


def test_clamp() -> None:
    codec = make_codec(8, 4, 2, 1)
    latents = 60 * torch.randn(8, 60)
    decoded = decode(StreamDecoder(codec, clamp=False), latents)
    assert decoded.abs().max() > 1
    assert_close(decode(StreamDecoder(codec), latents), decoded.clamp(-1, 1))


def make_deep() -> Codec:
    return Codec(CodecConfig("deep", "audio", 2, 8, 4, encoder="oobleck", encoder_width=16, **OOBLECK))


def make_stages() -> Codec:
    return make_codec(12, 4, 2, 1, stages=3)


PUBLISHED: dict[str, Callable[[], Codec]] = {
    "pad": lambda: make_codec(8, 4, 2, 1, pad=1),
    "pad haar": lambda: make_codec(8, 4, 2, 1, pad=1, wavelet="haar"),
    "decoder": lambda: make_codec(8, 4, 2, 1, **OOBLECK),
    "post filter": lambda: make_codec(8, 4, 2, 1, post_filter=True, **OOBLECK),
    "networks": make_deep,
    "stages": make_stages,
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_codecs_with_networks_pad_or_stages(kind: str) -> None:
    if kind in ("decoder", "post filter", "networks"):
        pytest.importorskip("diffusers")
    codec = PUBLISHED[kind]()
    pad, stride, samples = codec.config.pad, 16, 299 * 16 + 5
    x = signal(2, samples)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    latents, whole = encode(encoder, x, [61, 700, 0, 90]), codec.encode(x)
    assert latents.shape == whole.shape == (codec.config.channels, 300 + 2 * pad)
    left, right = encoder.edge_frames
    assert left + right < 250
    assert_close(latents[:, left:-right], whole[:, left:-right], rtol=1e-4, atol=1e-3)
    assert_close(latents, between_silence(codec, x), rtol=1e-4, atol=1e-3)
    if codec.encoder is None:
        assert torch.equal(latents[:, :pad], whole[:, :pad])
        assert torch.equal(latents[:, 300 + pad :], whole[:, 300 + pad :])
    decoded, back = decode(decoder, whole, [40, 1, 1, 0, 31], samples), codec.decode(whole, size=(samples,))
    assert decoded.shape == x.shape
    left, right = (frames * stride for frames in decoder.edge_frames)
    assert left + right < 250 * stride
    assert_close(decoded[:, left : 300 * stride - right], back[:, left : 300 * stride - right], rtol=1e-4, atol=1e-4)
    assert_close(decoded, between_silent_latents(codec, whole)[:, :samples], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["codec1d", "codec1d_deep"])
def test_checkpoints_of_the_reference(tmp_path: Path, name: str) -> None:
    pytest.importorskip("diffusers")
    codec = wt.load_codec(str(save_checkpoint(tmp_path, name)))
    x = signal(2, 300 * codec.config.stride)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    latents, decoded = encode(encoder, x, [1000]), decode(decoder, codec.encode(x), [50])
    frames = slice(encoder.edge_frames[0], -encoder.edge_frames[1])
    assert_close(latents[:, frames], codec.encode(x)[:, frames], rtol=1e-4, atol=1e-3)
    samples = slice(decoder.edge_frames[0] * codec.config.stride, -decoder.edge_frames[1] * codec.config.stride)
    assert_close(decoded[:, samples], codec.decode(codec.encode(x))[:, samples], rtol=1e-4, atol=1e-4)


def test_decoder_network_is_read_at_once() -> None:
    pytest.importorskip("diffusers")
    codec = make_codec(8, 4, 2, 1, post_filter=True, **OOBLECK)
    assert codec.decoder is None
    stream = StreamDecoder(codec)
    assert codec.decoder is not None
    assert stream.edge_frames == (4 + 86 + 64 // 16, 3 + 86 + 64 // 16)  # wavelet, network, filter


def test_reach_of_an_oobleck_encoder() -> None:
    """No farther than we say, and nearly as far."""
    pytest.importorskip("diffusers")
    encoder: Any = make_deep().encoder
    packets = torch.randn(1, 32, 400)
    other = packets.clone()
    other[..., 200] += 10
    changed = (encoder(packets) != encoder(other)).any(1)[0].nonzero().flatten() - 1  # it adds one at either end
    assert 200 - streaming.ENCODER_REACH <= int(changed.min()) <= 200 - streaming.ENCODER_REACH + 3
    assert 200 + streaming.ENCODER_REACH - 3 <= int(changed.max()) <= 200 + streaming.ENCODER_REACH


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_latency(levels: int) -> None:
    """Every frame comes out as soon as it can, from single samples to single samples."""
    codec, stride = make_codec(2, levels, 1, 1), 2**levels
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    known, samples = 0, 0
    for known in range(1, 12 * stride):
        latents = encoder(signal(1, 1))
        assert latents.shape[-1] == (known >= stride + encoder.latency and (known - encoder.latency) % stride == 0)
        samples += decoder(latents).shape[-1]
        first = known - encoder.latency - decoder.latency
        assert samples == max(0, first // stride * stride)
    assert samples > 0


def test_state_is_bounded_and_owned(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec(8, 8, 2, 1)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    longest, run = [], StreamEncoder._run

    def spy(self: StreamEncoder, window: Tensor) -> Tensor:
        longest.append(window.shape[-1])
        return run(self, window)

    monkeypatch.setattr(StreamEncoder, "_run", spy)
    chunk = signal(2, 4000)
    for _ in range(50):
        decoder(encoder(chunk))
        for stream, most in ((encoder, 9 * 256), (decoder, 9)):
            assert sum(part.shape[-1] for part in stream._held) == stream.held <= most
            channels = stream._held[0].shape[0]
            assert sum(part.untyped_storage().nbytes() for part in stream._held) == 4 * channels * stream.held
    assert max(longest) <= 4000 + 9 * 256
    parts = len(encoder._held)
    for _ in range(10):
        encoder(chunk[:, :0])
    assert len(encoder._held) == parts


def test_the_caller_may_use_the_memory_again() -> None:
    codec = make_codec(8, 6, 2, 1)
    x, buffer = signal(2, 900), torch.empty(2, 30)
    stream, parts = StreamEncoder(codec), []
    for part in cut(x, [30]):
        parts.append(stream(buffer.copy_(part)))
        buffer.fill_(9)
    assert_close(torch.cat([*parts, stream.finish()], -1), encode(StreamEncoder(codec), x))


def test_gradients_flow() -> None:
    codec = make_codec(8, 4, 2, 1).requires_grad_(True)
    x = signal(2, 700).requires_grad_(True)
    z = encode(StreamEncoder(codec), x, [90])
    results = [z, decode(StreamDecoder(codec), z, [5], 700)]
    expected = [between_silence_with_gradient(codec, x)]
    expected.append(codec.decode(expected[0], size=700))
    weights = torch.randn(8, 44), torch.randn(2, 700)
    weights[1][:, :64], weights[1][:, -64:] = 0, 0  # where the whole wraps round
    for result, whole, weight in zip(results, expected, weights, strict=True):
        own = torch.autograd.grad((result * weight).sum(), (x, codec.weight), retain_graph=True)
        other = torch.autograd.grad((whole * weight).sum(), (x, codec.weight), retain_graph=True)
        for a, b in zip(own, other, strict=True):
            assert_close(a, b, rtol=1e-3, atol=1e-3)


def between_silence_with_gradient(codec: Codec, x: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(pad_to_multiple(x, [16]), (160, 160))
    return codec.encode(padded)[:, 10:-10]


def test_reset_and_copies() -> None:
    codec = make_codec(8, 4, 2, 1)
    x = signal(2, 500)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    latents = encode(encoder, x)
    decoded = decode(decoder, latents)
    for stream, chunk in ((encoder, x), (decoder, latents)):
        for call in (lambda stream=stream, chunk=chunk: stream(chunk), stream.finish):
            with pytest.raises(RuntimeError, match=r"finished: reset\(\) begins another"):
                call()
        assert stream.held == 0
        stream.reset()
    encoder(x[:, :333])
    decoder(latents[:, :20])
    again, back = copy.deepcopy(encoder), copy.deepcopy(decoder)
    assert_close(torch.cat([again(x[:, 333:]), again.finish()], -1), latents[:, -(32 - (333 - 45) // 16) :])
    assert_close(torch.cat([back(latents[:, 20:]), back.finish()], -1), decoded[:, (20 - 3) * 16 :])
    encoder.reset()
    decoder.reset()
    assert torch.equal(encode(encoder, x[None].double()), latents[None])  # of another form
    assert torch.equal(decode(decoder, latents[None]), decoded[None])


@pytest.mark.parametrize(
    ("chunk", "error", "match"),
    [
        (torch.zeros(3, 20), ValueError, r"'random' expects a tensor of shape \(..., 2, T\), got \(3, 20\)"),
        (torch.zeros(20), ValueError, r"got \(20,\)"),
        (torch.zeros(2, 20).numpy(), TypeError, "got ndarray"),
        (
            torch.zeros(2, 20).double(),
            ValueError,
            r"alike: got \(2, T\) torch.float64 on cpu after \(2, T\) torch.float3",
        ),
        (torch.zeros(5, 2, 20), ValueError, r"alike: got \(5, 2, T\) torch.float32 on cpu after \(2, T\)"),
        (torch.full((2, 20), torch.nan), ValueError, "NaN or infinite"),
        (torch.full((2, 20), torch.inf), ValueError, "NaN or infinite"),
        (torch.full((2, 20), 3.0), ValueError, r"in \[-1, 1\], got values from 3 to 3: PCM as floats"),
    ],
)
def test_bad_chunks_are_not_taken_in(chunk: Any, error: type[Exception], match: str) -> None:
    codec = make_codec(8, 4, 2, 1)
    x, stream = signal(2, 500), StreamEncoder(codec)
    parts = [stream(x[:, :130])]
    with pytest.raises(error, match=match):
        stream(chunk)
    parts += [stream(x[:, 130:]), stream.finish()]
    assert_close(torch.cat(parts, -1), encode(StreamEncoder(codec), x))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("frames", [1, 20])
def test_bad_latents_are_not_taken_in(value: float, frames: int) -> None:
    """One frame yields none yet, so that nothing is decoded that would tell."""
    codec = make_codec(8, 4, 2, 1)
    latents, stream = codec.encode(signal(2, 500)), StreamDecoder(codec)
    parts = [stream(latents[:, :2])]
    with pytest.raises(ValueError, match="the latents hold NaN or infinite values"):
        stream(torch.full((8, frames), value))
    parts += [stream(latents[:, 2:]), stream.finish()]
    assert_close(torch.cat(parts, -1), decode(StreamDecoder(codec), latents))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_dtypes_refused(dtype: torch.dtype) -> None:
    codec = make_codec(8, 4, 2, 1)
    with pytest.raises(TypeError, match=f"got {dtype}"):
        StreamEncoder(codec)(torch.zeros(2, 20, dtype=dtype))
    with pytest.raises(TypeError, match=f"got {dtype}"):
        StreamDecoder(codec)(torch.zeros(8, 20, dtype=dtype))


def test_too_short() -> None:
    codec = make_codec(8, 4, 2, 1, pad=1)
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    with pytest.raises(ValueError, match="too short: codec 'random' needs at least 16 samples, got 0"):
        encoder.finish()
    encoder(signal(2, 15))
    with pytest.raises(ValueError, match="needs at least 16 samples, got 15"):
        encoder.finish()
    encoder(signal(2, 1))  # it is not finished
    latents = encoder.finish()
    assert latents.shape == (8, 3)
    for some in (latents[:, :0], latents[:, :2]):
        decoder(some)
        with pytest.raises(ValueError, match=f"at least 3 frames of latents, got {some.shape[-1]}"):
            decoder.finish()
    decoder(latents[:, 2:])
    for size in (17, 0, -1):
        with pytest.raises(ValueError, match=f"size {size} does not belong .* hold 16 samples, at most 15"):
            decoder.finish(size)
    assert decoder.finish(1).shape == (2, 1)


def test_options_refused() -> None:
    codec = make_codec(8, 4, 2, 1)
    with pytest.raises(ValueError, match="rounding must be one of"):
        StreamEncoder(codec, rounding="often")  # pyright: ignore[reportArgumentType]
    for kind in (StreamEncoder, StreamDecoder):
        with pytest.raises(ValueError, match="streams are for audio and volumes: codec 'random' is for images"):
            kind(make_codec())


@backends
@pytest.mark.parametrize("lengths", [[1], [100], [0, 3, 1, 0, 20]], ids=str)
@pytest.mark.parametrize("blocks", [1, 2])
def test_decode_with_a_refiner(backend: Backend, lengths: Sequence[int], blocks: int) -> None:
    codec = give_refiner(make_codec(12, 4, 2, 1), blocks=blocks)
    codec.backend = backend
    stream = StreamDecoder(codec, decoder="refiner")
    reach = 1 + 2 * blocks
    assert stream.edge_frames == (4 + reach, 3 + reach)
    latents = codec.encode(signal(2, 999), rounding="round")
    decoded, whole = decode(stream, latents, lengths, 999), codec.decode(latents, size=(999,), decoder="refiner")
    assert decoded.shape == whole.shape
    inner = slice(16 * (4 + reach), 16 * (63 - 3 - reach))
    assert_close(decoded[:, inner], whole[:, inner], rtol=0, atol=1e-4)
    assert_close(decoded, between_silent_latents(codec, latents, 20, "refiner")[:, :999], rtol=0, atol=1e-4)
    linear = codec.decode(latents, size=(999,))
    assert not torch.allclose(decoded[:, inner], linear[:, inner], atol=0.05)
    assert torch.equal(decode(StreamDecoder(codec, decoder="linear"), latents), decode(StreamDecoder(codec), latents))
    assert StreamDecoder(codec).edge_frames == (4, 3)


def test_edge_frames_of_a_refiner_are_few() -> None:
    """All that differ, and hardly more: the last of all weights together come to nothing."""
    codec = give_refiner(make_codec(24, 4, 2, 1))
    codec.latent_mean.add_(50)  # or silence is near the zeros that lie around the whole
    latents = codec.encode(signal(2, 64 * 16))
    decoder = StreamDecoder(codec, decoder="refiner")
    off = decode(decoder, latents) - codec.decode(latents, decoder="refiner")
    differs = (off.abs().amax(0).view(64, 16).amax(1) > 2e-6).nonzero().flatten()
    left, right = decoder.edge_frames
    edges = {*range(left), *range(64 - right, 64)}
    assert set(differs.tolist()) <= edges
    assert len(edges) - len(differs) <= 2


def test_refiner_of_padded_latents() -> None:
    codec = give_refiner(make_codec(8, 4, 2, 1, pad=1))
    latents = codec.encode(signal(2, 40 * 16 + 5))
    stream = StreamDecoder(codec, decoder="refiner")
    decoded = decode(stream, latents, [3, 20], 645)
    whole = codec.decode(latents, size=(645,), decoder="refiner")
    left, right = (frames * 16 for frames in stream.edge_frames)
    assert_close(decoded[:, left : 41 * 16 - right], whole[:, left : 41 * 16 - right], rtol=0, atol=1e-4)
    assert decoded.abs().max() == 1


def test_refiner_is_read_at_once(tmp_path: Path) -> None:
    give_refiner(make_codec(8, 4, 2, 1)).save_pretrained(tmp_path)
    codec = Codec.from_pretrained(tmp_path)
    StreamDecoder(codec)
    assert codec.refiner is None
    StreamDecoder(codec, decoder="refiner")
    assert codec.refiner is not None


def test_unknown_decoder() -> None:
    for codec, choices in (
        (make_codec(8, 4, 2, 1), "'linear'"),
        (give_refiner(make_codec(8, 4, 2, 1)), "'linear' or 'refiner'"),
    ):
        with pytest.raises(ValueError, match=f"decoder of codec 'random' must be {choices}, got 'magic'"):
            StreamDecoder(codec, decoder="magic")
    with pytest.raises(ValueError, match="must be 'linear', got 'refiner'"):
        StreamDecoder(make_codec(8, 4, 2, 1), decoder="refiner")

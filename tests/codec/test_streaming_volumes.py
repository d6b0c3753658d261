"""Streams of video against the codec on the whole, and at the ends against the codec on a video that stands still."""

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision import tv_tensors

import walloc_transforms as wt
from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.wavelets import pad_to_multiple

CHUNKS = [[1], [7], [0, 3, 1, 0, 20], [1000]]
STILL = 8  # cells of time before and after


@pytest.fixture(scope="module", params=[(2, 2, 1), (1, 2, 2), (0, 2, 2), (3, 1, 1)], ids=str)
def codec(request: pytest.FixtureRequest) -> Codec:
    random = Codec(CodecConfig("random", "volume", 2, 6, request.param))
    with torch.no_grad():
        random.weight.mul_(60)
        random.bias.normal_(0, 5, generator=torch.Generator().manual_seed(0))
        random.decoder.weight.copy_(random.weight.T / 3600)
        random.decoder.bias.copy_(random.decoder.weight @ -random.bias)
    return random


def clip(frames: int = 61) -> Tensor:
    return torch.randint(0, 256, (2, frames, 9, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def run(stream: Callable[[Tensor], Tensor], last: Callable[[], Tensor], x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Stream along axis 1."""
    parts, start = [], 0
    for length in itertools.cycle(lengths):
        if start >= x.shape[1]:
            return torch.cat([*parts, last()], 1)
        parts.append(stream(x[:, start : start + length]))
        start += length
    raise AssertionError


def around(x: Tensor, frames: int) -> Tensor:
    return torch.cat([x[:, :1].expand(-1, frames, -1, -1), x, x[:, -1:].expand(-1, frames, -1, -1)], 1)


@pytest.mark.parametrize("lengths", CHUNKS, ids=str)
def test_encode(codec: Codec, lengths: Sequence[int]) -> None:
    stream, x, stride = wt.StreamEncoder(codec), clip(), codec.config.strides[0]
    latents, whole = run(stream, stream.finish, x, lengths), codec.encode(x)
    left, right = stream.edge_frames
    assert latents.shape == whole.shape
    assert latents.dtype == torch.float32
    assert whole.shape[1] - left - right > 0 or stride == 8
    inner = slice(left, whole.shape[1] - right)
    assert_close(latents[:, inner], whole[:, inner], rtol=0, atol=1e-3)
    still = codec.encode(around(pad_to_multiple(x, [stride, 1, 1]), STILL * stride))[:, STILL:-STILL]
    assert_close(latents, still, rtol=0, atol=1e-3)


@pytest.mark.parametrize("lengths", CHUNKS, ids=str)
def test_decode(codec: Codec, lengths: Sequence[int]) -> None:
    stream, stride = wt.StreamDecoder(codec), codec.config.strides[0]
    latents = codec.encode(clip(), rounding="round").to(torch.int8)
    decoded = run(stream, lambda: stream.finish(61), latents, lengths)
    whole = codec.decode(latents)[:, :61]
    left, right = (frames * stride for frames in stream.edge_frames)
    assert decoded.shape == whole.shape
    inner = slice(left, latents.shape[1] * stride - right)
    assert_close(decoded[:, inner], whole[:, inner], rtol=0, atol=1e-5)
    still = codec.decode(around(latents, STILL))[:, STILL * stride : -STILL * stride]
    assert_close(decoded, still[:, :61], rtol=0, atol=1e-5)


def test_what_is_held_does_not_grow(codec: Codec) -> None:
    encoder, decoder, stride = wt.StreamEncoder(codec), wt.StreamDecoder(codec), codec.config.strides[0]
    for _ in range(40):
        latents = encoder(clip(3))
        for result in (latents, decoder(latents)):
            assert result.untyped_storage().nbytes() == 4 * result.numel()  # whoever collects them keeps no windows
        assert encoder.held <= (sum(encoder.edge_frames) + 1) * stride
        assert decoder.held <= sum(decoder.edge_frames) + 1
    assert encoder.latency + decoder.latency + stride <= 120


def test_dtypes_batches_and_video_in_its_own_order(codec: Codec) -> None:
    def encode(x: Tensor) -> Tensor:
        stream = wt.StreamEncoder(codec)
        return torch.cat([stream(x), stream.finish()], -3)

    latents = encode(clip(16))
    assert_close(encode(clip(16) / 255), latents, rtol=0, atol=2e-3)
    assert_close(encode((clip(16).to(torch.int32) * 257).to(torch.uint16)), latents, rtol=0, atol=2e-3)
    assert_close(encode(clip(16).expand(3, 1, -1, -1, -1, -1))[1, 0], latents, rtol=0, atol=1e-3)
    assert_close(encode(tv_tensors.Video(clip(16).transpose(0, 1))), latents, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("chunk", "error", "match"),
    [
        (clip(3)[:1], ValueError, r"expects a tensor of shape \(\.\.\., 2, T, H, W\), got \(1, 3, 9, 14\)"),
        (clip(3)[:, :, :8], ValueError, r"alike: got \(2, T, 8, 14\) torch.uint8 on cpu after \(2, T, 9, 14\)"),
        (clip(3) / 255, ValueError, r"alike: got \(2, T, 9, 14\) torch.float32 on cpu after"),
        (clip(3).numpy(), TypeError, "got ndarray"),
    ],
)
def test_bad_chunks_are_not_taken_in(codec: Codec, chunk: Tensor, error: type[Exception], match: str) -> None:
    stream, whole = wt.StreamEncoder(codec), wt.StreamEncoder(codec)
    parts = [stream(clip()[:, :20])]
    with pytest.raises(error, match=match):
        stream(chunk)
    parts += [stream(clip()[:, 20:]), stream.finish()]
    assert_close(torch.cat(parts, 1), torch.cat([whole(clip()), whole.finish()], 1), rtol=0, atol=1e-3)


def test_refuses_values_and_streams_that_are_too_short() -> None:
    codec = Codec(CodecConfig("random", "volume", 2, 6, (2, 2, 1)))
    with pytest.raises(ValueError, match="NaN"):
        wt.StreamEncoder(codec)(clip(3) * torch.nan)
    with pytest.raises(ValueError, match=r"float volumes in \[0, 1\], got values from 0 to 255: 0..255 as floats"):
        wt.StreamEncoder(codec)(clip(3).float())
    with pytest.raises(ValueError, match="got 4x3x14 samples, expected at least 4x4x2"):
        wt.StreamEncoder(codec)(clip(3)[:, :, :3])
    stream = wt.StreamEncoder(codec)
    assert stream(clip(1)).shape == (6, 0, 3, 7)
    with pytest.raises(ValueError, match="too short: codec 'random' needs at least 4 frames, got 1"):
        stream.finish()

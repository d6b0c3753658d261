"""Waveforms through the transforms; what images share with them is tested in test_codec.py."""

import multiprocessing
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

import walloc_transforms as wt
from tests.helpers import STARTS, give_refiner
from walloc_transforms.functional import encode_waveform

CODECS = ["stereo_5x", "stereo_20x"]


def music(length: int = 3000, seed: int = 0) -> torch.Tensor:
    """Stereo noise whose power falls with frequency, within [-1, 1]."""
    noise = torch.randn(2, length, generator=torch.Generator().manual_seed(seed))
    wave = torch.cumsum(noise - noise.mean(1, keepdim=True), 1)
    return wave / wave.abs().max()


@pytest.fixture(scope="module")
def encode() -> wt.WallocEncode:
    return wt.WallocEncode("stereo_20x")


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(("length", "loss"), [(256, 0.1), (300, 0.1), (3000, 0.01), (4096, 0.01)])
def test_there_and_back(name: str, length: int, loss: float) -> None:
    wave = music(length)
    decoded = wt.WallocDecode(name, size=length)(wt.WallocEncode(name)(wave))
    assert decoded.shape == wave.shape
    assert (decoded - wave).square().mean() < loss * wave.square().mean()
    assert torch.equal(wt.WallocDecode(name, size=(length,))(wt.WallocEncode(name)(wave)), decoded)


def test_more_channels_reconstruct_better() -> None:
    wave, errors = music(100_000), []
    for name, channels in (("stereo_5x", 8), ("stereo_5x", 27), ("stereo_5x", 108)):
        codec = wt.load_codec(name, channels=channels)
        errors.append(
            float((wt.WallocDecode(codec, size=100_000)(wt.WallocEncode(codec)(wave)) - wave).square().mean())
        )
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 10


@pytest.mark.parametrize("batch", [(), (0,), (5, 0), (2,), (2, 3)])
def test_batches_equal_stacked_singles(encode: wt.WallocEncode, batch: tuple[int, ...]) -> None:
    waves = torch.rand(*batch, 2, 1011) - 0.5
    latents = encode(waves)
    assert latents.shape == (*batch, 27, 4)
    singles = [encode(wave) for wave in waves.reshape(-1, 2, 1011)]
    if singles:
        torch.testing.assert_close(latents.reshape(-1, 27, 4), torch.stack(singles), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_float_dtypes(encode: wt.WallocEncode, dtype: torch.dtype) -> None:
    wave = music().to(dtype)
    torch.testing.assert_close(encode(wave), encode(wave.float()), atol=1e-3, rtol=0)


def test_pcm(encode: wt.WallocEncode) -> None:
    pcm = (music() * 32767).round().to(torch.int16)
    assert torch.equal(encode(pcm), encode_waveform(pcm, "stereo_20x"))
    torch.testing.assert_close(encode(pcm), encode(pcm / 32768), atol=1e-3, rtol=0)


def test_samples_of_any_structure(encode: wt.WallocEncode) -> None:
    """The first pure tensor is meant, also beside images."""
    wave, label, image = music(), torch.tensor(3), tv_tensors.Image(torch.rand(3, 16, 16))
    out = encode({"image": image, "wave": wave, "label": label, "name": "a.wav", "rate": 44100})
    assert torch.equal(out["wave"], encode(wave))
    assert out["image"] is image
    assert out["label"] is label
    assert (out["name"], out["rate"]) == ("a.wav", 44100)


def test_options() -> None:
    wave = music()
    raw = encode_waveform(wave, "stereo_5x")
    codes = wt.WallocEncode("stereo_5x", quantize=True, dtype=torch.int8)(wave)
    assert codes.dtype == torch.int8
    assert torch.equal(codes.float(), raw.round())
    torch.testing.assert_close(
        wt.WallocEncode("stereo_5x", normalize=True)(wave), wt.load_codec("stereo_5x").normalize(raw)
    )


def test_sample_rate() -> None:
    assert wt.WallocEncode("stereo_5x", sample_rate=44100)(music()).shape == (108, 12)
    with pytest.raises(ValueError, match=r"is for 44100 Hz.*torchaudio.transforms.Resample\(22050, 44100\)"):
        wt.WallocEncode("stereo_5x", sample_rate=22050)
    with pytest.raises(ValueError, match="sample_rate is for audio codecs"):
        wt.WallocEncode("rgb_16x", sample_rate=44100)


def test_compiles_whole(encode: wt.WallocEncode) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(encode, fullgraph=True, backend="aot_eager")
    wave = music()[None]
    torch.testing.assert_close(compiled(wave), encode(wave), atol=1e-3, rtol=0)


def test_pickles(encode: wt.WallocEncode) -> None:
    assert torch.equal(pickle.loads(pickle.dumps(encode))(music()), encode(music()))


class Songs(Dataset):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(music(1000, seed=index)), index


@pytest.mark.parametrize("start", STARTS)
def test_workers_give_what_the_main_process_gives(start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {start}")
    dataset = Songs(wt.WallocEncode("stereo_20x", normalize=True))
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context=start)
    assert torch.equal(torch.cat([x for x, _ in loader]), torch.stack([dataset[i][0] for i in range(6)]))


def test_decoding_can_be_trained_through() -> None:
    """A loss on the waveform reaches the latents through the frozen linear decoder."""
    codec = wt.load_codec("stereo_20x")
    latents = torch.randn(2, 27, 5, requires_grad=True)
    codec.decode(latents, size=(1200,)).square().mean().backward()
    assert latents.grad is not None
    assert (latents.grad.abs().amax((0, 1)) > 0).all()


def test_decode_with_a_refiner() -> None:
    codec = give_refiner(wt.load_codec("stereo_20x"))
    latents = torch.randint(-99, 99, (2, 27, 5)).float()
    refine = wt.WallocDecode(codec, decoder="refiner", size=1200)
    expected = codec.decode(latents, size=(1200,), decoder="refiner")
    assert torch.equal(refine(latents), expected)
    assert torch.equal(pickle.loads(pickle.dumps(refine))(latents), expected)
    assert not torch.allclose(expected, wt.WallocDecode(codec, size=1200)(latents), atol=0.1)
    assert repr(refine) == (
        "WallocDecode('stereo_20x', channels=27, stride=256, decoder='refiner', size=(1200,), normalized=False)"
    )

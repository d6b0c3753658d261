"""Latents in files, with their codecs; the format itself is tested in test_wlc.py."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import walloc_transforms as wt
from tests.helpers import make_codec, signal, write_latents


@pytest.mark.parametrize("name", ["rgb_16x", "rgb_4x"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.int64])
def test_there_and_back(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    image = torch.rand(3, 61, 83)
    latents = wt.functional.encode_image(image, name, quantize=True).to(dtype)
    written = wt.save_latents(tmp_path / "a.wlc", latents, name, size=image.shape[1:])
    assert (tmp_path / "a.wlc").stat().st_size == written
    stored = wt.load_latents(tmp_path / "a.wlc")
    assert torch.equal(stored.latents.to(dtype), latents)
    assert (stored.codec, stored.size) == (name, (61, 83))
    decoded = wt.functional.decode_image(stored.latents, wt.stored_codec(stored), size=stored.size)
    assert torch.equal(decoded, wt.functional.decode_image(latents.float(), name, size=(61, 83)))


def test_prefix_of_what_is_stored(tmp_path: Path) -> None:
    latents = wt.functional.encode_image(torch.rand(3, 61, 83), "rgb_4x", quantize=True)
    wt.save_latents(tmp_path / "a.wlc", latents, "rgb_4x", size=(61, 83))
    stored = wt.load_latents(tmp_path / "a.wlc", channels=12)
    assert torch.equal(stored.latents.float(), latents[:12])
    codec = wt.stored_codec(stored)
    assert codec.config.channels == 12
    assert codec.decode(stored.latents).shape == (3, 64, 88)


def test_latents_of_a_prefix(tmp_path: Path) -> None:
    codec = wt.load_codec("rgb_4x", channels=20)
    latents = wt.functional.encode_image(torch.rand(3, 64, 80), codec, quantize=True)
    wt.save_latents(tmp_path / "a.wlc", latents, codec, size=(64, 80))
    found = wt.stored_codec(wt.load_latents(tmp_path / "a.wlc"))
    assert found.fingerprint() == codec.fingerprint()
    assert wt.stored_codec(wt.load_latents(tmp_path / "a.wlc", channels=3)).config.channels == 3


def test_sound_and_padding(tmp_path: Path) -> None:
    codec = make_codec(6, levels=4, signals=2, dims=1, pad=1)
    latents = codec.encode(signal(2, 1000), rounding="round")
    wt.save_latents(tmp_path / "a.wlc", latents, codec, size=(1000,), sample_rate=44100)
    stored = wt.load_latents(tmp_path / "a.wlc")
    assert (stored.sample_rate, stored.size) == (44100, (1000,))
    assert wt.stored_codec(stored, codec) is codec


def test_sample_rate_is_that_of_the_codec(tmp_path: Path) -> None:
    latents = wt.functional.encode_waveform(torch.rand(2, 1000) - 0.5, "stereo_5x", quantize=True, dtype=torch.int8)
    wt.save_latents(tmp_path / "a.wlc", latents, "stereo_5x", size=(1000,))
    stored = wt.load_latents(tmp_path / "a.wlc", channels=27)
    assert (stored.sample_rate, wt.stored_codec(stored).config.sample_rate) == (44100, 44100)
    with pytest.raises(ValueError, match="is for 44100 Hz, got a waveform of 8000 Hz"):
        wt.save_latents(tmp_path / "a.wlc", latents, "stereo_5x", size=(1000,), sample_rate=8000)
    with pytest.raises(ValueError, match="sample_rate is for audio codecs, got 8000 for 'rgb_16x'"):
        wt.save_latents(tmp_path / "a.wlc", torch.zeros(12, 8, 10), "rgb_16x", size=(64, 80), sample_rate=8000)


def test_more_than_8_bits(tmp_path: Path) -> None:
    codec = make_codec(12, gain=3000.0, latent_bits=12)
    latents = codec.encode(torch.rand(3, 64, 80), rounding="round")
    assert latents.abs().max() > 128
    wt.save_latents(tmp_path / "a.wlc", latents, codec, size=(64, 80))
    stored = wt.load_latents(tmp_path / "a.wlc").latents
    assert stored.dtype == torch.int16
    assert torch.equal(stored.float(), latents)


@pytest.mark.parametrize(
    ("latents", "size", "match"),
    [
        (torch.zeros(12, 8, 10) + 0.5, (64, 80), "expected rounded latents, integers of 8 bits"),
        (torch.full((12, 8, 10), 200.0), (64, 80), "expected rounded latents"),
        (torch.full((12, 8, 10), torch.nan), (64, 80), "expected rounded latents"),
        (torch.zeros(11, 8, 10), (64, 80), r"has latents of shape \(12, h, w\), got \(11, 8, 10\)"),
        (torch.zeros(1, 12, 8, 10), (64, 80), "has latents of shape"),
        (torch.zeros(12, 8, 10), (65, 80), r"size \(65, 80\) has latents of \(9, 10\), got \(8, 10\)"),
        (torch.zeros(12, 8, 10), (64,), r"size must be \(H, W\) for codec 'rgb_16x', got \(64,\)"),
    ],
)
def test_refuses(tmp_path: Path, latents: torch.Tensor, size: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        wt.save_latents(tmp_path / "a.wlc", latents, "rgb_16x", size=size)
    assert not any(tmp_path.iterdir())


def test_another_codec(tmp_path: Path) -> None:
    codec = make_codec(12)
    wt.save_latents(tmp_path / "a.wlc", torch.zeros(12, 8, 10), codec, size=(64, 80))
    stored = wt.load_latents(tmp_path / "a.wlc")
    with pytest.raises(ValueError, match=f"another encoder, of SHA-256 {codec.fingerprint()[:12]}"):
        wt.stored_codec(stored, "rgb_16x")
    with pytest.raises(ValueError, match="another encoder"):
        wt.stored_codec(stored, "rgb_4x")
    with pytest.raises(ValueError, match=r"no embedded codec .* asks for codec 'random', .* give the codec \(codec="):
        wt.stored_codec(stored)


def test_latents_know_their_codec_and_size(tmp_path: Path) -> None:
    image, file = torch.rand(3, 61, 83), tmp_path / "a.wlc"
    latents = wt.functional.encode_image(image, "rgb_16x", quantize=True)
    wt.save_latents(file, latents, "rgb_16x")
    assert wt.load_latents(file).size == (61, 83)
    file.unlink()
    with pytest.raises(ValueError, match=r"are of a signal of size \(61, 83\), got size \(64, 88\)"):
        wt.save_latents(file, latents, "rgb_16x", size=(64, 88))
    with pytest.raises(ValueError, match="encoded by codec 'rgb_16x'"):
        wt.save_latents(file, latents, "rgb_16x_viewing")
    codec = wt.load_codec("rgb_16x_viewing")
    with pytest.raises(ValueError, match=r"encoded by codec 'rgb_16x' \(fingerprint \w+\), got fingerprint"):
        write_latents(file, latents, codec="rgb_16x", fingerprint=codec.fingerprint(), size=(61, 83))
    with pytest.raises(ValueError, match="size is needed"):
        wt.save_latents(file, latents.as_subclass(torch.Tensor), "rgb_16x")
    normalized = wt.functional.encode_image(image, "rgb_16x", quantize=True, normalize=True)
    with pytest.raises(ValueError, match="expected rounded latents, got normalized ones"):
        wt.save_latents(file, normalized, "rgb_16x")
    with pytest.raises(ValueError, match="expected rounded latents, got normalized ones"):
        write_latents(file, normalized, codec="rgb_16x", fingerprint=normalized.fingerprint, size=(61, 83))
    assert not file.exists()


def test_the_name_of_the_codec_is_not_needed(tmp_path: Path) -> None:
    codec = wt.load_codec("rgb_4x", channels=20)
    write_latents(
        tmp_path / "a.wlc", torch.zeros(20, 8, 10), codec="stereo_5x", fingerprint=codec.fingerprint(), size=(64, 80)
    )
    found = wt.stored_codec(wt.load_latents(tmp_path / "a.wlc", channels=9))
    assert (found.config.name, found.fingerprint()) == ("rgb_4x", codec.prefix(9).fingerprint())


def test_names_in_files_load_nothing(tmp_path: Path) -> None:
    """Neither a hub that would give the codec, nor a folder or checkpoint that lies there, is touched."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    codec = make_codec(12)
    codec.save_pretrained(tmp_path / "folder")
    (tmp_path / "x.pth").touch()
    names = ["evil/tracker", "evil/tracker:RGB_16x", "folder", "./folder", str(tmp_path / "folder"), "x.pth", "\x1b[2J"]
    for place, name in enumerate(names):
        write_latents(
            tmp_path / f"{place}.wlc",
            torch.zeros(12, 8, 10),
            codec=name,
            fingerprint=codec.fingerprint(),
            size=(64, 80),
        )
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_secret"}
        program = """if True:
            import sys, walloc_transforms as wt
            for name in sys.argv[1:]:
                stored = wt.load_latents(f"{name}.wlc")
                try:
                    wt.stored_codec(stored)
                except ValueError as error:
                    print(error)
            assert wt.stored_codec(stored, "folder").config.channels == 12  # named by the caller
        """
        command = [sys.executable, "-c", program, *map(str, range(len(names)))]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        server.shutdown()
        thread.join()
    assert run.returncode == 0, run.stderr
    messages = run.stdout.splitlines()
    assert len(messages) == len(names), run.stdout
    for message, name in zip(messages, names, strict=True):
        assert message.startswith(f"no embedded codec made these latents: the file asks for codec {name!r}")
    assert asked == []

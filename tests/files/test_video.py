"""Files of volumes, read and written frame by frame: what is in them, and what is refused."""

import errno
import importlib.util
import io
import struct
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.codec.test_volumes import moving
from walloc_transforms.files import VIDEO_SUFFIXES, load_av, read_volume, write_volume
from walloc_transforms.files.video import SOUND

needs_av = pytest.mark.skipif(not importlib.util.find_spec("av"), reason="video files need PyAV")


def whole(file: Path, channels: int = 3, notices: Counter[str] | None = None) -> tuple[Tensor, int | None, Any]:
    with read_volume(file, channels, notices) as volume:
        return torch.cat(list(volume.frames), 1), volume.total, volume.rate


def write(file: Path, clip: Tensor, rate: int | Fraction = 25) -> Path:
    write_volume(file, (clip / 255).split(3, 1), tuple(clip.shape[1:]), len(clip), Fraction(rate))
    return file


@pytest.mark.parametrize("dtype", ["<u1", "<u2", ">u2", ">i2", "<f2", ">f4", "<f8"])
def test_arrays_of_any_dtype(dtype: str, tmp_path: Path) -> None:
    clip = moving(frames=4, side=9).numpy()
    np.save(tmp_path / "a.npy", np.asfortranarray(clip.astype(dtype)))
    read, count, rate = whole(tmp_path / "a.npy")
    assert (count, rate) == (4, None)
    assert np.array_equal(read.to(torch.float32).numpy(), clip)
    np.save(tmp_path / "gray.npy", clip[0])
    assert torch.equal(whole(tmp_path / "gray.npy", 1)[0], torch.from_numpy(clip[:1]))


def test_arrays_are_written_in_pieces(tmp_path: Path) -> None:
    clip = torch.rand(3, 7, 4, 5)
    write_volume(tmp_path / "a.npy", clip.split(2, 1), (7, 4, 5), 3, None)
    assert np.array_equal(np.load(tmp_path / "a.npy"), clip.numpy())


class Evil:
    def __reduce__(self) -> Any:
        return print, ("pickle was run",)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 3, 4, 5)), r"array of shape \(2, 3, 4, 5\): expected \(3, T, H, W\)$"),
        (np.zeros((3, 4, 5)), r"array of shape \(3, 4, 5\)"),
        (np.zeros((3, 2, 4, 5), complex), "holds complex128: expected numbers"),
        (np.zeros((3, 2, 4, 5), np.longdouble), "expected numbers of up to 64 bits"),
        (np.array([Evil()]), "cannot be read: .*Python objects"),
        (b"\x93NUMPY\1\0", "cannot be read"),
        (
            b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4294967296, 99999, 9999999), }",
            "read",
        ),
        (b"", "cannot be read"),
    ],
)
def test_arrays_that_are_refused(array: Any, match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.npy"
    file.write_bytes(array.ljust(128) + b"\n") if isinstance(array, bytes) else np.save(file, array, allow_pickle=True)
    with pytest.raises(ValueError, match=match):
        whole(file)
    assert capsys.readouterr().out == ""


@needs_av
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (33, 3), (32, 1)])
def test_video_there_and_back(suffix: str, side: int, channels: int, tmp_path: Path) -> None:
    tint = torch.tensor([1, 0.8, 0.5])[:channels].view(-1, 1, 1, 1)
    clip = moving(frames=8, side=side, channels=1) * tint
    file = write(tmp_path / f"a{suffix}", clip, Fraction(30000, 1001))
    read, count, rate = whole(file, channels)
    assert read.shape == clip.shape and count in (None, 8)
    assert rate == pytest.approx(30000 / 1001, rel=1e-4)
    assert (read - clip).abs().mean() < 6
    assert whole(file, 4 - channels)[0].shape == (4 - channels, *clip.shape[1:])


@needs_av
def test_phones_hold_video_upright(tmp_path: Path) -> None:
    clip = moving(frames=3, side=32)[:, :, :16]
    content = write(tmp_path / "a.mp4", clip).read_bytes()
    upright, turned = (
        struct.pack(">9i", *m, 2**30) for m in ((2**16, 0, 0, 0, 2**16, 0, 0, 0), (0, 2**16, 0, -(2**16), 0, 0, 0, 0))
    )
    place = content.rindex(upright)
    (tmp_path / "b.mp4").write_bytes(content[:place] + turned + content[place + 36 :])
    assert torch.equal(whole(tmp_path / "b.mp4")[0], whole(tmp_path / "a.mp4")[0].rot90(-1, (2, 3)))


@needs_av
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_cut_off(suffix: str, tmp_path: Path) -> None:
    content = write(tmp_path / f"a{suffix}", moving(frames=8)).read_bytes()
    for length in (len(content) - 1, len(content) // 2, 30, 4):
        (tmp_path / f"a{suffix}").write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"a\{suffix} (is cut off|cannot be read)"):
            whole(tmp_path / f"a{suffix}")


@needs_av
def test_frames_of_different_sizes(tmp_path: Path) -> None:
    av = load_av()
    with av.open(tmp_path / "a.avi", "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for position, side in enumerate([32, 32, 48]):
            content = io.BytesIO()
            Image.new("RGB", (side, side)).save(content, "JPEG")
            packet = av.Packet(content.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, position, position, Fraction(1, 25)
            container.mux(packet)
    with pytest.raises(ValueError, match=r"a\.avi has frames of different sizes: \(48, 48\) after \(32, 32\)"):
        whole(tmp_path / "a.avi")


@needs_av
def test_sound_is_counted(tmp_path: Path) -> None:
    av = load_av()
    with av.open(tmp_path / "a.mkv", "w") as container:
        video, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        container.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), layout=sound.layout.name)
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
    notices: Counter[str] = Counter()
    assert whole(tmp_path / "a.mkv", 3, notices)[0].shape == (3, 1, 32, 32)
    assert notices == {SOUND: 1}


@needs_av
@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_what_is_no_video(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    secret = write(tmp_path / "secret.mp4", moving(frames=3))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret.name}\n#EXT-X-ENDLIST\n"
    for content in (b"", b"RIFF", b"no video at all", playlist.encode(), b"\0\0\0\1ftyp" + bytes(8) + b"\xff" * 8):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\{suffix} (cannot be read|is cut off)"):
            whole(file)
    Image.new("RGB", (32, 32)).save(file, "PNG")
    with pytest.raises(ValueError, match=rf"a\{suffix} cannot be read: it is damaged, or none of \.mp4, \.mkv"):
        whole(file)


@needs_av
def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.mp4", moving(frames=8, side=32))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5 * 32 * 32 // 2)
    with pytest.raises(ValueError, match="has more than 5120 pixels in all frames: raise"):
        whole(file)
    with pytest.raises(ValueError, match="expected 5 channels"):
        whole(file, 5)


def test_limit_of_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 4, 4), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert whole(tmp_path / "a.npy")[0].shape == (3, 8, 4, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)
    with pytest.raises(ValueError, match=r"a\.npy has more than 126 pixels in all frames: raise"):
        whole(tmp_path / "a.npy")


class Failing(io.FileIO):
    """A file on a disk that fails after some reads."""

    left = 0

    def read(self, size: int | None = -1) -> Any:
        Failing.left -= 1
        if Failing.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@needs_av
def test_a_failing_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.mp4", moving(frames=8))
    monkeypatch.setattr(Path, "open", lambda self, mode: Failing(self, mode))
    monkeypatch.setattr(Failing, "left", 99)
    assert whole(file)[0].shape[1] == 8
    for reads in range(99 - Failing.left):
        monkeypatch.setattr(Failing, "left", reads)
        with pytest.raises(OSError, match="Input/output error") as raised:
            whole(file)
        assert raised.value.errno == errno.EIO


@needs_av
def test_what_is_done_with_the_frames_is_no_damage(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", moving(frames=8))
    with pytest.raises(OSError, match="No space left") as raised, read_volume(file, 3) as volume:
        next(volume.frames)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.errno == errno.ENOSPC


def test_what_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no frame rate is known, which 'a\.mp4' needs: name an \.npy file"):
        write_volume(tmp_path / "a.mp4", [torch.rand(3, 4, 8, 8)], (4, 8, 8), 3, None)


@needs_av
def test_what_pyav_does_not_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.gif' is the suffix of no file that volumes can be written to"):
        write_volume(tmp_path / "a.gif", [torch.rand(3, 4, 8, 8)], (4, 8, 8), 3, Fraction(25))
    with pytest.raises(ValueError, match="1 or 3 colors, got 2 channels"):
        write_volume(tmp_path / "a.mp4", [torch.rand(2, 4, 8, 8)], (4, 8, 8), 2, Fraction(25))
    with pytest.raises(TypeError, match=r"expected floats in \[0, 1\] to write, got torch.uint8"):
        write_volume(tmp_path / "a.mp4", [torch.zeros(3, 4, 8, 8, dtype=torch.uint8)], (4, 8, 8), 3, Fraction(25))
    assert not list(tmp_path.iterdir())


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ImportError, match=r'video files need PyAV .*: pip install "walloc_transforms\[video\]"'):
        whole(tmp_path / "a.mp4")

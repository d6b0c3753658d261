"""The commands for WeConvene, as a user calls them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.test_app import files, photograph, read
from walloc_transforms.cli.app import main
from walloc_transforms.files import read_signal
from walloc_transforms.weconvene import (
    WeConvene,
    fingerprint,
    load_checkpoint,
    read_compressed,
    read_compressed_header,
    save,
    write_compressed,
)


def make_model(folder: Path, seed: int) -> str:
    """Save a small model, and return what names it."""
    torch.manual_seed(seed)
    save(WeConvene(n=4, m=4, slices=1, blocks=0).eval(), folder)
    return f"weconvene:{folder}"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"), 0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photographs of all kinds, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    photograph(67, 81).save(folder / "a.png")
    photograph(30, 20, 1).convert("L").save(folder / "gray.png")
    photograph(30, 20, 1).convert("RGBA").save(folder / "opaque.png")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(30, 20) * 100).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    photograph(40, 64).save(folder / "more/b.jpg", exif=exif)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_folder_there_and_back(photos: Path, tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, decoded = tmp_path / "out", tmp_path / "decoded"
    assert main(["encode", str(photos), "-o", str(out), "--codec", codec]) == 0
    assert files(out) == ["a.wcv", "deep.wcv", "gray.wcv", "more/b.wcv", "opaque.wcv"]
    assert main(["decode", str(out), "-o", str(decoded), "--codec", codec]) == 0
    assert files(decoded) == ["a.png", "deep.png", "gray.png", "more/b.png", "opaque.png"]
    model = load_checkpoint(codec.removeprefix("weconvene:"))
    for name, size in [("a.png", (67, 81)), ("gray.png", (30, 20)), ("more/b.jpg", (64, 40))]:
        pixels, _ = read_signal(photos / name, "image")
        with torch.no_grad():
            expected = model(pixels[None] / 255, exact=True)["x_hat"][0]
        assert tuple(pixels.shape) == (3, *size)
        found = read((decoded / name).with_suffix(".png"))
        assert np.array_equal(found, (expected * 255).round().permute(1, 2, 0).numpy())
        assert read_compressed_header((out / name).with_suffix(".wcv")).size == size
    assert capsys.readouterr().err == ""
    assert main(["encode", str(photos), "-o", str(out), "--codec", codec]) == 0
    assert main(["decode", str(out), "-o", str(decoded), "--codec", codec]) == 0
    assert capsys.readouterr().err.count("skipped 5 files that had been finished before") == 2


def test_info(photos: Path, tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.wcv"
    assert main(["encode", str(photos / "a.png"), "-o", str(file), "--codec", codec]) == 0
    assert main(["info", str(file)]) == 0
    length, name = file.stat().st_size, fingerprint(load_checkpoint(codec.removeprefix("weconvene:")))
    said = capsys.readouterr().out
    for text in ("(67, 81)", name, f"{length} bytes, {8 * length / (67 * 81):.3f} bits per pixel"):
        assert text in said
    assert main(["info", codec]) == 0
    said = capsys.readouterr().out
    assert name in said and "haar" in said


def test_bad_files_among_good_ones(
    photos: Path, tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    photograph(30, 20).convert("RGBA").resize((20, 30)).save(photos / "clear.png")
    with Image.open(photos / "clear.png") as image:
        image.putalpha(7)
        image.save(photos / "clear.png")
    out = tmp_path / "out"
    assert main(["encode", str(photos), "-o", str(out), "--codec", codec]) == 1
    said = capsys.readouterr().err
    assert "broken.jpg: " in said and "transparent pixels" in said and "2 files could not be done" in said
    assert files(out) == ["a.wcv", "deep.wcv", "gray.wcv", "more/b.wcv", "opaque.wcv"]
    good = out / "a.wcv"
    (out / "cut.wcv").write_bytes(good.read_bytes()[:-9])
    compressed = read_compressed(good)
    for kind, streams in [("more", (b"", *compressed.streams[1:])), ("fewer", compressed.streams[:2])]:
        changed = type(compressed)(streams, compressed.size)
        write_compressed(out / f"{kind}.wcv", changed, read_compressed_header(good).model)
    (out / "other.wcv").write_bytes(b"\x89WLC\r\n\x1a\n" + bytes(99))
    assert main(["decode", str(out), "-o", str(tmp_path / "png"), "--codec", codec]) == 1
    said = capsys.readouterr().err
    for text in ("cut off", "not what its symbols encode to", "expected 3 streams", "no file of WeConvene"):
        assert text in said
    assert "4 files could not be done" in said and "Traceback" not in said
    assert files(tmp_path / "png") == ["a.png", "deep.png", "gray.png", "more/b.png", "opaque.png"]


def test_another_model(photos: Path, tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, other = tmp_path / "a.wcv", make_model(tmp_path / "other", 1)
    assert main(["encode", str(photos / "a.png"), "-o", str(file), "--codec", codec]) == 0
    assert main(["decode", str(file), "-o", str(tmp_path / "a.png"), "--codec", other]) == 1
    assert "was compressed by another model" in capsys.readouterr().err
    assert main(["decode", str(file), "-o", str(tmp_path / "a.png")]) == 1
    assert "a.wcv was compressed by WeConvene: name its model" in capsys.readouterr().err
    assert main(["encode", str(photos), "-o", str(tmp_path / "out"), "--codec", codec]) == 0
    assert main(["encode", str(photos), "-o", str(tmp_path / "out"), "--codec", other]) == 1
    assert "of another source or other options: --force overwrites it" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["encode", "a.png", "-o", "x.wlc"], "WeConvene compresses to .wcv files, got --output x.wlc"),
        (["encode", "a.png", "-o", "x.wcv", "--coder", "webp"], "a coder of its own, got --coder webp"),
        (["encode", "a.png", "-o", "x.wcv", "--max-pixels", "99"], "--max-pixels, allows"),
        (["encode", "flat.png", "-o", "x.wcv", "--max-pixels", "4096"], "which is 8192 pixels"),
        (["decode", "a.wcv", "-o", "x.png", "--tile", "64"], "leave out --decoder, --tile and --window"),
        (["decode", "a.wcv", "-o", "x.png", "--decoder", "refiner"], "leave out --decoder, --tile and --window"),
        (["decode", "a.wcv", "-o", "x.wav"], "'x.wav' is of no image format"),
        (["decode", "nowhere.wcv", "-o", "x.png"], "there is no file or folder"),
    ],
)
def test_errors(
    command: list[str],
    message: str,
    tmp_path: Path,
    codec: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photograph(20, 30).save("a.png")
    photograph(1, 65).save("flat.png")
    assert main(["encode", "a.png", "-o", "a.wcv", "--codec", codec]) == 0
    assert main([*command, "--codec", codec]) == 1
    assert message in capsys.readouterr().err
    assert files(tmp_path) == ["a.png", "a.wcv", "flat.png"]


def test_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (tmp_path / "nowhere", tmp_path):
        for command in (["encode", "a.png", "-o", "x.wcv", "--codec"], ["decode", "a.wcv", "-o", "x.png", "--codec"]):
            assert main([*command, f"weconvene:{name}"]) == 1
            said = capsys.readouterr().err
            assert str(tmp_path) in said and "Traceback" not in said

"""What a command writes where, what it skips, and what it never overwrites."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import walloc_transforms as wt
from walloc_transforms.cli import convert
from walloc_transforms.cli.app import main
from walloc_transforms.cli.outputs import JOURNAL, name_outputs

Run = Callable[..., str]


def save(file: Path, seed: int = 0, size: int = 32) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size // 8, size // 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(file)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "more/b.png", "more/c.png")):
        save(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command and return what it says; it must succeed, or fail with a code."""

    def run(*args: str | Path, code: int = 0) -> str:
        done = main([str(arg) for arg in args])
        said = capsys.readouterr().err
        assert done == code, said
        return said

    return run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that were read."""
    names: list[str] = []

    def counted(name: str) -> None:
        original = getattr(convert, name)

        def read(file: Path, *args: object) -> object:
            names.append(file.name)
            return original(file, *args)

        monkeypatch.setattr(convert, name, read)

    counted("read_signal")
    counted("load_latents")
    return names


def contents(folder: Path) -> dict[str, bytes]:
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    files.pop(JOURNAL, None)
    return files


def test_finished_outputs_are_skipped(photos: Path, out: Path, run: Run, reads: list[str], tmp_path: Path) -> None:
    for command in (["encode", photos, "-o", out], ["decode", out, "-o", tmp_path / "png"]):
        assert run(*command) == ""
        before = contents(out)
        reads.clear()
        assert "skipped 3 files that had been finished before" in run(*command)
        assert (reads, contents(out)) == ([], before)
        assert run(*command, "--force") == ""
        assert len(reads) == 3
        (Path(command[3]) / "more" / ("b.wlc" if command[0] == "encode" else "b.png")).unlink()
        reads.clear()
        assert "skipped 2 files" in run(*command)
        assert len(reads) == 1


@pytest.mark.parametrize("change", ["source", "codec", "coder", "target"])
def test_what_was_made_otherwise_is_an_error(photos: Path, out: Path, run: Run, reads: list[str], change: str) -> None:
    run("encode", photos, "-o", out)
    options: list[str] = []
    if change == "source":
        times = (photos / "a.png").stat()
        save(photos / "a.png", seed=9, size=40)
        os.utime(photos / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # the size tells
    elif change == "codec":
        options = ["--codec", "rgb_4x"]
    elif change == "coder":
        options = ["--coder", "webp"]
    else:
        (out / "a.wlc").write_bytes(b"mine")
    before, reads[:] = contents(out), []
    said = run("encode", photos, "-o", out, *options, code=1)
    reason = "and this command makes something else" if change == "target" else "of another source or other options"
    assert f"a.wlc exists, {reason}: --force overwrites it" in said
    failed = 3 if options else 1
    assert f"{failed} file{'s' * (failed > 1)} could not be done" in said
    assert contents(out) == before
    assert reads == (["a.png"] if change == "target" else [])  # only what the journal does not know is made again
    run("encode", photos, "-o", out, *options, "--force")
    assert contents(out)["a.wlc"] != before["a.wlc"]


def test_decoder_and_codec_on_the_disk_count(photos: Path, out: Path, run: Run, tmp_path: Path) -> None:
    run("encode", photos, "-o", out)
    codec, png = tmp_path / "codec", tmp_path / "png"
    wt.load_codec("rgb_16x").save_pretrained(codec)
    command = ["decode", out, "-o", png, "--codec", codec]
    run(*command)
    assert "skipped 3 files" in run(*command)
    assert "other options" in run(*command, "--decoder", "refiner", code=1)
    os.utime(codec / "weights.safetensors", (0, 0))
    assert "other options" in run(*command, code=1)
    shutil.rmtree(png)
    run(*command[:4])
    assert "skipped 3 files" in run(*command[:4], "--codec", "rgb_16x")


@pytest.mark.parametrize("journal", ["none", "cut off", "of other places", "garbage"])
def test_outputs_that_the_journal_does_not_know_are_compared(photos: Path, out: Path, run: Run, journal: str) -> None:
    run("encode", photos, "-o", out)
    file, before = out / JOURNAL, contents(out)
    if journal == "none":
        file.unlink()
    elif journal == "cut off":
        file.write_bytes(file.read_bytes()[:-9])
    elif journal == "of other places":
        shutil.copytree(out, out.with_name("moved"))
        shutil.rmtree(out)
        out = out.with_name("moved")
    else:
        file.write_bytes(b"\xff\n[]\n3\n" + b"[" * 100_000 + b'\n{"output": {}}\n{"output": "a.wlc", "state": 3}\n')
    said = run("encode", photos, "-o", out)
    assert "skipped 3 files" in said
    assert contents(out) == before
    assert "skipped 3 files" in run("encode", photos, "-o", out)


def test_journal_is_no_link(photos: Path, out: Path, run: Run, tmp_path: Path) -> None:
    out.mkdir()
    (tmp_path / "mine").write_text("mine")
    (out / JOURNAL).symlink_to(tmp_path / "mine")
    run("encode", photos, "-o", out)
    assert (tmp_path / "mine").read_text() == "mine"
    assert "skipped 3 files" in run("encode", photos, "-o", out)


def test_one_file_that_exists_is_compared(photos: Path, out: Path, run: Run, tmp_path: Path) -> None:
    wlc, png = tmp_path / "a.wlc", tmp_path / "a.png"
    for command in (["encode", photos / "a.png", "-o", wlc], ["decode", wlc, "-o", png]):
        run(*command)
        assert "skipped 1 file" in run(*command)
    assert "makes something else" in run("encode", photos / "more/b.png", "-o", wlc, code=1)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "a.wlc", "photos"]


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_sources_are_never_overwritten(photos: Path, run: Run, link: Callable[[Path, Path], None] | None) -> None:
    before, target = contents(photos), photos / "target.wlc"
    if link is None:
        shutil.copy(photos / "a.png", target)
        source = target
    else:
        source = photos / "a.png"
        link(source, target)
    for sources in ([source], [photos / "more", source], [photos, source]):
        output = target if len(sources) == 1 else photos
        said = run("encode", *sources, "-o", output, "--force", code=1 if link is None or len(sources) == 1 else 0)
        if link is None or len(sources) == 1:
            assert "target.wlc is a file that is to be read: it is never overwritten" in said
    assert before.items() <= contents(photos).items()
    assert target.read_bytes() == before["a.png"]


def test_decoding_does_not_overwrite_another_input(photos: Path, out: Path, run: Run) -> None:
    run("encode", photos, "-o", out)
    (out / "a.png").symlink_to(out / "more/b.wlc")
    before = contents(out)
    said = run("decode", out / "a.wlc", out / "more/b.wlc", "-o", out, "--force", code=1)
    assert "a.png is a file that is to be read" in said
    (out / "b.png").unlink()
    assert contents(out) == before


def test_inspect_does_not_overwrite_its_data(photos: Path, run: Run) -> None:
    before = contents(photos)
    assert "never overwritten" in run("inspect", "rgb_16x", "--data", photos, "-o", photos / "a.png", "--force", code=1)
    assert contents(photos) == before


def test_latents_are_called_wlc(photos: Path, tmp_path: Path, run: Run) -> None:
    said = run("encode", photos / "a.png", "-o", tmp_path / "b.png", code=1)
    assert "latents are stored in .wlc files" in said
    assert not (tmp_path / "b.png").exists()
    run("encode", photos / "a.png", "-o", tmp_path / "B.WLC")


@pytest.mark.parametrize(
    ("sources", "outputs"),
    [
        ("a.jpg b.jpg c/a.jpg", "a b c/a"),
        ("a.jpg a.png b.jpg", "a.jpg a.png b"),
        ("A.jpg a.png", "A.jpg a.png"),
        ("a.jpg a.png a.jpg.bmp", "a.jpg a.png a.jpg.bmp"),
        ("a.b.jpg a.c.jpg", "a.b a.c"),
        ("a.jpg a.jpg", "a a"),
    ],
)
def test_name_outputs(sources: str, outputs: str) -> None:
    files = [Path(name) for name in sources.split()]
    expected = dict(zip(files, map(Path, outputs.split()), strict=True))
    assert name_outputs(files) == name_outputs(reversed(files)) == expected


def test_two_suffixes_of_one_name(photos: Path, out: Path, run: Run, tmp_path: Path) -> None:
    save(photos / "a.jpg", seed=7)
    run("encode", photos, "-o", out)
    assert set(contents(out)) == {"a.jpg.wlc", "a.png.wlc", "more/b.wlc", "more/c.wlc"}
    assert "skipped 4 files" in run("encode", photos, "-o", out)
    run("decode", out, "-o", tmp_path / "png")
    assert set(contents(tmp_path / "png")) == {"a.jpg.png", "a.png.png", "more/b.png", "more/c.png"}


def test_two_sources_of_one_name(photos: Path, out: Path, run: Run) -> None:
    said = run("encode", photos, photos / "a.png", photos / "more", photos / "more/../more/b.png", "-o", out)
    assert said == ""  # the same file twice is done once
    save(photos / "other/a.png", seed=5)
    said = run("encode", photos / "a.png", photos / "other/a.png", "-o", out, code=1)
    assert f"a.wlc is made of {photos / 'a.png'} in this run" in said


def test_left_out_files_are_counted_once(photos: Path, out: Path, run: Run) -> None:
    for name in ("x.heic", "more/y.HEIC", "z.mov", "notes.txt", ".hidden.heic"):
        (photos / name).touch()
    said = run("encode", photos, "-o", out)
    assert "left out 2 .heic, 1 .mov (suffixes that are read: .jpg" in said
    run("encode", photos, "-o", photos)
    said = run("encode", photos, "-o", photos)
    assert "left out 2 .heic, 1 .mov (" in said
    assert run("decode", photos, "-o", out.with_name("png")) == ""


def test_notices_are_counted_once(tmp_path: Path, out: Path, run: Run) -> None:
    pictures = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for name in ("a.gif", "b.webp"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
    assert "2 files with several pictures: only the first is read" in run("encode", tmp_path, "-o", out)


def test_leftovers_of_dead_processes_are_removed(photos: Path, out: Path, run: Run) -> None:
    (out / "more").mkdir(parents=True)
    (out / "more" / f".walloc-{0:016x}.partial").write_bytes(b"half")
    run("encode", photos, "-o", out)
    assert set(contents(out)) == {"a.wlc", "more/b.wlc", "more/c.wlc"}


def test_max_pixels(photos: Path, out: Path, run: Run, tmp_path: Path) -> None:
    Image.new("L", (20_000, 10_000)).save(tmp_path / "large.png")
    said = run("encode", tmp_path / "large.png", "-o", out, code=1)
    assert "or --max-pixels, allows: Image size (200000000 pixels) exceeds limit of 178956970 pixels" in said
    assert "exceeds limit of 500 pixels" in run("encode", photos, "-o", out, "--max-pixels", "500", code=1)
    run("encode", photos, "-o", out, "--max-pixels", "1024")
    assert "more than 500 values or pixels" in run("decode", out, "-o", tmp_path, "--max-pixels", "500", code=1)
    assert "exceeds limit of 500 pixels" in run("fit", photos, "-o", out, "--max-pixels", "500", code=1)
    assert "must be positive" in run("encode", photos, "-o", out, "--max-pixels", "0", code=1)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("encode", "--coder", "nosuch"), "unknown coder 'nosuch'"),
        (("encode", "--coder", "ans"), "coder 'ans' needs constriction"),
        (("encode", "--codec", "stereo_5x"), "sound files need soundfile"),
        (("decode", "--codec", "nosuch"), "unknown codec 'nosuch'"),
        (("fit", "--audio"), "sound files need soundfile"),
    ],
)
def test_what_is_wrong_fails_before_files_are_read(
    command: tuple[str, ...], message: str, out: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("constriction", "soundfile"):
        monkeypatch.setitem(sys.modules, name, None)
    assert message in run(command[0], "nowhere", "-o", out, *command[1:], code=1)


def test_codec_may_not_be_called_like_an_embedded_one(
    photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "'rgb_4x' names an embedded codec" in run("fit", photos, "-o", "./rgb_4x", code=1)
    assert "'rgb_4x' names an embedded codec" in run("import", "x.pth", "-o", "rgb_4x", "--force", code=1)
    run("fit", photos, "-o", "codecs/rgb_4x", "--channels", "3", "--levels", "2")


def test_what_is_printed_moves_no_cursor(photos: Path, out: Path, run: Run) -> None:
    name = "b\x1b[31m\u202e\nwalloc: all is well.png"
    (photos / name).write_bytes(b"no image")
    said = run("encode", photos, "-o", out, code=1)
    assert r"b\x1b[31m\u202e\nwalloc: all is well.png: cannot identify image file" in said
    assert all(line.isprintable() for line in said.splitlines())


def test_inspect_goes_on_past_bad_data(photos: Path, out: Path, run: Run) -> None:
    Image.new("RGB", (1, 1)).save(photos / "0.png")
    out.mkdir()
    said = run("inspect", "rgb_16x", "--data", photos, "-o", out / "fig.png", code=1)
    assert "0.png: too small" in said
    assert (out / "fig.png").exists()


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "walloc_transforms", "list"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rgb_16x" in done.stdout


def test_interrupt_while_importing(tmp_path: Path) -> None:
    code = "import sys\nclass F:\n def find_spec(self, name, *_):\n  if name == 'torch': raise KeyboardInterrupt\n"
    code += "sys.meta_path.insert(0, F())\nfrom walloc_transforms.cli import main\nsys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "walloc: interrupted\n")

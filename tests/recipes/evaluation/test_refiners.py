"""Refiners in the evaluation of codecs: the same files as the linear decoder's, and figures of their own beside its."""

import csv
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from torch import Tensor

import walloc_transforms as wt
from recipes import evaluate_codec
from recipes.common.photographs import demo_photographs
from recipes.common.quality import Networks, ms_ssim, psnr, to_8_bits
from recipes.common.sounds import full_scale
from recipes.evaluation import image_measures
from recipes.evaluation import sounds as sound_evaluation
from recipes.evaluation.image_measures import MOSAIC, Photo
from recipes.evaluation.sound_formats import RESAMPLERS
from recipes.evaluation.sounds import Piece
from tests.helpers import give_refiner, loaded_refiner, reference_decode

RATE = 16000


def photograph(height: int, width: int) -> Tensor:
    """A demo photograph, reduced to a size, uint8."""
    return torch.from_numpy(np.array(demo_photographs()[1].resize((width, height)))).permute(2, 0, 1)


def music(seed: int, samples: int = 20001) -> Tensor:
    """Stereo noise without high frequencies, at full scale."""
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))
    return full_scale(torch.nn.functional.avg_pool1d(noise, 9, 1, 4))


def with_refiner(codec: wt.Codec) -> wt.Codec:
    """Give a codec a random refiner, always the same, which does some harm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        loaded_refiner(give_refiner(codec)).scale.mul_(0.2)
    return codec


@pytest.fixture(scope="module")
def image_codec() -> wt.Codec:
    return with_refiner(wt.fit_codec([photograph(96, 120)], levels=2, channels=12, name="fine", progress=False))


@pytest.fixture(scope="module")
def sound_codec() -> wt.Codec:
    codec = wt.fit_codec([music(9)], levels=4, channels=12, name="tiny", sample_rate=RATE, progress=False)
    return with_refiner(codec)


@pytest.fixture
def photo() -> Photo:
    """Of odd sides, no multiples of the stride, and large enough for MS-SSIM."""
    return Photo("cat", photograph(181, 197))


@pytest.fixture
def piece() -> Piece:
    return Piece("x", music(1), RATE)


def reread(codec: wt.Codec, folder: Path) -> wt.Codec:
    """Write a codec to a folder named as it is, and read it from there."""
    codec.save_pretrained(folder / codec.config.name)
    return wt.load_codec(folder / codec.config.name)


def by_definition(codec: wt.Codec, latents: Tensor, refined: bool, channels: int | None = None) -> Tensor:
    """Decode latents ``(D, ...)``, or the first ``channels`` of them, in float64, to ``[0, 1]`` or ``[-1, 1]``.

    To a refiner, those that are left out are at their mean.
    """
    z = latents.float()[None]
    if channels is None:
        return reference_decode(codec, z, refined, clamp=False)[0]
    decoded = reference_decode(codec.prefix(channels), z[:, :channels], clamp=False)[0]
    if refined:
        z = codec.latent_mean.view(-1, *[1] * codec.config.dims).expand(z.shape).clone()
        z[:, :channels] = latents[:channels]
        refined_z, linear_z = (reference_decode(codec, z, refined, clamp=False)[0] for refined in (True, False))
        decoded = decoded + refined_z - linear_z
    return decoded


def image_by_definition(photo: Photo, *args: Any) -> Tensor:
    return to_8_bits(by_definition(*args)[:, : photo.size[0], : photo.size[1]])


def sound_psnr_by_definition(piece: Piece, *args: Any) -> float:
    return psnr(piece.sound, by_definition(*args)[:, : piece.sound.shape[-1]].clamp(-1, 1))


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by the names of the files that they were written to."""
    figures: dict[str, Figure] = {}
    save = Figure.savefig

    def spy(self: Figure, file: Path, **options: Any) -> None:
        figures[file.name] = self
        save(self, file, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def lines_of(figure: Figure, panel: int = 0) -> dict[str, tuple[list[float], str]]:
    """Heights and the style of each line of a panel, by label."""
    lines = figure.axes[panel].get_lines()
    return {
        str(line.get_label()): (np.asarray(line.get_ydata()).tolist(), f"{line.get_marker()}{line.get_linestyle()}")
        for line in lines
    }


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is encoded, written and decoded, in this order."""
    done: list[str] = []

    def spy(place: Any, name: str, saying: Any) -> None:
        call = getattr(place, name)

        def spied(*args: Any, **options: Any) -> Any:
            done.append(saying(args, options))
            return call(*args, **options)

        monkeypatch.setattr(place, name, spied)

    for kind in ("image", "waveform"):
        spy(wt.functional, f"encode_{kind}", lambda _, options: "encode" + ", round" * options.get("quantize", False))
        spy(
            wt.functional,
            f"decode_{kind}",
            lambda args, options: f"{options['decoder']} of {str(args[0].dtype).removeprefix('torch.')}",
        )
    spy(image_measures, "write_file", lambda *_: "write")
    spy(sound_evaluation, "save_latents", lambda *_: "write")
    return done


PASSES = [
    "encode",
    "linear of float32",
    "refiner of float32",
    "encode, round",
    "write",
    "linear of int8",
    "refiner of int8",
]
"""Both decoders are warm before anything is timed, and decode one file."""


# images


@pytest.mark.parametrize("coder", [MOSAIC, "zlib"])
def test_a_refiner_decodes_the_same_image_file(
    photo: Photo, image_codec: wt.Codec, tmp_path: Path, passes: list[str], coder: str
) -> None:
    photo.networks = Networks({"lpips": lambda decoded, image: (decoded - image).abs().mean()})
    measured, latents = image_measures.measure(photo, reread(image_codec, tmp_path), coder)
    assert passes == PASSES
    assert [decoder for decoder, *_ in measured] == ["linear", "refiner"]
    assert torch.equal(latents, wt.functional.encode_image(photo.image, image_codec, quantize=True, dtype=torch.int8))
    (_, linear, _), (_, refined, _) = measured
    for figure in ("reduction", "bytes", "bpp", "encode_mps"):
        assert linear[figure] == refined[figure]
    for decoder, record, decoded in measured:
        expected = image_by_definition(photo, image_codec, latents, decoder == "refiner")
        assert float((decoded.int() - expected.int()).abs().max()) <= 1
        assert record["psnr"] == pytest.approx(psnr(photo.image, expected), abs=0.01)
        assert record["ms_ssim"] == pytest.approx(ms_ssim(photo.image, expected), abs=1e-4)
    assert refined["psnr"] < linear["psnr"] - 1
    assert refined["lpips_db"] < linear["lpips_db"] - 1
    assert refined["decode_mps"] != linear["decode_mps"]


@pytest.mark.slow
@pytest.mark.parametrize("coder", [MOSAIC, "zlib"])
def test_a_refiner_has_figures_of_its_own_for_prefixes_of_images(
    photo: Photo, image_codec: wt.Codec, tmp_path: Path, coder: str
) -> None:
    codec = reread(image_codec, tmp_path)
    measured, latents = image_measures.measure(photo, codec, coder)
    rows = image_measures.measure_prefixes(photo, codec, latents, coder)
    assert [r["channels"] for r in rows] == [3, 6, 12]
    figures = ["psnr", "ms_ssim", "refiner_psnr", "refiner_ms_ssim", "resize_psnr"]
    assert list(rows[0]) == ["codec", "channels", "reduction", "bytes", "bpp", *figures]
    for row in rows:
        for start, refined in (("", False), ("refiner_", True)):
            expected = image_by_definition(photo, image_codec, latents, refined, row["channels"])
            assert row[f"{start}psnr"] == pytest.approx(psnr(photo.image, expected), abs=0.01)
            assert row[f"{start}ms_ssim"] == pytest.approx(ms_ssim(photo.image, expected), abs=1e-4)
    for figure in ("bytes", "bpp", "psnr", "ms_ssim"):
        assert rows[-1][figure] == measured[0][1][figure]
    assert (rows[-1]["refiner_psnr"], rows[-1]["refiner_ms_ssim"]) == (
        measured[1][1]["psnr"],
        measured[1][1]["ms_ssim"],
    )


@pytest.mark.slow
def test_refiners_of_image_codecs_in_tables_and_figures(
    image_codec: wt.Codec, tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    """Beside a codec that has none, on two images; dB are averaged as such."""
    (tmp_path / "images").mkdir()
    for i, size in enumerate([(180, 178), (97, 121)]):
        demo_photographs()[i].resize(size).save(tmp_path / "images" / f"{i}.png")
    reread(image_codec, tmp_path)
    reread(wt.fit_codec([photograph(96, 120)], levels=2, channels=6, name="bare", progress=False), tmp_path)
    codecs, out = (str(tmp_path / "fine"), str(tmp_path / "bare")), tmp_path / "out"
    config = evaluate_codec.Config(data=str(tmp_path / "images"), codecs=codecs, formats=("JPEG",), output_dir=out)
    linear, refined, resized, jpeg, *bare = evaluate_codec.main(config)
    assert [r["method"] for r in (linear, refined, resized, jpeg)] == ["fine", "fine", "resize", "JPEG"]
    assert [r["decoder"] for r in (linear, refined, resized, jpeg)] == ["linear", "refiner", "", ""]
    assert [(r["method"], r["decoder"]) for r in bare] == [("bare", "linear"), ("resize", ""), ("JPEG", "")]
    assert (linear["bpp"], linear["encode_mps"]) == (refined["bpp"], refined["encode_mps"])

    records = rows_of(out / "images.csv")
    assert [r["decoder"] for r in records] == ["linear", "refiner", "", "", "linear", "", ""] * 2
    for row, own in ((linear, records[0::7]), (refined, records[1::7])):
        assert row["psnr"] == pytest.approx(statistics.fmean(float(r["psnr"]) for r in own))
    assert jpeg["bpp"] == pytest.approx(linear["bpp"], rel=0.1)
    curve = rows_of(out / "prefix.csv")
    assert [(r["codec"], r["channels"]) for r in curve] == [
        *(("fine", n) for n in ("3", "6", "12")),
        ("bare", "3"),
        ("bare", "6"),
    ]
    assert float(curve[2]["refiner_psnr"]) == pytest.approx(refined["psnr"])
    assert float(curve[2]["psnr"]) == pytest.approx(linear["psnr"])
    assert [bool(r["refiner_psnr"]) for r in curve] == [True] * 3 + [False] * 2

    table = (out / "table.md").read_text().splitlines()
    assert "A refiner decodes the same files" in table[0]
    for row in (linear, refined):
        line = next(line for line in table if line.startswith(f"| `fine` | {row['decoder']} | 2 |"))
        assert f"| {row['bpp']:.3f} | {row['psnr']:.2f} | {row['ms_ssim']:.4f} |" in line
    at = table.index("## The first latent channels alone")
    assert table[at + 2].endswith("| MS-SSIM | refiner: PSNR, dB | refiner: MS-SSIM | resize: PSNR, dB |")
    digits = {"psnr": 2, "ms_ssim": 4, "refiner_psnr": 2, "refiner_ms_ssim": 4}
    assert " | ".join(f"{float(curve[2][figure]):.{n}f}" for figure, n in digits.items()) in table[at + 6]
    assert " | - | - | " in table[at + 8]

    for panel, figure in enumerate(("psnr", "ms_ssim")):
        lines = lines_of(drawn["rd.png"], panel)
        heights, style = lines["fine, refiner, first channels"]
        assert heights == pytest.approx([float(r[f"refiner_{figure}"]) for r in curve[:3]])
        assert lines["fine, first channels"][0] == pytest.approx([float(r[figure]) for r in curve[:3]])
        assert lines["fine, refiner"][0] == pytest.approx([refined[figure]])
        assert style != lines["fine, first channels"][1]
        assert lines["fine, refiner"][1] != lines["fine"][1]
        assert not any("bare" in label and "refiner" in label for label in lines)
    assert len({round(axes.get_position().x0, 1) for axes in drawn["sheet.png"].axes}) == 4  # side by side
    titles = [axes.get_title() for axes in drawn["sheet.png"].axes]
    assert [title.splitlines()[0] for title in titles[:5]] == ["original", "fine", "fine, refiner", "resize", "JPEG"]
    assert titles[2].splitlines()[1:] == [
        f"{float(records[1][f]):.{n}f} {u}" for f, n, u in (("psnr", 1, "dB"), ("bpp", 2, "bpp"))
    ]
    assert not any(title.startswith("bare, refiner") for title in titles)


# music


@pytest.mark.slow
def test_a_refiner_decodes_the_same_sound_file(
    piece: Piece, sound_codec: wt.Codec, tmp_path: Path, passes: list[str]
) -> None:
    measured, length = sound_evaluation.measure(piece, reread(sound_codec, tmp_path), "zlib")
    assert passes == PASSES
    assert [decoder for decoder, _ in measured] == ["linear", "refiner"]
    (_, linear), (_, refined) = measured
    for figure in ("reduction", "bits_per_sample", "compression_ratio", "encode_msps"):
        assert linear[figure] == refined[figure]
    assert refined["bits_per_sample"] == 8 * length / piece.values
    latents = wt.functional.encode_waveform(piece.sound, sound_codec)
    for decoder, record in measured:
        for figure, z in (("psnr_unrounded", latents), ("psnr", latents.round())):
            expected = sound_psnr_by_definition(piece, sound_codec, z, decoder == "refiner")
            assert record[figure] == pytest.approx(expected, abs=0.01)
    assert refined["psnr"] < linear["psnr"] - 1
    assert refined["si_sdr"] < linear["si_sdr"] - 1
    assert refined["decode_msps"] != linear["decode_msps"]


def test_a_refiner_has_figures_of_its_own_for_prefixes_of_sound(
    piece: Piece, sound_codec: wt.Codec, tmp_path: Path
) -> None:
    codec = reread(sound_codec, tmp_path)
    rows = sound_evaluation.measure_prefixes(piece, codec)
    assert [r["channels"] for r in rows] == [8, 12]
    latents = wt.functional.encode_waveform(piece.sound, sound_codec)
    for row in rows:
        for figure, refined in (("psnr", False), ("refiner_psnr", True)):
            expected = sound_psnr_by_definition(piece, sound_codec, latents, refined, row["channels"])
            assert row[figure] == pytest.approx(expected, abs=0.01)
    for (_, record), figure in zip(
        sound_evaluation.measure(piece, codec, "zlib")[0], ("psnr", "refiner_psnr"), strict=True
    ):
        assert record["psnr_unrounded"] == rows[-1][figure]


def test_refiners_of_audio_codecs_in_tables_and_figures(
    sound_codec: wt.Codec, tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    """Beside a codec that has none, on two pieces; dB are averaged as such."""
    (tmp_path / "music").mkdir()
    for i in range(2):
        soundfile.write(tmp_path / "music" / f"{i}.wav", music(i).T.numpy() / 2, RATE, subtype="FLOAT")
    reread(sound_codec, tmp_path)
    reread(wt.fit_codec([music(9)], levels=4, channels=8, name="bare", sample_rate=RATE, progress=False), tmp_path)
    codecs, out = (str(tmp_path / "tiny"), str(tmp_path / "bare")), tmp_path / "out"
    config = evaluate_codec.Config(data=str(tmp_path / "music"), codecs=codecs, formats=("Vorbis",), output_dir=out)
    linear, refined, *others = evaluate_codec.main(config)
    assert [(r["method"], r["decoder"]) for r in (linear, refined)] == [("tiny", "linear"), ("tiny", "refiner")]
    rivals = [*RESAMPLERS, "Vorbis"]
    assert [r["method"] for r in others] == [*rivals, "bare", *rivals]
    assert [r["decoder"] for r in others] == [*[""] * 3, "linear", *[""] * 3]
    records = rows_of(out / "pieces.csv")
    assert [r["method"] for r in records] == ["tiny", "tiny", *rivals, "bare", *rivals] * 2
    assert [r["decoder"] for r in records] == ["linear", "refiner", *[""] * 3, "linear", *[""] * 3] * 2
    own = {"linear": records[0::9], "refiner": records[1::9]}
    for row in (linear, refined):
        for figure in ("psnr_unrounded", "psnr", "si_sdr"):
            assert row[figure] == pytest.approx(statistics.fmean(float(r[figure]) for r in own[row["decoder"]]))

    table = (out / "table.md").read_text().splitlines()
    assert "A refiner decodes the same files" in table[0]
    for row, name in ((linear, "`tiny`"), (refined, "`tiny`, refiner")):
        line = next(line for line in table if line.startswith(f"| {name} | 2 |"))
        assert f"| {row['psnr_unrounded']:.2f} | {row['psnr']:.2f} | {row['si_sdr']:.2f} |" in line
    at = table.index("## PSNR beside the better resampling to as many values")
    assert table[at + 2].endswith("| unrounded - linear | rounded - linear |")
    lines = table[at + 4 : at + 13]
    assert [line.split(" | ")[:2] for line in lines] == [
        [f"| {name}", piece] for name in ("`tiny`", "`tiny`, refiner", "`bare`") for piece in ("0.wav", "1.wav", "mean")
    ]
    resampling = max(float(r["psnr_unrounded"]) for r in records[2:4])
    for line, record in zip((lines[0], lines[3]), records[:2], strict=True):
        unrounded, rounded = float(record["psnr_unrounded"]), float(record["psnr"])
        less = f"| {unrounded - resampling:+.2f} | {rounded - resampling:+.2f} |"
        assert f"| {resampling:.2f} | {unrounded:.2f} | {rounded:.2f} {less}" in line
    gains = [refined[figure] - linear[figure] for figure in ("psnr_unrounded", "psnr")]
    assert lines[5].endswith(f"| {gains[0]:+.2f} | {gains[1]:+.2f} |")
    assert all(line.endswith("| - | - |") for line in (*lines[:3], *lines[6:]))

    curve = rows_of(out / "prefix.csv")
    assert [(r["codec"], r["channels"]) for r in curve] == [("tiny", "8"), ("tiny", "12"), ("bare", "8")]
    assert float(curve[1]["refiner_psnr"]) == pytest.approx(refined["psnr_unrounded"])
    assert float(curve[1]["psnr"]) == pytest.approx(linear["psnr_unrounded"])
    less = [float(curve[1][f"{start}psnr"]) - float(curve[1]["resampling_psnr"]) for start in ("", "refiner_")]
    assert [float(curve[1][key]) for key in ("difference", "refiner_difference")] == pytest.approx(less)
    assert table[-2].endswith(f"| {less[0]:+.2f} | {float(curve[1]['refiner_psnr']):.2f} | {less[1]:+.2f} |")
    assert table[-1].endswith("| - | - |")
    drawings = lines_of(drawn["prefix.png"])
    heights, style = drawings["tiny, refiner, first channels"]
    assert heights == pytest.approx([float(r["refiner_psnr"]) for r in curve[:2]])
    assert style != drawings["tiny, first channels"][1]
    assert "bare, refiner, first channels" not in drawings


# both


@pytest.mark.parametrize("slow", ["linear", "refiner"])
def test_each_decoder_has_a_time_of_its_own(
    photo: Photo, piece: Piece, image_codec: wt.Codec, sound_codec: wt.Codec, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """Of its second call, from the file; here one decoder is slow in that, the other in its first."""
    for name in ("decode_image", "decode_waveform"):
        decode = getattr(wt.functional, name)

        def slowed(latents: Tensor, *args: Any, decode: Any = decode, **options: Any) -> Tensor:
            time.sleep(0.2 * ((options["decoder"] == slow) == (latents.dtype == torch.int8)))
            return decode(latents, *args, **options)

        monkeypatch.setattr(wt.functional, name, slowed)
    images = image_measures.measure(photo, image_codec, MOSAIC)[0]
    sounds = sound_evaluation.measure(piece, sound_codec, "zlib")[0]
    for seconds in (
        {decoder: photo.pixels / 1e6 / record["decode_mps"] for decoder, record, _ in images},
        {decoder: piece.values / 1e6 / record["decode_msps"] for decoder, record in sounds},
    ):
        assert seconds.pop(slow) > 0.2
        assert max(seconds.values()) < 0.2

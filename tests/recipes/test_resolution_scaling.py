"""Resolution scaling over several tasks, made small: one table, one figure, published figures kept apart from ours."""

import csv
import json
import math
import shutil
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import tyro
import yaml
from matplotlib.figure import Figure
from PIL import Image

from recipes import resolution_scaling
from recipes.common.demo_music import demo_track
from recipes.common.figures import mark_values
from recipes.common.photographs import demo_photographs
from recipes.resolution_scaling import (
    ColorizationSettings,
    Config,
    PretrainedSettings,
    ReadingSettings,
    SeparationSettings,
)
from recipes.scaling import published_results as published
from recipes.scaling import report as scaling_report
from recipes.scaling.report import Part
from recipes.separation.front_ends import HOP
from recipes.separation.network import NetworkSize
from recipes.separation.tracks import RATE

GRAY = ["gray itself", "gray, mean color", "gray, mean color of its brightness"]
SILENCE = ["mixture as estimate", "mixture, scaled", "silence"]
ARMS = {
    "classification": ["resize_16x", "walloc_16x"],
    "colorization": ["dct_16x", "patch"],
    "separation": ["resample_20x", "stft"],
    "documents": ["pixels", "rgb_16x"],
    "pretrained": ["pixels", "dct_16x"],
}


SECONDS = 4  # of the demo's segments, and few of them


def tiny(folder: Path, task: Any, options: dict[str, Any] | None = None, *, seeds: int = 1) -> Config:
    """Two arms per task that is run; an option ``task.name`` is one of the task's own."""
    options = {"seeds": seeds, **(options or {})}
    own: dict[str, dict[str, Any]] = {
        "classification": {
            "arms": tuple(ARMS["classification"]),
            "demo_crops": (64, 20),
            "epochs": 1,
            "workers": 0,
            "stages": 1,
        },
        "colorization": {
            "arms": tuple(ARMS["colorization"]),
            "steps": 2,
            "batch_size": 2,
            "crop": 24,
            "width": 24,
            "depth": 1,
            "heads": 2,
            "test_images": 2,
            "sheet_images": 1,
        },
        "separation": {
            "arms": tuple(ARMS["separation"]),
            "steps": 2,
            "batch_size": 2,
            "segment_seconds": SECONDS,
            "size": NetworkSize(512, 16, 16, 2, 1),
        },
        "documents": {"arms": tuple(ARMS["documents"]), "images": 1, "sheet_lines": 1},
        "pretrained": {"arms": tuple(ARMS["pretrained"]), "images": 6},
    }
    groups = {name: own[name] if task in (name, "all") else {} for name in own}
    for name in [name for name in options if "." in name]:
        group, setting = name.split(".")
        groups[group][setting] = options.pop(name)
    return Config(
        task=task,
        output_dir=folder,
        **{**groups["classification"], **options},
        colorization=ColorizationSettings(**groups["colorization"]),
        separation=SeparationSettings(**groups["separation"]),
        documents=ReadingSettings(**groups["documents"]),
        pretrained=PretrainedSettings(**{"arms": resolution_scaling.SHOWN_TO_PRETRAINED, **groups["pretrained"]}),
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open() as text:
        return list(csv.DictReader(text))


@dataclass
class Run:
    config: Config
    rows: list[dict[str, Any]]
    folder: Path


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All tasks on their demos, two seeds."""
    config = tiny(tmp_path_factory.mktemp("all"), "all", seeds=2)
    return Run(config, resolution_scaling.main(config), config.output_dir)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(demo_photographs()[:3]):
        image.resize((60 + i, 50)).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    for i in range(2):
        (tmp_path / "songs" / f"song{i}").mkdir(parents=True)
        for name, stem in demo_track(i, 2).items():
            soundfile.write(tmp_path / "songs" / f"song{i}" / f"{name}.wav", stem.T.numpy(), RATE, subtype="FLOAT")
    return tmp_path / "songs"


# all tasks


@pytest.mark.slow
def test_one_row_per_arm_and_trivial_result(everything: Run) -> None:
    expected = [("classification", arm) for arm in ARMS["classification"]]
    expected += [("colorization", arm) for arm in GRAY + ARMS["colorization"]]
    expected += [("separation", arm) for arm in SILENCE + ARMS["separation"]]
    expected += [(task, arm) for task in ("documents", "pretrained") for arm in ARMS[task]]
    assert [(r["task"], r["arm"]) for r in everything.rows] == expected
    rows = {(r["task"], r["arm"]): r for r in everything.rows}
    untrained = [key for key in expected if key[0] in ("documents", "pretrained") or key[1] in GRAY + SILENCE]
    assert [key for key, r in rows.items() if r["seeds"] != 2] == untrained
    assert rows["pretrained", "dct_16x"]["values"] == 224 * 224 * 12 // 64
    assert rows["pretrained", "pixels"]["agreement"] == 100
    assert rows["documents", "rgb_16x"]["values"] == 480 * 640 * 12 // 64
    frames = round(SECONDS * RATE / 512) * 2
    for key, values, tokens in (
        (("classification", "walloc_16x"), 12 * 256, 256),
        (("colorization", "dct_16x"), 12 * 9, 9),
        (("colorization", "patch"), 192 * 9, 9),
        (("separation", "resample_20x"), 27 * frames, frames),
        (("separation", "stft"), 514 * frames, frames),
    ):
        assert (rows[key]["values"], rows[key]["tokens"]) == (values, tokens)


@pytest.mark.slow
def test_figures_are_those_of_the_runs(everything: Run) -> None:
    """Computed again from what every recipe keeps per image and segment."""
    rows = {(r["task"], r["arm"]): r for r in everything.rows}
    images = read_csv(everything.folder / "colorization" / "images.csv")
    segments = read_csv(everything.folder / "separation" / "segments.csv")
    segments = [r for r in segments if r["source"] == "vocals"]
    for task, arm, scored, names in (
        ("colorization", "patch", images, ("psnr", "ms_ssim")),
        ("separation", "stft", segments, ("sdr", "si_sdr", "psnr")),
    ):
        for name in names:
            known = {seed: [float(r[name]) for r in scored if (r["arm"], r["seed"]) == (arm, seed)] for seed in "01"}
            means = [statistics.fmean(v for v in own if not math.isnan(v)) for own in known.values()]
            assert rows[task, arm][name] == pytest.approx(statistics.fmean(means))
            assert rows[task, arm][f"{name}_sd"] == pytest.approx(statistics.stdev(means))
    assert rows["separation", "silence"]["sdr"] == 0
    result = json.loads((everything.folder / "colorization" / "patch_seed0" / "result.json").read_text())
    assert rows["colorization", "patch"]["step_rate"] == pytest.approx(2 * result["step_rate"])
    assert rows["colorization", "patch"]["macs"] == result["trunk_macs"]
    result = json.loads((everything.folder / "separation" / "stft_seed0" / "result.json").read_text())
    seconds = rows["separation", "stft"]["tokens"] * HOP / RATE
    assert rows["separation", "stft"]["macs"] == pytest.approx(result["trunk_macs"] * seconds)


@pytest.mark.slow
def test_files(everything: Run) -> None:
    made = read_csv(everything.folder / "table.csv")
    assert list(made[0]) == [
        "task",
        "arm",
        "values",
        "tokens",
        "macs",
        "accuracy",
        "spread",
        "psnr",
        "psnr_sd",
        "ms_ssim",
        "ms_ssim_sd",
        "sdr",
        "sdr_sd",
        "si_sdr",
        "si_sdr_sd",
        "anls",
        "anls_se",
        "exact",
        "exact_se",
        "cer",
        "cer_se",
        "agreement",
        "agreement_se",
        "seeds",
        "pipeline_rate",
        "step_rate",
    ]
    assert [r["arm"] for r in made] == [r["arm"] for r in everything.rows]
    separation = max(i for i, row in enumerate(everything.rows) if row["task"] == "separation")
    assert float(made[separation]["sdr"]) == everything.rows[separation]["sdr"]
    assert (made[0]["psnr"], made[-1]["accuracy"], made[2]["values"], made[-1]["tokens"]) == ("", "", "", "")

    ours, theirs = (everything.folder / "table.md").read_text().split("## Theirs: WaLLoC paper, Table 3")
    lines = [cells(line) for line in ours.splitlines() if line.startswith("|")]
    heads = [
        "task",
        "arm",
        "values per sample",
        "tokens",
        "trunk MMACs",
        "accuracy, % (mean ± sd)",
        "PSNR, dB (mean ± sd)",
        "MS-SSIM (mean ± sd)",
        "SDR, dB (mean ± sd)",
        "SI-SDR, dB (mean ± sd)",
        "ANLS, % (mean ± se)",
        "lines read exactly, % (mean ± se)",
        "character error rate, % (mean ± se)",
        "agreement, % (mean ± se)",
        "seeds",
        "input pipeline, samples/s",
        "training step, samples/s",
    ]
    assert lines[0] == heads
    assert [line[:2] for line in lines[2:]] == [[r["task"], r["arm"]] for r in everything.rows]
    last, line = everything.rows[separation], lines[2:][separation]
    assert line[heads.index("SDR, dB (mean ± sd)")] == f"{last['sdr']:.1f} ± {last['sdr_sd']:.1f}"
    assert line[heads.index("accuracy, % (mean ± sd)")] == "-"
    assert "a crop of 24x24 pixels" in ours
    assert "Not our figures" in theirs

    settings = yaml.safe_load((everything.folder / "config.yaml").read_text())
    assert (settings["colorization"]["data_root"], settings["separation"]["size"]["width"]) == ("data", 16)
    with Image.open(everything.folder / "figure.png") as figure:
        assert figure.width > 2000


@pytest.mark.slow
def test_published_figures_are_never_ours(everything: Run) -> None:
    ours, theirs = (everything.folder / "table.md").read_text().split("\n## Theirs")
    csv_text = (everything.folder / "table.csv").read_text()
    for result in published.RESULTS:
        assert any(f"| {result.task} | {result.reads} | {result.values:,} |" in line for line in theirs.splitlines())
        assert f"| {result.reads} |" not in ours
        assert f"{result.task},{result.reads}," not in csv_text
    for mark in (published.PAPER, published.NOTEBOOKS):
        assert mark in theirs
        assert mark not in ours + csv_text
    for task, defects in published.DEFECTS.items():
        assert all(f"\n* {task}: {defect}" in theirs for defect in defects)


@pytest.mark.slow
def test_resume_keeps_finished_runs(everything: Run, tmp_path: Path) -> None:
    """Results that no training could give are told as they stand."""
    folder = tmp_path / "copy"
    shutil.copytree(everything.folder, folder)
    for run in ("walloc_16x_seed0", "colorization/patch_seed1", "separation/stft_seed0"):
        file = folder / run / "result.json"
        result = json.loads(file.read_text())
        result |= {"accuracy": 400.0} if "accuracy" in result else {}
        for row in result.get("rows", []):
            row |= {"psnr": 400.0}
        file.write_text(json.dumps(result))
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("checkpoint.pt")}
    rows = {
        (r["task"], r["arm"]): r
        for r in resolution_scaling.main(replace(everything.config, output_dir=folder, resume=True))
    }
    assert rows["classification", "walloc_16x"]["accuracy"] > 200
    assert rows["colorization", "patch"]["psnr"] > 200
    assert rows["separation", "stft"]["psnr"] > 200
    for old in everything.rows:
        if old["arm"] in ("resize_16x", "dct_16x", "resample_20x"):
            assert rows[old["task"], old["arm"]] == old
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("checkpoint.pt")} == before


@pytest.mark.slow
def test_overwriting_would_remove_every_file(everything: Run) -> None:
    named = {file for pattern in resolution_scaling.WRITTEN for file in everything.folder.glob(pattern)}
    others = {file.name for file in everything.folder.rglob("*") if file.is_file()} - {file.name for file in named}
    assert others == {"config.yaml"}


# one task


@pytest.mark.slow
def test_colorization_alone(photos: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path / "out", "colorization", {"colorization.data": str(photos)})
    rows = resolution_scaling.main(config)
    assert [r["arm"] for r in rows] == GRAY + ARMS["colorization"]
    columns = "arm,values,tokens,macs,psnr,psnr_sd,ms_ssim,ms_ssim_sd,seeds,step_rate"
    assert (tmp_path / "out" / "table.csv").read_text().splitlines()[0] == columns
    text = (tmp_path / "out" / "table.md").read_text()
    assert "photos" in text
    assert text.count("## Theirs: WaLLoC paper, Table 3") == 1
    assert "±" not in text.split("## Theirs")[0].split("| arm |")[1].split("\n", 1)[1]  # one seed has no spread
    assert "LPIPS 1.76 dB" in text
    assert "accuracy" not in text
    assert (tmp_path / "out" / "colorization" / "sheet.png").is_file()


@pytest.mark.slow
def test_separation_alone(songs: Path, tmp_path: Path) -> None:
    options = {"separation.data": str(songs), "separation.segment_seconds": 0.5}
    config = tiny(tmp_path / "out", "separation", options)
    rows = resolution_scaling.main(config)
    assert [r["arm"] for r in rows] == SILENCE + ARMS["separation"]
    columns = "arm,values,tokens,macs,psnr,psnr_sd,sdr,sdr_sd,si_sdr,si_sdr_sd,seeds,step_rate"
    assert (tmp_path / "out" / "table.csv").read_text().splitlines()[0] == columns
    assert "one segment, counted 235 times" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "figure.png").is_file()


@pytest.mark.slow
def test_pretrained_alone(photos: Path, tmp_path: Path) -> None:
    """With labels, and without a row of published figures: they have no such task."""
    for file in photos.iterdir():
        (photos / "tench").mkdir(exist_ok=True)
        Image.open(file).resize((224, 224)).save(photos / "tench" / file.name)
        file.unlink()
    config = tiny(tmp_path / "out", "pretrained", {"pretrained.data": str(photos)})
    rows = resolution_scaling.main(config)
    assert [r["arm"] for r in rows] == ARMS["pretrained"]
    columns = "arm,values,tokens,macs,top1,top1_se,agreement,agreement_se,seeds,step_rate"
    assert (tmp_path / "out" / "table.csv").read_text().splitlines()[0] == columns
    text = (tmp_path / "out" / "table.md").read_text()
    assert "photos: an image that the network reads" in text
    assert "Theirs" not in text
    assert (tmp_path / "out" / "figure.png").is_file()
    assert (tmp_path / "out" / "pretrained" / "sheet.png").is_file()


@pytest.mark.slow
def test_classification_alone(tmp_path: Path) -> None:
    """Without published figures, and of three arms and two seeds."""
    config = Config(
        arms=("resize_16x", "patch", "walloc_16x"),
        seeds=2,
        demo_crops=(64, 20),
        epochs=1,
        workers=0,
        stages=1,
        output_dir=tmp_path,
    )
    rows = resolution_scaling.main(config)
    assert [r["arm"] for r in rows] == ["resize_16x", "patch", "walloc_16x"]
    assert [r["values"] for r in rows] == [3072, 49152, 3072]
    assert {r["tokens"] for r in rows} == {256}
    runs = [json.loads((tmp_path / f"patch_seed{s}" / "result.json").read_text())["accuracy"] for s in (0, 1)]
    assert rows[1]["accuracy"] == pytest.approx(statistics.fmean(runs))
    assert rows[1]["spread"] == pytest.approx(statistics.stdev(runs))
    text = (tmp_path / "table.md").read_text()
    assert text.startswith(
        "| arm | values per sample | tokens | trunk MMACs | accuracy, % (mean ± sd) | seeds | input "
        "pipeline, samples/s | training step, samples/s |\n| --- | ---: |"
    )
    assert text.count("\n") == 2 + len(rows)
    columns = "arm,values,tokens,macs,accuracy,spread,seeds,pipeline_rate,step_rate"
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == columns
    with Image.open(tmp_path / "figure.png") as figure:
        assert min(figure.size) > 300
    before = (tmp_path / "table.csv").read_text()
    config.resume = True
    assert resolution_scaling.main(config) == rows
    assert (tmp_path / "table.csv").read_text() == before


def test_classification_alone_refuses_at_once(tmp_path: Path) -> None:
    for options in ({"arms": ("walloc_16x", "walloc_5x")}, {"seeds": 0}):
        with pytest.raises(ValueError, match=r"unknown arm 'walloc_5x'|at least one arm and one seed"):
            resolution_scaling.main(Config(**options, output_dir=tmp_path / "x"))  # type: ignore[arg-type]  # options of one type for all fields
    assert not (tmp_path / "x").exists()


# settings


def test_command_line() -> None:
    """The flat options are those of classification, as ever; the defaults are those of every recipe."""
    config = tyro.cli(Config, args=["--data", "PHOTOS", "--image-size", "256", "--epochs", "40"])
    assert (config.task, config.data, config.image_size, config.epochs, config.seeds) == (
        "classification",
        "PHOTOS",
        256,
        40,
        3,
    )
    config = tyro.cli(
        Config,
        args=[
            "--task",
            "separation",
            "--separation.arms",
            "stft",
            "conv",
            "--separation.size.width",
            "32",
            "--seeds",
            "2",
            "--resume",
        ],
    )
    own = resolution_scaling.separation_config(config)
    assert (own.arms, own.size.width, own.seeds, own.resume) == (("stft", "conv"), 32, 2, True)
    default = resolution_scaling.colorization.Config(
        seeds=3, output_dir=Path("runs/resolution_scaling/TIME/colorization")
    )
    assert resolution_scaling.colorization_config(Config()) == default


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("all", {"arms": ("walloc_5x",)}, "unknown arm 'walloc_5x': expected one of resize_16x"),
        ("all", {"arms": ()}, "at least one arm and one seed"),
        ("all", {"image_size": 100}, "image_size must be a multiple of 8, got 100"),
        ("all", {"colorization.arms": ("stft",)}, "unknown arm 'stft': expected one of resize_16x"),
        ("all", {"separation.arms": ("patch",)}, "unknown arm 'patch': expected one of resample_5x"),
        ("all", {"colorization.arms": ()}, "at least one arm and one seed"),
        ("all", {"separation.steps": 0}, "steps must be at least 1, got 0"),
        ("all", {"colorization.data": "/nowhere"}, "no folder"),
        ("all", {"separation.data": "/nowhere"}, "no folder"),
        ("colorization", {"colorization.crop": 1024, "colorization.arms": ("patch",)}, "is at least 1024x1024 pixels"),
        *((task, {"seeds": 0}, "at least one arm and one seed") for task in (*resolution_scaling.TASKS, "all")),
        (
            "colorization",
            {"data": "PHOTOS"},
            r"--data is .* of classification, .* --task colorization does not run; .*"
            r"--colorization\.\*",
        ),
        ("documents", {"documents.arms": ("stft",)}, "unknown arm 'stft': expected one of pixels"),
        ("documents", {"documents.data": "/nowhere"}, "no folder"),
        ("pretrained", {"pretrained.arms": ("stft",)}, "unknown arm 'stft': expected one of pixels"),
        ("pretrained", {"pretrained.data": "/nowhere"}, "no folder"),
        ("colorization", {"pretrained.images": 9}, r"--pretrained\.\* is a setting of pretrained, which"),
        ("colorization", {"documents.images": 9}, r"--documents\.\* is a setting of documents, which"),
        ("separation", {"batch_size": 8}, r"--batch-size is a setting of classification"),
        ("separation", {"arms": ("stft",)}, r"--arms is a setting of classification"),
        ("classification", {"colorization.steps": 9}, r"--colorization\.\* is a setting of colorization, which"),
        ("colorization", {"separation.steps": 9}, r"--separation\.\* is a setting of separation, which"),
    ],
)
def test_refuses_at_once(tmp_path: Path, task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        resolution_scaling.main(tiny(tmp_path / "out", task, options))
    assert not (tmp_path / "out").exists()


# what others published


def test_published_rows_name_their_source() -> None:
    """Both kinds of figures have a column of their own; what is not in the paper is not said to be."""
    lines = [
        cells(line)
        for line in scaling_report.markdown_published(resolution_scaling.TASKS).splitlines()
        if line.startswith("|")
    ]
    assert lines[0][-2:] == ["WaLLoC paper, Table 3", "their notebooks, not in the paper"]
    table = {(line[0], line[1]): line[2:] for line in lines[2:]}
    assert table["classification", "image resized to 64 px"] == ["12,288", "16", "accuracy 23.1 %", "-"]
    assert table["classification", "256 px, patches of 64"] == ["196,608", "16", "-", "accuracy 50.6 %"]
    assert table["separation", "latents 20x"] == ["27,648", "256", "PSNR 34.2 dB", "SSDR 4.3 dB, SRDR -16.4 dB"]
    assert len(table) == len(published.RESULTS)
    assert scaling_report.markdown_published(["separation"]).count("\n| separation |") == 5


def test_published_values_follow_from_what_was_read() -> None:
    for r in published.RESULTS:
        words = r.reads.replace(",", "").split()
        if r.task != "separation":
            side = int(words[words.index("px") - 1])
            expected = side**2 * 3
            expected //= int(words[1].rstrip("x")) if r.family == "latents" else 1
            assert r.values == expected, r.reads
        assert published.HEADLINE[r.task] in (r.paper or r.notebooks)
        assert set(r.paper) <= {published.HEADLINE[r.task]}
    assert [r.values for r in published.RESULTS if r.reads in ("waveform at 44.1 kHz", "waveform at 11 kHz")] == [
        2 * 2**18,
        2 * 2**16,
    ]


# figure


def parts() -> list[Part]:
    def row(arm: str, values: int, psnr: float, seeds: int = 2) -> dict[str, Any]:
        return {
            "task": "colorization",
            "arm": arm,
            "values": values,
            "tokens": 9,
            "macs": 1e6,
            "psnr": psnr,
            "psnr_sd": 0.5 if seeds > 1 else math.nan,
            "seeds": seeds,
            "step_rate": 1.0,
        }

    trivial = {"task": "colorization", "arm": "gray itself", "psnr": 20.0, "psnr_sd": math.nan, "seeds": 0}
    color = [trivial, row("dct_4x", 400, 23.0), row("dct_16x", 100, 22.0), row("patch", 1600, 24.0)]
    return [Part("colorization", color, "demo", "psnr", "PSNR (dB)", "a crop")]


def test_figure_shows_ours_above_and_theirs_below(tmp_path: Path) -> None:
    figure: Any = scaling_report.draw(parts(), with_published=True)
    figure.savefig(tmp_path / "figure.png")
    above, below = (block.axes for block in figure.subfigs)
    assert (len(above), len(below)) == (1, 1)
    lines = {line.get_label(): line for line in above[0].lines}
    assert list(lines["gray itself"].get_ydata()) == [20, 20]
    assert lines["gray itself"].get_linestyle() == "--"
    curves = {bars.get_label(): bars for bars in above[0].containers}
    assert list(curves) == ["dct", "patch"]
    assert [list(x) for x in curves["dct"].lines[0].get_data()] == [[100, 400], [22, 23]]
    (segments,) = curves["dct"].lines[2]
    assert [list(s[:, 1]) for s in segments.get_segments()] == [[21.5, 22.5], [22.5, 23.5]]

    results = [r for r in published.RESULTS if r.task == "colorization"]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in below[0].lines]
    assert points == [(r.values, (r.paper or r.notebooks)["lpips_db"]) for r in results]
    for line, result in zip(below[0].lines, results, strict=True):
        assert line.get_markerfacecolor() == "none"
        assert float(line.get_markeredgecolor()) == (0.25 if result.paper else 0.6)  # gray
    labels = [text.get_text() for text in below[0].get_legend().get_texts()]
    assert labels == [
        f"{kind} ({source})"
        for kind, source in (
            ("pixels", published.PAPER),
            ("latents", published.PAPER),
            ("latents", published.NOTEBOOKS),
        )
    ]
    assert "Theirs: WaLLoC paper, Table 3" in figure.subfigs[1].get_suptitle()
    assert not above[0].get_shared_y_axes().joined(above[0], below[0])
    width, height = figure.get_size_inches() * figure.dpi
    for axes in (*above, *below):  # nothing is cut off
        box = axes.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_figure_of_ours_alone() -> None:
    figure = scaling_report.draw(parts(), with_published=False)
    assert len(figure.axes) == 1
    assert not figure.subfigs


def test_close_values_share_a_tick() -> None:
    axes = Figure().subplots()
    mark_values(axes, [512, 514, 27, 108, 27])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["27", "108", "512"]

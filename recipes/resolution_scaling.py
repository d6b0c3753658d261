"""Compare what a network may read instead of a full image or sound: equal compute, several seeds, a table, a figure.

    python -m recipes.resolution_scaling
    python -m recipes.resolution_scaling --data PHOTOS --image-size 256 --epochs 40
    python -m recipes.resolution_scaling --task all
    python -m recipes.resolution_scaling --task colorization --colorization.data PHOTOS --colorization.steps 3000
    python -m recipes.resolution_scaling --task separation --separation.data STEMS --separation.arms walloc_20x stft
    python -m recipes.resolution_scaling --task documents --documents.data SCANS
    python -m recipes.resolution_scaling --task pretrained --pretrained.network lite1

Within a task every arm trains the same network on the same crops for the same number of steps, with every seed. The
tasks are recipes/classification.py, whose settings have no prefix, and recipes/colorization.py,
recipes/source_separation.py, recipes/reading.py and recipes/pretrained.py, whose settings have the name of their task
as prefix. The last two train nothing: others trained the reader of documents (`pip install -e ".[reading]"`) and the
network that answers. The table gives means, with standard deviations over seeds where something is trained and
standard errors over pages or images where not, and the samples per second of training (for classification also of
loading, decoding and encoding). Below stands what the WaLLoC paper reports of such tasks, marked as theirs, except
where classification runs alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from recipes import classification, colorization, pretrained, reading, source_separation
from recipes.answers.arms import DISTILLED, FITTED, LARGER_PATCH
from recipes.answers.report import headline
from recipes.answers.task import open_task
from recipes.colorization import Settings as ColorizationSettings
from recipes.common.arms import ARMS, STRIDE
from recipes.common.checks import check_batch
from recipes.common.command import run_command
from recipes.common.comparison import compare, files_of_arms
from recipes.common.crops import Crops, load_photographs
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import Run
from recipes.common.tables import Record, group
from recipes.documents.pages import load_pages
from recipes.pretrained import Settings as PretrainedSettings
from recipes.reading import Settings as ReadingSettings
from recipes.scaling.report import MEASURES, Part, caption, csv_of, draw, markdown, markdown_published
from recipes.scaling.rows import documents_row, mean_of_runs, pretrained_row, trained_row, without_bounds
from recipes.separation.front_ends import HOP
from recipes.separation.tracks import RATE
from recipes.source_separation import Settings as SeparationSettings
from walloc_transforms.safe import write_atomically

TASKS = ("classification", "colorization", "separation", "documents", "pretrained")
SHOWN_TO_PRETRAINED = tuple(arm for arm in pretrained.ARMS if not arm.startswith((FITTED, DISTILLED, LARGER_PATCH)))
WRITTEN = (
    *("table.md", "table.csv", "figure.png"),
    *files_of_arms(ARMS, classification.WRITTEN),
    *(f"colorization/{file}" for file in colorization.WRITTEN),
    *(f"separation/{file}" for file in source_separation.WRITTEN),
    *(f"documents/{file}" for file in reading.WRITTEN),
    *(f"pretrained/{file}" for file in pretrained.WRITTEN),
)


@dataclass
class Config(classification.Settings):
    """Compare the arms over seeds."""

    task: Literal["classification", "colorization", "separation", "documents", "pretrained", "all"] = "classification"
    """What the networks do. Settings of a task that is not run are refused."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which arms of classification to compare."""
    colorization: ColorizationSettings = field(default_factory=ColorizationSettings)
    separation: SeparationSettings = field(default_factory=SeparationSettings)
    documents: ReadingSettings = field(default_factory=ReadingSettings)
    pretrained: PretrainedSettings = field(default_factory=lambda: PretrainedSettings(arms=SHOWN_TO_PRETRAINED))
    seeds: int = 3
    """Seeds 0 to seeds - 1 of every task that trains; each draws its own crops, initialization and order."""
    output_dir: Path = Path("runs/resolution_scaling/TIME")
    """A new or empty folder, which gets table.md, table.csv, figure.png and a folder per run, those of other
    tasks than classification in a folder of their task. TIME stands for date and time."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those to run."""
        return TASKS if self.task == "all" else (self.task,)


def main(config: Config) -> list[Record]:
    """Run every arm with every seed and write table and figure; returns the table's rows.

    Raises:
        ValueError: A setting is out of range, or of a task that is not run, or the data do not do.
        FileNotFoundError: There is no such folder, or nothing in it.
    """
    check(config)
    ranks = Ranks.start()
    with claim("resolution_scaling", config, ranks, WRITTEN) as begin:
        check_data(config, ranks)
        begin()
        return run_tasks(config, ranks)


def run_tasks(config: Config, ranks: Ranks) -> list[Record]:
    """Run every arm with every seed and write table and figure; returns the table's rows."""
    parts = [_RUN[task](config, ranks) for task in config.tasks]
    rows = [row for part in parts for row in part.rows]
    if ranks.first:
        alone = config.task == "classification"  # whose table and figure are as before there were other tasks
        text = markdown(rows) if alone else caption(parts) + markdown(rows) + markdown_published(config.tasks)
        write_atomically(config.output_dir / "table.md", text.encode(), durable=True)
        write_atomically(config.output_dir / "table.csv", csv_of(rows), durable=True)
        draw(parts, with_published=not alone).savefig(config.output_dir / "figure.png", dpi=150)
    return rows


def check(config: Config) -> None:
    """Check all settings now, rather than after the hours that an earlier task may take."""
    if config.seeds < 1:
        raise ValueError("there is nothing to run: expected at least one arm and one seed")
    check_unused_settings(config)
    if "classification" in config.tasks:
        if not config.arms:
            raise ValueError("there is nothing to run: expected at least one arm and one seed")
        for arm in config.arms:
            if arm not in ARMS:
                raise ValueError(f"unknown arm {arm!r}: expected one of {', '.join(ARMS)}")
        classification.check(config)
    if "colorization" in config.tasks:
        colorization.check(colorization_config(config))
    if "separation" in config.tasks:
        source_separation.check(separation_config(config))
    if "documents" in config.tasks:
        reading.check(documents_config(config))
    if "pretrained" in config.tasks:
        pretrained.check(pretrained_config(config))


def check_data(config: Config, ranks: Ranks) -> None:
    """Open the data of every task, which each opens again when its turn comes."""
    if "classification" in config.tasks:
        for arm in config.arms:
            task = classification.open_task(classification_config(config, arm, 0, config.output_dir), ranks)
            if ranks.first and task.remark and arm == config.arms[0]:
                print(task.remark)
    if "colorization" in config.tasks:
        c = config.colorization
        check_batch(c.batch_size, ranks)
        photographs, _ = load_photographs(c.data, c.data_root, test_images=c.test_images, memory=0, show=False)
        Crops(photographs, c.crop, 0)[0]  # refuses photographs that are all too small
    if "separation" in config.tasks:
        check_batch(config.separation.batch_size, ranks)
        if config.separation.data != "demo":
            source_separation.open_tracks(separation_config(config), show=False)
    if "documents" in config.tasks and config.documents.data != "demo":
        load_pages(config.documents.data, config.documents.images)
    if "pretrained" in config.tasks:
        open_task(pretrained_config(config), pretrained.ARMS, show=False)


def check_unused_settings(config: Config) -> None:
    """Raise a ValueError for a setting of a task that is not run: whoever sets it means to run that task."""
    default = Config()
    flat = ["arms", *(f.name for f in fields(classification.Settings) if f.name not in ("resume", "overwrite"))]
    for task in TASKS:
        settings = flat if task == "classification" else [task]
        changed = [name for name in settings if getattr(config, name) != getattr(default, name)]
        if changed and task not in config.tasks:
            option = changed[0].replace("_", "-") if task == "classification" else f"{task}.*"
            hint = f"; its own settings are --{config.task}.*" if task == "classification" else ""
            raise ValueError(f"--{option} is a setting of {task}, which --task {config.task} does not run{hint}")


def run_classification(config: Config, ranks: Ranks) -> Part:
    """Train and score every arm with every seed."""

    def run_arm(arm: str, seed: int, run: Run) -> Record:
        own = classification_config(config, arm, seed, run.folder)
        return classification.train_and_score(own, classification.open_task(own, ranks), run)

    runs = compare(config, ranks, run_arm, lambda result: f"{result['accuracy']:.1f} %")
    rows = [mean_of_runs(own) for own in group(runs, ("arm",)).values()]
    return Part(
        "classification",
        rows,
        Path(config.data).name,
        "accuracy",
        "validation accuracy (%)",
        f"a crop of {config.image_size}x{config.image_size} pixels",
    )


def classification_config(config: Config, arm: str, seed: int, folder: Path) -> classification.Config:
    """Make the settings of one run."""
    shared = {f.name: getattr(config, f.name) for f in fields(classification.Settings)}
    return classification.Config(**shared, arm=arm, seed=seed, output_dir=folder)


def run_colorization(config: Config, ranks: Ranks) -> Part:
    """Run recipes/colorization.py; LPIPS is there where its network is asked for."""
    own = colorization_config(config)
    measures = {name: name for name in ("psnr", "ms_ssim", *["lpips_db"] * own.networks)}
    rows = [
        trained_row(
            "colorization",
            row,
            measures,
            tokens=(own.crop // STRIDE) ** 2,
            macs_of=1,
            batch=own.batch_size / ranks.world,
        )
        for row in colorization.main(own)
    ]
    return Part(
        "colorization",
        without_bounds(rows),
        Path(own.data).name,
        "psnr",
        "PSNR (dB)",
        f"a crop of {own.crop}x{own.crop} pixels",
    )


def run_separation(config: Config, ranks: Ranks) -> Part:
    """Run recipes/source_separation.py; its scores are those of the first source."""
    own = separation_config(config)
    source, seconds = own.sources[0], own.samples / RATE
    measures = {name: f"{name} {source}" for name in ("psnr", "sdr", "si_sdr")}
    rows = [
        trained_row(
            "separation", row, measures, tokens=own.samples // HOP, macs_of=seconds, batch=own.batch_size / ranks.world
        )
        for row in source_separation.main(own)
    ]
    return Part(
        "separation",
        without_bounds(rows),
        Path(own.data).name,
        "sdr",
        f"SDR of {source} (dB)",
        f"a stereo segment of {seconds:.2f} s",
    )


def run_documents(config: Config, _: Ranks) -> Part:
    """Run recipes/reading.py."""
    own = documents_config(config)
    rows = reading.main(own)
    return Part(
        "documents",
        [documents_row(row) for row in rows],
        Path(own.data).name,
        "anls",
        MEASURES["anls"][1],
        "a page",
        f"{rows[0]['pages']} pages",
    )


def run_pretrained(config: Config, _: Ranks) -> Part:
    """Run recipes/pretrained.py; what is drawn is top-1 where labels are known, else the agreement."""
    own = pretrained_config(config)
    rows = pretrained.main(own)
    measure = headline(rows)
    return Part(
        "pretrained",
        [pretrained_row(row) for row in rows],
        Path(own.data).name,
        measure,
        "top-1 (%)" if measure == "top1" else "agreement with all pixels (%)",
        "an image that the network reads",
        f"{own.network}, {rows[0]['images']} images",
    )


def colorization_config(config: Config) -> colorization.Config:
    """Make the recipe's config from its settings and those that all tasks share."""
    return colorization.Config(
        **vars(config.colorization),
        seeds=config.seeds,
        resume=config.resume,
        output_dir=config.output_dir / "colorization",
    )


def separation_config(config: Config) -> source_separation.Config:
    """Make the recipe's config from its settings and those that all tasks share."""
    return source_separation.Config(
        **vars(config.separation), seeds=config.seeds, resume=config.resume, output_dir=config.output_dir / "separation"
    )


def documents_config(config: Config) -> reading.Config:
    """Make the recipe's config from its settings and those that all tasks share."""
    return reading.Config(**vars(config.documents), resume=config.resume, output_dir=config.output_dir / "documents")


def pretrained_config(config: Config) -> pretrained.Config:
    """Make the recipe's config from its settings and those that all tasks share."""
    return pretrained.Config(
        **vars(config.pretrained), seeds=config.seeds, resume=config.resume, output_dir=config.output_dir / "pretrained"
    )


_RUN: dict[str, Callable[[Config, Ranks], Part]] = {
    "classification": run_classification,
    "colorization": run_colorization,
    "separation": run_separation,
    "documents": run_documents,
    "pretrained": run_pretrained,
}


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}: table.md, table.csv, figure.png")

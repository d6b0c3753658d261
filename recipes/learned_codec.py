"""Train a learned codec (WeConvene) on photographs, measure it, and see what its wavelets bring.

    python -m recipes.learned_codec                                          # trains a tiny one on the demo
    python -m recipes.learned_codec --data PHOTOS --test KODAK --preset small --lmbda 0.0067 --training.steps 50000
    python -m recipes.learned_codec --mode evaluate --data KODAK --real --checkpoint RUN1/model RUN2/model RUN3/model
    python -m recipes.learned_codec --mode compare --data PHOTOS --test KODAK --training.crop 128

`train` minimizes lambda * 255^2 * MSE + bits per pixel, and measures the model on the test images at every checkpoint
and in the end. `evaluate` measures trained models, beside JPEG, WebP and AVIF on the same images, and beside published
points where these are the 24 Kodak images; several checkpoints of several lambdas make a curve, of which BD-rates are
told. `compare` trains arms that have one, both or none of WeConvene's ideas, with several wavelets, at several lambdas
and with several seeds; all else is equal. It is resumed run by run. `torchrun -m recipes.learned_codec` trains on
several GPUs or processes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Literal

from recipes.common.checks import check_above_zero, check_at_least, check_batch
from recipes.common.command import run_command
from recipes.common.comparison import check_comparison, compare, files_of_arms
from recipes.common.crops import DEMO_PART, Crops, Photograph, load_photographs, of_files
from recipes.common.files import names_of
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run, finished_or_new
from recipes.common.tables import Record, as_csv, means
from recipes.evaluation.image_formats import FORMATS
from recipes.evaluation.image_report import draw_sheet
from recipes.learning import comparison
from recipes.learning.evaluation import Evaluation, evaluate
from recipes.learning.measuring import costs, measure_all, time_models, written
from recipes.learning.training import Training, scale_latents, train
from recipes.learning.variants import ARMS, build, options_of
from walloc_transforms.safe import write_atomically
from walloc_transforms.weconvene import WeConvene, load_checkpoint, save

MODEL = ("model/config.json", "model/model.safetensors")
WRITTEN = (
    *("table.md", "table.csv", "images.csv", "rates.csv", "rd.png", "sheet.png", *FILES, *MODEL),
    *("runs.csv", "figure.png", *files_of_arms(("plain_*", "*_*_*"), (*FILES, *MODEL))),
)
_OTHER_CROPS = 1000  # between the seeds of crops before and after the rate points part


@dataclass
class Jobs:
    """The runs of the comparison: an arm at a lambda is what ``compare`` calls an arm."""

    arms: tuple[str, ...]
    seeds: int
    resume: bool
    output_dir: Path


@dataclass
class Config:
    """Train, evaluate or compare learned codecs."""

    mode: Literal["train", "evaluate", "compare"] = "train"
    """What to do."""
    data: str = "demo"
    """A folder of photographs, a torchvision dataset, or `demo`: the left of the photographs that scikit-image and
    scikit-learn install. To evaluate on: a folder, or `demo`, their right."""
    test: str | None = None
    """A folder of photographs to measure on. Default: every fifth of the folder `data`, which is not trained on."""
    test_images: int | None = None
    """Measure on this many, evenly spread. Default: all."""
    data_root: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    memory_gb: float = 2.0
    """Training images beyond are read crop by crop."""
    preset: str = "tiny"
    """Size of the model: `tiny`, `small`, `medium` or `paper`."""
    weconv: bool = True
    """Train with wavelet-domain convolutions."""
    wecharm: bool = True
    """Train with the wavelet-domain entropy model."""
    wavelet: str = "haar"
    """Of both: `haar`, `bior2.2` (CDF 5/3) or `bior4.4` (CDF 9/7)."""
    lmbda: float = 0.013
    """Lambda, the weight of the distortion; the paper has 0.0025 to 0.05."""
    seed: int = 0
    """Of weights, crops and noise of a training."""
    training: Training = field(default_factory=Training)
    checkpoint: tuple[Path, ...] = ()
    """To evaluate: folders that this recipe wrote (`RUN/model`), or files of the reference's weights."""
    real: bool = False
    """Write a file of every test image and decode it. Otherwise only of the first `real_images`; the rate of the others
    is the model's estimate."""
    real_images: int = 1
    """Of how many test images to write files, without `real`."""
    formats: tuple[str, ...] = tuple(FORMATS)
    """Lossy formats to evaluate beside."""
    sheet_images: int = 3
    """Test images of which the sheet shows the middle."""
    arms: tuple[str, ...] = ARMS
    """To compare: `plain`, and `weconv`, `wecharm` or `both` with `_` and a wavelet. The first one is the anchor."""
    lambdas: tuple[float, ...] = (0.0025, 0.0067, 0.018, 0.05)
    """To compare: the rate points of every arm."""
    shared_steps: int = 0
    """To compare: steps at `lmbda` that all rate points of an arm and a seed begin with, trained once, before the
    `training.steps` of each. What is shared need not be trained four times."""
    seeds: int = 2
    """To compare: seeds 0 to seeds - 1."""
    repeats: int = 3
    """To compare: timed rounds of coding an image. 0: none."""
    resume: bool = False
    """Go on with the training or comparison that --output-dir holds, which must have the same settings."""
    overwrite: bool = False
    """Put this run in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/learned_codec/TIME")
    """A new or empty folder, which gets table.md, table.csv and pictures; the model and its training, or the runs of a
    comparison. TIME stands for date and time."""

    @property
    def real_count(self) -> int | None:
        """Of how many test images files are written; None: of all."""
        return None if self.real else self.real_images


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run, now rather than after an hour."""
    check_at_least(config, 0, ("real_images", "repeats", "sheet_images", "shared_steps"))
    check_above_zero(config, ("lmbda",))
    config.training.check()
    if config.test_images is not None and config.test_images < 1:
        raise ValueError(f"test_images must be at least 1, got {config.test_images}")
    if unknown := [name for name in config.formats if name not in FORMATS]:
        raise ValueError(f"unknown format {unknown[0]!r}: expected one of {', '.join(FORMATS)}")
    if (config.mode == "evaluate") != bool(config.checkpoint):
        raise ValueError("--mode evaluate needs a --checkpoint, and no other mode takes one")
    if config.mode == "train":
        build(config.preset, trained_options(config), 0)
    if config.mode == "compare":
        check_comparison(config, ())
        if not config.lambdas or min(config.lambdas) <= 0:
            raise ValueError(f"lambdas must be above 0, got {config.lambdas}")
        for arm in config.arms:
            build(config.preset, options_of(arm), 0)


def main(config: Config) -> list[Record]:
    """Train, evaluate or compare; returns the rows of the table.

    Raises:
        ValueError: A setting is out of range, or the data do not do (see recipes/common/crops.py).
        FileNotFoundError: There is no such folder or checkpoint, or no image in the folder.
    """
    check(config)
    ranks = Ranks.start()
    check_batch(config.training.batch_size, ranks)
    with claim("learned_codec", config, ranks, WRITTEN) as begin:
        if config.mode == "evaluate":
            models, test = load_models(config.checkpoint), test_photographs(config, ranks)
            begin()
            return evaluate(models, test, ranks, config.output_dir, settings_of(config))
        photographs, test = load_photographs(
            config.data,
            config.data_root,
            test=config.test,
            test_images=config.test_images,
            memory=config.memory_gb * 1e9,
            show=ranks.first,
        )
        crops = Crops(photographs, config.training.crop, config.seed)
        crops[0]  # refuses photographs that are all too small
        begin()
        if config.mode == "compare":
            return compare_arms(config, photographs, test, ranks)
        model = build(config.preset, trained_options(config), config.seed)
        scale_latents(model, crops)
        train_and_save(config, model, config.lmbda, crops, test, Run(config.output_dir, ranks, config.resume))
        text = caption(config, photographs)
        return evaluate({f"lambda {config.lmbda:g}": model}, test, ranks, config.output_dir, settings_of(config), text)


def settings_of(config: Config) -> Evaluation:
    """Return what the evaluation must know."""
    return Evaluation(config.real_count, config.formats, config.sheet_images)


def trained_options(config: Config) -> dict[str, bool | str]:
    """Return what the model that ``train`` makes has beyond its preset."""
    return {"weconv": config.weconv, "wecharm": config.wecharm, "wavelet": config.wavelet}


def test_photographs(config: Config, ranks: Ranks) -> list[Photograph]:
    """Return all photographs of a folder, or the right of those of the demo."""
    if config.data == "demo":
        return load_photographs("demo", config.data_root, test_images=config.test_images, show=ranks.first)[1]
    found = [photograph for photograph in of_files(Path(config.data)) if photograph.pixels() is not None]
    if not found:
        raise ValueError(f"no image in {config.data!r} could be read")
    count = min(len(found), config.test_images or len(found))
    return [found[i * len(found) // count] for i in range(count)]


def load_models(checkpoints: Sequence[Path]) -> dict[str, WeConvene]:
    """Load trained models; each is named by its folder or file, the folder `model` of a run by that of the run.

    The words that all names share, such as those of a comparison, are left out: titles have little room.
    """
    named = [path.parent if path.name == "model" else path for path in (c.absolute() for c in checkpoints)]
    names = names_of(named) if len(named) > 1 else [path.name for path in named]
    words = [name.split("_") for name in names]
    if len({len(name) for name in words}) == 1 and len(set(names)) > 1:
        differ = [len(set(column)) > 1 for column in zip(*words, strict=True)]
        names = ["_".join(compress(name, differ)) for name in words]
    return {name: load_checkpoint(path) for name, path in zip(names, checkpoints, strict=True)}


def train_and_save(
    config: Config, model: WeConvene, lmbda: float, crops: Crops, test: Sequence[Photograph], run: Run
) -> Record:
    """Train a model, with a look at the test images at checkpoints, and save it; returns the last record."""
    alone = Ranks(0, 1, run.ranks.device)  # only the first process validates

    def validate(model: WeConvene) -> dict[str, float]:
        rows, sheet = measure_all(model, test, alone, config.real_count, config.sheet_images)
        if sheet:
            draw_sheet([decoded.row() for decoded in sheet], run.folder / "sheet.png")
        return means(rows, ("bpp_estimated", "bpp", "psnr", "ms_ssim"))

    record = train(model, lmbda, crops, config.training, run, validate if config.mode == "train" else None)
    if run.ranks.first:
        save(model.cpu().eval(), run.folder / "model")
    return record


def caption(config: Config, photographs: Sequence[Photograph]) -> str:
    """Say what was trained, and on what."""
    s = config.training
    demo = (
        f"Trained on the left {DEMO_PART:.0%} of every demo photograph and measured on the rest: other places of the "
        "same scenes. "
    )
    shared = f" after {config.shared_steps} at lambda {config.lmbda:g} that all rate points of an arm and a seed share"
    shared *= config.mode == "compare" and config.shared_steps > 0
    return (
        f"{demo * (config.data == 'demo')}{len(photographs)} training images; preset `{config.preset}`, {s.steps} "
        f"steps of {s.batch_size} crops of {s.crop}x{s.crop} pixels{shared}, learning rate {s.lr:g}. "
    )


def compare_arms(
    config: Config, photographs: list[Photograph], test: Sequence[Photograph], ranks: Ranks
) -> list[Record]:
    """Train and measure every arm at every lambda with every seed; returns a row per arm."""
    jobs = {f"{arm}_lambda{lmbda:g}": (arm, lmbda) for lmbda in config.lambdas for arm in config.arms}

    def train_and_score(job: str, seed: int, run: Run) -> Record:
        arm, lmbda = jobs[job]
        model, crops = begun(config, arm, seed, photographs, ranks), Crops(photographs, config.training.crop, seed)
        record = train_and_save(config, model, lmbda, crops, test, run)
        rows, _ = measure_all(model.to(ranks.device), test, ranks, config.real_count)
        return {
            "loss": record["loss"],
            "step_rate": record["step_rate"],
            **means(rows, ("bpp_estimated", "psnr", "ms_ssim")),
            **written(rows),
            **costs(model),
            "rows": rows,
        }

    order = Jobs(tuple(jobs), config.seeds, config.resume, config.output_dir)
    results = compare(order, ranks, train_and_score, lambda r: f"{r['bpp_estimated']:.4f} bpp, {r['psnr']:.2f} dB")
    runs = [{**result, **dict(zip(("arm", "lmbda"), jobs[result["arm"]], strict=True))} for result in results]
    if not ranks.first:
        return []
    middle = sorted(config.lambdas)[len(config.lambdas) // 2]
    folders = {arm: config.output_dir / f"{arm}_lambda{middle:g}_seed0" / "model" for arm in config.arms}
    image = test[0].pixels()
    assert image is not None, test[0].name
    times = time_models({arm: load_checkpoint(folder) for arm, folder in folders.items()}, image, config.repeats)
    table = [{**row, **times[row["arm"]]} for row in comparison.summarize(runs, config.arms[0])]
    text = comparison.caption(runs, config.arms[0], len(test), config.repeats)
    text = comparison.markdown(table, runs, config.arms[0], caption(config, photographs) + text)
    folder = config.output_dir
    write_atomically(folder / "table.csv", as_csv(table), durable=True)
    for name, records in {
        "runs.csv": [{name: value for name, value in run.items() if name != "rows"} for run in runs],
        "images.csv": [{**_key(run), **row} for run in runs for row in run["rows"]],
    }.items():
        write_atomically(folder / name, as_csv(records), durable=True)
    comparison.draw(table, runs, config.arms[0], folder / "figure.png")
    write_atomically(folder / "table.md", text.encode(), durable=True)
    return table


def begun(config: Config, arm: str, seed: int, photographs: list[Photograph], ranks: Ranks) -> WeConvene:
    """Make the model that the rate points of an arm and a seed begin with."""
    model, crops = build(config.preset, options_of(arm), seed), Crops(photographs, config.training.crop, seed)
    scale_latents(model, crops)
    if not config.shared_steps:
        return model
    name = f"{arm}_begun_seed{seed}"
    run = Run(config.output_dir / name, ranks, config.resume or (config.output_dir / name).is_dir(), name)
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=config.shared_steps))
    crops = Crops(photographs, config.training.crop, seed + _OTHER_CROPS)
    finished_or_new(run, lambda: train_and_save(longer, model, config.lmbda, crops, [], run))
    ranks.agree(None)  # the first process has saved it
    return load_checkpoint(run.folder / "model").requires_grad_(True)


def _key(run: Record) -> Record:
    return {name: run[name] for name in ("arm", "lmbda", "seed")}


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}")

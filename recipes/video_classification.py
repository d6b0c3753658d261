"""Compare what a network may read instead of all pixels of a clip: equal compute, several seeds, a table, a figure.

    python -m recipes.video_classification
    python -m recipes.video_classification --data CLIPS --size 16 112 112 --epochs 40
    torchrun --nproc-per-node 2 -m recipes.video_classification

``CLIPS`` holds one subfolder of clips per class. The demo makes clips in which only the motion tells the class: an
object that moves, turns, grows or shrinks on a photograph.

Every arm of recipes/video/arms.py trains the same network of three axes on the same clips for the same number of steps,
with every seed. Clips are kept in memory.
"""

import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from tqdm import tqdm

from recipes.classify.training import Schedule, train_classifier
from recipes.classify.trunk import Classifier
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.comparison import check_comparison, compare, files_of_arms
from recipes.common.macs import count_macs
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run
from recipes.common.tables import Record, group
from recipes.scaling.report import csv_of, markdown
from recipes.scaling.rows import mean_of_runs
from recipes.video.arms import ARMS, CELL, FITTED, Arm, make_arm, values_of
from recipes.video.clips import Clips, make_clips, open_source
from recipes.video.report import by_class, draw, draw_sheet
from walloc_transforms.safe import write_atomically

WRITTEN = ("table.md", "table.csv", "figure.png", "sheet.png", *files_of_arms(ARMS, FILES))
_AT_ONCE = 32  # clips that are encoded together


@dataclass
class Config:
    """Compare what a network may read instead of all pixels of a clip."""

    data: str = "demo"
    """`demo` (moving objects), or a folder with a subfolder of clips per class."""
    size: tuple[int, int, int] = (16, 64, 64)
    """Frames, rows and columns of a clip: multiples of 4, 8 and 8."""
    demo_clips: tuple[int, int] = (1200, 400)
    """Training and validation clips of the demo."""
    clips_per_file: int = 4
    """Training clips that are cut from a file, at random."""
    fitted_clips: int = 100
    """Training clips that the codecs of `walloc` and `walloc_motion` are fitted to."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which arms to compare."""
    epochs: int = 8
    batch_size: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.05
    width: int = 16
    """Channels of the trunk's first stage."""
    stages: int = 2
    """Residual stages of the trunk."""
    seeds: int = 3
    """Seeds 0 to seeds - 1; each draws its own clips, initialization and order."""
    resume: bool = False
    """Go on with what --output-dir holds, which must have the same settings: finished runs are kept."""
    overwrite: bool = False
    """Put this comparison in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/video_classification/TIME")
    """A new or empty folder, which gets table.md, table.csv, figure.png, sheet.png and a folder per run. TIME stands
    for date and time."""


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run."""
    check_comparison(
        config, ("epochs", "batch_size", "width", "stages", "demo_clips", "clips_per_file", "fitted_clips")
    )
    check_at_least(config, 0, ("weight_decay",))
    check_above_zero(config, ("lr",))
    if any(side < cell or side % cell for side, cell in zip(config.size, CELL, strict=True)):
        raise ValueError(f"size must be multiples of {CELL}, got {config.size}")
    for arm in config.arms:
        if arm not in ARMS:
            raise ValueError(f"unknown arm {arm!r}: expected one of {', '.join(ARMS)}")


def check_cells(config: Config, clips: int) -> None:
    """Raise a ValueError where the codec of an arm cannot be fitted to so few clips."""
    used, needed = min(clips, config.fitted_clips), 3 * math.prod(CELL)
    cells = used * math.prod(side // cell for side, cell in zip(config.size, CELL, strict=True))
    if set(FITTED) & set(config.arms) and cells < needed:
        raise ValueError(
            f"{used} of {clips} training clips have {cells} cells, a codec needs {needed}: expected more or larger "
            "clips, or a higher --fitted-clips"
        )


def main(config: Config) -> list[Record]:
    """Run every arm with every seed, write table, figure and sheet; returns the table's rows.

    Raises:
        ValueError: A setting is out of range, or the data do not do.
        FileNotFoundError: There is no such folder, or there are no clips in it.
    """
    check(config)
    ranks = Ranks.start()
    with claim("video_classification", config, ranks, WRITTEN) as begin:
        source = open_source(config.data, config.size)

        @functools.lru_cache(1)  # all arms of a seed, one after the other, see the same clips
        def clips_of(seed: int) -> tuple[Clips, Clips]:
            counts, per_file = config.demo_clips, config.clips_per_file
            return make_clips(source, config.size, counts, per_file, seed, show=ranks.first)

        training = len(clips_of(0)[0].labels) if source.files[0] else config.demo_clips[0]
        check_cells(config, training)
        begin()

        def train_and_score(arm: str, seed: int, run: Run) -> Record:
            return train_arm(config, arm, seed, *clips_of(seed), len(source.classes), run)

        runs = compare(config, ranks, train_and_score, lambda result: f"{result['accuracy']:.1f} %")
        rows = [mean_of_runs(own) for own in group(runs, ("arm",)).values()]
        if ranks.first:
            text = f"{markdown(rows)}\n{by_class(runs, source.classes)}\n"
            write_atomically(config.output_dir / "table.md", text.encode(), durable=True)
            write_atomically(config.output_dir / "table.csv", csv_of(rows), durable=True)
            title = f"{Path(config.data).name}: {rows[0]['tokens']} tokens, same trunk"
            draw(runs, 100 / len(source.classes), title).savefig(config.output_dir / "figure.png", dpi=150)
            said = {run["arm"]: run["said"] for run in runs if run["seed"] == 0}
            held_out = clips_of(0)[1]
            sheet = draw_sheet(held_out.pixels, held_out.labels, said, source.classes)
            sheet.savefig(config.output_dir / "sheet.png", dpi=100)
    return rows


def train_arm(config: Config, arm: str, seed: int, train: Clips, held_out: Clips, classes: int, run: Run) -> Record:
    """Train one network on one kind of input; returns its accuracy, its answers, and what that cost."""
    ranks = run.ranks
    encode = make_arm(arm, train.pixels[: config.fitted_clips])
    start = time.perf_counter()
    seen = encoded(encode, train.pixels, f"{run.name}: clips", show=ranks.first)
    pipeline_rate = len(seen) / (time.perf_counter() - start)
    scored = encoded(encode, held_out.pixels, f"{run.name}: validation clips", show=ranks.first)

    torch.manual_seed(seed)
    model = Classifier(values_of(arm), classes, config.width, config.stages, dims=3)
    schedule = Schedule(config.epochs, config.batch_size, config.lr, config.weight_decay, 0, seed)
    validation = TensorDataset(scored, held_out.labels)
    record = train_classifier(model, TensorDataset(seen, train.labels), validation, schedule, run)
    model.eval()
    with torch.no_grad():
        answers = [model(batch.to(ranks.device)).argmax(1).cpu() for batch in scored.split(config.batch_size)]
    said = torch.cat(answers)
    one = scored[:1].to(ranks.device)
    tokens = scored[0, 0].numel()
    return {
        "accuracy": record["accuracy"],
        "values": tokens * values_of(arm),
        "tokens": tokens,
        "macs": count_macs(model, lambda: model(one)),
        "pipeline_rate": pipeline_rate,
        "step_rate": record["step_rate"],
        "by_class": [share_of_right(said, held_out.labels, index) for index in range(classes)],
        "said": said.tolist(),
    }


def share_of_right(said: Tensor, labels: Tensor, index: int) -> float | None:
    """Percentage of the clips of a class that were told; None if there are none."""
    own = said[labels == index]
    return 100 * float((own == index).float().mean()) if len(own) else None


def encoded(encode: Arm, clips: Tensor, description: str, *, show: bool) -> Tensor:
    """Make the features of all clips."""
    parts = clips.split(_AT_ONCE)
    return torch.cat([encode(part) for part in tqdm(parts, desc=description, disable=not show, leave=False)])


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}: table.md, table.csv, figure.png, sheet.png")

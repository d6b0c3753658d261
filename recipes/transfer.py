"""Tune a trained network on another data set, from pixels and from what can be read in their place.

    python -m recipes.transfer
    python -m recipes.transfer --data PHOTOS --epochs 20
    python -m recipes.transfer --data PHOTOS --epochs 20 --network vit_small_patch16_224 --arms pixels fitted_rgb_16x

    walloc encode-dataset PHOTOS -o DATASET --codec rgb_16x --resize 256 --crop 256
    python -m recipes.transfer --data DATASET --arms rgb_16x distilled_rgb_16x --distilled MODEL

``PHOTOS`` holds one subfolder of images per class. ``DATASET`` holds their latents: it is read by arms that decode
them, and by distilled models, but by none that needs pixels, be it to learn a stem. Its crops are of one scale.

Every arm starts from the same trained network. With the same seed
all layers are tuned on the same crops for the same number of steps: on all pixels; on images that were resized, cut to
the lowest frequencies of a block DCT, or encoded to latents, and brought back to their size; on thumbnails, by a
network that runs on fewer cells; and on latents that the network reads itself, through a stem that was fitted to its
own or an adapter that was distilled from its early layers, which takes no labels (see recipes/tuning/networks.py). What
is scored is the network after its last epoch, on the centers of images that nothing else has seen. The table gives
means and standard deviations over seeds.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from recipes.classify.training import Schedule, train_classifier
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.comparison import check_comparison, compare, files_of_arms
from recipes.common.datasets import Task, load_task
from recipes.common.digits import SIDE
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run
from recipes.common.stored import Cells, Records
from recipes.common.tables import Record
from recipes.tuning.crops import Crops, central_crops, read_pictures
from recipes.tuning.networks import ARMS, Start, Starts, macs_of, split_arm
from recipes.tuning.report import csv_of, draw, markdown, mean_rows
from walloc_transforms.safe import write_atomically

WRITTEN = ("table.md", "table.csv", "figure.png", *files_of_arms(("*",), FILES))


@dataclass
class Config:
    """Tune a trained network, from every arm with every seed."""

    data: str = "demo"
    """`demo` (a digit on a photograph), a folder with a subfolder of images per class, a latent data set, or a dataset
    of torchvision."""
    data_root: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    network: str = "lite0"
    """A trained network: `lite0`, `lite1` or `lite2` (EfficientNet-Lite, without a download), or a timm name."""
    image_size: int | None = None
    """Side of the crops in pixels. By default the size that the network was made for; the demo's are 128."""
    demo_crops: tuple[int, int] = (300, 200)
    """Training and validation crops of the demo."""
    arms: tuple[str, ...] = ARMS
    """What the network reads: pixels; resized_4x, small_4x, dct_4x, likewise _16x; a codec, whose latents are decoded;
    latents: fitted_rgb_16x, distilled_rgb_16x, distilled_resolution_rgb_16x."""
    epochs: int = 3
    """Of tuning; 20 for a real data set."""
    batch_size: int = 32
    lr: float = 3e-4
    """Peak learning rate of the trained layers, the same for every arm."""
    head_lr: float = 3e-3
    """Peak learning rate of the new classifier."""
    weight_decay: float = 0.01
    fit_images: int = 300
    """Training images that stems are fitted to."""
    distill_steps: int = 300
    """Steps of distillation on the training images, for arms that none of --distilled is for."""
    distilled: tuple[Path, ...] = ()
    """Folders of models that `distill_stem` made of this network and `save_model` wrote."""
    seeds: int = 3
    """Seeds 0 to seeds - 1; each draws its own classifier, order and crops."""
    resume: bool = False
    """Go on with what --output-dir holds, which must have the same settings: finished runs are kept."""
    overwrite: bool = False
    """Put this run in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/transfer/TIME")
    """A new or empty folder, which gets config.yaml, table.md, table.csv, figure.png and a folder per run. TIME stands
    for date and time."""


@dataclass
class Data:
    """What networks are tuned and scored on.

    Attributes:
        seen: Training crops, drawn anew in every epoch unless the task's are fixed.
        held_out: Validation crops.
        pictures: The training images, in an order that means nothing.
        classes: Number of classes.
    """

    seen: Crops | Cells
    held_out: TensorDataset | Cells
    pictures: list[Tensor]
    classes: int


def open_data(task: Task, side: int, device: torch.device, *, show: bool) -> Data:
    """Decode all images of a task into the memory of the device, a little larger than the crops.

    Raises:
        ValueError: None can be read.
    """
    cut, limit = (None, None) if task.fixed else (side, side * 8 // 7)
    parts = [
        read_pictures(images, limit, f"{name} images", show=show)
        for images, name in ((task.train, "training"), (task.validation, "validation"))
    ]
    if not all(pictures for pictures, _ in parts):
        raise ValueError("none of the images to train on, or to validate on, can be read")
    (pictures, labels), (others, other_labels) = parts
    held_out = central_crops([picture.to(device) for picture in others], cut)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
    return Data(
        Crops([picture.to(device) for picture in pictures], labels, cut),
        TensorDataset(held_out, torch.tensor(other_labels)),
        [pictures[i] for i in order],
        len(task.classes),
    )


def stored_crops(task: Task, arm: str, side: int) -> Data:
    """Read crops of stored latents, as an arm does.

    Raises:
        ValueError: The arm needs pixels, or latents that are not stored, or larger images.
    """
    parts = [part for part in (task.train, task.validation) if isinstance(part, Records)]
    name = split_arm(arm)[0].partition("+")[0]
    seen, held_out = (part.read(name, side, training=part is task.train) for part in parts)
    return Data(seen, held_out, [], len(task.classes))


def tune(config: Config, start: Start, data: Data, side: int, seed: int, run: Run) -> Record:
    """Tune one network and score it after the last epoch."""
    torch.manual_seed(seed)
    model = start.model(data.classes)
    macs = macs_of(model, side)
    workers = 0
    if isinstance(data.seen, Cells):
        workers = 1  # draws the crops, so that they do not depend on what the network draws
        data.seen.data.check_codec(model)
        model.read_latents()
    schedule = Schedule(config.epochs, config.batch_size, config.lr, config.weight_decay, workers, seed)
    model.to(run.ranks.device)
    groups = model.groups(config.head_lr)
    record = train_classifier(model, data.seen, data.held_out, schedule, run, groups)
    scores = ("accuracy", "train_loss", "validation_loss")
    return {"values": start.values, "macs": macs, **{name: record[name] for name in scores}}


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run."""
    check_comparison(config, ("demo_crops", "epochs", "batch_size", "fit_images", "distill_steps"))
    check_at_least(config, 0, ("weight_decay",))
    check_above_zero(config, ("lr", "head_lr"))
    if config.image_size is not None:
        check_at_least(config, 32, ("image_size",))


def main(config: Config) -> list[Record]:
    """Tune every arm with every seed and write table and figure; returns the table's rows."""
    check(config)
    ranks = Ranks.start()
    with claim("transfer", config, ranks, WRITTEN) as begin:
        task = load_task(config.data, config.data_root, demo_crops=config.demo_crops, seed=0, processes=ranks.world)
        side = SIDE if task.fixed and config.image_size is None else config.image_size
        if task.fixed and side != SIDE:
            raise ValueError(f"the demo's crops are {SIDE} pixels, got image_size={side}")
        starts = Starts(config.network, side, config.distilled)
        stored = isinstance(task.train, Records)
        for arm in config.arms:
            if stored:
                stored_crops(task, arm, starts.side)
            starts.check(arm, stored=stored)
        if ranks.first and task.remark:
            print(task.remark)
        begin()
        return run_arms(config, starts, task, ranks)


def run_arms(config: Config, starts: Starts, task: Task, ranks: Ranks) -> list[Record]:
    """Tune every arm with every seed and write table and figure; returns the table's rows."""
    stored = isinstance(task.train, Records)
    images = None if stored else open_data(task, starts.side, ranks.device, show=ranks.first)
    made: dict[str, Start] = {}

    def run_arm(arm: str, seed: int, run: Run) -> Record:
        data = images or stored_crops(task, arm, starts.side)
        if arm not in made:
            made[arm] = starts.make(
                arm,
                data.pictures,
                fit_images=config.fit_images,
                steps=config.distill_steps,
                device=ranks.device,
                show=ranks.first,
            )
        return tune(config, made[arm], data, starts.side, seed, run)

    runs = compare(config, ranks, run_arm, lambda result: f"{result['accuracy']:.1f} %")
    rows = mean_rows(runs)
    if ranks.first:
        title = f"{config.network} on {Path(config.data).name}"
        write_atomically(config.output_dir / "table.md", markdown(rows).encode(), durable=True)
        write_atomically(config.output_dir / "table.csv", csv_of(rows), durable=True)
        draw({title: rows}).savefig(config.output_dir / "figure.png", dpi=150)
    return rows


if __name__ == "__main__":
    config, rows = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print(markdown(rows))
        print(f"written to {config.output_dir}: table.md, table.csv, figure.png")

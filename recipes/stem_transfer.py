"""Move a network that was trained on pixels to latents: with a new stem from scratch, and with one fitted to the old.

    python -m recipes.stem_transfer
    python -m recipes.stem_transfer --data PHOTOS --image-size 256 --epochs 30

A small timm network is trained on pixels. Then its stem is replaced by ``replace_stem`` (random weights) and by
``fit_stem`` (least squares on some training images), and the network is evaluated as it is and after a short training
on latents. Its grid is kept: on latents it sees the same crops at twice the resolution. A network with batch norms is
also evaluated with their statistics measured again, on the images that the stem was fitted to. Every network is
evaluated after its last epoch, on the same crops, which neither training nor fitting has seen.
"""

import copy
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms import v2
from tqdm import tqdm

from recipes.classify.training import Schedule, evaluate_classifier, train_classifier
from recipes.common.arms import STRIDE
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.datasets import Task, cuts, load_task
from recipes.common.digits import SIDE
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run, finished_or_new
from recipes.common.tables import Record, figure, group, markdown_table, mean_and_sd
from walloc_transforms import fit_stem, load_codec, replace_stem
from walloc_transforms.safe import write_atomically

WRITTEN = ("results.json", "table.md", *(f"seed[0-9]*/{place}{name}" for place in ("", "*/") for name in FILES))
GROWTH = 2  # of the image: both backbones have a stem of 4 pixels, and the codecs a stride of 8
PIXELS = "pixels"
# Name and arguments of timm: a stem with a pooling, and one of a single convolution.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (24, 48, 96, 192)}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (24, 48, 96, 192)}),
}


@dataclass
class Config:
    """Train on pixels, replace the stem, evaluate, train a little, evaluate; for every codec and seed."""

    data: str = "demo"
    """`demo` (a digit on a photograph), a folder with a subfolder of images per class, or a torchvision dataset."""
    data_root: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    backbone: Literal["resnet", "convnext"] = "resnet"
    """A ResNet of four blocks, whose stem has a max pooling, or a small ConvNeXt, whose stem is one convolution."""
    codecs: tuple[str, ...] = ("rgb_16x", "rgb_4x")
    """Codecs with a stride of 8 pixels."""
    image_size: int = 128
    """Side of the crops in pixels, a multiple of 64; the demo's are 128. The network on pixels gets them at half the
    size."""
    demo_crops: tuple[int, int] = (5000, 1000)
    """Training and validation crops of the demo."""
    fit_images: int = 300
    """Training images that stems are fitted to."""
    neighbors: int = 1
    """Cells of the codec around its own that a cell of a fitted stem reads, to every side."""
    epochs: int = 10
    """Of training on pixels."""
    tuning_epochs: int = 1
    """Of training on latents."""
    batch_size: int = 32
    lr: float = 3e-3
    """Peak learning rate on pixels."""
    tuning_lr: float = 1e-3
    """Peak learning rate on latents, the same for random and fitted stems."""
    weight_decay: float = 0.05
    seeds: int = 3
    """Seeds 0 to seeds - 1; each draws its own initialization, order, crops and images to fit to."""
    resume: bool = False
    """Go on with what --output-dir holds, which must have the same settings: finished seeds are kept."""
    overwrite: bool = False
    """Put this run in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/stem_transfer/TIME")
    """A new or empty folder, which gets config.yaml, results.json, table.md and a folder per run. TIME stands for date
    and time."""


class Crops(Dataset[tuple[Tensor, int]]):
    """Images in memory with their class indices, cut when they are asked for."""

    def __init__(self, images: Sequence[Tensor], labels: Sequence[int], cut: Callable[[Tensor], Tensor]) -> None:
        self.images, self.labels, self.cut = images, labels, cut

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.cut(self.images[index]), self.labels[index]


class OnPixels(nn.Module):
    """Reduce uint8 crops to the size a timm model was made for and normalize them for it."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side
        data = resolve_model_data_config(model)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(data["std"]).view(-1, 1, 1) * 255)

    def forward(self, crops: Tensor) -> Tensor:
        """Map ``(N, 3, S, S)`` to logits."""
        size = [self.side, self.side]
        small = v2.functional.resize(crops, size, v2.InterpolationMode.BICUBIC, antialias=True)
        x = (small - self.mean) / self.std
        return self.model(x.contiguous(memory_format=torch.channels_last))


def read(images: Any, side: int | None, description: str, *, show: bool) -> tuple[list[Tensor], list[int]]:
    """Decode images into memory, the short side reduced to ``side``; unreadable ones are left out."""
    pictures, labels = [], []
    for i in tqdm(range(len(images)), desc=description, unit="image", disable=not show, leave=False):
        image, label = images[i]
        if image is None:
            continue
        picture = v2.functional.pil_to_tensor(image.convert("RGB"))
        if side is not None and min(picture.shape[1:]) > side:
            picture = v2.functional.resize(picture, [side], antialias=True)
        pictures.append(picture)
        labels.append(label)
    return pictures, labels


def open_crops(config: Config, task: Task, *, show: bool) -> tuple[Crops, TensorDataset]:
    """Training crops, drawn anew each epoch, and validation crops; of a fixed task as they are."""
    size = config.image_size
    _, whole = cuts(size, fixed=task.fixed)
    train_cut: nn.Module = v2.Compose(
        [v2.RandomResizedCrop(size, (0.35, 1), antialias=True), v2.RandomHorizontalFlip()]
    )
    side = None if task.fixed else size * 9 // 8
    seen = Crops(*read(task.train, side, "training images", show=show), v2.Identity() if task.fixed else train_cut)
    held_out, labels = read(task.validation, side, "validation images", show=show)
    if not len(seen) or not held_out:
        raise ValueError("no image could be read")
    return seen, TensorDataset(torch.stack([whole(image) for image in held_out]), torch.tensor(labels))


@dataclass
class Trial:
    """A network to evaluate as it is and, where ``tuned``, after a short training.

    Attributes:
        reads: ``pixels``, or the codec whose latents it reads.
        stem: Where its stem comes from.
        model: Maps uint8 crops to logits.
        macs: Multiply-adds of the network on one image.
        residual: Share of the old stem's variance that a fitted stem misses.
        tuned: Whether it is trained.
    """

    reads: str
    stem: str
    model: nn.Module
    macs: int
    residual: float | None = None
    tuned: bool = True


def run_seed(config: Config, task: Task, seed: int, run: Run) -> list[Record]:
    """Train a network on pixels, move it to latents in every way, and evaluate each; returns a record for each."""
    ranks = run.ranks
    seen, held_out = open_crops(config, task, show=ranks.first)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed)).tolist()
    pictures = [seen.images[i] for i in order[: config.fit_images]]
    _, cut = cuts(config.image_size, fixed=task.fixed)
    crops = torch.stack([cut(picture) for picture in pictures])

    def train(model: nn.Module, name: str, epochs: int, lr: float) -> float:
        own = Run(run.folder / name, ranks, config.resume)
        own.folder.mkdir(parents=True, exist_ok=True)
        schedule = Schedule(epochs, config.batch_size, lr, config.weight_decay, 0, seed)
        return train_classifier(model, seen, held_out, schedule, own)["accuracy"]

    torch.manual_seed(seed)
    side = config.image_size // GROWTH
    name, options = BACKBONES[config.backbone]
    size = {"input_size": (3, side, side), "test_input_size": None}
    network = timm.create_model(name, num_classes=len(task.classes), pretrained_cfg_overlay=size, **options)
    on_pixels = OnPixels(network, side)
    train(on_pixels, PIXELS, config.epochs, config.lr)

    records: list[Record] = []
    for trial in trials(config, seed, on_pixels, pictures, crops, ranks):
        for epochs in (0, config.tuning_epochs) if trial.tuned else (0,):
            if epochs:
                accuracy = train(trial.model, f"{trial.reads}_{trial.stem}", epochs, config.tuning_lr)
            else:
                model = trial.model.to(ranks.device)
                measured = evaluate_classifier(model, held_out, config.batch_size, workers=0, ranks=ranks)
                accuracy = measured["accuracy"]
            about = {"input": trial.reads, "stem": trial.stem, "epochs": epochs, "seed": seed}
            records.append({**about, "accuracy": accuracy, "macs": trial.macs, "residual": trial.residual})
            if ranks.first:
                tqdm.write(f"seed {seed}: {trial.reads}, {trial.stem} stem, {epochs} epochs more: {accuracy:.1f} %")
    return records


def trials(
    config: Config, seed: int, on_pixels: OnPixels, pictures: list[Tensor], crops: Tensor, ranks: Ranks
) -> Iterator[Trial]:
    """Yield the trained network itself and, for every codec, with a new stem from scratch and with a fitted one.

    Args:
        config: The settings.
        seed: Of new stems.
        on_pixels: The network that was trained on pixels.
        pictures: Training images to fit stems to.
        crops: The same, cut, ``(N, 3, S, S)`` uint8: batch norms are measured on them.
        ranks: This process among others.
    """
    for codec in config.codecs:
        torch.manual_seed(seed)
        model: Any = copy.deepcopy(on_pixels.model)
        replace_stem(model, codec)
        if codec == config.codecs[0]:  # only now are the multiply-adds known
            yield Trial(PIXELS, "own", copy.deepcopy(on_pixels), model.walloc.macs_before)
        yield Trial(codec, "random", model, model.walloc.macs)

        torch.manual_seed(seed)
        model = copy.deepcopy(on_pixels.model)
        fit_stem(model, codec, pictures, neighbors=config.neighbors, progress=ranks.first)
        macs, residual = model.walloc.macs, model.walloc_fit.residual
        if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
            updated = copy.deepcopy(model).to(ranks.device)
            update_bn((part.to(ranks.device) for part in crops.split(config.batch_size)), updated)
            yield Trial(codec, "fitted, batch norms updated", updated, macs, residual, tuned=False)
        yield Trial(codec, "fitted", model, macs, residual)


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run."""
    if config.image_size < 64 or config.image_size % 64:
        raise ValueError(f"image_size must be a multiple of 64, got {config.image_size}")
    if config.seeds < 1 or not config.codecs or config.fit_images < 1 or config.epochs < 1 or config.tuning_epochs < 1:
        raise ValueError("expected at least one seed, codec, image to fit to, and epoch of either training")
    check_at_least(config, 1, ("batch_size", "demo_crops"))
    check_at_least(config, 0, ("neighbors", "weight_decay"))
    check_above_zero(config, ("lr", "tuning_lr"))
    for name in config.codecs:
        c = load_codec(name).config
        if c.modality != "image" or c.stride != STRIDE:
            raise ValueError(f"codecs must be for images, with a stride of {STRIDE} pixels: {name!r} is not")


def open_task(config: Config, seed: int, ranks: Ranks) -> Task:
    """Open a seed's data."""
    task = load_task(config.data, config.data_root, demo_crops=config.demo_crops, seed=seed, processes=ranks.world)
    if task.fixed and config.image_size != SIDE:
        raise ValueError(f"the demo's crops are {SIDE} pixels, got image_size={config.image_size}")
    return task


def main(config: Config) -> list[Record]:
    """Run every seed and write the table; returns its rows."""
    check(config)
    ranks = Ranks.start()
    with claim("stem_transfer", config, ranks, WRITTEN) as begin:
        task = open_task(config, 0, ranks)
        if ranks.first and task.remark:
            print(task.remark)
        begin()
        return run_seeds(config, ranks)


def run_seeds(config: Config, ranks: Ranks) -> list[Record]:
    """Run every seed and write the table; returns its rows."""
    runs: list[Record] = []
    for seed in tqdm(range(config.seeds), desc="seeds", unit="seed", disable=not ranks.first):
        task = open_task(config, seed, ranks)
        run = Run(config.output_dir / f"seed{seed}", ranks, config.resume)
        runs += finished_or_new(run, lambda task=task, seed=seed, run=run: run_seed(config, task, seed, run))
    rows = mean_of_seeds(runs)
    if ranks.first:
        text = json.dumps({"rows": rows, "runs": runs}, indent=2) + "\n"
        write_atomically(config.output_dir / "results.json", text.encode(), durable=True)
        write_atomically(config.output_dir / "table.md", markdown(rows).encode(), durable=True)
    return rows


def mean_of_seeds(runs: list[Record]) -> list[Record]:
    """Mean and standard deviation of the accuracy over seeds, in the order of the runs."""
    rows: list[Record] = []
    for (reads, stem, epochs), own in group(runs, ("input", "stem", "epochs")).items():
        residuals = [r["residual"] for r in own if r["residual"] is not None]
        accuracy, spread = mean_and_sd([r["accuracy"] for r in own])
        about = {"input": reads, "stem": stem, "epochs": epochs, "macs": own[0]["macs"], "seeds": len(own)}
        residual = statistics.fmean(residuals) if residuals else None
        rows.append({**about, "residual": residual, "accuracy": accuracy, "spread": spread})
    return rows


def markdown(rows: list[Record]) -> str:
    """Write the rows as a Markdown table."""
    heads = [
        "input",
        "stem",
        "epochs after replacing",
        "accuracy, % (mean ± sd)",
        "seeds",
        "variance missed, %",
        "MMACs",
    ]
    cells = [
        [
            r["input"],
            r["stem"],
            str(r["epochs"]),
            figure(r["accuracy"], 1, r["spread"]),
            str(r["seeds"]),
            "" if r["residual"] is None else f"{100 * r['residual']:.1f}",
            f"{r['macs'] / 1e6:.1f}",
        ]
        for r in rows
    ]
    return markdown_table(heads, cells, text_columns=2) + "\n"


if __name__ == "__main__":
    config, rows = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print(markdown(rows))
        print(f"written to {config.output_dir}: table.md, results.json")

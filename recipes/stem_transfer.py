"""Move a network that was trained on pixels to latents: with a new stem from scratch, and with one fitted to the old.

    python -m recipes.stem_transfer
    python -m recipes.stem_transfer --data PHOTOS --image-size 256 --epochs 30 --output-dir runs/stem_transfer

A small timm network is trained on pixels. Then its stem is replaced, by ``replace_stem`` (random weights) and by
``fit_stem`` (least squares on some training images), and the network is evaluated as it is and after a short training
on latents. Its grid is kept: on latents it sees the same crops at twice the resolution. Where it has batch norms, their
statistics are also measured anew, on the images that the stem was fitted to. Every model is evaluated after its last
epoch, on the same crops, which neither training nor fitting has seen.
"""

import copy
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import tyro
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms import v2
from tqdm import tqdm

from recipes.bench.report import table
from recipes.common.datasets import Task, cuts, load_task
from recipes.common.ranks import Ranks, Schedule, evaluate, save_config, train, write_atomically
from walloc_transforms.stems.fit import fit_stem
from walloc_transforms.stems.replace import replace_stem

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
    """How many latents around its own a cell of a fitted stem looks at, to every side."""
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
    """Go on from what the output folder holds."""
    output_dir: Path = Path("runs/stem_transfer")
    """Gets config.yaml, results.json, table.md and a folder per run."""


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


def run_seed(config: Config, task: Task, seed: int, ranks: Ranks) -> list[dict[str, Any]]:
    """Every arm with one seed; a list of results, also in ``seed<N>/result.json``."""
    folder = config.output_dir / f"seed{seed}"
    file = folder / "result.json"
    if config.resume and file.is_file():
        return json.loads(file.read_text("utf-8"))
    seen, held_out = open_crops(config, task, show=ranks.first)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed)).tolist()
    pictures = [seen.images[i] for i in order[: config.fit_images]]
    _, cut = cuts(config.image_size, fixed=task.fixed)
    whole = torch.stack([cut(picture) for picture in pictures])
    results: list[dict[str, Any]] = []

    def accuracy(model: nn.Module, name: str, epochs: int, lr: float) -> float:
        if epochs == 0:
            model.to(ranks.device)
            return evaluate(model, held_out, config.batch_size, workers=0, ranks=ranks)["accuracy"]
        schedule = Schedule(epochs, config.batch_size, lr, config.weight_decay, 0, seed)
        (folder / name).mkdir(parents=True, exist_ok=True)
        return train(model, seen, held_out, schedule, folder / name, ranks=ranks, resume=config.resume)["accuracy"]

    def note(inputs: str, stem: str, epochs: int, value: float, macs: int, residual: float | None = None) -> None:
        results.append(
            {
                "input": inputs,
                "stem": stem,
                "epochs": epochs,
                "seed": seed,
                "accuracy": value,
                "macs": macs,
                "residual": residual,
            }
        )
        if ranks.first:
            tqdm.write(f"seed {seed}: {inputs}, {stem} stem, {epochs} epochs more: {value:.1f} %")

    torch.manual_seed(seed)
    side = config.image_size // GROWTH
    name, options = BACKBONES[config.backbone]
    size = {"input_size": (3, side, side), "test_input_size": None}
    trained = timm.create_model(name, num_classes=len(task.classes), pretrained_cfg_overlay=size, **options)
    reader = OnPixels(trained, side)
    on_pixels = accuracy(reader, PIXELS, config.epochs, config.lr)
    for codec in config.codecs:
        for stem in ("random", "fitted"):
            torch.manual_seed(seed)
            model: Any = copy.deepcopy(trained)
            if stem == "random":
                replace_stem(model, codec)
            else:
                fit_stem(model, codec, pictures, neighbors=config.neighbors, progress=ranks.first)
            if codec == config.codecs[0] and stem == "random":  # now that the multiply-adds are known
                note(PIXELS, "own", 0, on_pixels, model.walloc.macs_before)
                again = accuracy(copy.deepcopy(reader), f"{PIXELS}_longer", config.tuning_epochs, config.tuning_lr)
                note(PIXELS, "own", config.tuning_epochs, again, model.walloc.macs_before)
            residual = model.walloc_fit.residual if stem == "fitted" else None
            if stem == "fitted" and any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
                updated = copy.deepcopy(model).to(ranks.device)
                update_bn((part.to(ranks.device) for part in whole.split(config.batch_size)), updated)
                value = accuracy(updated, "", 0, config.tuning_lr)
                note(codec, "fitted, batch norms updated", 0, value, model.walloc.macs, residual)
            for epochs in (0, config.tuning_epochs):
                value = accuracy(model, f"{codec}_{stem}", epochs, config.tuning_lr)
                note(codec, stem, epochs, value, model.walloc.macs, residual)
    if ranks.first:
        write_atomically(file, json.dumps(results, indent=2) + "\n")
    return results


def main(config: Config) -> list[dict[str, Any]]:
    """Run every seed and write the table; returns its rows."""
    if config.image_size % 64:
        raise ValueError(f"image_size must be a multiple of 64, got {config.image_size}")
    if config.seeds < 1 or not config.codecs or config.fit_images < 1 or config.epochs < 1 or config.tuning_epochs < 1:
        raise ValueError("expected at least one seed, codec, image to fit to, and epoch of either training")
    ranks = Ranks.start()
    if ranks.first:
        save_config(config.output_dir, config, resume=config.resume)
    runs: list[dict[str, Any]] = []
    for seed in tqdm(range(config.seeds), desc="seeds", unit="seed", disable=not ranks.first):
        task = load_task(config.data, config.data_root, demo_crops=config.demo_crops, seed=seed)
        if task.fixed and config.image_size != 128:
            raise ValueError(f"the demo's crops are 128 pixels, got image_size={config.image_size}")
        if ranks.first:
            (config.output_dir / f"seed{seed}").mkdir(exist_ok=True)
        runs += run_seed(config, task, seed, ranks)
    rows = summarize(runs)
    if ranks.first:
        write_atomically(config.output_dir / "results.json", json.dumps({"rows": rows, "runs": runs}, indent=2) + "\n")
        write_atomically(config.output_dir / "table.md", markdown(rows))
    return rows


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the accuracy over seeds, in the order of the runs."""
    rows = []
    for arm in dict.fromkeys((r["input"], r["stem"], r["epochs"]) for r in runs):
        own = [r for r in runs if (r["input"], r["stem"], r["epochs"]) == arm]
        accuracies = [r["accuracy"] for r in own]
        rows.append(
            {
                "input": arm[0],
                "stem": arm[1],
                "epochs": arm[2],
                "macs": own[0]["macs"],
                "seeds": len(own),
                "residual": statistics.fmean(r["residual"] for r in own) if own[0]["residual"] is not None else None,
                "accuracy": statistics.fmean(accuracies),
                "spread": statistics.stdev(accuracies) if len(own) > 1 else float("nan"),
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out as a Markdown table."""
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
            f"{r['accuracy']:.1f} ± {r['spread']:.1f}",
            str(r["seeds"]),
            "" if r["residual"] is None else f"{100 * r['residual']:.1f}",
            f"{r['macs'] / 1e6:.1f}",
        ]
        for r in rows
    ]
    return table(heads, cells, text_columns=2) + "\n"


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    rows = main(config)
    if Ranks.start().first:
        print(markdown(rows))
        print(f"written to {config.output_dir}: table.md, results.json")

"""Train a classifier on stored latents, augmented, beside pixels that are augmented and encoded afresh in every epoch.

    python -m recipes.augmentation --data PHOTOS

``PHOTOS`` holds one subfolder of images per class. Images are brought to ``record_size`` pixels and encoded once, to a
data set of rounded latents. The network, the number of steps and the order of the images are the same for every arm,
and so is the size that it reads, ``crop_size``:

    pixels_resized     RandomResizedCrop of the image's pixels and a flip, then encoding: what latents cannot do
    pixels             RandomCrop and a flip, then encoding
    stored             the middle of the stored latents
    stored_crop        LatentRandomCrop
    stored_crop_flip   and LatentRandomHorizontalFlip
    stored_color       and LatentColorJitter
    stored_noise       crop, flip and LatentNoise
    stored_dropout     crop, flip and LatentChannelDropout
    stored_all         all of them

Validation shows the middle, encoded as the arm encodes. The table gives accuracies and what a pass over the training
data takes without training, in seconds of this process: time it again on a machine that does nothing else.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes.classify.training import Schedule, train_classifier
from recipes.classify.trunk import Classifier
from recipes.common.checks import check_above_zero, check_at_least
from recipes.common.command import run_command
from recipes.common.comparison import check_comparison, compare, files_of_arms
from recipes.common.datasets import Features, Files, Task, batches, in_memory, load_task
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run
from recipes.common.tables import Record, as_csv, figure, markdown_table, mean_over_seeds
from walloc_transforms.safe import write_atomically

ARMS = (
    *("pixels_resized", "pixels", "stored", "stored_crop", "stored_crop_flip"),
    *("stored_color", "stored_noise", "stored_dropout", "stored_all"),
)
PARTS = ("latents_train", "latents_validation")
WRITTEN = ("table.md", "table.csv", *(f"{part}/*" for part in PARTS), *files_of_arms(("*",), FILES))


@dataclass
class Config:
    """Train on augmented latents and on augmented pixels, every arm with every seed."""

    data: str
    """A folder with a subfolder of images per class."""
    codec: str = "rgb_16x"
    """The codec: a name, a folder or a hub repository."""
    arms: tuple[str, ...] = ARMS
    """What is augmented, and how."""
    record_size: int = 224
    """Side in pixels of what is stored."""
    crop_size: int = 160
    """Side in pixels of what the network reads, a multiple of the codec's stride."""
    epochs: int = 20
    batch_size: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.05
    width: int = 16
    """Channels of the trunk's first stage."""
    stages: int = 3
    """Residual stages of the trunk."""
    seeds: int = 3
    """Seeds 0 to seeds - 1."""
    resume: bool = False
    """Go on with what --output-dir holds, which must have the same settings: finished runs are kept."""
    overwrite: bool = False
    """Put this run in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/augmentation/TIME")
    """A new or empty folder, which gets config.yaml, table.md, table.csv, the stored latents and a folder per run. TIME
    stands for date and time."""


class Stored(Dataset[Any]):
    """Records of a latent data set, read and transformed batch by batch."""

    def __init__(self, latents: wt.LatentDataset) -> None:
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> Any:
        latents, label = self.latents[index]
        return latents, label

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Read a batch; called by ``DataLoader``."""
        latents, labels = self.latents[list(indices)]
        return list(zip(latents.as_subclass(Tensor).unbind(), labels.tolist(), strict=True))


def parts_of(config: Config, arm: str, task: Task) -> tuple[Any, Any]:
    """Make training and validation data of an arm."""
    codec = wt.load_codec(config.codec)
    cells = config.crop_size // codec.config.stride
    if arm.startswith("pixels"):
        whole = v2.Compose([v2.Resize(config.record_size, antialias=True), v2.CenterCrop(config.record_size)])
        cut = v2.RandomResizedCrop(config.crop_size, antialias=True)
        cut = cut if arm == "pixels_resized" else v2.Compose([whole, v2.RandomCrop(config.crop_size)])
        encode = wt.WallocEncode(codec, quantize=True, dtype=torch.int8)
        middle = v2.Compose([whole, v2.CenterCrop(config.crop_size)])
        seen = Features(task.train, v2.Compose([cut, v2.RandomHorizontalFlip()]), encode)
        return seen, Features(task.validation, middle, encode)
    crop_flip = [wt.transforms.LatentRandomHorizontalFlip(), wt.transforms.LatentRandomCrop(cells)]
    values = {
        "color": wt.transforms.LatentColorJitter(0.3, 0.3, 0.3),
        "noise": wt.transforms.LatentNoise(0.02),
        "dropout": wt.transforms.LatentChannelDropout(p=0.25),
    }
    transforms: dict[str, list[Any]] = {
        "stored": [wt.transforms.LatentCenterCrop(cells)],
        "stored_crop": [wt.transforms.LatentRandomCrop(cells)],
        "stored_crop_flip": crop_flip,
        **{f"stored_{name}": [*crop_flip, transform] for name, transform in values.items()},
        "stored_all": [*crop_flip, *values.values()],
    }
    middle = wt.transforms.LatentCenterCrop(cells)
    folders = [config.output_dir / part for part in PARTS]
    seen = wt.LatentDataset(folders[0], transform=v2.Compose(transforms[arm]))
    return Stored(seen), Stored(wt.LatentDataset(folders[1], transform=middle))


def store(config: Config, task: Task) -> None:
    """Encode what the task holds, once."""
    for part, images in zip(PARTS, (task.train, task.validation), strict=True):
        assert isinstance(images, Files)
        wt.encode_dataset(
            images, config.output_dir / part, config.codec, resize=config.record_size, crop=config.record_size
        )


def loading_seconds(dataset: Any, batch_size: int) -> float:
    """Seconds of this process for one pass over the training data, without training."""
    start = time.process_time()
    for _ in batches(dataset, range(len(dataset)), batch_size, workers=0):
        pass
    return time.process_time() - start


def train(config: Config, task: Task, arm: str, seed: int, run: Run) -> Record:
    """Train one network and score it after the last epoch."""
    seen, middle = parts_of(config, arm, task)
    held_out = in_memory(middle, workers=0, description="validation images", show=run.ranks.first)
    torch.manual_seed(seed)
    model = Classifier(held_out.tensors[0].shape[1], len(task.classes), config.width, config.stages)
    schedule = Schedule(config.epochs, config.batch_size, config.lr, config.weight_decay, 0, seed)
    record = train_classifier(model, seen, held_out, schedule, run)
    scores = {name: record[name] for name in ("accuracy", "train_loss", "validation_loss")}
    return {**scores, "loading_seconds": loading_seconds(seen, config.batch_size), "images": len(seen)}


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run."""
    check_comparison(config, ("epochs", "batch_size", "width", "stages"))
    check_at_least(config, 0, ("weight_decay",))
    check_above_zero(config, ("lr",))
    if unknown := set(config.arms) - set(ARMS):
        raise ValueError(f"unknown arm {min(unknown)!r}: expected some of {', '.join(ARMS)}")
    stride = wt.load_codec(config.codec).config.stride
    if not stride <= config.crop_size <= config.record_size or config.crop_size % stride or config.record_size % stride:
        raise ValueError(
            f"crop_size and record_size must be multiples of {stride}, the first not above the second, got "
            f"{config.crop_size} and {config.record_size}"
        )


def main(config: Config) -> list[Record]:
    """Train every arm with every seed and write the table; returns its rows."""
    check(config)
    ranks = Ranks.start()
    with claim("augmentation", config, ranks, WRITTEN) as begin:
        task = load_task(config.data, Path(config.data), demo_crops=(1, 1), seed=0, processes=ranks.world)
        if not isinstance(task.train, Files):
            raise ValueError(f"expected a folder of images, got {config.data!r}")
        begin()
        if ranks.first:
            store(config, task)
        ranks.agree(None)  # the first process has stored them
        results = compare(config, ranks, partial(train, config, task), lambda result: f"{result['accuracy']:.1f} %")
        rows = mean_over_seeds(results, ("accuracy", "train_loss", "validation_loss", "loading_seconds"))
        if ranks.first:
            write_atomically(config.output_dir / "table.md", (markdown(rows) + "\n").encode(), durable=True)
            write_atomically(config.output_dir / "table.csv", as_csv(results), durable=True)
        return rows


def markdown(rows: Sequence[Record]) -> str:
    """Write means and standard deviations over seeds."""
    heads = ["arm", "accuracy (%)", "training loss", "validation loss", "seconds to load an epoch"]
    columns = {"accuracy": 1, "train_loss": 2, "validation_loss": 2, "loading_seconds": 2}
    cells = [[f"`{r['arm']}`", *(figure(r[c], d, r[f"{c} sd"]) for c, d in columns.items())] for r in rows]
    return markdown_table(heads, cells)


if __name__ == "__main__":
    config, rows = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print(markdown(rows))
        print(f"written to {config.output_dir}: table.md, table.csv")

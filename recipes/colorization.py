"""Color gray photographs: the same network on thumbnails, pixels, cosines and latents, at equal compute and tokens.

    python -m recipes.colorization
    python -m recipes.colorization --data PATH/TO/PHOTOS --crop 192 --steps 3000 --seeds 3
    python -m recipes.colorization --data Flowers102 --data-root PATH --trunk vit_small_patch16_224 --width None \
        --depth None --heads None
    torchrun --nproc-per-node 2 -m recipes.colorization

Every arm of recipes/color/arms.py reads the values of a gray image and writes those of its color, through the trunk of
recipes/color/network.py, trained on the same crops. What it writes is added to what it has read: an untrained network
gives the gray image. All arms are scored at the native size of the test photographs. The table also shows what trivial
colors score, and what each arm could carry at best.

The loss (``--loss``) is a mean squared error of the image, never of companded or normalized values, which differ from
arm to arm. ``values``, the default, measures it on the values, each weighted by its energy in the image. That needs no
way back, so it is cheaper, and an arm spends nothing on detail that it cannot carry. ``pixels`` measures it on the
image. For pixels and DCT both are the same; on the demo, thumbnails and latents of 12 values ended within 0.1 dB of
each other either way.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recipes.color.arms import COLOR_ARMS, gray, keep_luma, make_color_arm
from recipes.color.network import Colorizer, color, loss_of, macs_per_image
from recipes.color.scores import SCORES, ColorOfBrightness, markdown, score
from recipes.color.sheet import draw_sheet
from recipes.common.arms import STRIDE
from recipes.common.checks import check_above_zero, check_at_least, check_batch
from recipes.common.command import run_command
from recipes.common.comparison import check_comparison, compare, files_of_arms, first_runs
from recipes.common.crops import DEMO_PART, Crops, Photograph, load_photographs
from recipes.common.datasets import batches
from recipes.common.loop import train_steps
from recipes.common.outputs import claim
from recipes.common.quality import Networks, load_networks
from recipes.common.ranks import Ranks
from recipes.common.runs import FILES, Run, load_checkpoint
from recipes.common.tables import Record, as_csv, mean_known, mean_over_seeds
from walloc_transforms.safe import write_atomically

WRITTEN = ("table.md", "table.csv", "images.csv", "sheet.png", *files_of_arms(COLOR_ARMS, FILES))
MEASURED_CROPS = 64  # for the statistics of values, and the colors of brightness


@dataclass
class Settings:
    """How the arms are trained and scored."""

    data: str = "demo"
    """`demo` (photographs that scikit-image and scikit-learn install: trained on the left, scored on the right of
    each), a folder of images, perhaps below `train` and `test` or `val`, or a torchvision dataset."""
    data_root: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    arms: tuple[str, ...] = COLOR_ARMS
    """Which inputs to compare."""
    steps: int = 200
    batch_size: int = 8
    crop: int = 128
    """Side of the training crops in pixels, a multiple of 8; larger images are colored in windows of this size."""
    lr: float = 1e-3
    """Peak learning rate of AdamW; linear warm-up over the first tenth, then a half cosine to zero."""
    weight_decay: float = 0.05
    loss: Literal["values", "pixels"] = "values"
    """Mean squared error of the values, weighted by their energy in the image, or of the image."""
    trunk: str = "vit_tiny_patch16_224"
    """A timm model with `forward_intermediates` that keeps the token grid, as ViTs do."""
    width: int | None = 96
    """`embed_dim` of the trunk; None for the model's own."""
    depth: int | None = 4
    """Blocks of the trunk; None for the model's own."""
    heads: int | None = 3
    """Heads of its attention; None for the model's own."""
    test_images: int | None = None
    """Score this many test images, evenly spread. Default: all."""
    networks: bool = False
    """Measure LPIPS too, whose network is downloaded once (528 MB): some ten seconds per megapixel and arm."""
    workers: int = 0
    """Processes that read crops: for folders beyond `memory_gb`."""
    memory_gb: float = 2.0
    """Training images beyond are read crop by crop."""
    checkpoint_every: int = 100
    """Steps."""
    sheet_images: int = 4
    """Images in the picture."""

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of ``timm.create_model``."""
        given = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        return {name: value for name, value in given.items() if value is not None}


@dataclass
class Config(Settings):
    """Compare what a colorization network may read and write."""

    seeds: int = 1
    """Seeds 0 to seeds - 1; each draws its own crops and initialization."""
    resume: bool = False
    """Go on with what --output-dir holds, which must have the same settings: finished runs are kept."""
    overwrite: bool = False
    """Put this comparison in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/colorization/TIME")
    """A new or empty folder, which gets table.md, table.csv, images.csv, sheet.png and a folder per run. TIME stands
    for date and time."""


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run, now rather than after an hour."""
    check_comparison(config, ("steps", "batch_size", "checkpoint_every", "sheet_images"))
    check_at_least(config, 0, ("workers", "weight_decay"))
    check_above_zero(config, ("lr",))
    if config.test_images is not None and config.test_images < 1:
        raise ValueError(f"test_images must be at least 1, got {config.test_images}")
    if config.crop < 2 * STRIDE or config.crop % STRIDE:
        raise ValueError(f"crop must be a multiple of {STRIDE} from {2 * STRIDE} on, got {config.crop}")
    for arm in config.arms:
        build(config, arm, 0)


def main(config: Config) -> list[Record]:
    """Run every arm with every seed, write tables and picture; returns the table's rows.

    Raises:
        ValueError: A setting is out of range, or the data do not do (see recipes/common/crops.py).
        FileNotFoundError: There is no such folder, or no image in it.
    """
    check(config)
    ranks = Ranks.start()
    check_batch(config.batch_size, ranks)
    with claim("colorization", config, ranks, WRITTEN) as begin:
        photographs, test = load_photographs(
            config.data,
            config.data_root,
            test_images=config.test_images,
            memory=config.memory_gb * 1e9,
            show=ranks.first,
        )
        Crops(photographs, config.crop, 0)[0]  # refuses photographs that are all too small
        begin()
        return train_and_score_all(config, photographs, test, ranks)


def train_and_score_all(
    config: Config, photographs: list[Photograph], test: list[Photograph], ranks: Ranks
) -> list[Record]:
    """Run every arm with every seed, write tables and picture; returns the table's rows."""
    networks = load_networks() if config.networks else Networks()

    def train_and_score(arm: str, seed: int, run: Run) -> Record:
        model, crops = build(config, arm, seed), Crops(photographs, config.crop, seed)
        model.measure(crops.batch(0, MEASURED_CROPS))
        record = train(config, model, crops, run)
        rows = score_test(arm, seed, lambda truth: color(model, truth, config.crop), test, ranks, networks)
        trunk_macs, macs = macs_per_image(model, config.crop)
        costs = {"values": model.arm.values, "trunk_macs": trunk_macs, "macs": macs, "step_rate": record["step_rate"]}
        return {**costs, "rows": rows}

    rows = score_untrained(config, photographs, test, ranks, networks)
    runs = compare(config, ranks, train_and_score, headline)
    rows += [row for run in runs for row in run["rows"]]
    costs = first_runs(runs, ("values", "trunk_macs", "macs", "step_rate"))
    table = [{**row, **costs.get(row["arm"], {})} for row in mean_over_seeds(rows, SCORES)]
    if ranks.first:
        missing = "no weights" if "lpips" in networks.missing else ""
        text = caption(config, photographs, test) + markdown(table, config.crop, missing)
        write_atomically(config.output_dir / "table.md", text.encode(), durable=True)
        write_atomically(config.output_dir / "table.csv", as_csv(table), durable=True)
        write_atomically(config.output_dir / "images.csv", as_csv(rows), durable=True)
        show(config, test)
    return table


def headline(result: Record) -> str:
    """Say what a run gave."""
    plain, kept = (mean_known(row[name] for row in result["rows"]) for name in ("psnr", "psnr_kept"))
    return f"PSNR {plain:.2f} dB, luma kept {kept:.2f} dB, {result['step_rate']:.1f} steps/s"


def build(config: Config, arm: str, seed: int) -> Colorizer:
    """Make an arm's network; the same seed gives the same one."""
    torch.manual_seed(seed)
    return Colorizer(make_color_arm(arm), config.trunk, config.crop // STRIDE, config.options)


def train(config: Config, model: Colorizer, crops: Crops, run: Run) -> Record:
    """Train an arm's network, whose statistics have been measured, on crops; returns the last record."""
    ranks = run.ranks
    model.to(ranks.device)
    own = max(1, config.batch_size // ranks.world)

    def batches_from(first: int) -> Iterable[Tensor]:
        starts = [(step * ranks.world + ranks.rank) * own for step in range(first, config.steps)]
        return batches(crops, [start + i for start in starts for i in range(own)], own, workers=config.workers)

    def loss(parallel: nn.Module, images: Tensor, step: int) -> Tensor:
        torch.manual_seed(crops.seed * 1_000_003 + step)  # for dropout, should the trunk have any
        return loss_of(parallel, model, images / 255, config.loss)

    trained = [p for p in model.parameters() if p.requires_grad]
    return train_steps(
        model,
        torch.optim.AdamW(trained, config.lr, weight_decay=config.weight_decay),
        batches_from,
        loss,
        run,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
    )


def caption(config: Config, photographs: list[Photograph], test: list[Photograph]) -> str:
    """Say what the table's figures were measured on."""
    demo = (
        f"Trained on the left {DEMO_PART:.0%} of every demo photograph and scored on the rest: other places of the "
        "same scenes, which says little of scenes never seen. "
    )
    return (
        f"{demo if config.data == 'demo' else ''}{len(photographs)} training images; {config.steps} steps of "
        f"{config.batch_size} crops of {config.crop}x{config.crop} pixels, the same for every arm of a seed. Means "
        f"over {len(test)} test images at native size, in 8 bits; after ±: standard deviation over seeds. "
        "`luma kept`: the brightness of the gray image, which is known, put in place of the result's own. "
        "`color through ...` is the true image through that arm and back: what the arm could reach at "
        "best.\n\n"
    )


def score_untrained(
    config: Config, photographs: list[Photograph], test: list[Photograph], ranks: Ranks, networks: Networks
) -> list[Record]:
    """Score what takes no training: trivial colors, and the true colors through the arms that lose some of them."""
    crops = Crops(photographs, config.crop, 0).batch(0, MEASURED_CROPS)
    mean, by_brightness = ColorOfBrightness(crops, 1), ColorOfBrightness(crops)
    estimates: dict[str, Callable[[Tensor], Tensor]] = {
        "gray itself": gray,
        "gray, mean color": lambda truth: mean(gray(truth)),
        "gray, mean color of its brightness": lambda truth: by_brightness(gray(truth)),
    }
    rows = [row for name, color in estimates.items() for row in score_test(name, "", color, test, ranks, networks)]
    for name in config.arms:
        arm = make_color_arm(name)
        if arm.lossy:

            def there_and_back(truth: Tensor, arm: Any = arm) -> Tensor:
                return arm.show(arm.read(truth[None]), truth.shape[-2:])[0]

            rows += score_test(f"color through {name}", "", there_and_back, test, ranks, Networks())
    return rows


@torch.no_grad()
def score_test(
    arm: str,
    seed: int | str,
    estimate: Callable[[Tensor], Tensor],
    test: Sequence[Photograph],
    ranks: Ranks,
    networks: Networks,
) -> list[Record]:
    """Score an estimate, a function of the true image, on every test image; the processes share them."""
    own = tqdm(test[ranks.rank :: ranks.world], f"{arm}: test", unit="image", leave=False, disable=not ranks.first)
    rows: list[Record] = []
    for photograph in own:
        truth = true_colors(photograph)
        scores = score(estimate(truth), truth, networks)
        rows.append({"arm": arm, "seed": seed, "image": photograph.name, **scores})
    return ranks.gather(rows)


def true_colors(photograph: Photograph) -> Tensor:
    """Return a test image, which has been read before, ``(3, H, W)`` in [0, 1]."""
    pixels = photograph.pixels()
    assert pixels is not None, photograph.name
    return pixels / 255


def show(config: Config, test: list[Photograph]) -> None:
    """Draw some test images, two rows each: as every arm's first seed colors them, and with the luma kept."""
    count = min(config.sheet_images, len(test))
    chosen = [test[(2 * i + 1) * len(test) // (2 * count)] for i in range(count)]
    truths = [true_colors(photograph) for photograph in chosen]
    plain: list[dict[str, Tensor]] = [{"gray": gray(truth), "truth": truth} for truth in truths]
    kept = [dict(images) for images in plain]
    for arm in config.arms:
        model = build(config, arm, 0)
        checkpoint = config.output_dir / f"{arm}_seed0" / "checkpoint.pt"
        load_checkpoint(checkpoint, {"model": model}, torch.device("cpu"))
        for i, truth in enumerate(truths):
            plain[i][arm] = color(model, truth, config.crop)
            kept[i][arm] = keep_luma(plain[i][arm], gray(truth))
    rows = [
        row
        for i, photograph in enumerate(chosen)
        for row in ((Path(photograph.name).stem, plain[i]), ("luma kept", kept[i]))
    ]
    draw_sheet(rows, config.output_dir / "sheet.png")


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}: table.md, table.csv, images.csv, sheet.png, a folder per run")

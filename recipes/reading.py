"""Read documents that were reduced: how many lines a reader gets right from all pixels, thumbnails, cosines, latents.

    python -m recipes.reading
    python -m recipes.reading --data RECEIPTS
    python -m recipes.reading --data RECEIPTS --arms pixels resized_16x rgb_16x --images 10

The reader is rapidocr, which nobody here trained, and which knows nothing of latents. Every arm of
recipes/common/inputs.py makes of a page one of the same size, which went through as many values as the arm keeps.
How lines are matched and scored is in recipes/documents/scores.py.

`--data` is `demo`, pages of small type drawn with the font that Pillow carries, or a folder of images with a text file
of the same name beside each: `a.jpg` and `a.txt`, a line of the page in each of its lines, in any order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from recipes.common.checks import check_at_least
from recipes.common.command import run_command
from recipes.common.inputs import Input, make_input
from recipes.common.outputs import claim
from recipes.common.ranks import Ranks
from recipes.common.tables import Record, as_csv
from recipes.documents.pages import Page, load_pages
from recipes.documents.reader import Reader, check_installed
from recipes.documents.report import caption, draw, markdown, mean_over_pages
from recipes.documents.scores import score_page
from recipes.documents.sheet import Excerpt, draw_sheet, excerpt, line_to_show
from recipes.documents.transcripts import Transcript, load_transcripts, save_transcripts
from walloc_transforms.safe import write_atomically
from walloc_transforms.signals import pil_to_tensor

ARMS = (
    "pixels",
    *("resized_4x", "dct_4x", "rgb_4x", "rgb_4x_viewing+refiner"),
    *("resized_16x", "dct_16x", "rgb_16x", "rgb_16x_viewing+refiner"),
)
KEPT = "read.json"
WRITTEN = ("table.md", "table.csv", "pages.csv", "figure.png", "sheet.png", KEPT)
SHORTEST = 8  # pixels of a side that codecs take


@dataclass
class Settings:
    """What is read."""

    data: str = "demo"
    """`demo`, or a folder of images with a text file of their lines beside each."""
    arms: tuple[str, ...] = ARMS
    """What the reader is shown: names as in recipes/common/inputs.py. The picture shows lines that were read
    exactly in the first."""
    images: int | None = None
    """Read this many pages of the folder, evenly spread, or of the demo. Default: all; of the demo, 6."""
    sheet_lines: int = 3
    """Lines in the picture."""


@dataclass
class Config(Settings):
    """Compare what a reader gets right."""

    resume: bool = False
    """Go on with what --output-dir holds, which must have the same settings: what was read is kept."""
    overwrite: bool = False
    """Put this comparison in the place of the one that --output-dir holds."""
    output_dir: Path = Path("runs/reading/TIME")
    """A new or empty folder, which gets table.md, table.csv, pages.csv (a row per page and arm), figure.png, sheet.png
    and read.json (what was read). TIME stands for date and time."""


def check(config: Config) -> None:
    """Raise a ValueError for settings that cannot be run."""
    if not config.arms or len(set(config.arms)) < len(config.arms):
        raise ValueError(f"expected at least one arm, and each once, got {', '.join(config.arms) or 'none'}")
    for arm in config.arms:
        make_input(arm)
    check_at_least(config, 1, ("sheet_lines",))
    if config.images is not None:
        check_at_least(config, 1, ("images",))
    check_installed()


def main(config: Config) -> list[Record]:
    """Read every page in every arm, write tables and pictures; returns the table's rows.

    Under ``torchrun`` the first process reads.

    Raises:
        ValueError: A setting is out of range, the reader is not installed, or a text file has no line.
        FileNotFoundError: There is no such folder, no image in it, or no lines beside an image.
    """
    check(config)
    ranks = Ranks.start()
    with claim("reading", config, ranks, WRITTEN) as begin:
        pages = load_pages(config.data, config.images)
        known = load_transcripts(config.output_dir / KEPT) if config.resume else {}
        begin()
        return ranks.agree(read_and_score(config, pages, known) if ranks.first else [])


def read_and_score(config: Config, pages: Sequence[Page], known: dict[str, Transcript]) -> list[Record]:
    """Read what is not known yet, write tables and pictures; returns the table's rows."""
    reader, inputs = Reader(), {arm: make_input(arm) for arm in config.arms}
    readable: list[tuple[Page, Transcript]] = []
    for page in tqdm(pages, desc="pages", unit="page"):
        transcript = read_page(page, inputs, reader, known.get(page.name))
        if transcript is not None:
            readable.append((page, transcript))
            known[page.name] = transcript
            save_transcripts(known, config.output_dir / KEPT)
    if not readable:
        raise ValueError(f"no page of {config.data!r} could be read")
    records = [record for page, transcript in readable for record in score(page, transcript, inputs)]
    rows = mean_over_pages(records)
    text = caption(reader.name, records, config.data, len(pages) - len(readable)) + markdown(rows)
    write_atomically(config.output_dir / "table.md", text.encode(), durable=True)
    write_atomically(config.output_dir / "table.csv", as_csv(rows), durable=True)
    write_atomically(config.output_dir / "pages.csv", as_csv(records), durable=True)
    draw(rows, config.output_dir / "figure.png")
    columns = excerpts(readable, inputs, config.sheet_lines)
    if columns:
        labels = [f"{row['arm']}\n{row['values']:,} values" for row in rows]
        draw_sheet(labels, columns, config.output_dir / "sheet.png")
    return rows


def read_page(page: Page, inputs: Mapping[str, Input], reader: Reader, known: Transcript | None) -> Transcript | None:
    """Read a page in every arm in which it is not known yet; None, and its name is told, if that cannot be done."""
    if known is not None and set(inputs) <= set(known.lines):
        return known
    image = pixels_of(page)
    if image is None:
        return None
    transcript = Transcript(*image.shape[-2:], lines=dict(known.lines) if known else {})
    for arm, one in inputs.items():
        if arm not in transcript.lines:
            transcript.lines[arm] = reader.read(one(image))
    return transcript


def pixels_of(page: Page) -> Tensor | None:
    """Return a page as uint8 ``(3, H, W)``; None, and its name is told, if it cannot be read or is too small."""
    image = page.image()
    if image is not None and min(image.size) < SHORTEST:
        tqdm.write(f"skipped {page.name}: a side is shorter than {SHORTEST} pixels")
        return None
    return None if image is None else pil_to_tensor(image)


def score(page: Page, transcript: Transcript, inputs: Mapping[str, Input]) -> list[Record]:
    """Score what was read of a page; a record per arm."""
    return [
        {
            "page": page.name,
            "arm": arm,
            "values": one.values(transcript.height, transcript.width),
            "annotated": len(page.lines),
            "read": len(transcript.lines[arm]),
            **score_page(page.lines, [line.text for line in transcript.lines[arm]]),
        }
        for arm, one in inputs.items()
    ]


def excerpts(
    readable: Sequence[tuple[Page, Transcript]], inputs: Mapping[str, Input], count: int
) -> list[list[Excerpt]]:
    """Cut lines out of the first pages where the first arm has one to show; for each line an excerpt per arm."""
    columns: list[list[Excerpt]] = []
    for page, transcript in readable:
        line = line_to_show(page.lines, transcript.lines[next(iter(inputs))])
        image = None if line is None or len(columns) == count else pixels_of(page)
        if line is not None and image is not None:
            columns.append([excerpt(one(image), line, transcript.lines[arm]) for arm, one in inputs.items()])
    return columns


if __name__ == "__main__":
    config, _ = run_command(Config, main, __doc__)
    if Ranks.start().first:
        print((config.output_dir / "table.md").read_text("utf-8"))
        print(f"written to {config.output_dir}: table.md, table.csv, pages.csv, figure.png, sheet.png")

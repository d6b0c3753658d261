"""Pages with known lines: a folder of images with a text file beside each, and drawn ones."""

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from recipes.common.files import names_of
from recipes.common.photographs import image_files, read_image

DEMO_PAGES = 6
_SIZE = (480, 640)
_TYPE = (10, 12, 14, 16, 20)  # pixels from the top of a line to its foot
_INKS = (0, 40, 80)
_WORDS = (
    "account address amount April balance battery bread butter cable carton cash cheese clerk coffee copper credit "
    "customer delivery deposit discount dozen drawer envelope February filter flour garden glass goods handle hinge "
    "hours invoice January kettle ladder lemon letter marble medium number office onion order paper parcel pencil "
    "pepper pieces postage pound quality quarter rate receipt refund returns ribbon round screws service shelf silver "
    "sugar table tax tea thanks ticket timber total unit valid varnish visit weight window wire yellow"
)


@dataclass(frozen=True)
class Page:
    """A page and what it says.

    Attributes:
        name: Its name in tables.
        lines: Those it has, none of them blank.
        source: Its file, or its number in the demo.
    """

    name: str
    lines: list[str]
    source: Path | int

    def image(self) -> Image.Image | None:
        """Return it as RGB; None if its file, which is then named, cannot be read."""
        return read_image(self.source) if isinstance(self.source, Path) else draw_demo_page(self.source)[0]


def load_pages(data: str, images: int | None) -> list[Page]:
    """Find the pages of a folder, or draw the demo's.

    Args:
        data: ``demo`` or a folder of images, each with a ``.txt`` of its lines beside it.
        images: How many of them, evenly spread. Default: all; of the demo, ``DEMO_PAGES``.

    Raises:
        FileNotFoundError: There is no such folder, no image in it, or no lines beside an image.
        ValueError: A text file has no line, or is no UTF-8.
    """
    if data == "demo":
        return [Page(f"page {i}", draw_demo_page(i)[1], i) for i in range(images or DEMO_PAGES)]
    files = image_files(data)
    if images is not None:
        count = min(images, len(files))
        files = [files[(2 * i + 1) * len(files) // (2 * count)] for i in range(count)]
    without = [file for file in files if not file.with_suffix(".txt").is_file()]
    if without:
        more = f" and {len(without) - 3} more" * (len(without) > 3)
        raise FileNotFoundError(
            f"no lines beside {', '.join(map(str, without[:3]))}{more}: expected a text file of the same name, such as "
            f"{without[0].with_suffix('.txt').name}, with a line of the page in each of its lines"
        )
    lines = [_read_lines(file.with_suffix(".txt")) for file in files]
    return [Page(*page) for page in zip(names_of(files), lines, files, strict=True)]


def _read_lines(file: Path) -> list[str]:
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file} has no line: expected the lines of the page beside it")
    return lines


def draw_demo_page(number: int) -> tuple[Image.Image, list[str]]:
    """Draw a page of words and figures in small type, always the same for a number; returns it and its lines."""
    choose = random.Random(number)
    page = Image.new("RGB", _SIZE, "white")
    draw, lines, y = ImageDraw.Draw(page), [], 16
    while y < _SIZE[1] - 32:
        size, line, ink = choose.choice(_TYPE), _line(choose), choose.choice(_INKS)
        draw.text((16 + 8 * choose.randrange(8), y), line, (ink, ink, ink), ImageFont.load_default(size))
        lines.append(line)
        y += round(1.6 * size) + choose.randrange(6)
    return page, lines


def _line(choose: random.Random) -> str:
    words = choose.sample(_WORDS.split(), choose.randint(2, 5))
    price, number = f"{choose.randint(1, 99)}.{choose.randint(0, 99):02}", f"No. {choose.randint(100, 99999)}"
    end = choose.choice(([], [price], [number]))
    return " ".join([words[0].capitalize(), *words[1:], *end])

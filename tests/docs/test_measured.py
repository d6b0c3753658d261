"""Every measured table says when, where and by which command, and docs/results.md leads to it."""

import datetime
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = (
    "audio",
    "coders",
    "datasets",
    "documents",
    "from_scratch",
    "latents",
    "performance",
    "pretrained",
    "published",
    "quality",
    "separation",
    "stems",
    "transfer",
    "stems",
    "weconvene",
)
LINE = re.compile(r"^\*(?:Measured|Counted) ([\d-]+).*?\*$(?:\n\n(?: {4}.+\n)+)?", re.DOTALL | re.MULTILINE)
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.stem in MEASURED or LINE.search(page.read_text("utf-8"))]


def has_measured_figures(table: str) -> bool:
    """Whether a right-aligned column holds a number with decimals; sizes and limits are whole."""
    _, rule, *rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in table.strip().splitlines()]
    columns = [i for i, cell in enumerate(rule) if cell.strip().endswith("-:")]
    return any(re.search(r"\d\.\d", row[i]) for row in rows for i in columns)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_measured_tables_stand_in_a_section_with_date_machine_and_command(page: Path) -> None:
    text = page.read_text("utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)  # `#` begins a comment in code
    lines = list(LINE.finditer(prose))
    assert lines, f'{page.name} has no line "*Measured DATE on MACHINE: `COMMAND`.*"'
    for line in lines:
        datetime.date.fromisoformat(line[1])
        if line[0].startswith("*Measured"):
            assert re.search(r"EPYC|NVIDIA|GPU", line[0]), f"which machine? {line[0]}"
            assert re.search(r"-m\s(recipes|tests)\.|pytest|`wt\.|command|not kept", line[0]), (
                f"which command? {line[0]}"
            )
    for section in re.split(r"^#+ ", prose, flags=re.MULTILINE):
        tables = re.findall(r"(?:^\|.*\n)+", section + "\n", flags=re.MULTILINE)
        if any(map(has_measured_figures, tables)):
            assert LINE.search(section), f"a table in {page.name}, section {section.splitlines()[0]!r}, has no date"


def test_results_leads_to_every_measured_page() -> None:
    linked = re.findall(r"\]\((\w+)\.md[#)]", (DOCS / "results.md").read_text("utf-8"))
    assert {page.stem for page in PAGES} <= set(linked)

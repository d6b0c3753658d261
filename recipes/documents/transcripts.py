"""What was read of every page, kept in a file so that a comparison can go on where it stopped."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.documents.reader import Line
from walloc_transforms.safe import write_atomically


@dataclass
class Transcript:
    """What was read of a page.

    Attributes:
        height: Of its image.
        width: Of its image.
        lines: By arm.
    """

    height: int
    width: int
    lines: dict[str, list[Line]] = field(default_factory=dict)


def save_transcripts(transcripts: Mapping[str, Transcript], file: Path) -> None:
    """Write transcripts by the names of their pages, as JSON."""
    content = {name: asdict(transcript) for name, transcript in transcripts.items()}
    write_atomically(file, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode(), durable=True)


def load_transcripts(file: Path) -> dict[str, Transcript]:
    """Read transcripts; none where there is no file.

    Raises:
        ValueError: The file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return {name: _transcript(**content) for name, content in json.loads(file.read_text("utf-8")).items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{file} is damaged: delete it, and --resume reads every page again") from error


def _transcript(height: int, width: int, lines: dict[str, list[dict[str, Any]]]) -> Transcript:
    read = {arm: [Line(line["text"], tuple(line["box"])) for line in own] for arm, own in lines.items()}
    return Transcript(height, width, read)

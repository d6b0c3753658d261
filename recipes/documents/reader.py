"""The reader of recipes/reading.py: rapidocr, whose networks (PP-OCR of PaddlePaddle) come in its wheel."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NEEDED = ("rapidocr", "onnxruntime")


@dataclass(frozen=True)
class Line:
    """A line that was read.

    Attributes:
        text: What it says.
        box: Left, top, right and bottom edge in pixels.
    """

    text: str
    box: tuple[float, float, float, float]


def check_installed() -> None:
    """Raise a ValueError if the reader is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"reading needs {' and '.join(missing)}: pip install -e '.[reading]'")


class Reader:
    """Finds the lines of a page and reads them, on the CPU."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR

        threads = torch.get_num_threads()
        self._read = RapidOCR(
            params={
                "Global.log_level": "critical",  # it would warn of every page without text
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        self.name = f"rapidocr {importlib.metadata.version('rapidocr')}"

    def read(self, page: Tensor) -> list[Line]:
        """Read a page, uint8 RGB ``(3, H, W)``; its lines from top to bottom."""
        blue_green_red = page.flip(0).permute(1, 2, 0).contiguous().numpy()
        result: Any = self._read(blue_green_red)  # of several classes, this one where nothing is left out
        if result.txts is None:
            return []
        edges = [[*box.min(0).tolist(), *box.max(0).tolist()] for box in result.boxes]
        return [Line(text, (*box,)) for text, box in zip(result.txts, edges, strict=True)]

"""What a run shows while it encodes a data set: how far it is, how fast, and what could not be read."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..safe import escaped
from .plan import Plan

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing since Python 3.11

__all__ = ["Progress"]

_NAMED = 10  # unreadable samples that are named; all stand in the data set


class Progress:
    """A bar of samples, with the bytes that were written, and lines that name what could not be read.

    Args:
        plan: Of the data set.
        total: Samples that this run and those before it have to do.
        before: Those that runs before this one have done.
        unreadable: How many of these are left out.
        show: Whether to show the bar.
    """

    def __init__(self, plan: Plan, total: int, before: int, unreadable: int, show: bool) -> None:
        self._unit = {"image": "image", "audio": "sound", "volume": "volume"}[plan.codec.modality]
        self._total, self._unreadable, self._named, self._bytes = total, unreadable, 0, 0
        self._bar = tqdm(total=total, initial=before, unit=self._unit, disable=not show)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._unreadable and kind is None:
            self._say(f"{self._unreadable:,} of {self._total:,} {self._unit}s are left out")

    def add(self, samples: int = 0, written: int = 0, unreadable: Sequence[tuple[str, str]] = ()) -> None:
        """Count what was done just now.

        Args:
            samples: Number of samples.
            written: Length of a shard that was written.
            unreadable: Keys and reasons of samples that are left out.
        """
        for key, reason in unreadable:
            if self._named < _NAMED:
                self._say(f"left out {key}: {reason}")
            elif self._named == _NAMED:
                self._say("more are left out; the data set lists them")
            self._named += 1
        self._unreadable += len(unreadable)
        self._bytes += written
        if written:
            self._bar.set_postfix_str(f"{self._bytes / 1e6:,.1f} MB", refresh=False)
        self._bar.update(samples)

    def _say(self, text: str) -> None:
        self._bar.write(escaped(text), file=sys.stderr)

"""A recipe as a command: settings from the command line, and mistakes told in one line."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import tyro

from recipes.common.outputs import begun_in
from recipes.common.runs import UnusableCheckpoint

C = TypeVar("C")
R = TypeVar("R")


def run_command(settings: type[C], main: Callable[[C], R], description: str | None) -> tuple[C, R]:
    """Run a recipe with the settings of the command line.

    A mistake in settings or data, which is found before the run begins, is told in one line. What fails later, or is
    raised by code of others, is a bug and keeps its traceback.

    Args:
        settings: The dataclass of the recipe's settings.
        main: Does the work.
        description: The recipe's docstring, for ``--help``.

    Returns:
        The settings, and what ``main`` gave.
    """
    config: Any = tyro.cli(settings, description=description)
    try:
        return config, main(config)
    except KeyboardInterrupt:
        resumable = begun_in() is not None and hasattr(config, "resume")
        _stop(f"interrupted{f': --output-dir {begun_in()} --resume goes on' if resumable else ''}", 130)
    except UnusableCheckpoint as error:
        _stop(str(error), 1)
    except (ValueError, OSError, ImportError) as error:  # ImportError: of an extra that is not installed
        if begun_in() is not None or not (isinstance(error, OSError) or _is_ours(error)):
            raise
        _stop(str(error), 1)


def _is_ours(error: Exception) -> bool:
    """Whether an error was raised here, on purpose, and not by a library."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return module.split(".")[0] in ("__main__", "recipes", "walloc_transforms")


def _stop(message: str, code: int) -> NoReturn:
    """End the process; the first one of a run says why."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)
    raise SystemExit(code)

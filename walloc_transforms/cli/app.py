"""The command line, ``walloc``: encode and decode files and data sets, fit, import and look at codecs.

A command that works through many files does what it can, names every file that it could not do, and then exits with 1;
but a data set keeps the list of what it lacks, and the command exits with 0. Files that exist are not overwritten
without ``--force``, and none is ever half written.
"""

import sys
import warnings
from collections.abc import Sequence

import tyro

from .. import __version__
from ..files import READ_ERRORS
from .codecs import fit, import_, inspect, list_codecs
from .convert import decode, encode, info
from .datasets import encode_data, merge
from .demo import demo
from .work import DEBUG, say

__all__ = ["main"]

app = tyro.extras.SubcommandApp()
app.command(name="list")(list_codecs)
app.command(info)
app.command(encode)
app.command(decode)
app.command(name="encode-dataset")(encode_data)
app.command(name="merge-dataset")(merge)
app.command(fit)
app.command(name="import")(import_)
app.command(inspect)
app.command(demo)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The arguments. Default: those of the process.

    Returns:
        The exit code: 0, 1 if anything could not be done, 2 for wrong arguments, 130 if interrupted.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] == ["--version"]:
        print(f"walloc_transforms {__version__}")
        return 0
    options = args[: args.index("--")] if "--" in args else args
    debug = "--debug" in options
    if debug:
        args.remove("--debug")
    token = DEBUG.set(debug)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(str(message))
            return int(
                app.cli(
                    prog="walloc",
                    description="Wavelet latents of images and sound. With --debug, errors show where they come from. "
                    "--version tells the version.",
                    args=args,
                    config=(tyro.conf.FlagCreatePairsOff,),
                )
                or 0
            )
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except READ_ERRORS as error:
        if debug:
            raise
        say(f"{error or type(error).__name__}")
        return 1
    finally:
        DEBUG.reset(token)

"""The command line: each command calls one function of a room.

Exit codes are those of the README: `ERROR` for what the user can fix, `FAULT` for a bug in cxrlines, `STOPPED`.
"""

import errno
import io
import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cxrlines import Error, __version__
from cxrlines.cli import bench, data, experiment, read, train
from cxrlines.cli.options import DEBUG, ERROR, FAULT, STOPPED, say

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of a disk, which are no bug even where they name no file."""


class Commands(TyperGroup):
    """The commands; an exception of one becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("stopped")
            raise typer.Exit(STOPPED) from None
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError):
                raise  # a normal end, a wrong option, or `| head`
            raise typer.Exit(explain(error)) from None


def explain(error: Exception) -> int:
    """Print an error on stderr, with --debug its traceback too; the exit code."""
    if os.environ.get(DEBUG):
        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, Error):
        text = str(error)
    elif isinstance(error, OSError) and (error.filename is not None or error.errno in DISK):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        text = f"{where}{error.strerror or type(error).__name__}"
    elif isinstance(error, MemoryError):
        text = "the memory of this computer is used up; close other programs, or give a smaller --workers"
    else:
        say(
            f"cxrlines: this is a fault of cxrlines ({type(error).__name__}), not of what it was given; please report "
            "it with what the same command prints after `cxrlines --debug`"
        )
        return FAULT
    say(f"cxrlines: {text}")
    return ERROR


app = typer.Typer(
    cls=Commands,
    help="Detect tubes and lines in frontal chest radiographs; train and evaluate such readers. "
    "For research; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for room in (data, train, read):
    app.add_typer(room.app)
app.add_typer(experiment.app, name="experiment")
app.add_typer(bench.app, name="bench")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show the traceback of every error (as {DEBUG}=1).")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"  # also for processes that are started
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal with few letters must not cost a result
            stream.reconfigure(errors="backslashreplace")
    app()

"""The command line: thin; each command calls one function of a room.

Exit codes are those of the README: `ERROR` for what the user can mend, `FAULT` for what cxrlines did wrong, `STOPPED`.
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
"""What a disk answers: never a fault of cxrlines, though the answer names no file."""


class Commands(TyperGroup):
    """The commands; an exception of one becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("stopped")
            raise typer.Exit(STOPPED) from None
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError):
                raise  # the command's own end, a word it does not know, or `| head`
            raise typer.Exit(explain(error)) from None


def explain(error: Exception) -> int:
    """Say what went wrong, on stderr; the exit code. With --debug the traceback is said as well."""
    if os.environ.get(DEBUG):
        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, Error):
        say(f"cxrlines: {error}")
        return ERROR
    if isinstance(error, OSError) and (error.filename is not None or error.errno in DISK):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        say(f"cxrlines: {where}{error.strerror or type(error).__name__}")
        return ERROR
    if isinstance(error, MemoryError):
        say("cxrlines: the memory of this computer is used up; close other programs, or give a smaller --workers")
        return ERROR
    say(
        f"cxrlines: this is a fault of cxrlines ({type(error).__name__}), not of what it was given; please report it "
        "with what the same command prints after `cxrlines --debug`"
    )
    return FAULT


app = typer.Typer(
    cls=Commands,
    help="Reads tubes and lines in frontal chest radiographs; trains such readers and proves how good they are. "
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
        os.environ[DEBUG] = "1"  # of the processes that are started as well
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command that the process was started with."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows few letters must not cost a result
            stream.reconfigure(errors="backslashreplace")
    app()

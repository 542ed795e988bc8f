"""The command line: each command calls one function of a package.

Exit codes are those of docs/commands.md: `ERROR` for what the user can fix, `FAULT` for a bug in cxrlines, `STOPPED`.
"""

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cxrlines import Error, __version__
from cxrlines.cli import (
    bench,
    corrections,
    data,
    doctor,
    evaluate,
    experiment,
    folder_module,
    listen,
    predict,
    serve,
    similar,
    train,
)
from cxrlines.cli.extras import lacking
from cxrlines.cli.options import DEBUG, ERROR, FAULT, PROBLEMS, STOPPED, say
from cxrlines.core.processes import quiet_libraries

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of a disk, which are no bug even where they name no file."""


class Commands(TyperGroup):
    """The commands; an exception of one becomes a message and an exit code."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that is named, and its words."""
        name, command, words = super().resolve_command(ctx, args)
        _check_none_empty(name or "", words)
        return name, command, words

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
            raise typer.Exit(explain(error, ctx.invoked_subcommand or "")) from None


def _check_none_empty(command: str, words: Sequence[str]) -> None:
    """`Error` for an empty word, as of a shell's variable that is not set: as a path it would be the current folder."""
    for place, word in enumerate(words):
        if not word or re.fullmatch("--[a-z-]+=", word):
            before = word or (words[place - 1] if place else "")
            name = before.rstrip("=") if before.startswith("--") else f"argument {place + 1}"
            raise Error(f"{command}: {name} is empty", 'give a value; the current folder is "."')


def explain(error: Exception, command: str = "") -> int:
    """Print an error of a command on stderr, with --debug its traceback too; the exit code."""
    if os.environ.get(DEBUG):
        say("".join(traceback.format_exception(error)).rstrip())
    if needs := lacking(error, command):
        say(needs)
        return ERROR
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
    epilog=f"Exit codes: 0 done, {PROBLEMS} problems found, {ERROR} an input cannot be used, {FAULT} a fault of "
    f"cxrlines, {STOPPED} stopped.",
    pretty_exceptions_enable=False,
)
PANELS = (
    (predict, "Read films"),
    (similar, "Read films"),
    (serve, "Serve findings"),
    (listen, "Serve findings"),
    (folder_module, "Serve findings"),
    (data, "Films and tables"),
    (train, "Train and evaluate"),
    (evaluate, "Train and evaluate"),
    (doctor, "Install"),
)
for room, title in PANELS:
    for command in room.app.registered_commands:
        command.rich_help_panel = title
    app.add_typer(room.app)
app.add_typer(corrections.app, name="corrections", rich_help_panel="Films and tables")
app.add_typer(experiment.app, name="experiment", rich_help_panel="Measure")
app.add_typer(bench.app, name="bench", rich_help_panel="Measure")


FIRST = f"""cxrlines {__version__} reads the tubes and lines in a frontal chest radiograph.
For research; not a medical device.

  cxrlines predict --example        read a film that comes with it; then: cxrlines predict FILM --draw drawn
  cxrlines demo                     the whole job in small: make films, train, evaluate, read; needs [train]
  cxrlines doctor                   what is installed here, and what is missing for what

All commands: cxrlines --help"""
"""What is printed without a command."""


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show the traceback of every error (as {DEBUG}=1).")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"  # also for processes that are started
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(FIRST)


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal with few letters must not cost a result
            stream.reconfigure(errors="backslashreplace")
    quiet_libraries()
    app()

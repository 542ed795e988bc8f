"""The command line: thin; each command calls one function of a room. Errors are said, not thrown."""

import os
import sys
from typing import Annotated

import typer

from cxrlines import __version__
from cxrlines.cli import bench, data, experiment, read, train
from cxrlines.cli.options import say

app = typer.Typer(
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
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT."""


def main() -> None:
    """Run a command; an error is one message on stderr and exit code 2 (CXRLINES_DEBUG=1 shows where it arose)."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            say("stopped; what is finished is kept, the same command goes on from there")
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("CXRLINES_DEBUG"):
            raise
        say(f"cxrlines: {error}")
        sys.exit(2)

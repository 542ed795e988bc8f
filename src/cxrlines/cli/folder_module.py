"""The command that reads a folder into a folder, as mercure and the like run their modules."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from cxrlines.cli.options import ERROR, FAULT, say, signals
from cxrlines.core.counted import counted

app = typer.Typer()


@app.command(epilog="Example: cxrlines module films results")
def module(
    films: Annotated[
        Path | None, typer.Argument(metavar="IN", help="Folder of films; default: that of MERCURE_IN_DIR.")
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="Folder of results; default: that of MERCURE_OUT_DIR.")
    ] = None,
) -> None:
    """Read a folder of films into a folder of results: DICOM objects, JSON and drawings.

    Settings come from task.json in IN, as mercure writes it.
    Exit code 2 where films could not be read; the others have their results.
    """
    from cxrlines.core.pool import keep_buffers
    from cxrlines.pacs.mercure_module import module_folders, run_module

    source, place = module_folders(films, out, os.environ)
    keep_buffers()
    with signals(signal.default_int_handler, signal.SIGTERM), counted() as progress:
        run = run_module(source, place, progress=progress)
    say(run.text)
    for name, reason in run.errors.items():
        say(f"{name}: {reason}")
    raise typer.Exit(FAULT if run.faults else ERROR if run.errors else 0)

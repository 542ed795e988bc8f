"""Options that several commands share, exit codes, messages on stderr."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrlines.core.errors import Error

PROBLEMS, ERROR, FAULT, STOPPED = 1, 2, 70, 130
"""Exit codes; see docs/commands.md."""
DEBUG = "CXRLINES_DEBUG"
"""The environment variable that shows tracebacks."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
On = Annotated[str | None, typer.Option(help="Ray cluster: ray (started here) or ray://HOST:PORT.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Parallel processes; default: one per core (or GPU).")]
BundleFolder = Annotated[Path | None, typer.Option(help="Bundle folder; default: the embedded reader.")]


def numbers(flag: str, text: str) -> list[int]:
    """`0,1` as whole numbers. `Error` names the flag."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise Error(f"{flag} is {text!r}", f"write whole numbers with commas, e.g. {flag} 0,1") from None


def say(text: str) -> None:
    """Print a message that is no part of the output on stderr."""
    typer.echo(text, err=True)


@contextmanager
def resumable() -> Iterator[None]:
    """A command that resumes when it is given again; Ctrl-C says so."""
    try:
        yield
    except KeyboardInterrupt:
        say("what is finished is kept; the same command goes on from there")
        raise


@contextmanager
def signals(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals with `handler` while the block runs."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

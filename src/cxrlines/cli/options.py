"""Options that several commands share, exit codes, messages and progress on stderr."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cxrlines.core.errors import Error
from cxrlines.recipe.run.progress import clock

PROBLEMS, ERROR, FAULT, STOPPED = 1, 2, 70, 130
"""Exit codes; see docs/commands.md."""
DEBUG = "CXRLINES_DEBUG"
"""The environment variable that shows tracebacks."""
LINE_EVERY_S = 30.0
"""Without a terminal, progress is a line this often."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
On = Annotated[str | None, typer.Option(help="Ray cluster: ray (started here) or ray://HOST:PORT.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Parallel processes; default: one per core (or GPU).")]
BundleFolder = Annotated[Path | None, typer.Option(help="Bundle folder; default: the embedded reader.")]


def numbers(flag: str, text: str | None) -> list[int] | None:
    """`0,1` as whole numbers; None as it is. `Error` names the flag."""
    if text is None:
        return None
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


@contextmanager
def counted(doing: str = "reading", done_to: str = "read") -> Iterator[Callable[[int, int | None], None]]:
    """Progress on stderr, called with (films done, films in all): a bar, or lines without a terminal.

    A first call with more than one film done tells what was done before. Time left is estimated without them.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(doing, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    begun = last = time.monotonic()
    before: int | None = None

    def line(done: int, total: int | None) -> None:
        nonlocal last, before
        now = time.monotonic()
        if before is None:
            before = done if done > 1 else 0
        if now - last >= LINE_EVERY_S and before < done != total:
            last = now
            count = f"{done} of {total}" if total else f"{done}"
            left = f", {clock((total - done) * (now - begun) / (done - before))} left" if total else ""
            say(f"{count} films {done_to}{left}")

    yield line

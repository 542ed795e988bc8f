"""Progress of many items on stderr: a bar in a terminal, elsewhere a line every half minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cxrlines.core.text import clock

LINE_EVERY_S = 30.0
"""Without a terminal, progress is a line this often."""


@contextmanager
def counted(doing: str = "reading films") -> Iterator[Callable[[int, int | None], None]]:
    """Shows how far `doing` is; called with (items done, items in all), None where that is not known yet.

    A first call with more than one item done says what was done before. Time left is estimated without them.
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
            left = f" of {total}, {clock((total - done) * (now - begun) / (done - before))} left" if total else ""
            print(f"{doing}: {done}{left}", file=sys.stderr, flush=True)

    yield line

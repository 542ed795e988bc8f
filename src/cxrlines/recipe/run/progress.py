"""Progress of running steps: each writes a small status file, the terminal shows them together."""

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cxrlines.core.counted import LINE_EVERY_S
from cxrlines.core.text import clock, plural


class StatusFile:
    """Written by a step in its own process; replaced as a whole, so that a reader never sees half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, status: dict[str, Any]) -> None:
        aside = self.path.with_suffix(".partial")
        with contextlib.suppress(OSError):  # a full disk or a swept folder costs a line on a screen, not a step
            aside.write_text(json.dumps(status))
            aside.replace(self.path)


def read_status(path: Path) -> dict[str, Any]:
    """The last status written there; empty where there is none yet."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads(path.read_text())
    return {}


def describe(name: str, status: dict[str, Any]) -> str:
    """One line on one running step."""
    if "step" not in status:
        return f"{name}: {status.get('doing', 'loading')} ..."
    auc = status.get("auc")
    return (
        f"{name}: epoch {status['epoch']}/{status['epochs']}, step {status['step']}/{status['steps']}, "
        f"{status['films_per_s']:.1f} films/s, loss {status['loss']:.4f}"
        f"{f', AUC {auc:.4f}' if auc is not None else ''}, {clock(status['seconds_left'])} left"
    )


class Board:
    """Shows a plan as it is done: finished steps as lines, running ones as a live table (or lines, off a terminal)."""

    def __init__(self, total: int, done: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.total, self.done = total, done
        self.begun = self.shown = time.monotonic()
        live = Live(console=self.console, refresh_per_second=2, transient=True)
        self.live = live if self.console.is_terminal else None

    def __enter__(self) -> "Board":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def finished(self, name: str, record: dict[str, Any]) -> None:
        """A step is done."""
        self.done += 1
        self.say(
            f"[{self.done}/{self.total}] {name}: done, {record['films']} films, {clock(record['seconds'])} of training"
        )

    def show(self, running: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """The steps running now, with their last status."""
        now = time.monotonic()
        if self.live:
            self.live.update(self._table(running, now))
        elif now - self.shown > LINE_EVERY_S:
            self.shown = now
            for name, status in running:
                self.say(describe(name, status))

    def _table(self, running: Iterable[tuple[str, dict[str, Any]]], now: float) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("step", "epoch", "films/s", "loss", "AUC", "left", ""):
            table.add_column(column, justify="left" if column in ("step", "") else "right")
        for name, status in running:
            if "step" not in status:
                table.add_row(name, "", "", "", "", "", Text(status.get("doing", "loading"), style="dim"))
                continue
            auc = status.get("auc")
            table.add_row(
                name,
                f"{status['epoch']}/{status['epochs']}",
                f"{status['films_per_s']:.1f}",
                f"{status['loss']:.4f}",
                "-" if auc is None else f"{auc:.4f}",
                clock(status["seconds_left"]),
                ProgressBar(total=status["steps"], completed=status["step"], width=24),
            )
        head = Text(f"{self.done} of {plural(self.total, 'step')} done, {clock(now - self.begun)} so far", style="bold")
        return Group(head, table)

"""Workers that need no other process."""

from concurrent.futures import Future
from pathlib import Path

import pytest

from cxrlines.recipe.run import execute
from cxrlines.recipe.run.execute import do_one


class Here:
    """Workers that do each step in this very process: no time for starting others."""

    lost, places = "lost", 1

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data

    def submit(self, step) -> "Future[None]":
        done: Future[None] = Future()
        done.set_result(do_one(self.root, self.data, step, 1))
        return done

    def stop(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def here(monkeypatch) -> None:
    """Steps are done in this process."""
    monkeypatch.setattr(execute, "_workers", lambda run, data, todo, workers, on: Here(run.root, data))

"""Workers that need no other process."""

from collections.abc import Sequence

import pytest

from cxrlines.recipe.run import execute
from cxrlines.recipe.run.execute import do_one
from cxrlines.recipe.run.folder import Run, Step


class Here:
    """Workers that do each step in this very process: no time for starting others."""

    places = 1

    def __init__(self, run: Run, steps: Sequence[Step], asked: int | None) -> None:
        self.root, self.data = run.root, run.data

    def do(self, step: Step) -> None:
        do_one(self.root, self.data, step, 1)

    def close(self) -> None: ...


@pytest.fixture
def here(monkeypatch) -> None:
    """Steps are done in this process."""
    monkeypatch.setattr(execute, "LocalWorkers", Here)

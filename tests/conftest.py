"""Every test computes as a worker does: one thread, and buffers kept; and under a site key of its own."""

import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest
import torch
from hypothesis import settings

from cxrlines.core.pool import keep_buffers

if TYPE_CHECKING:
    from cxrlines.recipe.run.folder import Run, Step

SHARED = Path(__file__).parents[2] / "shared/data"

keep_buffers()
torch.set_num_threads(1)
cv2.setNumThreads(1)
# No deadline: it is by the clock, whose time others take as well. The same examples each time, new ones in `test-long`.
settings.register_profile("new-examples", deadline=None)
settings.register_profile("same-examples", deadline=None, derandomize=True)
settings.load_profile("same-examples")


@pytest.fixture(scope="session", autouse=True)
def site_key(tmp_path_factory):
    """The user's own key stays out of it; other processes inherit this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRLINES_SITE_KEY", str(tmp_path_factory.mktemp("site") / "site.key"))
        yield os.environ["CXRLINES_SITE_KEY"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real tables and films, which are no part of the project; a test of them is skipped where they are not there."""
    if not SHARED.is_dir():
        pytest.skip("the real data are not on this machine (../shared/data)")
    return SHARED


@pytest.fixture(scope="session")
def ranzcr(shared: Path) -> Path:
    """The tables of RANZCR CLiP, without films."""
    return shared / "ranzcr"


@pytest.fixture(scope="session")
def real_films(shared: Path) -> Path:
    """A folder of 243 real films as JPEG."""
    return shared / "cxr/images"


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Waits until a condition holds; fails where it does not within a minute, which is long for a busy machine."""

    def wait(condition: Callable[[], object], *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not come to that within {seconds:g} s"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def disk_full() -> Callable[..., Any]:
    """What a call that writes does on a full disk, to take its place."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fail


# Tiny data sets and recipes on which whole runs take seconds.
RECIPE = """
name: tiny
about: Three stages on a handful of films.
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
defaults:
  schedule: {batch: 4, lr: 0.001, epochs: 1}
members:
  staged:
    backbone: resnet10t
    stages:
      teacher: {start: scratch, films: {which: annotated, view: overlay}}
      student: {start: scratch, films: {which: annotated}, targets: {features: {of: teacher}, labels: {}}}
      finetune: {start: student, schedule: {epochs: 2, ema: 0.9}}
  plain:
    backbone: resnet10t
    dropout: 0.5
    stages:
      only: {start: scratch, films: {augment: hotwater}, schedule: {epochs: 3}}
"""

SOFT = """
name: soft
about: Soft labels of own films and of site b, and its tube labels, on a handful of films.
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 3, seed: 0}
defaults:
  schedule: {batch: 8, lr: 0.001, epochs: 1, validate_films: 0}
external: {b: {}}
members:
  plain:
    backbone: resnet10t
    stages:
      only: {start: scratch}
  self:
    backbone: resnet10t
    stages:
      only:
        start: scratch
        targets: {soft: {of: plain, temperature: dynamic, film_weights: certainty}, labels: {weight: 0.5}}
  from-b:
    backbone: resnet10t
    stages:
      soft: {start: scratch, films: {set: b}, targets: {soft: {of: plain, keep_above: 0.3, temperature: 0.8}}}
      tubes: {start: soft, films: {set: b}, targets: {presence: {}}}
      finetune: {start: tubes, size: 80}
ensemble: {members: [plain, self, from-b/soft, from-b], how: fitted}
"""


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    from cxrlines.phantom.dataset import write_phantom

    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(folder, studies=32, test=8, seed=0, size=96, balance="even", annotated=0.6, workers=1)
    return folder


@pytest.fixture(scope="session")
def site_b(tmp_path_factory) -> Path:
    """An external set of another hospital."""
    from cxrlines.phantom.dataset import write_phantom

    folder = tmp_path_factory.mktemp("site") / "b"
    write_phantom(folder, studies=16, test=0, seed=1, size=96, balance="even", annotated=0, site="b", workers=1)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def soft_recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "soft.yaml"
    path.write_text(SOFT)
    return path


def done_here(run: "Run", folds: list[int] | None = None) -> "Run":
    """All steps of a prepared run done in this process, and its report written."""
    from cxrlines.recipe.run.pipeline import plan_of
    from cxrlines.recipe.run.report import write_run_report
    from cxrlines.recipe.run.scored_predictions import is_scored, predict_scored
    from cxrlines.recipe.run.step import do_step

    steps = plan_of(run, folds)
    for step in steps:
        if not run.is_done(step):
            do_step(run, step, lambda status: None)
        elif is_scored(run.recipe, step):
            predict_scored(run, step)
    write_run_report(run, steps, "test")
    return run


class _InProcess:
    """Workers that do each step in this very process: a test may change what they meet, and no process is started."""

    places = 1

    def __init__(self, run: "Run", steps: "Sequence[Step]", asked: int | None) -> None:
        self.root, self.data = run.root, run.data

    def do(self, step: "Step") -> None:
        from cxrlines.recipe.run.execute import do_one

        do_one(self.root, self.data, step, 1)

    def close(self) -> None: ...


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are done in this process."""
    from cxrlines.recipe.run import execute

    monkeypatch.setattr(execute, "LocalWorkers", _InProcess)


@pytest.fixture(scope="session")
def do_here():
    """`done_here`, for tests of other files."""
    return done_here


@pytest.fixture(scope="session")
def soft_run(phantom, site_b, soft_recipe, tmp_path_factory) -> "Run":
    """The recipe of soft labels, run to its end. Tests must not change it."""
    from cxrlines.recipe.run.pipeline import prepare
    from cxrlines.recipe.spec.load import load_recipe

    recipe = load_recipe(str(soft_recipe), [f"external.b.folder={site_b}"])
    return done_here(prepare(recipe, phantom, tmp_path_factory.mktemp("soft"), 1))

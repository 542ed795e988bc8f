"""A whole run by two processes of torchrun: one set of files, predictions as one process makes them, and kills."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlines.cluster.step_workers import ray_workers
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import load_into, load_weights
from cxrlines.recipe.run.execute import RunError, do_plan
from cxrlines.recipe.run.folder import HELD_OUT, TEST, WEIGHTS, Run
from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.run.training_data import films_of
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS, STUDY_COLUMN
from cxrlines.training import distributed
from cxrlines.training.loader import FilmSet
from cxrlines.training.prediction import predict_films


@pytest.mark.long
def test_a_run_of_two_processes_is_whole_and_predicts_as_one(phantom, tiny_recipe, tmp_path):
    root = tmp_path / "run"
    command = [sys.executable, "-m", "cxrlines", "train", tiny_recipe, "--data", phantom, "--out", root]
    single = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, "--devices", "2", "--folds", "0"], capture_output=True, text=True, timeout=280, env=single
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    run = Run.open(root, phantom)
    steps = plan_of(run, [0])
    assert len(steps) == 4 and all(run.is_done(step) for step in steps)
    assert not list((root / ".work").iterdir())
    assert ended.stderr.count("[4/4]") == 1, "the first process alone speaks"
    assert json.loads((root / "metrics.json").read_text())["members"].keys() == {"staged", "plain"}

    folder = run.folder(steps[-1].key)
    assert json.loads((folder / "step.json").read_text())["processes"] == 2
    tensors, meta = load_weights(folder / WEIGHTS)
    model = Classifier.from_config(json.loads(meta["config"]))
    load_into(model, tensors)
    for dataset, store, rows, name in (
        (run.train, run.store, run.films.held((0,)), HELD_OUT),
        (run.test, run.test_store, np.arange(len(run.test.studies)), TEST),
    ):
        films = films_of(dataset, store, rows, lines=False)
        alone = predict_films(model, FilmSet(films, "none", 64, seed=0))
        together = pd.read_csv(folder / name)
        assert together[STUDY_COLUMN].tolist() == dataset.studies["study"].iloc[rows].tolist()
        np.testing.assert_allclose(together[list(LABELS)], alone, rtol=0, atol=1e-5)


def test_one_step_on_many_gpus_and_many_steps_on_a_cluster_are_two_things(phantom, tiny_recipe, tmp_path, monkeypatch):
    run = prepare(load_recipe(str(tiny_recipe)), phantom, tmp_path, 1)
    monkeypatch.setattr(distributed, "world", 2)
    with pytest.raises(RunError, match="--on spreads steps over machines, --devices one step over GPUs"):
        do_plan(run, plan_of(run, [0]), start=ray_workers("ray"))


KILLED = """
name: killed
size: 32
store: {size: 40}
quality: {probe: none}
folds: {count: 2}
tracking: {use: [csv]}
members:
  only:
    backbone: resnet10t
    dropout: 0.5
    stages:
      only:
        start: scratch
        films: {augment: hotwater, mixup: 0.4}
        schedule: {batch: 4, lr: 0.001, epochs: 8, ema: 0.9}
"""
MARK = "CXRLINES_TEST_RUN"
STATE = ".work/only.fold0.only/state.safetensors"


def alive(root: Path) -> dict[str, int]:
    """Process numbers of all that was started for the run in `root`: `torchrun`, ranks `0` and `1`, and others."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            words = (folder / "cmdline").read_bytes().split(b"\0")
            names = dict(entry.partition(b"=")[::2] for entry in (folder / "environ").read_bytes().split(b"\0"))
            if names.get(MARK.encode()) == str(root).encode() and words != [b""]:  # not one that waits for its parent
                torchrun, train = b"torch.distributed.run" in words, b"train" in words and b"RANK" in names
                name = "torchrun" if torchrun else names[b"RANK"].decode() if train else folder.name
                found[name] = int(folder.name)
    return found


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """What a question gives once that is not nothing; in a quarter of an hour, and while the process lives."""
    end = time.monotonic() + 900
    while not (answer := what()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended:\n{process.communicate()[0][-3000:]}")
        assert time.monotonic() < end, "nothing came in a quarter of an hour"
        time.sleep(0.05)
    return answer


@contextlib.contextmanager
def started(recipe: Path, data: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """The command of a run by two processes; none of it outlives the block."""
    words = [sys.executable, "-m", "cxrlines", "train", recipe, "--data", data, "--out", root]
    env = os.environ | {"OMP_NUM_THREADS": "1", MARK: str(root)}
    with subprocess.Popen(
        [*words, "--devices", "2", "--folds", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            for number in alive(root).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)


def finish(recipe: Path, data: Path, root: Path) -> Path:
    """The folder of the step of a run that ends."""
    with started(recipe, data, root) as process:
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said[-3000:]
        assert not alive(root)
    return root / "only/fold0/only"


def epoch_kept(root: Path) -> int:
    """How many epochs the state file of a run's step has."""
    path = root / STATE
    return json.loads(load_weights(path)[1]["state"])["progress"]["epoch"] if path.exists() else 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.long
def test_killed_as_a_whole_or_one_of_its_processes_it_goes_on_to_the_same_weights(phantom, tmp_path):
    recipe, root, chance = tmp_path / "killed.yaml", tmp_path / "killed", random.Random()
    recipe.write_text(KILLED)
    whole = finish(recipe, phantom, tmp_path / "whole")
    an_epoch = json.loads((whole / "step.json").read_text())["seconds"] / 8
    for victim, epochs in (("0", 1), ("1", 3), ("torchrun", 5)):
        with started(recipe, phantom, root) as process:
            wait_for(lambda enough=epochs: epoch_kept(root) >= enough, process)
            time.sleep(chance.uniform(0, an_epoch))
            numbers = alive(root)
            assert {"torchrun", "0", "1"} <= numbers.keys()
            os.kill(numbers[victim], signal.SIGKILL)
            wait_for(lambda: not alive(root))
            assert process.wait() != 0
        assert (root / STATE).exists() and not (root / "only").exists()
    ended = finish(recipe, phantom, root)
    for name in ("history.csv", HELD_OUT, TEST):
        assert (ended / name).read_text() == (whole / name).read_text()
    (tensors, _), (expected, _) = (load_weights(folder / WEIGHTS) for folder in (ended, whole))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.long
def test_killed_while_its_processes_begin_it_leaves_none(phantom, tmp_path):
    recipe, root = tmp_path / "killed.yaml", tmp_path / "run"
    recipe.write_text(KILLED)
    with started(recipe, phantom, root) as process:
        numbers = wait_for(lambda: (found := alive(root)).keys() >= {"0", "1"} and found, process)
        os.kill(numbers["torchrun"], signal.SIGKILL)
        wait_for(lambda: not alive(root))

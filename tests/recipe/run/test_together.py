"""A whole run by two processes of torchrun: one set of files, predictions as one process makes them."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

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

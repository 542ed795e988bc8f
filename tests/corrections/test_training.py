"""Corrections are trained on as they are saved: checked, planned, learnt from; what was not said is not learnt."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cxrlines.cli import app
from cxrlines.corrections.project import Project
from cxrlines.io.tables import Dataset, read_dataset
from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.run.training_data import TableFilms
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import DEVICE_OF, LABELS, MAP_NAMES, UNKNOWN, Device, Landmark, MapKind, State
from cxrlines.training.targets.maps import MapTarget

RECIPE = """
name: corrected
about: One stage that learns labels and heatmaps.
size: 64
store: {size: 72, aspect: stretch}
quality: {probe: none, leave_out: nothing}
folds: {count: 2, seed: 0}
members:
  m:
    backbone: resnet10t
    head: attention
    stages:
      only: {start: scratch, targets: {labels: {}, maps: {}}, schedule: {batch: 8, lr: 0.001, epochs: 1}}
"""
LAST_CVC_ONLY = 4


@pytest.fixture(scope="module")
def truth(phantom) -> Dataset:
    return read_dataset(phantom)


@pytest.fixture(scope="module")
def corrected(truth, tmp_path_factory) -> Path:
    """All annotated phantom films, corrected as by one who knows the ground truth; of the last, CVCs alone, whose tips
    are said not to be seen."""
    from cxrlines.corrections.correction import CorrectedLine, Correction, Mark

    folder = tmp_path_factory.mktemp("corrected") / "project"
    project = Project(folder)
    rows = truth.studies[truth.annotated].to_dict("records")
    for number, row in enumerate(rows):
        whole = number < len(rows) - LAST_CVC_ONLY
        lines = []
        for line in truth.lines[row["study"]]:
            device = DEVICE_OF[line.label]
            if whole or device is Device.CVC:
                state = next(state for state in State if line.label.endswith(state)) if whole else None
                points = line.points.tolist()
                lines.append(CorrectedLine(device=device, state=state, points=points, mark=Mark.DRAWN, tip_seen=whole))
        labels = {label: int(row[label]) for label in LABELS if whole or DEVICE_OF[label] is Device.CVC}
        carina = truth.landmarks.get(row["study"], {}).get(Landmark.CARINA.value)
        landmarks = {} if carina is None else {Landmark.CARINA: carina.tolist()}
        said = Correction(author="R", time="2026-03-01T09:30:00Z", lines=lines, labels=labels, landmarks=landmarks)
        film = Path(row["film"])
        assert project.save(film.read_bytes(), f"{row['study']}{film.suffix}", None, said)
    return folder


def test_it_is_read_as_it_was_said(corrected, truth):
    found = read_dataset(corrected)
    assert found.left_out == {}
    same = truth.studies[truth.annotated].reset_index(drop=True)
    ids = [film.id for film in Project(corrected).films()]
    assert found.studies["study"].tolist() == ids and len(ids) == len(same)
    whole = slice(0, len(ids) - LAST_CVC_ONLY)
    np.testing.assert_array_equal(found.studies.iloc[whole][list(LABELS)], same.iloc[whole][list(LABELS)])
    for id, study in zip(ids[whole], same["study"][whole], strict=True):
        for ours, theirs in zip(found.lines[id], truth.lines[study], strict=True):
            assert ours.label == theirs.label
            np.testing.assert_array_equal(ours.points, theirs.points)
    other = [label for label in LABELS if DEVICE_OF[label] is not Device.CVC]
    assert (found.studies.iloc[-LAST_CVC_ONLY:][other] == UNKNOWN).all(axis=None)


def test_commands_read_it_as_it_is(corrected, tmp_path):
    runner = CliRunner()
    found = runner.invoke(app, ["check", str(corrected), "--json", "--workers", "1"])
    assert found.exit_code == 0, found.output
    plan = runner.invoke(
        app, ["train", "recommended", "--data", str(corrected), "--out", str(tmp_path / "run"), "--dry-run"]
    )
    assert plan.exit_code == 0 and "recommended" in plan.output, plan.output


def test_a_stage_learns_from_it(corrected, do_here, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(str(path), [])
    run = do_here(prepare(recipe, corrected, tmp_path / "run", 1))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics
    assert all(run.record(step.key) for step in plan_of(run, None))
    films = TableFilms(run.train, run.store, np.arange(len(run.train.studies)))
    mapped = MapTarget().data(films).arrays["mapped"]
    of_lines = {name: i for i, (name, (kind, _)) in enumerate(MAP_NAMES.items()) if kind is not MapKind.LANDMARK}
    drawn = run.train.annotated
    assert drawn[-LAST_CVC_ONLY:].any()
    for name, place in of_lines.items():
        known = drawn.copy()
        if name != "line CVC":  # their tips are not seen
            known[-LAST_CVC_ONLY:] = False
        np.testing.assert_array_equal(mapped[:, place], known, err_msg=name)

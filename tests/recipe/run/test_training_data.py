"""What a step's films come with: maps that are known, and maps by a segmenter that did not see the film."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlines.io.annotations import Line
from cxrlines.models.classifier import TwoStep
from cxrlines.models.weights import load_weights
from cxrlines.recipe.run.folder import HELD_OUT, LINEAGE, WEIGHTS, Parent, Role, Run, Step, StepId, read_record
from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.run.training_data import _segmenters, films_of, load_step, training_films
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS_OF, MAPS, UNKNOWN, Device, Landmark, MapKind, State, label_of
from cxrlines.training.lineage import read_lineage
from cxrlines.training.targets import LabelTarget, MapTarget, PresenceTarget, TargetsSpec

RECIPE = """
name: maps
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 3, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 1, validate_films: 0}}
members:
  two-step:
    backbone: resnet10t
    exclusive: true
    stages:
      segmenter: {start: scratch, films: {which: annotated}, targets: {maps: {}}}
      classifier: {start: scratch, films: {maps_of: segmenter}}
  multi-task:
    backbone: resnet10t
    stages:
      only: {start: scratch, targets: {labels: {}, maps: {}}}
"""
SEGMENTER = "members.two-step.stages.segmenter"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "maps.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe, phantom, tmp_path_factory, do_here) -> Run:
    """Done on one fold. Tests must not change it."""
    return do_here(prepare(load_recipe(str(recipe)), phantom, tmp_path_factory.mktemp("maps"), 1), [0])


def classifier_of(run: Run) -> Step:
    (step,) = (step for step in plan_of(run, [0]) if step.name == "two-step/fold0/classifier")
    return step


def shown(run: Run, step: Step) -> tuple[np.ndarray, list]:
    """The rows a step trains on, and the key of the segmenter whose maps each is shown with."""
    stage = run.recipe.members[step.key.member].stages[step.key.stage]
    rows = run.films.training(stage, step.key.held)
    films, _ = training_films(run, step, stage, rows, lambda status: None)
    maps = step.by_fold(Role.MAPS)
    segmenters = [*maps.values(), step.parent(Role.MAPS)]
    return rows, [segmenters[int(k)] for k in films.more["segmenter"]]


def test_an_annotated_film_is_shown_with_maps_of_a_segmenter_that_never_saw_its_patient(run):
    step = classifier_of(run)
    rows, keys = shown(run, step)
    annotated, inner = np.asarray(run.train.annotated)[rows], [len(key[1]) == 2 for key in keys]
    assert annotated.tolist() == inner and {True, False} == set(inner)
    held_out = set(run.train.studies["patient"].iloc[run.films.held((0,))].astype(str))
    assert len(held_out) > 2
    for row, key in zip(rows, keys, strict=True):
        lineage = read_lineage(run.folder(key) / LINEAGE)
        if run.train.annotated[row]:
            lineage.refuse_seen([str(run.train.studies["patient"].iloc[row])])
        lineage.refuse_seen(held_out)
    own = read_lineage(run.folder(step.parent(Role.MAPS)) / LINEAGE)
    with pytest.raises(ValueError, match="refused to score two-step/fold0/segmenter"):
        own.refuse_seen(run.train.studies["patient"].iloc[rows[annotated]].astype(str))


@pytest.mark.parametrize(
    "settings",
    [
        [f"{SEGMENTER}.films.which=all"],
        [f"{SEGMENTER}={{start: before, films: {{which: annotated}}, targets: {{maps: {{}}}}}}"],
    ],
    ids=["trained on all films", "started from a stage that was"],
)
def test_a_film_that_its_segmenter_saw_without_lines_is_shown_with_maps_of_another_too(
    recipe, phantom, tmp_path, settings
):
    path = recipe
    if "before" in settings[0]:
        path = tmp_path / "before.yaml"
        text = recipe.read_text().replace("      segmenter:", "      before: {start: scratch}\n      segmenter:")
        path.write_text(text)
    run = prepare(load_recipe(str(path), settings), phantom, tmp_path / "run", 1)
    step = classifier_of(run)
    rows, keys = shown(run, step)
    assert not np.asarray(run.train.annotated)[rows].all()
    assert [key[1] for key in keys] == [(0, int(run.folds.iloc[row])) for row in rows]


def test_a_two_step_run_holds_its_segmenter_and_tells_its_parents(run):
    step = classifier_of(run)
    record = read_record(run.folder(step.key))
    assert record["parents"] == {parent.name: str(parent.key) for parent in step.parents}
    assert set(record["parents"]) == {"maps", "maps 1", "maps 2"}
    model = load_step(run, step.key)
    assert isinstance(model, TwoStep)
    segmenter, _ = load_weights(run.folder(step.parent(Role.MAPS)) / WEIGHTS)
    assert all(torch.equal(model.segmenter.state_dict()[name], value) for name, value in segmenter.items())
    assert (run.folder(step.key) / HELD_OUT).is_file()
    for parent in step.parents:
        assert not (run.folder(parent.key) / HELD_OUT).exists(), "a segmenter says no labels"


def test_maps_are_known_where_a_film_is_annotated_and_landmarks_where_they_are_given(run):
    rows = np.arange(len(run.train.studies))
    films = films_of(
        run.train, run.store, rows, lines=True, targets=TargetsSpec(maps=MapTarget(kinds=("line", "landmark")))
    )
    annotated = np.asarray(run.train.annotated)
    placed = np.array([Landmark.CARINA in run.train.landmarks.get(study, {}) for study in run.train.studies["study"]])
    assert placed.sum() > 0 and 0 < annotated.sum() < len(rows)
    for column, (kind, _) in zip(films.more["mapped"].T, MAPS, strict=True):
        expected = {MapKind.LINE: annotated, MapKind.LANDMARK: placed, MapKind.TIP: np.zeros(len(rows), bool)}[kind]
        np.testing.assert_array_equal(column, expected)
    assert films.landmarks is not None
    for row in np.flatnonzero(placed)[:5]:
        given = run.train.landmarks[run.train.studies["study"].iloc[row]][Landmark.CARINA]
        back = run.store.placements[films.rows[row]].to_film(films.landmarks[row])
        np.testing.assert_allclose(back[0], given, atol=1e-6)


def test_a_line_of_unknown_state_or_tip_teaches_its_course_and_its_presence(run):
    """One tube more on a film without any, of which neither the state nor the tip is known."""
    studies, tube = run.train.studies, Device.NGT
    row = int(np.flatnonzero(np.asarray(run.train.annotated) & ~studies[list(LABELS_OF[tube])].any(axis=1))[0])
    changed = studies.copy()
    changed.loc[row, list(LABELS_OF[tube])] = UNKNOWN
    study = studies["study"].iloc[row]
    faded = Line(label_of(tube, State.NORMAL), np.array([[10.0, 5], [30, 40]]), tip_seen=False)
    lines = run.train.lines | {study: [*run.train.lines[study], faded]}
    targets = TargetsSpec(labels=LabelTarget(), presence=PresenceTarget(), maps=MapTarget())
    before, after = (
        films_of(dataset, run.store, np.array([row]), lines=True, targets=targets).more
        for dataset in (run.train, replace(run.train, studies=changed, lines=lines))
    )
    place = list(Device).index(tube)
    assert before["presence"][0, place] == 0 and after["presence"][0, place] == 1
    assert (before["presence"] != after["presence"]).sum() == 1  # a film with other devices stays one with any
    (differ,) = np.flatnonzero(before["mapped"][0] != after["mapped"][0])
    assert MAPS[differ] == (MapKind.TIP, tube) and after["mapped"][0, differ] == 0


def test_presence_of_own_films_is_that_of_their_labels(run):
    rows = np.arange(len(run.train.studies))
    presence = films_of(run.train, run.store, rows, targets=TargetsSpec(presence=PresenceTarget())).more["presence"]
    for column, device in zip(presence.T, Device, strict=False):
        np.testing.assert_array_equal(column, run.train.studies[list(LABELS_OF[device])].any(axis=1))
    np.testing.assert_array_equal(presence[:, -1], presence[:, :-1].max(axis=1))


def test_maps_without_an_annotated_film_or_landmark_are_refused(recipe, phantom, tmp_path):
    settings = ["members.two-step.stages={only: {start: scratch, targets: {labels: {}, maps: {kinds: [tip]}}}}"]
    run = prepare(load_recipe(str(recipe), settings), phantom, tmp_path / "run", 1)
    (step,) = (step for step in plan_of(run, [0]) if step.key.member == "two-step")
    stage = run.recipe.members["two-step"].stages["only"]
    rows = np.flatnonzero(~np.asarray(run.train.annotated))
    with pytest.raises(
        ValueError, match=r"targets.maps: none of the films has an annotated line or a landmark \(train_an"
    ):
        training_films(run, step, stage, rows, lambda status: None)


def test_own_films_are_mapped_by_a_segmenter_that_saw_none_of_them(recipe):
    external = "{films: {set: b}, targets: {soft_maps: {file: w.safetensors, ancestry: trusted}}}"
    made = load_recipe(str(recipe), ["external={b: {}}", f"{SEGMENTER}={external}"])
    step = Step(
        StepId("two-step", (0,), "classifier"),
        "x",
        (Parent(Role.MAPS, StepId("two-step", (0,), "segmenter")),),
        1,
        True,
    )
    run = SimpleNamespace(folds=pd.Series([0, 1, 2]), recipe=made, films=None)
    assert _segmenters(run, step, np.array([1, 2])).tolist() == [-1, -1]

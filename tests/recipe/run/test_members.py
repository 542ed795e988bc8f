"""Members that start from each other, learn from several, are trained on some folds, and learn the test films."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlines.evaluation.predictions import read_predictions
from cxrlines.models.weights import load_weights
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.engines.pytorch import PyTorchEngine
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.folder import HELD_OUT, TEST, WEIGHTS, Run, StepId
from cxrlines.recipe.run.pipeline import STEPS, plan_of, prepare, read_tables
from cxrlines.recipe.run.plan import files_of
from cxrlines.recipe.run.step import _start, do_step
from cxrlines.recipe.run.training_data import training_films
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS, STUDY_COLUMN
from cxrlines.training.lineage import LeakError
from cxrlines.training.targets import SoftTarget, TargetsSpec

RECIPE = """
name: graph
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 1, validate_films: 0}}
members:
  pseudo:
    backbone: resnet10t
    folds: [0, 1]
    stages:
      test:
        start: onward/only
        films: {set: test, pseudo_labels: allowed}
        targets: {soft: {of: [base, onward]}}
      finetune: {start: test}
  onward:
    backbone: resnet10t
    head: gem
    folds: [0]
    stages: {only: {start: base/only, schedule: {keep: best, validate_films: 4}}}
  base:
    backbone: resnet10t
    stages: {only: {start: scratch}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "graph.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def run(phantom, recipe_file, tmp_path_factory, do_here) -> Run:
    run = do_here(prepare(load_recipe(recipe_file), phantom, tmp_path_factory.mktemp("graph"), 1))
    steps = {step.name: step.identity for step in plan_of(run, None)}
    (run.root / STEPS).write_text(json.dumps(steps))
    return run


@pytest.fixture(scope="module")
def steps(run):
    return {step.name: step for step in plan_of(run, None)}


def test_folds_of_a_member_are_those_it_is_trained_on_and_more_only_for_others(run, steps):
    assert {name for name in steps if name.startswith("onward")} == {"onward/fold0/only", "onward/fold1/only"}
    assert (run.folder(StepId("onward", (0,), "only")) / TEST).is_file()
    assert not (run.folder(StepId("onward", (1,), "only")) / TEST).is_file(), "it only teaches"
    assert {step.key.held for step in plan_of(run, [1]) if step.key.member == "onward"} == {(1,)}


def test_a_start_of_another_member_is_its_network_and_another_head_begins_anew(run, steps):
    step = steps["onward/fold0/only"]
    model, _, _ = _start(run, step, run.recipe.members["onward"].stages["only"])
    theirs, _ = load_weights(run.root / "base/fold0/only" / WEIGHTS)
    mine = model.state_dict()
    shared = [name for name in mine if not name.startswith("head.")]
    assert shared and all(torch.equal(mine[name], theirs[name]) for name in shared)
    other = replace(run, recipe=run.recipe.model_copy(update={"seed": 1}))
    fresh = _start(other, step, run.recipe.members["onward"].stages["only"])[0].state_dict()
    assert any(not torch.equal(fresh[n], mine[n]) for n in mine if n.startswith("head.") and "weight" in n)


def test_a_decoder_goes_on_where_it_is_of_the_same_kind(phantom, tmp_path):
    maps = "targets: {labels: {}, maps: {}}"
    (tmp_path / "decoders.yaml").write_text(f"""
name: decoders
size: 64
store: {{size: 72, aspect: stretch}}
folds: {{count: 2, seed: 0}}
defaults: {{schedule: {{batch: 8, epochs: 0.2, validate_films: 0}}}}
members:
  base: {{backbone: resnet10t, stages: {{maps: {{start: scratch, {maps}}}}}}}
  same: {{backbone: resnet10t, stages: {{only: {{start: base/maps, {maps}}}}}}}
  light: {{backbone: resnet10t, decoder: separable, stages: {{only: {{start: base/maps, {maps}}}}}}}
""")
    run = prepare(load_recipe(str(tmp_path / "decoders.yaml")), phantom, tmp_path / "run", 1)
    steps = {step.name: step for step in plan_of(run, [0])}
    do_step(run, steps["base/fold0/maps"], lambda status: None)
    theirs, _ = load_weights(run.root / "base/fold0/maps" / WEIGHTS)
    for name, kept in (("same", True), ("light", False)):
        model, _, _ = _start(run, steps[f"{name}/fold0/only"], run.recipe.members[name].stages["only"])
        mine = model.state_dict()
        others = [key for key in mine if not key.startswith("decoder.")]
        assert all(torch.equal(mine[key], theirs[key]) for key in others)
        assert (mine.keys() == theirs.keys()) == kept
        assert not kept or all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_pseudo_labels_are_the_mean_of_the_teachers_of_the_fold_for_every_test_film(run, steps):
    step = steps["pseudo/fold1/test"]
    stage = run.recipe.members["pseudo"].stages["test"]
    films, _ = training_films(run, step, stage, run.films.training(stage, (1,)), lambda status: None)
    made = [read_predictions(next((run.root / name / "fold1/only").glob("test-*.csv"))) for name in ("base", "onward")]
    by_study = [frame.set_index("study")[list(LABELS)] for frame in made]
    studies = run.test.studies["study"].tolist()
    mean = np.mean([frame.loc[studies].to_numpy() for frame in by_study], axis=0)
    assert films.more["soft"] == pytest.approx(mean, abs=1e-6)
    assert np.isnan(films.labels).all(), "no label of a test film is there to be read"


def test_a_file_of_soft_labels_may_be_one_for_each_fold(run, steps, tmp_path):
    studies = run.films.own.studies["study"]
    for fold in (0, 1):
        table = pd.DataFrame(0.2 + 0.5 * fold, index=studies, columns=list(LABELS)).rename_axis(STUDY_COLUMN)
        table.to_csv(tmp_path / f"soft{fold}.csv")
    soft = SoftTarget(file=str(tmp_path / "soft{fold}.csv"))
    stage = run.recipe.members["base"].stages["only"].model_copy(update={"targets": TargetsSpec(soft=soft)})
    for fold in (0, 1):
        assert [*files_of(stage, fold).values()] == [tmp_path / f"soft{fold}.csv"]
        step = steps[f"base/fold{fold}/only"]
        films, _ = training_films(run, step, stage, run.films.training(stage, (fold,)), lambda status: None)
        assert films.more["soft"] == pytest.approx(0.2 + 0.5 * fold)


def test_held_out_figures_stay_clean_and_the_test_films_count_as_seen(run):
    held = run.films.own.studies["patient"].iloc[run.films.held((1,))].astype(str)
    lineage = run.lineage(StepId("pseudo", (1,), "finetune"))
    lineage.refuse_seen(held, run.recipe.patients)
    test = run.test.studies["patient"].astype(str)
    with pytest.raises(LeakError, match="by way of pseudo/fold1/finetune <- start pseudo/fold1/test"):
        lineage.refuse_seen(test, run.recipe.patients)
    lineage.refuse_seen(test, run.recipe.patients, pseudo_labelled=True)
    cut = lineage.cut()
    assert cut.pseudo_labels() == lineage.pseudo_labels() == ["pseudo/fold1/test"]
    assert len(cut.seen()) == len(lineage.seen())


def test_metrics_and_report_say_what_was_learnt_and_how_many_members_a_film_has(run):
    metrics = json.loads((run.root / "metrics.json").read_text())
    assert metrics["scope"].startswith("test films, learnt before under soft labels")
    assert metrics["pseudo_labels"] == {"pseudo": "pseudo/fold0/test; pseudo/fold1/test"}
    assert metrics["epochs_chosen_on_held_out"] == {"pseudo": "onward/only", "onward": "onward/only"}
    own = metrics["out_of_fold"]
    assert own["scope"] == "training films, each by models that never saw its patient"
    count = [len(run.films.held((fold,))) for fold in (0, 1)]
    assert own["members_per_film"] == {"2": count[1], "3": count[0]} and "members_per_film" not in metrics
    assert own["ensemble_of_most_members"]["films"] == count[0]
    page = (run.root / "report.html").read_text()
    assert "‡" in page and f"{count[1]} films of 2, {count[0]} films of 3" in page
    out = {name: read_predictions(run.root / f"predictions/out_of_fold/{name}.csv") for name in ("onward", "ensemble")}
    assert set(out["onward"]["study"]) == set(run.films.own.studies["study"].iloc[run.films.held((0,))])
    assert len(out["ensemble"]) == sum(count)
    of_fold_1 = out["ensemble"].set_index("study")
    two = [read_predictions(run.root / name / HELD_OUT) for name in ("base/fold1/only", "pseudo/fold1/finetune")]
    mean = np.mean([frame.set_index("study").sort_index()[list(LABELS)].to_numpy() for frame in two], axis=0)
    assert of_fold_1.loc[sorted(two[0]["study"]), list(LABELS)].to_numpy() == pytest.approx(mean, abs=1e-5)


def test_a_bundle_holds_the_folds_of_each_member_and_says_so(run, tmp_path):
    manifest = json.loads((export_run(run.root, tmp_path / "bundle", onnx=False) / "bundle.json").read_text())
    assert {(entry["name"], entry["fold"]) for entry in manifest["models"]} == {
        ("base", 0), ("base", 1), ("onward", 0), ("pseudo", 0), ("pseudo", 1),
    }  # fmt: skip
    assert manifest["meta"]["pseudo_labels"] == ["pseudo/fold0/test", "pseudo/fold1/test"]
    assert manifest["meta"]["epochs_chosen_on_held_out"] == ["onward/only"]
    assert "different folds" in manifest["meta"]["calibration"]["folds"]["not_fitted"]
    assert manifest["fold_calibration"] is None, "no film shows the average that is read"


def test_a_bundle_reads_the_average_of_its_run_whatever_folds_its_members_have(run, tmp_path):
    bundle = load_bundle(export_run(run.root, tmp_path / "bundle", onnx=False))
    engine = object.__new__(PyTorchEngine)
    engine.manifest, engine.averaging = bundle.manifest, bundle.averaging
    stages = {"base": "only", "onward": "only", "pseudo": "finetune"}
    wanted = read_predictions(run.root / "predictions/test/ensemble.csv").set_index("study")
    models = bundle.manifest.models
    files = [run.root / f"{m.name}/fold{m.fold}/{stages[m.name]}" / TEST for m in models]
    rows = [read_predictions(file).set_index("study").loc[wanted.index, list(LABELS)].to_numpy() for file in files]
    found = engine._mean(np.stack(rows), np.array([m.fold for m in models]), np.array([m.name for m in models]))
    assert found == pytest.approx(wanted[list(LABELS)].to_numpy(), abs=1e-6)
    assert found != pytest.approx(np.mean(rows, axis=0), abs=1e-4), "a member of one fold counts as one of two"


def test_other_labels_of_the_test_films_change_nothing(run, phantom, recipe_file, tmp_path):
    data = shutil.copytree(phantom, tmp_path / "data")
    truth = pd.read_csv(data / "test_truth.csv")
    truth[list(LABELS)] = 1 - truth[list(LABELS)]
    truth.to_csv(data / "test_truth.csv", index=False)
    shutil.copytree(run.root, tmp_path / "run")
    again = prepare(load_recipe(recipe_file), data, tmp_path / "run", 1)
    assert (again.test.studies[list(LABELS)].to_numpy() != run.test.studies[list(LABELS)].to_numpy()).all()
    todo = {step.name: step for step in plan_of(again, None)}
    assert all(again.is_done(step) for step in todo.values())
    shutil.rmtree(again.root / "pseudo/fold0/test")
    do_step(again, todo["pseudo/fold0/test"], lambda status: None)
    name = f"pseudo/fold0/test/{WEIGHTS}"
    assert (again.root / name).read_bytes() == (run.root / name).read_bytes()


def test_what_a_recipe_did_not_allow_is_a_leak(phantom, recipe_file, tmp_path, run):
    off = ["members.pseudo.stages.test.films.pseudo_labels=null", "guard=report"]
    lineage = run.lineage(StepId("pseudo", (0,), "test"))
    shutil.copytree(run.root, tmp_path / "run")
    again = prepare(load_recipe(recipe_file, off), phantom, tmp_path / "run", 1)
    step = next(step for step in plan_of(again, [0]) if step.name == "pseudo/fold0/test")
    do_step(again, step, lambda status: None)
    assert "patients were seen in training" in again.record(step.key)["test_leak"]
    assert not again.lineage(step.key).pseudo_labels() and again.lineage(step.key).seen() == lineage.seen()


def test_without_test_films_they_cannot_be_learnt(phantom, recipe_file, tmp_path):
    data = shutil.copytree(phantom, tmp_path / "data", ignore=shutil.ignore_patterns("sample_submission.csv"))
    with pytest.raises(ValueError, match=r"a stage trains on the test films .* has no sample_submission.csv; add it"):
        read_tables(load_recipe(recipe_file), data)

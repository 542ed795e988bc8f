"""Predictions over several views of a film: those of the bundle's reader, made anew when the views change."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cxrlines.evaluation.bundles.evaluate_bundle import of_fold
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.reading.batch import predict
from cxrlines.reading.bundle import load_bundle
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.folder import HELD_OUT, RECORD, TEST, WEIGHTS
from cxrlines.recipe.run.pipeline import STEPS, plan_of
from cxrlines.recipe.run.report import write_run_report
from cxrlines.recipe.run.scored_predictions import HELD_OUT_VIEWS, TEST_VIEWS, is_scored, predict_scored
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS

VIEWS = {"flip": True, "scales": [0.8, 1.25]}


def with_views(run, root, views):
    """The run with these views of `plain` alone, every step predicted over them; and its steps."""
    content = run.recipe.model_dump(mode="json")
    for stage in content["members"]["plain"]["stages"].values():
        stage["films"]["flip"] = True
    content["ensemble"] = {"members": ["plain"], "views": views}
    recipe = Recipe.model_validate(content)
    (root / "recipe.json").write_text(recipe.model_dump_json())
    again = replace(run, root=root, recipe=recipe)
    steps = plan_of(again, None)
    for step in steps:
        if is_scored(recipe, step):
            predict_scored(again, step)
    return again, steps


@pytest.fixture(scope="module")
def viewed(soft_run, tmp_path_factory):
    root = shutil.copytree(soft_run.root, tmp_path_factory.mktemp("views") / "run")
    run, steps = with_views(soft_run, root, VIEWS)
    write_run_report(run, steps, "test")
    return run, steps


def test_averaged_steps_are_predicted_over_views_and_no_other(viewed):
    run, steps = viewed
    for step in steps:
        there = {path.name for path in run.folder(step.key).glob("*_views.csv")}
        assert there == (
            {HELD_OUT_VIEWS, TEST_VIEWS} if step.key.member == "plain" and step.fold is not None else set()
        )
    plain, seen = (read_predictions(run.root / "plain/fold0/only" / name) for name in (HELD_OUT, HELD_OUT_VIEWS))
    assert plain["study"].tolist() == seen["study"].tolist()
    assert np.abs(plain[list(LABELS)] - seen[list(LABELS)]).to_numpy().max() > 1e-4


def test_they_are_what_the_reader_of_the_bundle_gives(viewed, tmp_path):
    run, steps = viewed
    (run.root / STEPS).write_text(json.dumps({step.name: run.record(step.key)["identity"] for step in steps}))
    bundle = of_fold(load_bundle(export_run(run.root, tmp_path / "bundle", onnx=False)), 0)
    raw = replace(bundle, manifest=bundle.manifest.model_copy(update={"fold_calibration": None, "calibration": None}))
    said = read_predictions(run.root / "plain/fold0/only" / TEST_VIEWS).set_index("study")[list(LABELS)]
    studies = said.index[:4]
    films = [next((run.data / "test").glob(f"{study}.*")) for study in studies]
    for tta in (None, ("flip", "scale")):
        read = predict(films, raw, tta=tta)
        assert read.tta == ("flip", "scale")
        np.testing.assert_allclose(read.rows[list(LABELS)].to_numpy(), said.loc[studies].to_numpy(), atol=2e-4)
    plain = predict(films, raw, tta=()).rows[list(LABELS)].to_numpy()
    np.testing.assert_allclose(
        plain,
        read_predictions(run.root / "plain/fold0/only" / TEST).set_index("study").loc[studies, list(LABELS)],
        atol=2e-4,
    )


def test_metrics_and_page_show_both(viewed):
    run, _ = viewed
    metrics = json.loads((run.root / "metrics.json").read_text())
    views = metrics["views"]
    assert views["about"] == "plain, flipped, 0.8 of the size, 1.25 of the size"
    assert set(views["out_of_fold"]) == set(views["test"]) == {"plain", "ensemble"}
    for scope, plain in (("test", metrics), ("out_of_fold", metrics["out_of_fold"])):
        for name, before in (("plain", plain["members"]["plain"]), ("ensemble", plain["ensemble"])):
            figure = views[scope][name]
            assert figure["gain"]["macro_auc"] == pytest.approx(figure["macro_auc"] - before["macro_auc"])
    assert "1.25 of the size" in (run.root / "report.html").read_text()
    assert (run.root / "predictions/out_of_fold_views/ensemble.csv").is_file()


def test_other_views_are_predicted_anew_and_nothing_is_trained(viewed, soft_run, tmp_path):
    root = shutil.copytree(viewed[0].root, tmp_path / "run")
    file, weights = root / "plain/fold0/only" / HELD_OUT_VIEWS, root / "plain/fold0/only" / WEIGHTS
    before, trained, written = file.read_bytes(), weights.stat().st_mtime_ns, file.stat().st_mtime_ns
    with_views(soft_run, root, VIEWS)
    assert file.stat().st_mtime_ns == written, "done before"
    with_views(soft_run, root, {"scales": [0.9]})
    assert file.read_bytes() != before and weights.stat().st_mtime_ns == trained
    record = json.loads((file.parent / RECORD).read_text())
    assert record["views"]["scales"] == [0.9]

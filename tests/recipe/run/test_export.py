"""What a bundle says of its ensemble: calibration and thresholds of the predictions of its own steps."""

import json
import shutil

import numpy as np
import pytest
import torch

from cxrlines.evaluation.bundles.evaluate_bundle import of_fold
from cxrlines.evaluation.calibrators import calibration_figures, fit_calibration, fit_mean, fit_thresholds
from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.evaluation.predictions import as_predictions, read_predictions, write_predictions
from cxrlines.io.patients import tokens
from cxrlines.io.prepare import PREPARATION
from cxrlines.io.store import open_store
from cxrlines.io.tables import read_dataset
from cxrlines.metrics.auc import brier
from cxrlines.metrics.calibration import Calibration
from cxrlines.models.classifier import Classifier
from cxrlines.models.orientation import OrientationNet, write_orientation_net
from cxrlines.models.weights import save_weights
from cxrlines.reading.bundle import PROBE_FILE, box_probe, load_bundle
from cxrlines.reading.interpretation import fit_suppression
from cxrlines.reading.reader import load_probe
from cxrlines.reading.training_patients import seen_by, was_seen
from cxrlines.recipe.run.execute import RunError
from cxrlines.recipe.run.export import _saw_flips, export_run
from cxrlines.recipe.run.folder import HELD_OUT, LINEAGE, RECORD, TEST, WEIGHTS
from cxrlines.recipe.run.pipeline import STEPS, prepare
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS
from cxrlines.training.lineage import Lineage

LAST = {"staged": "finetune", "plain": "only"}


@pytest.fixture(scope="module")
def finished(phantom, tiny_recipe, tmp_path_factory):
    """A finished run of made-up predictions, as `cxrlines train` leaves it, of two folds."""
    run = prepare(load_recipe(str(tiny_recipe)), phantom, tmp_path_factory.mktemp("finished"), 1)
    rng, model, steps = np.random.default_rng(0), Classifier("resnet10t", "gap", weights="none"), {}
    torch.manual_seed(0)

    def predict(studies, path):
        p = np.clip(0.3 * studies[list(LABELS)].to_numpy() + rng.uniform(0.01, 0.5, (len(studies), 11)), 0, 1)
        write_predictions(as_predictions(studies["study"].tolist(), p), path)

    for name, stage in LAST.items():
        for fold in (0, 1):
            folder = run.root / name / f"fold{fold}" / stage
            folder.mkdir(parents=True)
            save_weights(folder / WEIGHTS, model.state_dict(), {"config": json.dumps(model.config())})
            (folder / LINEAGE).write_text(Lineage(folder.name, frozenset()).text())
            (folder / RECORD).write_text(json.dumps({"identity": "x", "leak": None, "test_leak": None}))
            predict(run.train.studies[(run.folds == fold).to_numpy()], folder / HELD_OUT)
            predict(run.test.studies, folder / TEST)
            steps[f"{name}/fold{fold}/{stage}"] = "x"
    (run.root / STEPS).write_text(json.dumps(steps))
    return run.root


@pytest.fixture
def root(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def predicted(root, phantom, fold, file=HELD_OUT):
    """The mean of both members of a fold on some films, by study, and what is true of them."""
    studies = read_dataset(phantom, "train" if file == HELD_OUT else "test").studies.set_index("study")
    each = [read_predictions(root / name / f"fold{fold}" / stage / file) for name, stage in LAST.items()]
    frame = ensemble(each).set_index("study")
    known = studies.loc[frame.index]
    return frame[list(LABELS)].to_numpy(), known[list(LABELS)].to_numpy(), known["patient"].to_numpy()


def out_of_fold(root, phantom):
    each = [(*predicted(root, phantom, fold), fold) for fold in (0, 1)]
    folds = np.concatenate([np.full(len(p), fold) for p, _, _, fold in each])
    return (*(np.concatenate(columns) for columns in list(zip(*each, strict=True))[:3]), folds)


def approx(lines):
    return {label: pytest.approx(line) for label, line in dict(lines).items()}


def test_each_fold_is_calibrated_by_what_it_held_out_and_their_mean_by_the_test_films(root, phantom, tmp_path):
    manifest = load_bundle(export_run(root, tmp_path / "bundle")).manifest
    p, truth, patients, folds = out_of_fold(root, phantom)
    of_folds = fit_calibration(p, truth)
    assert manifest.fold_calibration == approx(of_folds.lines)
    each = [predicted(root, phantom, fold, TEST) for fold in (0, 1)]
    of_mean = fit_mean(np.stack([of_folds.apply(one[0]) for one in each]))
    tested, owners = each[0][1:]
    wanted = {label: line for label, line in of_mean.lines.items() if label in of_folds.lines}
    assert wanted and manifest.calibration == approx(wanted)
    about = manifest.meta["calibration"]
    assert about["folds"]["fitted_on"] == f"{len(p)} out-of-fold films of {len(set(patients))} patients"
    assert about["folds"]["left_alone"] == of_folds.alone
    assert about["folds"]["figures"] == json.loads(json.dumps(calibration_figures(p, truth, folds, patients)))
    before = np.mean([one[0] for one in each], axis=0)
    after = Calibration(wanted).apply(np.mean([of_folds.apply(one[0]) for one in each], axis=0))
    assert about["mean"]["figures"]["all"]["brier"] == pytest.approx(
        {"before": brier(tested, before), "after": brier(tested, after)}
    )
    text = (tmp_path / "bundle/bundle.json").read_text()
    assert not any(str(patient) in text for patient in {*patients, *owners})


def test_limits_are_picked_from_out_of_fold_films_where_test_films_are_few(root, phantom, tmp_path, monkeypatch):
    manifest = load_bundle(export_run(root, tmp_path / "few")).manifest
    p, truth, patients, folds = out_of_fold(root, phantom)
    of_folds = fit_calibration(p, truth)
    thresholds = fit_thresholds(p, truth, folds, patients, of_folds)
    assert list(manifest.thresholds) == list(LABELS) and manifest.meta["calibration"]["limits_of_test_films"] == []
    for label, each in thresholds.items():
        for one, other in zip(manifest.thresholds[label], each, strict=True):
            assert (one.wanted, one.at_least, one.positives) == (other.wanted, other.at_least, other.positives)
            assert one.probability == pytest.approx(other.probability)
            assert one.sensitivity == pytest.approx(other.sensitivity) and one.precision == other.precision
    assert manifest.denied == pytest.approx(fit_suppression(of_folds.apply(p), truth))
    monkeypatch.setattr("cxrlines.recipe.run.bundle_calibration.ENOUGH", 3)
    manifest = load_bundle(export_run(root, tmp_path / "enough")).manifest
    positives = dict(zip(LABELS, predicted(root, phantom, 0, TEST)[1].sum(axis=0), strict=True))
    there = manifest.meta["calibration"]["limits_of_test_films"]
    assert [label for label in LABELS if label in there] == [label for label in LABELS if positives[label] >= 3]
    for label in LABELS:
        wanted = positives[label] if label in there else truth[:, LABELS.index(label)].sum()
        assert manifest.thresholds[label][0].positives == wanted


def test_a_run_of_one_fold_is_judged_by_parts_of_its_patients(root, phantom, tmp_path):
    steps = json.loads((root / STEPS).read_text())
    (root / STEPS).write_text(json.dumps({step: x for step, x in steps.items() if "fold0" in step}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle")).manifest
    p, truth, _ = predicted(root, phantom, 0)
    assert manifest.fold_calibration == approx(fit_calibration(p, truth).lines)
    about = manifest.meta["calibration"]["folds"]
    assert about["judged_on"] and about["figures"]["all"]["ece"]["after"] > 0


def test_test_films_need_no_labels_and_without_any_the_mean_over_folds_is_left(root, phantom, tmp_path):
    labelled = load_bundle(export_run(root, tmp_path / "labelled")).manifest
    data = shutil.copytree(phantom, tmp_path / "data")
    (data / "test_truth.csv").unlink()
    (root / "data.json").write_text(json.dumps({"data": str(data)}))
    manifest = load_bundle(export_run(root, tmp_path / "unlabelled")).manifest
    assert manifest.calibration == labelled.calibration and "figures" not in manifest.meta["calibration"]["mean"]
    (data / "sample_submission.csv").unlink()
    for file in root.rglob(TEST):
        file.unlink()
    manifest = load_bundle(export_run(root, tmp_path / "none")).manifest
    assert manifest.fold_calibration == labelled.fold_calibration and manifest.calibration == {}
    assert "no test films" in manifest.meta["calibration"]["mean"]["not_fitted"]


def test_where_the_truth_is_gone_or_steps_leaked_nothing_is_calibrated_and_the_bundle_says_why(root, tmp_path):
    record = root / "plain/fold1/only" / RECORD
    record.write_text(json.dumps({"identity": "x", "test_leak": "leaked"}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle")).manifest
    assert manifest.fold_calibration and manifest.calibration == {}, "what was held out did not leak"
    assert "leaked" in manifest.meta["calibration"]["mean"]["not_fitted"]
    assert manifest.meta["leaks"] == ["plain/fold1/only"]
    record.write_text(json.dumps({"identity": "x", "leak": "leaked"}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle")).manifest
    assert manifest.fold_calibration is manifest.calibration is manifest.thresholds is manifest.denied is None
    assert "leaked" in manifest.meta["calibration"]["folds"]["not_fitted"]
    record.write_text(json.dumps({"identity": "x"}))
    (root / "data.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle")).manifest
    assert manifest.fold_calibration is manifest.calibration is manifest.thresholds is manifest.denied is None
    assert "cannot be read" in manifest.meta["calibration"]["mean"]["not_fitted"]


def test_the_probe_that_assessed_the_films_is_in_the_bundle_and_no_other(root, tmp_path):
    bundle = load_bundle(export_run(root, tmp_path / "bundle"))
    probe = load_probe(bundle)
    assert probe is not None and probe.identity == box_probe().identity == open_store(root / "store/train").probe
    assert bundle.manifest.store.preparation == PREPARATION
    write_orientation_net(OrientationNet(), root / PROBE_FILE, {})
    with pytest.raises(RunError) as error:
        export_run(root, tmp_path / "other")
    assert PROBE_FILE in error.value.what and error.value.way_out and not (tmp_path / "other").exists()


def test_a_run_without_a_probe_gives_a_bundle_without_one(phantom, tiny_recipe, root, tmp_path):
    prepare(load_recipe(str(tiny_recipe), ["quality.probe=none"]), phantom, root, 1)
    bundle = load_bundle(export_run(root, tmp_path / "bundle"))
    assert PROBE_FILE not in bundle.manifest.files and load_probe(bundle) is None


def test_a_bundle_knows_the_patients_of_each_model_and_of_what_it_was_made_from(root, tmp_path):
    teacher = Lineage("teacher", frozenset(tokens(["before"], "phantom")))
    folder = root / "plain/fold1/only"
    (folder / LINEAGE).write_text(
        Lineage("only", frozenset(tokens(["own"], "phantom")), (("teacher", teacher),)).text()
    )
    bundle = load_bundle(export_run(root, tmp_path / "bundle"))
    seen = seen_by(bundle)
    assert len(seen) == 2 and was_seen("own", seen) and was_seen("before", seen)
    assert seen_by(of_fold(bundle, 0)) == frozenset()


@pytest.mark.parametrize(("segmenter", "classifier"), [(True, True), (True, False), (False, True)])
def test_flipped_views_need_a_segmenter_that_saw_flips_too(segmenter, classifier):
    stages = {
        "segmenter": {"films": {"which": "annotated", "flip": segmenter}, "targets": {"maps": {}}},
        "classifier": {"films": {"maps_of": "segmenter", "flip": classifier}},
    }
    recipe = Recipe.model_validate({"name": "t", "members": {"m": {"backbone": "resnet10t", "stages": stages}}})
    assert _saw_flips(recipe, "m", "segmenter") == segmenter
    assert _saw_flips(recipe, "m", "classifier") == (segmenter and classifier)

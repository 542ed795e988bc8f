"""What a bundle says of its ensemble: calibration and thresholds of the predictions of its own steps."""

import json
import shutil

import numpy as np
import pytest
import torch

from cxrlines.data.folds import make_folds, write_folds
from cxrlines.data.patients import tokens
from cxrlines.data.tables import read_dataset
from cxrlines.evaluation.calibrate import calibration_figures, fit_calibration, fit_thresholds
from cxrlines.evaluation.ensemble import as_predictions, ensemble, write_predictions
from cxrlines.evaluation.evaluate import read_predictions
from cxrlines.inference.bundle import load_bundle
from cxrlines.inference.findings import fit_denied
from cxrlines.inference.seen import seen_by, was_seen
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.recipes.folder import HELD_OUT, LINEAGE, RECORD, WEIGHTS
from cxrlines.recipes.judge import of_fold
from cxrlines.recipes.load import load_recipe
from cxrlines.recipes.pack import _saw_flips, pack
from cxrlines.recipes.run import STEPS
from cxrlines.recipes.spec import Recipe
from cxrlines.task import LABELS
from cxrlines.training.lineage import Lineage

LAST = {"staged": "finetune", "plain": "only"}


@pytest.fixture(scope="module")
def finished(phantom, tiny_recipe, tmp_path_factory):
    """A finished run of made-up predictions, as `cxrlines train` leaves it, of two folds."""
    root = tmp_path_factory.mktemp("finished")
    studies = read_dataset(phantom, "train").studies
    folds = make_folds(studies, 2, 0)
    write_folds(studies, folds, root / "folds.csv")
    (root / "recipe.json").write_text(load_recipe(str(tiny_recipe)).model_dump_json())
    (root / "data.json").write_text(json.dumps({"data": str(phantom)}))
    rng, model, steps = np.random.default_rng(0), Classifier("resnet10t", "gap", weights="none"), {}
    torch.manual_seed(0)
    for name, stage in LAST.items():
        for fold in (0, 1):
            folder = root / name / f"fold{fold}" / stage
            folder.mkdir(parents=True)
            save_weights(folder / WEIGHTS, model.state_dict(), {"config": json.dumps(model.config())})
            (folder / LINEAGE).write_text(Lineage(folder.name, frozenset()).text())
            (folder / RECORD).write_text(json.dumps({"identity": "x", "leak": None, "test_leak": None}))
            rows = studies[(folds == fold).to_numpy()]
            p = np.clip(0.3 * rows[list(LABELS)].to_numpy() + rng.uniform(0.01, 0.5, (len(rows), 11)), 0, 1)
            write_predictions(as_predictions(rows["study"].tolist(), p), folder / HELD_OUT)
            steps[f"{name}/fold{fold}/{stage}"] = "x"
    (root / STEPS).write_text(json.dumps(steps))
    return root


@pytest.fixture
def root(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def predicted(root, phantom):
    """The mean of both members on the films held out, their truth, folds and patients."""
    studies = read_dataset(phantom, "train").studies.set_index("study", drop=False)
    folds = make_folds(studies.reset_index(drop=True), 2, 0).set_axis(studies.index)
    frames = []
    for fold in (0, 1):
        each = [read_predictions(root / name / f"fold{fold}" / stage / HELD_OUT) for name, stage in LAST.items()]
        frames.append(ensemble(each).set_index("study"))
    p = np.concatenate([frame[list(LABELS)].to_numpy() for frame in frames])
    order = [study for frame in frames for study in frame.index]
    known = studies.loc[order]
    return p, known[list(LABELS)].to_numpy(), folds.loc[order].to_numpy(), known["patient"].to_numpy()


def test_calibration_and_thresholds_are_of_the_ensemble_that_is_packed(root, phantom, tmp_path):
    manifest = load_bundle(pack(root, tmp_path / "bundle")).manifest
    p, truth, folds, patients = predicted(root, phantom)
    wanted = fit_calibration(p, truth)
    assert manifest.calibration == {label: pytest.approx(line) for label, line in dict(wanted.lines).items()}
    thresholds = fit_thresholds(p, truth, folds, patients, wanted)
    assert list(manifest.thresholds) == list(LABELS)
    for label, each in thresholds.items():
        for one, other in zip(manifest.thresholds[label], each, strict=True):
            assert (one.wanted, one.at_least, one.positives) == (other.wanted, other.at_least, other.positives)
            assert one.probability == pytest.approx(other.probability)
            assert one.sensitivity == pytest.approx(other.sensitivity) and one.precision == other.precision
    assert manifest.denied == pytest.approx(fit_denied(wanted.apply(p), truth))
    told = manifest.meta["calibration"]
    assert told["judged_on"] == "folds that were not fitted on" and told["left_alone"] == wanted.alone
    assert told["fitted_on"] == f"{len(p)} out-of-fold films of {len(set(patients))} patients"
    figures = calibration_figures(p, truth, folds, patients)
    assert told["figures"]["all"]["brier"] == pytest.approx(figures["all"]["brier"])
    text = (tmp_path / "bundle/bundle.json").read_text()
    assert not any(str(patient) in text for patient in patients)


def test_a_run_of_one_fold_is_judged_by_parts_of_its_patients(root, phantom, tmp_path):
    steps = json.loads((root / STEPS).read_text())
    (root / STEPS).write_text(json.dumps({step: x for step, x in steps.items() if "fold0" in step}))
    manifest = load_bundle(pack(root, tmp_path / "bundle")).manifest
    p, truth, folds, _ = predicted(root, phantom)
    of_one = fit_calibration(p[folds == 0], truth[folds == 0]).lines
    assert manifest.calibration == {label: pytest.approx(line) for label, line in dict(of_one).items()}
    told = manifest.meta["calibration"]
    assert told["judged_on"] == "parts of the one fold that were not fitted on"
    assert told["figures"]["all"]["ece"]["after"] > 0


def test_where_the_truth_is_gone_or_steps_leaked_nothing_is_calibrated_and_the_bundle_says_why(root, tmp_path):
    (root / "data.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    manifest = load_bundle(pack(root, tmp_path / "bundle")).manifest
    assert manifest.calibration is manifest.thresholds is manifest.denied is None
    assert manifest.meta["calibration"]["not_fitted"].startswith(
        "the labels that the run was trained on cannot be read"
    )
    (root / "plain/fold1/only" / RECORD).write_text(json.dumps({"identity": "x", "leak": "told"}))
    manifest = load_bundle(pack(root, tmp_path / "bundle")).manifest
    assert manifest.calibration is None and "steps leaked" in manifest.meta["calibration"]["not_fitted"]


def test_a_bundle_knows_the_patients_of_each_model_and_of_what_it_was_made_from(root, tmp_path):
    teacher = Lineage("teacher", frozenset(tokens(["before"], "phantom")))
    folder = root / "plain/fold1/only"
    (folder / LINEAGE).write_text(
        Lineage("only", frozenset(tokens(["own"], "phantom")), (("teacher", teacher),)).text()
    )
    bundle = load_bundle(pack(root, tmp_path / "bundle"))
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

"""What a bundle says of its ensemble: calibration and thresholds of the predictions of its own steps."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlines.evaluation.bundles.evaluate_bundle import of_fold
from cxrlines.evaluation.calibrators import calibration_figures, fit_calibration, fit_mean, fit_thresholds
from cxrlines.evaluation.ensemble.average import FittedWeights, ensemble
from cxrlines.evaluation.ensemble.fitted_weights import fit_weights
from cxrlines.evaluation.predictions import as_predictions, read_predictions, write_predictions
from cxrlines.io.patients import sets_shared_with, tokens
from cxrlines.io.prepare import PREPARATION
from cxrlines.io.store import open_store
from cxrlines.io.tables import read_dataset
from cxrlines.metrics.auc import brier
from cxrlines.metrics.calibration import Calibration
from cxrlines.models.classifier import Classifier
from cxrlines.models.orientation import OrientationNet, write_orientation_net
from cxrlines.models.weights import save_weights
from cxrlines.reading.bundle import FORMAT, PROBE_FILE, load_bundle
from cxrlines.reading.engines.pytorch import PyTorchEngine
from cxrlines.reading.interpretation import fit_suppression
from cxrlines.reading.probe import embedded_probe
from cxrlines.reading.reader import allowed_views, load_probe, scales_of
from cxrlines.reading.training_patients import is_training_patient, training_patients
from cxrlines.recipe.run.execute import RunError
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.folder import HELD_OUT, LINEAGE, RECORD, TEST, WEIGHTS, lineage_of
from cxrlines.recipe.run.pipeline import STEPS, prepare
from cxrlines.recipe.run.scored_predictions import HELD_OUT_VIEWS, TEST_VIEWS
from cxrlines.recipe.spec.load import load_recipe
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
    manifest = load_bundle(export_run(root, tmp_path / "bundle", onnx=False)).manifest
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
    manifest = load_bundle(export_run(root, tmp_path / "few", onnx=False)).manifest
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
    manifest = load_bundle(export_run(root, tmp_path / "enough", onnx=False)).manifest
    positives = dict(zip(LABELS, predicted(root, phantom, 0, TEST)[1].sum(axis=0), strict=True))
    there = manifest.meta["calibration"]["limits_of_test_films"]
    assert [label for label in LABELS if label in there] == [label for label in LABELS if positives[label] >= 3]
    for label in LABELS:
        wanted = positives[label] if label in there else truth[:, LABELS.index(label)].sum()
        assert manifest.thresholds[label][0].positives == wanted


def test_a_run_of_one_fold_is_judged_by_parts_of_its_patients(root, phantom, tmp_path):
    steps = json.loads((root / STEPS).read_text())
    (root / STEPS).write_text(json.dumps({step: x for step, x in steps.items() if "fold0" in step}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle", onnx=False)).manifest
    p, truth, _ = predicted(root, phantom, 0)
    assert manifest.fold_calibration == approx(fit_calibration(p, truth).lines)
    about = manifest.meta["calibration"]["folds"]
    assert about["judged_on"] and about["figures"]["all"]["ece"]["after"] > 0


def test_test_films_need_no_labels_and_without_any_the_mean_over_folds_is_left(root, phantom, tmp_path):
    labelled = load_bundle(export_run(root, tmp_path / "labelled", onnx=False)).manifest
    data = shutil.copytree(phantom, tmp_path / "data")
    (data / "test_truth.csv").unlink()
    (root / "data.json").write_text(json.dumps({"data": str(data)}))
    manifest = load_bundle(export_run(root, tmp_path / "unlabelled", onnx=False)).manifest
    assert manifest.calibration == labelled.calibration and "figures" not in manifest.meta["calibration"]["mean"]
    (data / "sample_submission.csv").unlink()
    for file in root.rglob(TEST):
        file.unlink()
    manifest = load_bundle(export_run(root, tmp_path / "none", onnx=False)).manifest
    assert manifest.fold_calibration == labelled.fold_calibration and manifest.calibration == {}
    assert "no test films" in manifest.meta["calibration"]["mean"]["not_fitted"]


def test_where_the_truth_is_gone_or_steps_leaked_nothing_is_calibrated_and_the_bundle_says_why(root, tmp_path):
    record = root / "plain/fold1/only" / RECORD
    record.write_text(json.dumps({"identity": "x", "test_leak": "leaked"}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle", onnx=False)).manifest
    assert manifest.fold_calibration and manifest.calibration == {}, "what was held out did not leak"
    assert "leaked" in manifest.meta["calibration"]["mean"]["not_fitted"]
    assert manifest.meta["leaks"] == ["plain/fold1/only"]
    record.write_text(json.dumps({"identity": "x", "leak": "leaked"}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle", onnx=False)).manifest
    assert manifest.fold_calibration is manifest.calibration is manifest.thresholds is manifest.denied is None
    assert "leaked" in manifest.meta["calibration"]["folds"]["not_fitted"]
    record.write_text(json.dumps({"identity": "x"}))
    (root / "data.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    manifest = load_bundle(export_run(root, tmp_path / "bundle", onnx=False)).manifest
    assert manifest.fold_calibration is manifest.calibration is manifest.thresholds is manifest.denied is None
    assert "cannot be read" in manifest.meta["calibration"]["mean"]["not_fitted"]


def test_the_probe_that_assessed_the_films_is_in_the_bundle_and_no_other(root, tmp_path):
    bundle = load_bundle(export_run(root, tmp_path / "bundle", onnx=False))
    probe = load_probe(bundle)
    assert probe is not None and probe.identity == embedded_probe().identity == open_store(root / "store/train").probe
    assert bundle.manifest.store.preparation == PREPARATION
    write_orientation_net(OrientationNet(), root / PROBE_FILE, {})
    with pytest.raises(RunError) as error:
        export_run(root, tmp_path / "other", onnx=False)
    assert PROBE_FILE in error.value.what and error.value.way_out and not (tmp_path / "other").exists()


def test_a_run_without_a_probe_gives_a_bundle_without_one(phantom, tiny_recipe, root, tmp_path):
    prepare(load_recipe(str(tiny_recipe), ["quality.probe=none"]), phantom, root, 1)
    bundle = load_bundle(export_run(root, tmp_path / "bundle", onnx=False))
    assert PROBE_FILE not in bundle.manifest.files and load_probe(bundle) is None


def test_a_bundle_knows_the_patients_of_each_model_and_of_what_it_was_made_from(root, tmp_path):
    teacher = Lineage("teacher", frozenset(tokens(["before"], "phantom")))
    folder = root / "plain/fold1/only"
    (folder / LINEAGE).write_text(
        Lineage("only", frozenset(tokens(["own"], "phantom")), (("teacher", teacher),)).text()
    )
    bundle = load_bundle(export_run(root, tmp_path / "bundle", onnx=False))
    seen = training_patients(bundle)
    assert len(seen) == 2 and is_training_patient("own", seen) and is_training_patient("before", seen)
    assert training_patients(of_fold(bundle, 0)) == frozenset()


def test_a_bundle_says_which_public_sets_may_share_patients_with_it_and_so_does_what_starts_from_it(root, tmp_path):
    made = load_bundle(export_run(root, tmp_path / "bundle", onnx=False, may_share=["ranzcr"]))
    for exported in (made, of_fold(made, 0)):
        assert sets_shared_with(training_patients(exported)) == ["ranzcr"]
    start = lineage_of(made.folder / made.manifest.models[0].file)
    assert "patients of ranzcr may be among its own, under other identifiers" in start.gaps(["a"], "ranzcr")
    assert not [gap for gap in start.gaps(["a"]) if "ranzcr" in gap]
    assert sets_shared_with(training_patients(load_bundle(export_run(root, tmp_path / "other", onnx=False)))) == []
    with pytest.raises(RunError, match="--may-share 'RANZCR': is no name of a data set; allowed: site, or the name of"):
        export_run(root, tmp_path / "none", may_share=["RANZCR"])


WAYS = {
    "weighted": ["ensemble.weights={staged: 3, plain: 1}"],
    "fitted": [],
    "power": ["ensemble.power=0.5"],
    "rank": [],
}


def averaged(root, tiny_recipe, how, *more):
    """The run's recipe with another average, written into the run."""
    recipe = load_recipe(str(tiny_recipe), [f"ensemble.how={how}", *WAYS[how], *more])
    (root / "recipe.json").write_text(recipe.model_dump_json())
    return recipe


def read_by(bundle, root, file):
    """Probabilities of the test films as the bundle's engine puts them together, from each model's own."""
    engine = object.__new__(PyTorchEngine)
    engine.manifest, engine.averaging = bundle.manifest, bundle.averaging
    frames = [
        read_predictions(root / entry.name / f"fold{entry.fold}" / LAST[entry.name] / file).set_index("study")
        for entry in bundle.manifest.models
    ]
    rows = np.stack([frame[list(LABELS)].loc[frames[0].index].to_numpy() for frame in frames])
    models = bundle.manifest.models
    p = engine._mean(rows, np.array([m.fold for m in models]), np.array([m.name for m in models]))
    return as_predictions(frames[0].index.tolist(), p)


@pytest.mark.parametrize("how", list(WAYS))
def test_a_bundle_averages_as_its_run_does(how, root, phantom, tiny_recipe, tmp_path):
    recipe, folds = averaged(root, tiny_recipe, how), (0, 1)
    test = [
        pd.concat([read_predictions(root / name / f"fold{fold}" / stage / TEST) for fold in folds])
        .groupby("study", as_index=False)
        .mean()
        for name, stage in LAST.items()
    ]
    weights = None
    if how == "fitted":
        own = [
            pd.concat([read_predictions(root / name / f"fold{fold}" / stage / HELD_OUT) for fold in folds])
            for name, stage in LAST.items()
        ]
        weights = fit_weights(own, read_dataset(phantom, "train").studies, list(LAST))
        (root / "ensemble.json").write_text(json.dumps(weights.as_dict()))
    elif how == "weighted":
        weights = FittedWeights.fixed(recipe.ensemble.weights)
        assert weights.of(["staged", "plain"])[:, 0] == pytest.approx([0.75, 0.25])
    wanted = ensemble(test, how, list(LAST), power=recipe.ensemble.power, weights=weights).set_index("study")
    bundle = load_bundle(export_run(root, tmp_path / "bundle", onnx=False))
    assert bundle.averaging.how == how and bundle.manifest.format == FORMAT

    plain = replace(bundle, manifest=bundle.manifest.model_copy(update={"fold_calibration": None}))
    found = read_by(plain, root, TEST).set_index("study")
    np.testing.assert_allclose(found, wanted.loc[found.index], atol=1 / 256 if how == "rank" else 1e-12)
    p, truth, *_ = out_of_fold(root, phantom)
    other = fit_calibration(p, truth).lines
    assert bundle.manifest.fold_calibration and bundle.manifest.fold_calibration != approx(other), "of what is read"


def test_each_fold_is_calibrated_on_the_average_that_is_read(root, phantom, tiny_recipe, tmp_path):
    averaged(root, tiny_recipe, "power")
    bundle = load_bundle(export_run(root, tmp_path / "bundle", onnx=False))
    studies = read_dataset(phantom, "train").studies.set_index("study")
    frames = []
    for fold in (0, 1):
        of = [read_predictions(root / name / f"fold{fold}" / stage / HELD_OUT) for name, stage in LAST.items()]
        frames.append(ensemble(of, "power", power=0.5))
    frame = pd.concat(frames).set_index("study")
    lines = fit_calibration(frame[list(LABELS)].to_numpy(), studies.loc[frame.index, list(LABELS)].to_numpy()).lines
    assert bundle.manifest.fold_calibration == approx(lines)


def test_a_bundle_reads_over_the_views_of_its_recipe_and_is_calibrated_on_them(root, phantom, tiny_recipe, tmp_path):
    before = load_bundle(export_run(root, tmp_path / "plain", onnx=False)).manifest
    assert before.meta["views"] is None and allowed_views(load_bundle(tmp_path / "plain"), None) == ()
    recipe = load_recipe(str(tiny_recipe), ["ensemble.views={scales: [0.8, 1.2, 1.3]}"])
    (root / "recipe.json").write_text(recipe.model_dump_json())
    for plain, viewed in ((HELD_OUT, HELD_OUT_VIEWS), (TEST, TEST_VIEWS)):
        for file in list(root.rglob(plain)):
            frame = read_predictions(file)
            write_predictions(frame.assign(**{label: frame[label] ** 2 for label in LABELS}), file.with_name(viewed))
    bundle = load_bundle(export_run(root, tmp_path / "viewed", onnx=False))
    assert allowed_views(bundle, None) == ("scale",) and scales_of(bundle) == (0.8, 1.2, 1.3)
    assert allowed_views(bundle, ()) == ()
    assert bundle.manifest.fold_calibration != approx(before.fold_calibration)

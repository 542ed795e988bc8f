"""What finished steps have of their patients is renewed on every run; nothing is trained again for it."""

import json
import shutil

import pandas as pd
import pytest

from cxrlines.io.folds import write_folds
from cxrlines.io.patients import key_name, names_in, tokens
from cxrlines.io.tables import read_dataset
from cxrlines.recipe.run.execute import RunError
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.folder import LINEAGE, RECORD, WEIGHTS, lineage_of, read_record
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import PATIENT_COLUMN, STUDY_COLUMN
from cxrlines.training.lineage import LeakError, read_lineage

RECIPE = """
name: seen
size: 64
store: {size: 72, aspect: stretch}
folds: {file: FOLDS}
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 0.5, validate_films: 0}}
members: {a: {backbone: resnet10t, stages: {first: {start: scratch}, last: {start: first}}}}
tracking: {use: []}
"""
FIRST, LAST = "a/fold0/first", "a/fold0/last"


@pytest.fixture(scope="module")
def begun(phantom, tmp_path_factory):
    """A run of one fold on a hospital's own films, and where its data lie. Not to be changed."""
    folder = tmp_path_factory.mktemp("seen")
    shutil.copytree(phantom, folder / "data")
    (folder / "data/phantom.json").unlink()
    (folder / "data/test_truth.csv").unlink()
    table = read_dataset(folder / "data").studies
    fold = table["patient"].astype("category").cat.codes.astype(int) % 2
    write_folds(table, fold, folder / "folds.csv")
    (folder / "seen.yaml").write_text(RECIPE.replace("FOLDS", str(folder / "folds.csv")))
    again(folder)
    return folder


@pytest.fixture
def there(begun, tmp_path, in_process):
    """A copy of it, to be changed."""
    return shutil.copytree(begun, tmp_path / "seen")


def again(folder, *settings):
    """The run once more, and what it said."""
    said = []
    recipe = load_recipe(str(folder / "seen.yaml"), list(settings))
    train(recipe, folder / "data", folder / "run", folds=[0], workers=1, say=said.append)
    return said


def lineages(folder):
    return {name: read_lineage(folder / "run" / name / LINEAGE) for name in (FIRST, LAST)}


def trained(folder):
    """When each step was trained: its record keeps the seconds that it took."""
    return {name: read_record(folder / "run" / name)["seconds"] for name in (FIRST, LAST)}


def change(folder, name, **columns):
    table = pd.read_csv(folder / "data" / name, dtype=str)
    table.assign(**columns).to_csv(folder / "data" / name, index=False)


def start_from(folder, other):
    """Let the first stage start from the weights that another run ended with."""
    text, file = (folder / "seen.yaml").read_text(), other / "run" / LAST / WEIGHTS
    (folder / "seen.yaml").write_text(text.replace("start: scratch", f"start: {{file: {file}}}"))


def seen_patient(folder):
    """A patient whom the steps of fold 0 were trained on."""
    folds = pd.read_csv(folder / "folds.csv", dtype=str)
    study = folds[STUDY_COLUMN][folds["fold"] == "1"].iloc[0]
    return read_dataset(folder / "data").studies.set_index("study")["patient"][study]


def test_nothing_is_renewed_where_nothing_changed(there):
    files = [there / "run" / name / file for name in (FIRST, LAST) for file in (WEIGHTS, LINEAGE, RECORD)]
    before = [file.stat().st_mtime_ns for file in files]
    assert not any("renewed" in line for line in again(there))
    assert [file.stat().st_mtime_ns for file in files] == before


def test_corrected_identifiers_reach_lineages_headers_descendants_and_bundles(there, tmp_path):
    patients = read_dataset(there / "data").studies["patient"]
    before, seconds = lineages(there), trained(there)
    change(there, "train.csv", **{PATIENT_COLUMN: "new-" + patients.astype(str)})
    assert "2 finished steps" in "".join(line for line in again(there) if "renewed" in line)
    assert trained(there) == seconds
    wanted = {tokens([f"new-{patient}"], key_name())[0] for patient in patients}
    for name, lineage in lineages(there).items():
        assert lineage.seen() <= wanted and not lineage.seen() & before[name].seen()
        assert len(lineage.seen()) == len(before[name].seen())
        assert lineage_of(there / "run" / name / WEIGHTS) == lineage
    seen = f"new-{seen_patient(there).removeprefix('new-')}"
    with pytest.raises(LeakError, match="1 of 1 patients"):
        lineages(there)[LAST].refuse_seen([seen])
    bundle = export_run(there / "run", tmp_path / "bundle", onnx=False)
    (weights,) = bundle.glob("a-fold0.safetensors")
    with pytest.raises(LeakError):
        lineage_of(weights).refuse_seen([seen])
    assert not any("renewed" in line for line in again(there))


def test_weights_that_start_from_elsewhere_keep_whom_those_saw(there):
    foreign = shutil.copytree(there, there / "foreign")
    start_from(there, foreign)
    again(there)
    before, seconds = lineages(there), trained(there)
    change(there, "train.csv", **{PATIENT_COLUMN: "new-" + read_dataset(there / "data").studies["patient"]})
    assert any("renewed" in line for line in again(there))
    assert trained(there) == seconds
    for name, lineage in lineages(there).items():
        kept = before[name].seen() & lineage.seen()
        assert kept == lineage_of(foreign / "run" / LAST / WEIGHTS).seen()
        assert len(lineage.seen()) == 2 * len(kept)


def test_another_key_reaches_the_lineages_and_back(there):
    before, seconds = lineages(there), trained(there)
    assert any("renewed" in line for line in again(there, "patients=ranzcr"))
    assert {name for lineage in lineages(there).values() for name in names_in(lineage.seen())} == {"ranzcr"}
    assert any("renewed" in line for line in again(there))
    assert lineages(there) == before and trained(there) == seconds


def test_a_renewal_that_was_killed_halfway_is_done_by_the_next(there, monkeypatch):
    from cxrlines.recipe.run import step_lineage

    change(there, "train.csv", **{PATIENT_COLUMN: "new-" + read_dataset(there / "data").studies["patient"]})
    for failing in (1, 2):  # after the weights of the first step, and of the second
        calls = []

        def write_text(path, text, calls=calls, failing=failing):
            calls.append(path)
            if len(calls) == failing:
                raise KeyboardInterrupt
            path.write_text(text)

        monkeypatch.setattr(step_lineage, "write_text", write_text)
        with pytest.raises(KeyboardInterrupt):
            again(there)
    monkeypatch.undo()
    monkeypatch.setattr("cxrlines.recipe.run.execute.LocalWorkers", None)  # nothing is trained
    again(there)
    for name, lineage in lineages(there).items():
        assert lineage_of(there / "run" / name / WEIGHTS) == lineage
    assert len(lineages(there)[LAST].seen()) == len(lineages(there)[FIRST].seen())


# -- the guard


def truth(folder, patient):
    """The truth of the test films, all of one patient."""
    studies = pd.read_csv(folder / "data/sample_submission.csv", dtype=str)
    studies.assign(**{PATIENT_COLUMN: patient}).to_csv(folder / "data/test_truth.csv", index=False)


def test_a_test_patient_who_was_seen_is_found_when_the_truth_comes_later(there):
    seconds = trained(there)
    truth(there, seen_patient(there))
    with pytest.raises(RunError, match=rf"(?s){FIRST}.*1 of 1 patients were seen"):
        again(there)
    again(there, "guard=report")
    assert "1 of 1 patients" in read_record(there / "run" / LAST)["test_leak"]
    assert json.loads((there / "run/metrics.json").read_text())["scope"].startswith("test films, seen in training")
    truth(there, "somebody else")
    again(there)
    assert read_record(there / "run" / LAST)["test_leak"] is None and trained(there) == seconds


def test_a_held_out_patient_of_whom_an_ancestor_was_trained_is_found_when_identifiers_are_corrected(there):
    foreign, patients = shutil.copytree(there, there / "foreign"), read_dataset(there / "data").studies["patient"]
    change(foreign, "train.csv", **{PATIENT_COLUMN: "f-" + patients})
    again(foreign)
    start_from(there, foreign)
    again(there)
    seconds = trained(there)
    change(there, "train.csv", **{PATIENT_COLUMN: ("f-" + patients).to_numpy()[::-1]})
    with pytest.raises(RunError, match=rf"(?s){FIRST}.*were seen in training"):
        again(there)
    assert "were seen in training" in read_record(there / "run" / LAST)["leak"]
    assert trained(there) == seconds
    change(there, "train.csv", **{PATIENT_COLUMN: patients})
    again(there)
    assert read_record(there / "run" / LAST)["leak"] is None and trained(there) == seconds


def test_two_identifiers_that_were_one_patient_are_refused_where_the_folds_part_them(there):
    seconds, patients = trained(there), read_dataset(there / "data").studies["patient"]
    change(there, "train.csv", **{PATIENT_COLUMN: patients.where(patients.index > 7, "one")})
    with pytest.raises(RunError, match=rf"(?s){FIRST}.*1 of \d+ patients were seen in training"):
        again(there)
    assert trained(there) == seconds

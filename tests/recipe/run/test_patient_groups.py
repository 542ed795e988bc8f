"""The same film under two patients: found, listed, one person for folds and guard, refused where it leaks."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlines.io.folds import write_folds
from cxrlines.io.patients import key_name, tokens
from cxrlines.io.tables import read_dataset
from cxrlines.lab.price.dry_run import dry_run
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run import patient_groups
from cxrlines.recipe.run.export import export_run
from cxrlines.recipe.run.folder import LINEAGE, Run, read_record
from cxrlines.recipe.run.patient_groups import COLUMNS, SAME_FILMS, PatientGroups
from cxrlines.recipe.run.pipeline import plan_of, prepare, train
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import PATIENT_COLUMN, STUDY_COLUMN
from cxrlines.training.lineage import LeakError, read_lineage

RECIPE = """
name: same
size: 64
store: {size: 128, aspect: stretch}
folds: {count: 2, seed: 0}
defaults: {schedule: {batch: 8, lr: 0.001, epochs: 0.5, validate_films: 0}}
members: {plain: {backbone: resnet10t, stages: {only: {start: scratch}}}}
tracking: {use: [csv, tensorboard]}
"""
WAYS = {
    "q50": lambda film: film,
    "smaller": lambda film: cv2.resize(film, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
    "mirrored": lambda film: film[:, ::-1],
    "upside-down": lambda film: film[::-1],
    "by-90": lambda film: np.rot90(film),
    "by-180": lambda film: np.rot90(film, 2),
    "by-270": lambda film: np.rot90(film, 3),
}


def recipe(tmp_path, *settings):
    (tmp_path / "same.yaml").write_text(RECIPE)
    return load_recipe(str(tmp_path / "same.yaml"), list(settings))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same") / "data"
    write_phantom(folder, studies=32, test=8, seed=5, size=192, balance="even", annotated=0, workers=1)
    (folder / "phantom.json").unlink()  # a hospital's own, for all anyone knows
    return folder


def with_copies(plain, root, split="train"):
    """The data with a copy of a training film a way under another patient, in training or test; and which of which."""
    shutil.copytree(plain, root)
    table = pd.read_csv(root / "train.csv", dtype=str)
    chosen = table.drop_duplicates(PATIENT_COLUMN).iloc[: len(WAYS)]
    rows, pairs = [], {}
    for number, ((name, way), (_, row)) in enumerate(zip(WAYS.items(), chosen.iterrows(), strict=True)):
        film = cv2.imread(str(next((root / "train").glob(f"{row[STUDY_COLUMN]}.*"))), 0)
        study = f"copy.{number}"
        made = np.ascontiguousarray(way(film))
        cv2.imwrite(str(root / split / f"{study}.jpg"), made, [cv2.IMWRITE_JPEG_QUALITY, 50])
        rows.append(row.to_dict() | {STUDY_COLUMN: study, PATIENT_COLUMN: f"MRN-{name}"})
        pairs[study] = row[STUDY_COLUMN]
    if split == "train":
        pd.concat([table, pd.DataFrame(rows)]).to_csv(root / "train.csv", index=False)
    else:
        listed = pd.read_csv(root / "sample_submission.csv", dtype=str)
        more = pd.DataFrame(rows)[list(listed.columns)]
        pd.concat([listed, more]).to_csv(root / "sample_submission.csv", index=False)
        truth = pd.read_csv(root / "test_truth.csv", dtype=str)
        pd.concat([truth, pd.DataFrame(rows)[list(truth.columns)]]).to_csv(root / "test_truth.csv", index=False)
    return pairs


@pytest.fixture(scope="module")
def copied(plain, tmp_path_factory):
    """Training films with copies among them, a run prepared on them, and copy -> original."""
    folder = tmp_path_factory.mktemp("copied")
    pairs = with_copies(plain, folder / "data")
    return folder / "data", prepare(recipe(folder), folder / "data", folder / "run", 1), pairs


def test_all_copies_are_found_and_nothing_else(copied):
    _, run, pairs = copied
    found = run.groups.pairs
    assert {frozenset(row) for row in found[["study_a", "study_b"]].to_numpy().tolist()} == {
        frozenset(pair) for pair in pairs.items()
    }
    assert set(found["split_a"]) | set(found["split_b"]) == {"train"}
    assert f"{len(WAYS)} pairs of films" in run.groups.text() and "MRN" not in run.groups.text()
    listed = pd.read_csv(run.root / SAME_FILMS, dtype=str)
    assert tuple(listed.columns) == COLUMNS and len(listed) == len(WAYS)


def test_a_set_without_copies_has_none(plain, tmp_path):
    run = prepare(recipe(tmp_path), plain, tmp_path / "run", 1)
    assert len(run.groups.pairs) == 0 and run.groups.text() == "" and run.groups.group_of == {}


def test_copies_are_one_patient_for_folds_and_lineage(copied):
    data, run, pairs = copied
    fold = dict(zip(run.train.studies["study"], run.folds, strict=True))
    assert all(fold[copy] == fold[original] for copy, original in pairs.items())
    assert len(run.folds.groupby(run.train.studies["patient"]).nunique()) == run.train.studies["patient"].nunique()
    step = plan_of(run, [0])[0]
    do_step(run, step, lambda status: None)
    lineage = read_lineage(run.folder(step.key) / LINEAGE)
    table = read_dataset(data).studies.set_index("study")["patient"]
    for study, patient in table.items():
        (token,) = tokens([patient], key_name())
        assert (token in lineage.seen()) == (fold[study] != 0), study
    (again,) = [step for step in plan_of(Run.open(run.root, data), [0])]
    assert again.identity == step.identity, "a worker sees the same people"
    assert "done" in dry_run(run.recipe, data, run.root, [0])


def test_they_are_looked_for_once_until_films_or_patients_change(copied, tmp_path, monkeypatch):
    data, run, _ = copied
    asked = []

    def copies_in_stores(stores):
        asked.append(len(stores))
        return []

    monkeypatch.setattr(patient_groups, "copies_in_stores", copies_in_stores)
    assert len(prepare(run.recipe, data, run.root, 1).groups.pairs) == len(WAYS) and not asked
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(run.root, tmp_path / "run")
    table = pd.read_csv(data / "train.csv", dtype=str)
    table.assign(**{PATIENT_COLUMN: "other" + table[PATIENT_COLUMN]}).to_csv(tmp_path / "data/train.csv", index=False)
    prepare(run.recipe, tmp_path / "data", tmp_path / "run", 1)
    assert asked == [2]


def test_given_folds_that_part_them_are_refused_or_reported(copied, tmp_path):
    data, _, pairs = copied
    table = read_dataset(data).studies
    apart = pd.Series((table["patient"].str.startswith("MRN")).astype(int), index=table.index)
    write_folds(table, apart, tmp_path / "folds.csv")
    settings = [f"folds.file={tmp_path / 'folds.csv'}"]
    with pytest.raises(LeakError, match=f"{len(pairs)} patients have films in two folds"):
        prepare(recipe(tmp_path, *settings), data, tmp_path / "run", 1)
    reported = prepare(recipe(tmp_path, *settings, "guard=report"), data, tmp_path / "run", 1)
    step = plan_of(reported, [1])[0]
    do_step(reported, step, lambda status: None)
    assert f"{2 * len(pairs)} of " in read_record(reported.folder(step.key))["leak"]


def test_test_films_that_are_copies_of_training_films_are_refused_or_reported(plain, tmp_path):
    pairs = with_copies(plain, tmp_path / "data", "test")
    with pytest.raises(LeakError, match=f"{len(pairs)} patients have films in both training and test") as error:
        train(recipe(tmp_path), tmp_path / "data", tmp_path / "run", workers=1, say=lambda text: None)
    assert "MRN" not in str(error.value)
    said = []
    run = train(
        recipe(tmp_path, "guard=report"), tmp_path / "data", tmp_path / "run", workers=1, command="", say=said.append
    )
    assert f"{len(pairs)} of the pairs are of a training and a test film" in said[0]
    metrics, page = json.loads((run.root / "metrics.json").read_text()), (run.root / "report.html").read_text()
    assert metrics["scope"].startswith("test films, seen in training: a leak")
    assert "are the same picture" in page and "MRN" not in page


def test_no_patient_and_no_bare_hash_of_one_leaves_the_data_folder(copied, tmp_path):
    """But for two tables of the run's own folder, which say whose films lie in which fold, and which are the same."""
    data, run, _ = copied
    train(run.recipe, data, run.root, workers=1, say=lambda text: None)
    bundle = export_run(run.root, tmp_path / "bundle", onnx=False)
    patients = {str(patient) for split in ("train", "test") for patient in read_dataset(data, split).studies["patient"]}
    bare = {token.partition(":")[2] for token in tokens(patients, "sha256")}
    key = Path(os.environ["CXRLINES_SITE_KEY"]).read_text().strip()
    files = [path for root in (run.root, bundle) for path in root.rglob("*") if path.is_file()]
    assert len(files) > 20 and any("tfevents" in path.name for path in files)
    for path in files:
        if path.parent == run.root and path.name in ("folds.csv", SAME_FILMS):
            continue
        content = path.read_bytes()
        for secret in (*patients, *bare, key):
            assert secret.encode() not in content, (path.name, secret)
    keyed = {token.partition(":")[2] for token in tokens(patients, key_name())}
    lineage = (run.root / "plain/fold0/only" / LINEAGE).read_text()
    assert sum(digits in lineage for digits in keyed) > len(patients) / 4
    assert not any(digits.encode() in path.read_bytes() for path in bundle.iterdir() for digits in keyed)


def test_patients_that_share_films_through_others_are_one():
    rows = [("s1", "p3", "train", "s2", "p2", "train"), ("s3", "p4", "train", "s4", "p5", "test")]
    rows += [("s5", "p2", "train", "s6", "p1", "train"), ("s7", "p3", "train", "s8", "p1", "train")]
    found = PatientGroups("phantom", pd.DataFrame(rows, columns=list(COLUMNS), dtype=object))
    assert found.group_of == {"p1": "p1", "p2": "p1", "p3": "p1", "p4": "p4", "p5": "p4"}
    assert found.identifiers(["p1"]) == {"p1", "p2", "p3"} and found.identifiers(["p9"]) == {"p9"}
    assert found.tokens(["p4"]) == set(tokens(["p4", "p5"], "phantom"))
    assert "5 patients are taken for 2" in found.text() and "1 of the pairs" in found.text()

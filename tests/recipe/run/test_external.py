"""External sets in a run: their twins kept apart from whom a model is judged on, their films in every lineage."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrlines.core.errors import Error
from cxrlines.io.dedup.twins import Twin
from cxrlines.io.external.layouts import PRESENCE
from cxrlines.io.patients import tokens
from cxrlines.io.store import build_store
from cxrlines.io.tables import read_dataset
from cxrlines.recipe.run import external
from cxrlines.recipe.run.external import ExternalSet, open_set, prepare_set
from cxrlines.recipe.run.folder import LINEAGE, StepId
from cxrlines.recipe.run.patient_groups import PatientGroups
from cxrlines.recipe.run.pipeline import _say_films, plan_of, prepare
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.parts import ExternalSpec
from cxrlines.training.lineage import LeakError, read_lineage

TWIN_COLUMNS = ["study", "own_study", "own_patient", "split"]


def of(twins=(), patients="AABBCD", own=None, **columns) -> ExternalSet:
    """Six films, x0 to x5, of four patients."""
    studies = pd.DataFrame({"study": [f"x{i}" for i in range(len(patients))], "patient": list(patients)})
    tubes = pd.DataFrame(np.nan, index=studies.index, columns=list(PRESENCE)).assign(**columns)
    table = pd.DataFrame(list(twins), columns=TWIN_COLUMNS, dtype=object)
    if own is not None:
        own = pd.DataFrame(list(own), columns=["study", "own_patient", "split"], dtype=object)
    return ExternalSet("b", studies.join(tubes), "fingerprint", table, own=own)


def test_without_twins_every_film_is_trained_on():
    assert of().rows({"p1"}).tolist() == list(range(6))


def test_all_films_of_a_held_out_twins_patient_are_left_out_and_no_others():
    found = of([("x1", "s1", "p1", "train"), ("x4", "s2", "p2", "train")])
    assert found.rows({"p1"}).tolist() == [2, 3, 4, 5]
    assert found.rows({"p2"}).tolist() == [0, 1, 2, 3, 5]
    assert found.rows({"p1", "p2"}).tolist() == [2, 3, 5]
    assert found.rows({"p3"}).tolist() == list(range(6))


def test_twins_of_test_films_are_never_trained_on():
    found = of([("x2", "t1", "t1", "test")])
    assert found.rows(set()).tolist() == found.rows({"p1"}).tolist() == [0, 1, 4, 5]


def test_a_film_that_is_a_twin_of_two_patients_goes_for_either():
    found = of([("x5", "s1", "p1", "train"), ("x5", "s2", "p2", "train")])
    assert found.rows({"p1"}).tolist() == found.rows({"p2"}).tolist() == [0, 1, 2, 3, 4]


def test_whom_films_show_are_the_sets_patients_and_the_own_patients_of_twins_among_them():
    found = of([("x1", "s1", "p1", "train")])
    assert found.patients(np.array([0, 2])) == {"b:A", "b:B"}
    assert found.patients(np.array([1, 2])) == {"b:A", "b:B", "p1"}


def test_films_of_held_out_and_of_test_patients_are_left_out_where_the_identifiers_are_the_own_ones():
    found = of(own=[("x0", "A", "train"), ("x1", "A", "train"), ("x5", "D", "test")])
    assert found.rows(set()).tolist() == [0, 1, 2, 3, 4]
    assert found.rows({"A", "D"}).tolist() == [2, 3, 4]
    assert found.patients(np.array([0, 2])) == {"A", "B"}, "under their own names, those without own films too"
    twin = of([("x1", "s1", "p1", "train")], own=[("x4", "C", "train")])
    assert twin.rows({"p1"}).tolist() == [2, 3, 4, 5] and twin.rows({"C"}).tolist() == [0, 1, 2, 3, 5]
    assert twin.patients(np.array([1])) == {"A", "p1"}
    rows = np.arange(3)
    assert found.identity(rows, presence=False) != of().identity(rows, presence=False)


def test_identity_knows_films_store_twins_and_learnt_tubes():
    rows, everyone = np.arange(4), of()
    same = everyone.identity(rows, presence=False)
    assert same == of().identity(rows, presence=False)
    assert same == of(**{PRESENCE[0]: 1.0}).identity(rows, presence=False), "tubes that nobody learns do not matter"
    others = [
        everyone.identity(rows[:3], presence=False),
        everyone.identity(rows, presence=True),
        of(**{PRESENCE[0]: 1.0}).identity(rows, presence=True),
        of([("x1", "s1", "p1", "train")]).identity(rows, presence=False),
        of(patients="AABXCD").identity(rows, presence=False),
    ]
    assert len({same, *others}) == 1 + len(others)


# -- read and decoded


@pytest.fixture
def own(phantom, tmp_path):
    """The own splits with their stores."""
    found = {}
    for split in ("train", "test"):
        dataset = read_dataset(phantom, split)
        found[split] = (dataset, build_store(dataset, tmp_path / "own" / split, size=72, aspect="stretch", workers=1))
    return found


def prepared(folder, root, own, patients=None, groups=None):
    spec = ExternalSpec(folder=str(folder), patients=patients)
    groups = groups or PatientGroups("phantom")
    made, _ = prepare_set("b", spec, root, own, groups, size=72, aspect="stretch", workers=1)
    return made, open_set("b", root)


@pytest.fixture
def planted(monkeypatch):
    """Twins as if they were found: own film 3 is film 0 of the set, test film 1 its film 4."""
    asked = []

    def twins_of_stores(a, b, **more):
        asked.append((len(a), len(b)))
        return [Twin(3, 0, 0.9)] if len(a) == 32 else [Twin(1, 4, 0.8)]

    monkeypatch.setattr(external, "twins_of_stores", twins_of_stores)
    return asked


def test_a_set_opens_as_it_was_prepared(site_b, tmp_path, own, planted):
    made, (opened, store) = prepared(site_b, tmp_path / "b", own)
    assert opened.studies["study"].tolist() == made.studies["study"].tolist() == list(store.studies)
    assert opened.identity(np.arange(16), presence=True) == made.identity(np.arange(16), presence=True)
    assert opened.left_out == made.left_out
    assert np.isfinite(opened.presence(np.arange(16))).all() and opened.presence(np.arange(16)).dtype == np.float32


def test_twins_are_written_with_their_own_study_patient_and_split(site_b, tmp_path, own, planted):
    made, (opened, store) = prepared(site_b, tmp_path / "b", own)
    (train, train_store), (test, test_store) = own["train"], own["test"]
    patient = train.studies.set_index("study")["patient"]
    tested = test.studies.set_index("study")["patient"]
    expected = [
        [store.studies[0], train_store.studies[3], patient[train_store.studies[3]], "train"],
        [store.studies[4], test_store.studies[1], tested[test_store.studies[1]], "test"],
    ]
    assert opened.twins.to_numpy().tolist() == made.twins.to_numpy().tolist() == expected


def test_twins_are_looked_for_once_until_films_change(site_b, tmp_path, own, planted):
    prepared(site_b, tmp_path / "b", own)
    prepared(site_b, tmp_path / "b", own)
    assert planted == [(32, 16), (8, 16)]
    prepared(site_b, tmp_path / "b", {"train": own["train"]})
    assert planted[2:] == [(32, 16)]


def test_names_that_look_like_nothing_stay_names(site_b, tmp_path, own, planted):
    """Patients called NA or null, and studies of digits: a table read back must not merge or lose them."""
    folder = tmp_path / "named"
    shutil.copytree(site_b, folder)
    table = pd.read_csv(folder / "train.csv", dtype=str)
    names = ["NA", "null", "007", "7", "None", "nan"] + [f"p{i}" for i in range(len(table) - 6)]
    table.assign(PatientID=names).to_csv(folder / "train.csv", index=False)
    made, (opened, _) = prepared(folder, tmp_path / "b", own)
    assert made.patients(np.arange(16)) == opened.patients(np.arange(16)) >= {"b:NA", "b:null", "b:007", "b:7"}


def test_films_that_cannot_be_read_are_left_out_and_counted(site_b, tmp_path, own, planted):
    folder = tmp_path / "broken"
    shutil.copytree(site_b, folder)
    next((folder / "train").iterdir()).write_bytes(b"no film")
    _, (opened, store) = prepared(folder, tmp_path / "b", own)
    assert len(opened.studies) == len(store) == 15
    assert opened.left_out["film that could not be read"] == 1


@pytest.fixture
def ward(site_b, own, tmp_path):
    """More real films of a site: of two own training patients and of an own test patient, and of nobody else's."""
    folder = tmp_path / "ward"
    shutil.copytree(site_b, folder)
    (folder / "phantom.json").unlink()
    theirs = own["train"][0].studies["patient"].unique()[:2].tolist() + own["test"][0].studies["patient"].tolist()[:1]
    table = pd.read_csv(folder / "train.csv", dtype=str)
    table.assign(PatientID=[*theirs, *(f"w{k}" for k in range(len(table) - 3))]).to_csv(
        folder / "train.csv", index=False
    )
    return folder, theirs


def test_a_set_with_identifiers_of_own_patients_has_to_say_whether_they_are_the_same_people(ward, tmp_path, own):
    folder, (first, _, tested) = ward
    with pytest.raises(Error, match=r"external\.b: 3 patients have the identifier of an own one; set .*patients: own"):
        prepared(folder, tmp_path / "b", own)
    others, _ = prepared(folder, tmp_path / "b", own, "site")
    everyone = np.arange(16)
    assert others.rows({first}).tolist() == everyone.tolist() and f"b:{first}" in others.patients(everyone)
    groups = PatientGroups("phantom")
    made, (opened, _) = prepared(folder, tmp_path / "b", own, "own", groups)
    for found in (made, opened):
        patient = found.studies["patient"]
        assert set(patient[found.rows({first})]) == set(patient) - {first, tested}
        assert found.tokens(everyone, groups) == set(tokens(sorted(set(patient)), "phantom"))
    again, _ = prepared(folder, tmp_path / "b", own, "site")
    assert again.rows({first}).tolist() == everyone.tolist()


@pytest.mark.parametrize("patients", [None, "own", "site"])
@pytest.mark.parametrize("written", ["000{}", "{}.0"])
def test_identifiers_that_agree_but_for_what_a_spreadsheet_changes_are_refused(ward, tmp_path, own, patients, written):
    folder, _ = ward
    numbers = {split: [str(k + 11) for k in range(len(dataset.studies))] for split, (dataset, _) in own.items()}
    own = {
        split: (replace(dataset, studies=dataset.studies.assign(patient=numbers[split])), store)
        for split, (dataset, store) in own.items()
    }
    table = pd.read_csv(folder / "train.csv", dtype=str)
    table.assign(PatientID=[written.format(12), *(f"w{k}" for k in range(15))]).to_csv(
        folder / "train.csv", index=False
    )
    if patients == "site":
        prepared(folder, tmp_path / "b", own, patients)
        return
    with pytest.raises(
        Error, match=r"external\.b: the identifiers of 1 patient differ from an own one by zeros"
    ) as error:
        prepared(folder, tmp_path / "b", own, patients)
    assert ("patients: site" in error.value.way_out) == (patients is None)


def test_how_many_patients_of_a_set_have_own_films_is_said(ward, tmp_path, phantom):
    folder, _ = ward
    members = (
        "members: {a: {backbone: resnet10t, stages: {pre: {start: scratch, films: {set: b}, targets: {presence: {}}}"
    )
    text = (
        f"name: ward\nsize: 64\nstore: {{size: 72}}\nexternal: {{b: {{patients: own}}}}\n{members}, fine: {{}}}}}}}}\n"
    )
    (tmp_path / "own.yaml").write_text(text)
    recipe = load_recipe(str(tmp_path / "own.yaml"), [f"external.b.folder={folder}"])
    said = []
    _say_films(prepare(recipe, phantom, tmp_path / "run", 1), said.append)
    assert any(line.startswith("external set b:") and "; 3 of its 16 patients have own films" in line for line in said)


# -- in a lineage


def test_twins_patients_are_in_the_lineage_where_they_are_trained_on_and_scoring_them_is_refused(
    phantom, site_b, soft_recipe, tmp_path, planted
):
    recipe = load_recipe(str(soft_recipe), [f"external.b.folder={site_b}", "ensemble.members=[plain]"])
    run = prepare(recipe, phantom, tmp_path, 1)
    twin = run.external["b"][0].twins.query("split == 'train'").iloc[0]
    fold = int(run.folds[run.train.studies["study"] == twin["own_study"]].iloc[0])
    other = (fold + 1) % 3
    steps = {step.name: step for step in plan_of(run, [fold, other])}
    for name in (f"plain/fold{k}/only" for k in (fold, other)):
        do_step(run, steps[name], lambda status: None)
    for k in (fold, other):
        do_step(run, steps[f"from-b/fold{k}/soft"], lambda status: None)
    patients = run.external["b"][0].studies.set_index("study")["patient"]
    theirs, own = (tokens([who], "phantom")[0] for who in (patients[twin["study"]], twin["own_patient"]))
    without, within = (read_lineage(run.folder(StepId("from-b", (k,), "soft")) / LINEAGE) for k in (fold, other))
    assert not without.seen() & {own, theirs}
    assert within.patients >= {own, theirs}
    with pytest.raises(LeakError, match=f"from-b/fold{other}/soft"):
        within.refuse_seen([twin["own_patient"]])
    without.refuse_seen([twin["own_patient"]])
    tested = run.external["b"][0].twins.query("split == 'test'")["own_patient"]
    assert len(tested) == 1
    within.refuse_seen(tested)

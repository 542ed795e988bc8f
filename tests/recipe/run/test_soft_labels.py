"""Soft labels: of members, never by a model that saw what they help to judge; of files, checked cell by cell."""

import numpy as np
import pandas as pd
import pytest

from cxrlines.core.errors import Error
from cxrlines.evaluation.ensemble.sharpen import dynamic_temperatures, sharpen
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.recipe.run.folder import HELD_OUT, StepId, read_record
from cxrlines.recipe.run.pipeline import plan_of
from cxrlines.recipe.run.soft_labels import read_soft_labels, soft_labels
from cxrlines.recipe.run.training_data import training_films
from cxrlines.task import LABELS, STUDY_COLUMN
from cxrlines.training.targets import SoftTarget

STUDIES = ["c", "a", "b"]
"""In another order than the table's."""


def table(values=None, **more) -> pd.DataFrame:
    """Predictions of the studies a, b, c, d: by default .1, .2, .3 and .4 in every label."""
    p = np.repeat([[0.1], [0.2], [0.3], [0.4]], len(LABELS), axis=1) if values is None else values
    return pd.DataFrame(p, columns=list(LABELS)).assign(study=list("abcd"), **more)


def file(tmp_path, frame: pd.DataFrame):
    path = tmp_path / "soft.csv"
    frame.rename(columns={"study": STUDY_COLUMN}).to_csv(path, index=False)
    return path


# -- from predictions to targets


def test_targets_are_the_predictions_of_the_stages_films_in_its_order():
    soft = soft_labels(SoftTarget(of="one"), table(), STUDIES)
    assert soft.keep.all() and soft.note["temperatures"] is None
    assert soft.arrays["soft"][:, 0] == pytest.approx([0.3, 0.1, 0.2])
    assert (soft.arrays["film_weights"] == 1).all()
    assert soft.arrays["soft"].dtype == soft.arrays["film_weights"].dtype == np.float32


def test_predictions_without_a_label_are_refused_by_its_name():
    with pytest.raises(Error, match="have no column 'CVC - Normal'; take those of a model of the same labels"):
        soft_labels(SoftTarget(of="one"), table().drop(columns="CVC - Normal"), STUDIES)


def test_films_without_a_label_above_the_threshold_are_left_out():
    values = np.full((4, len(LABELS)), 0.1)
    values[0, 3], values[2, 10] = 0.31, 0.3
    soft = soft_labels(SoftTarget(of="one", keep_above=0.3, temperature=2), table(values), STUDIES)
    assert soft.keep.tolist() == [False, True, False], "above is above, and the threshold is of p before sharpening"
    assert soft.arrays["soft"] == pytest.approx(sharpen(values[:1], 2))


def test_all_films_below_the_threshold_is_an_error_that_says_the_largest():
    with pytest.raises(ValueError, match=r"soft.keep_above is 0.3, but no film of 2 has .* is 0.200\); lower it"):
        soft_labels(SoftTarget(of="one", keep_above=0.3), table(), ["a", "b"])


def test_certain_films_weigh_more_and_the_mean_weight_of_kept_films_is_one():
    soft = soft_labels(SoftTarget(of="one", film_weights="certainty", keep_above=0.15), table(), STUDIES)
    certainty = np.array([0.4, 0.6])  # |2p - 1| of c and b
    assert soft.arrays["film_weights"] == pytest.approx(certainty / certainty.mean())


def test_a_column_weight_multiplies():
    given = table(weight=[1.0, 3.0, 0.0, 100.0])
    assert soft_labels(SoftTarget(file="x"), given, STUDIES).arrays["film_weights"] == pytest.approx([0, 0.75, 2.25])
    both = np.array([0.4 * 0, 0.8 * 1, 0.6 * 3])
    soft = soft_labels(SoftTarget(file="x", film_weights="certainty"), given, STUDIES)
    assert soft.arrays["film_weights"] == pytest.approx(both / both.mean())


def test_no_weight_at_all_is_an_error():
    with pytest.raises(ValueError, match="weights of all films are 0; give at least one film a weight"):
        soft_labels(SoftTarget(file="x"), table(weight=0.0), STUDIES)


def test_a_fixed_temperature_is_the_same_for_all_labels_and_a_dynamic_one_is_of_each():
    assert soft_labels(SoftTarget(of="one", temperature=0.8), table(), STUDIES).note["temperatures"] == [0.8] * 11
    rng = np.random.default_rng(0)
    p = rng.uniform(0.01, 0.99, (400, len(LABELS)))
    studies = [f"s{i}" for i in range(400)]
    said = pd.DataFrame(p, columns=list(LABELS)).assign(study=studies)
    truth = pd.DataFrame(rng.random(p.shape) < sharpen(p, np.linspace(0.5, 2, 11)), columns=list(LABELS))
    truth = truth.astype(int).assign(study=studies).iloc[::-1]  # matched by study, not by place
    soft = soft_labels(SoftTarget(of="one", temperature="dynamic"), table(), STUDIES, (said, truth))
    assert soft.note["temperatures"] is not None
    assert np.corrcoef(soft.note["temperatures"], np.linspace(0.5, 2, 11))[0, 1] > 0.8
    assert soft.arrays["soft"] == pytest.approx(
        sharpen(table()[list(LABELS)].to_numpy()[[2, 0, 1]], soft.note["temperatures"])
    )


# -- from a file


def test_a_file_may_hold_more_films_of_the_set_than_are_needed(tmp_path):
    given = read_soft_labels(file(tmp_path, table(weight=[1, 2, 3, 4])), STUDIES, set("abcde"))
    assert soft_labels(SoftTarget(file="x"), given, STUDIES).arrays["film_weights"] == pytest.approx([1.5, 0.5, 1.0])


@pytest.mark.parametrize(
    ("needed", "known", "said"),
    [
        ("abe", "abcde", r"soft.csv: 1 studies that are trained on are not in it \(the first: 'e'\)"),
        ("ab", "ab", r"soft.csv: 2 of its studies have no film in the set \(the first: 'c'\)"),
        ("ae", "abce", r"1 of its studies have no film in the set \(the first: 'd'\); 1 studies that are trained on"),
    ],
)
def test_foreign_and_missing_studies_are_counted_and_named(tmp_path, needed, known, said):
    with pytest.raises(ValueError, match=said + ".*a row for each, and for no other"):
        read_soft_labels(file(tmp_path, table()), list(needed), set(known))


@pytest.mark.parametrize(
    ("value", "said"),
    [("1.2", "is '1.2', outside 0 to 1"), ("-0.1", "is '-0.1', outside 0 to 1"), ("", "is '', not a number"),
     ("nan", "is 'nan', not a number"), ("yes", "is 'yes', not a number")],
)  # fmt: skip
def test_what_is_no_probability_is_named_by_file_line_and_column(tmp_path, value, said):
    frame = table().astype(object)
    frame.loc[1, LABELS[4]] = value
    with pytest.raises(ValueError, match=rf"soft.csv, line 3: column {LABELS[4]} {said}"):
        read_soft_labels(file(tmp_path, frame), STUDIES, set("abcd"))


@pytest.mark.parametrize("value", [-1, "", "inf", "heavy"])
def test_a_weight_is_a_number_of_0_or_more(tmp_path, value):
    given = table(weight=[1, value, 1, 1])
    with pytest.raises(ValueError, match=r"soft.csv, line 3: column weight is '.*'; a weight is a number, 0 or more"):
        read_soft_labels(file(tmp_path, given), STUDIES, set("abcd"))


def test_studies_are_matched_as_they_are_read_elsewhere(tmp_path):
    """A file that a spreadsheet wrote: a byte order mark, blanks around cells, a study that looks like a number."""
    frame = table(weight=[1, 1, 2, 1]).assign(study=["007", "NA", " c ", "d"])
    path = tmp_path / "soft.csv"
    text = frame.rename(columns={"study": STUDY_COLUMN}).to_csv(index=False)
    path.write_text("\ufeff" + text.replace("weight", " weight"))
    given = read_soft_labels(path, ["007", "NA", "c"], {"007", "NA", "c", "d"})
    assert soft_labels(SoftTarget(file="x"), given, ["007", "NA", "c"]).arrays["film_weights"] == pytest.approx(
        [0.75, 0.75, 1.5]
    )


# -- in a run


def of_step(run, name):
    """The films of a finished step as it was trained on them, and what it said of its soft labels."""
    step = next(step for step in plan_of(run, None) if step.name == name)
    stage = run.recipe.members[step.key.member].stages[step.key.stage]
    rows = run.films.training(stage, step.key.held)
    films, said = training_films(run, step, stage, rows, lambda status: None)
    return step, rows, films, said


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_each_own_film_has_the_label_of_the_step_that_holds_out_its_fold_and_the_students(soft_run, fold):
    _, rows, films, said = of_step(soft_run, f"self/fold{fold}/only")
    folds, studies = soft_run.folds.to_numpy(), soft_run.train.studies["study"].to_numpy()
    assert len(rows) == (folds != fold).sum() == len(films)
    raw = np.zeros((len(rows), len(LABELS)))
    for place, row in enumerate(rows):
        inner = soft_run.folder(StepId("plain", tuple(sorted((fold, int(folds[row])))), "only"))
        raw[place] = read_predictions(inner / HELD_OUT).set_index("study").loc[studies[row]].to_numpy()
    truth = soft_run.train.studies[list(LABELS)].to_numpy()[rows]
    temperatures = dynamic_temperatures(raw, truth)
    assert said == {"kept": len(rows), "of": len(rows), "temperatures": pytest.approx(temperatures.tolist())}
    assert films.more["soft"] == pytest.approx(sharpen(raw, temperatures).astype(np.float32), abs=1e-6)
    certainty = np.abs(2 * raw - 1).mean(axis=1)
    assert films.more["film_weights"] == pytest.approx((certainty / certainty.mean()).astype(np.float32))
    assert (films.labels == truth).all(), "the hard labels beside them"


def test_external_films_have_the_labels_of_the_own_folds_teacher(soft_run):
    teacher = soft_run.folder(StepId("plain", (1,), "only"))
    (path,) = teacher.glob("b-*.csv")
    every = read_predictions(path).set_index("study")
    found, store = soft_run.external["b"]
    assert list(every.index) == found.studies["study"].tolist() == list(store.studies)
    _, rows, films, said = of_step(soft_run, "from-b/fold1/soft")
    p = every.iloc[rows].to_numpy()
    keep = (p > 0.3).any(axis=1)
    assert said == {"kept": int(keep.sum()), "of": 16, "temperatures": [0.8] * 11}
    assert films.more["soft"] == pytest.approx(sharpen(p[keep], 0.8).astype(np.float32), abs=1e-6)
    assert films.rows.tolist() == rows[keep].tolist()
    assert np.isnan(films.labels).all(), "they have no hard labels"
    folders = [soft_run.folder(StepId("plain", (fold,), "only")) for fold in (0, 2)]
    others = [read_predictions(next(folder.glob("b-*.csv"))) for folder in folders]
    assert not any(np.allclose(other[list(LABELS)], every) for other in others)


def test_a_step_records_what_became_of_its_soft_labels(soft_run):
    for step in plan_of(soft_run, None):
        said = read_record(soft_run.folder(step.key))["soft_labels"]
        soft = soft_run.recipe.members[step.key.member].stages[step.key.stage].targets.soft
        assert (said is None) == (soft is None), str(step.key)
        assert said is None or 0 < said["kept"] <= said["of"]

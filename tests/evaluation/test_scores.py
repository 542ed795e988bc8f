import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from cxrlines.core.errors import Error
from cxrlines.evaluation.predictions import read_predictions, read_truth, write_predictions
from cxrlines.evaluation.scores import compare, compare_predictions, evaluate
from cxrlines.metrics.intervals import patient_weights
from cxrlines.task import LABELS, UNKNOWN

NAMES = list(LABELS)


@pytest.fixture
def truth(report):
    return report.main.truth


@pytest.fixture
def predictions(report):
    return report.main.by_name["three-stage"]


def test_figures_are_scikit_learns(truth, predictions):
    evaluation = evaluate(predictions, truth, resamples=20)
    aucs = [roc_auc_score(truth[label], predictions[label]) for label in NAMES]
    assert evaluation.macro_auc == pytest.approx(np.mean(aucs))
    for label, auc in zip(NAMES, aucs, strict=True):
        figures = evaluation.labels[label]
        assert figures.auc == pytest.approx(auc)
        assert figures.brier == pytest.approx(brier_score_loss(truth[label], predictions[label]))
        assert figures.positives == truth[label].sum()
        assert figures.ci95[0] <= figures.auc <= figures.ci95[1]
    assert (evaluation.films, evaluation.patients) == (300, truth["patient"].nunique())


def test_json_has_the_promised_fields_and_plain_values(truth, predictions):
    figures = json.loads(json.dumps(evaluate(predictions, truth, resamples=20).as_dict(), allow_nan=False))
    assert list(figures) == [
        "macro_auc", "ci95", "labels", "ece", "brier", "films", "patients", "not_predicted", "foreign", "left_out",
        "undefined", "notes",
    ]  # fmt: skip
    assert list(figures["labels"]) == NAMES
    assert list(figures["labels"][NAMES[0]]) == ["auc", "ci95", "positives", "brier", "ece"]
    assert len(figures["ci95"]) == 2 and figures["ci95"][0] < figures["macro_auc"] < figures["ci95"][1]


def test_order_of_rows_does_not_matter_and_nothing_is_changed(truth, predictions):
    before = truth.copy(), predictions.copy()
    one = evaluate(predictions, truth, resamples=30, seed=3)
    other = evaluate(
        predictions.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=2), resamples=30, seed=3
    )
    pd.testing.assert_frame_equal(truth, before[0])
    pd.testing.assert_frame_equal(predictions, before[1])
    np.testing.assert_array_equal(one.resampled, other.resampled)
    assert one.macro_auc == other.macro_auc and one.ci95 == other.ci95
    assert one.ece == pytest.approx(other.ece)


def test_rows_without_a_counterpart_are_counted_and_said(truth, predictions):
    evaluation = evaluate(predictions[:250], truth[20:], resamples=5)
    assert (evaluation.films, evaluation.not_predicted, evaluation.foreign) == (230, 50, 20)
    text = evaluation.text()
    assert "note: 50 labelled films are not predicted and not scored" in text
    assert "note: 20 predictions have no labelled film and are not scored" in text
    assert evaluation.as_dict()["not_predicted"] == 50


def test_films_without_a_known_label_are_not_missed(truth, predictions):
    unknown = truth.copy()
    unknown.loc[[0, 1, 2, 299], NAMES] = UNKNOWN
    assert evaluate(predictions[2:], unknown, resamples=5).not_predicted == 0
    assert evaluate(predictions[5:], unknown, resamples=5).not_predicted == 2


def test_rows_with_missing_labels_are_left_out_and_said(truth, predictions):
    holes = truth.astype({NAMES[1]: float})
    holes.loc[[3, 4], NAMES[1]] = np.nan
    evaluation = evaluate(predictions, holes, resamples=5)
    assert (evaluation.films, evaluation.left_out, evaluation.foreign) == (298, {"label missing": 2}, 2)
    assert "2 rows of the truth are left out: label missing" in evaluation.text()


def test_truth_without_patients_makes_each_film_one_and_says_so(truth, predictions):
    evaluation = evaluate(predictions, truth.drop(columns="patient"), resamples=5)
    assert evaluation.patients == 300
    assert "has no PatientID: each film counts as a patient of its own" in evaluation.text()
    assert "PatientID" not in evaluate(predictions, truth, resamples=5).text()


def test_truth_is_read_with_and_without_patients(tmp_path, truth, predictions):
    named = truth.rename(columns={"study": "StudyInstanceUID", "patient": "PatientID"})
    named.loc[5, NAMES[3]] = 7
    named.to_csv(tmp_path / "a.csv", index=False)
    named.drop(columns="PatientID").to_csv(tmp_path / "b.csv", index=False)
    for name, patients in (("a.csv", truth["patient"].drop(5).nunique()), ("b.csv", 299)):
        evaluation = evaluate(predictions, read_truth(tmp_path / name), resamples=5)
        assert (evaluation.films, evaluation.patients, evaluation.foreign) == (299, patients, 1)
        assert list(evaluation.left_out.values()) == [1]
        assert "1 row of the truth is left out: " in evaluation.text()
        assert evaluation.own_patients is (name == "b.csv")


def test_predictions_are_read_with_their_ids_as_they_are(tmp_path):
    head, rest = ",".join(["StudyInstanceUID", *NAMES]), ",0.5" * len(NAMES)
    csv = tmp_path / "p.csv"
    csv.write_text("\ufeff" + head + f"\n NA {rest}\nnan{rest.replace(',', ', ')}\n007{rest}\n")
    read = read_predictions(csv)
    assert read["study"].tolist() == ["NA", "nan", "007"] and (read[NAMES] == 0.5).all(axis=None)


@pytest.mark.parametrize(
    ("study", "number", "says"),
    [
        ("b", "3.5", "p.csv, line 4: column NGT - Normal is '3.5', outside 0 to 1 (1 such row)"),
        ("b", "", "p.csv, line 4: column NGT - Normal is '', not a number (1 such row)"),
        (" ", "0.5", "p.csv, line 4: StudyInstanceUID is empty (1 such row)"),
        ("a", "0.5", "p.csv, line 4: its study is listed before (1 such row)"),
        ("b", "0.5,0.5", "p.csv:4: the row has 13 cells, the header 12; correct the row"),
    ],
)
def test_errors_in_predictions_name_the_line_an_editor_shows(tmp_path, study, number, says):
    cells = ["0.5"] * len(NAMES)
    hurt = [number if name == "NGT - Normal" else "0.5" for name in NAMES]
    rows = [["StudyInstanceUID", *NAMES], ["a", *cells], [], [study, *hurt]]
    (tmp_path / "p.csv").write_text("\n".join(map(",".join, rows)))
    with pytest.raises(ValueError) as error:
        read_predictions(tmp_path / "p.csv")
    assert says in str(error.value)


def test_one_class_label_is_undefined_with_its_reason_never_a_half(truth, predictions):
    none = truth.assign(**{NAMES[0]: 0})
    evaluation = evaluate(predictions, none, resamples=20)
    figures = evaluation.labels[NAMES[0]]
    assert figures.auc is None and figures.ci95 is None
    assert evaluation.as_dict()["undefined"] == {NAMES[0]: "none of 300 films is positive"}
    assert f"{NAMES[0]} has no AUC and is not in the macro AUC: none of 300 films is positive" in evaluation.text()
    rest = [evaluation.labels[label].auc for label in NAMES[1:]]
    assert evaluation.macro_auc == pytest.approx(np.mean(rest))


def test_films_of_unknown_truth_are_left_out_of_that_label_alone(truth, predictions):
    masked = truth.copy()
    masked.loc[100:, NAMES[0]] = UNKNOWN
    masked[NAMES[1]] = UNKNOWN
    evaluation, all_known = (evaluate(predictions, table, resamples=20) for table in (masked, truth))
    some = evaluate(predictions[:100], truth[:100], resamples=20).labels[NAMES[0]]
    found = evaluation.labels[NAMES[0]]
    assert (found.auc, found.brier, found.ece, found.positives) == (some.auc, some.brier, some.ece, some.positives)
    assert (evaluation.films, evaluation.foreign) == (300, 0)
    assert evaluation.undefined == {NAMES[1]: "no known truth"}
    assert any(NAMES[1] in note and "no known truth" in note for note in evaluation.notes)
    assert evaluation.labels[NAMES[1]].brier is None
    assert [evaluation.labels[n] for n in NAMES[2:]] == [all_known.labels[n] for n in NAMES[2:]]
    rest = [evaluation.labels[label].auc for label in NAMES if label != NAMES[1]]
    assert evaluation.macro_auc == pytest.approx(np.mean(rest))


def test_an_optional_label_may_be_missing_from_predictions_or_truth(truth, predictions, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrlines.evaluation.predictions.REQUIRED", LABELS[:-1])
    write_predictions(predictions.drop(columns=NAMES[-1]), tmp_path / "p.csv")
    assert list(read_predictions(tmp_path / "p.csv")) == ["study", *NAMES[:-1]]
    evaluation = evaluate(read_predictions(tmp_path / "p.csv"), truth, resamples=5)
    assert list(evaluation.labels) == NAMES[:-1] and NAMES[-1] not in evaluation.text()
    evaluation = evaluate(predictions, truth.drop(columns=NAMES[-1]), resamples=5)
    assert evaluation.undefined == {NAMES[-1]: "no known truth"}


def test_few_negative_patients_are_said(truth, predictions):
    few = truth.assign(**{NAMES[2]: [0] * 4 + [1] * 296})
    patients = few["patient"][:4].nunique()
    note = f"too few negative patients for an interval to mean much: {NAMES[2]} ({patients})"
    evaluation = evaluate(predictions, few, resamples=50)
    assert note in evaluation.notes and note in evaluation.as_dict()["notes"]


def test_scores_that_are_ranks_have_no_calibration(truth, predictions):
    plain = evaluate(predictions, truth, resamples=5)
    ranks = plain.of_ranks()
    assert (ranks.ece, ranks.brier, ranks.labels[NAMES[0]].ece, ranks.labels[NAMES[0]].brier) == (None,) * 4
    assert ranks.macro_auc == plain.macro_auc and ranks.labels[NAMES[0]].auc == plain.labels[NAMES[0]].auc


def test_few_positive_patients_are_said(truth, predictions):
    few = truth.assign(**{NAMES[2]: [1] * 4 + [0] * 296})
    patients = few["patient"][:4].nunique()
    assert (
        f"too few positive patients for an interval to mean much: {NAMES[2]} ({patients})"
        in evaluate(predictions, few, resamples=50).text()
    )


def test_difference_is_paired(report, truth, predictions):
    baseline = report.main.by_name["baseline"]
    one, other = (evaluate(frame, truth, resamples=40, seed=2) for frame in (predictions, baseline))
    value, (low, high) = compare(one, other)
    assert value == pytest.approx(one.macro_auc - other.macro_auc)
    differences = []
    for weight in np.concatenate(list(patient_weights(truth["patient"].to_numpy(), 40, 2))):
        rows = np.repeat(np.arange(len(truth)), weight)
        aucs = [
            np.mean([roc_auc_score(truth[label].iloc[rows], frame[label].iloc[rows]) for label in NAMES])
            for frame in (predictions, baseline)
        ]
        differences.append(aucs[0] - aucs[1])
    assert (low, high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    assert high - low < (one.ci95[1] - one.ci95[0]) + (other.ci95[1] - other.ci95[0])
    assert compare(one, one) == (0, (0, 0))
    assert compare(one, evaluate(baseline[:200], truth, resamples=40, seed=2)) is None


def test_two_tables_are_compared_on_the_films_of_both(report, truth, predictions):
    baseline = report.main.by_name["baseline"]
    found = compare_predictions(predictions, baseline[:200].sample(frac=1, random_state=0), truth, resamples=40, seed=2)
    one, other = (evaluate(each[:200], truth, resamples=40, seed=2) for each in (predictions, baseline))
    assert (found.films, found.macro_auc, found.against) == (200, one.macro_auc, other.macro_auc)
    assert (found.difference, found.ci95) == compare(one, other)
    back = compare_predictions(baseline[:200], predictions, truth, resamples=40, seed=2)
    assert back.difference == -found.difference and back.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))
    assert found.as_dict()["ci95"] == list(found.ci95) and "200 films of both" in found.text("baseline.csv")


def test_tables_that_share_no_film_or_one_patient_are_not_compared(truth, predictions):
    with pytest.raises(Error, match="share no study"):
        compare_predictions(predictions[:100], predictions[100:], truth)
    one_patient = predictions[truth["patient"] == truth["patient"][0]]
    with pytest.raises(Error, match="no label has an interval"):
        compare_predictions(predictions, one_patient, truth, resamples=5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns=NAMES[5]), f"the truth: no column {NAMES[5]}"),
        (
            lambda t: t.assign(**{NAMES[5]: [2, *t[NAMES[5]][1:]]}),
            f"the truth, row 1: column {NAMES[5]} is 2, not 0 or 1 (1 such row)",
        ),
        (lambda t: t.assign(study=["study0001", *t["study"][1:]]), "the truth, row 2: its study is listed before (1"),
        (
            lambda t: t.assign(study=t["study"] + "x"),
            "no study is in both: 300 predictions, 300 labelled films (e.g. 'study0000' and 'study0000x'); "
            "check that both files are of the same films",
        ),
    ],
)
def test_bad_truth_says_what_is_wrong(truth, predictions, change, says):
    with pytest.raises(ValueError) as error:
        evaluate(predictions, change(truth), resamples=5)
    assert says in str(error.value)


def test_ids_with_folder_and_suffix_are_recognised_in_either_table(truth, predictions):
    for one, other in ((predictions, truth), (truth, predictions)):
        named = one.assign(study="train/" + one["study"] + ".jpg")
        pair = (named, other) if one is predictions else (other, named)
        with pytest.raises(Error, match="write the StudyInstanceUID in both without folder and suffix"):
            evaluate(*pair, resamples=5)


def test_a_prediction_that_is_the_same_on_every_film_is_said(truth, predictions):
    said = "note: the prediction is the same on every film, as in sample_submission.csv: "
    assert said not in evaluate(predictions, truth, resamples=5).text()
    one = evaluate(predictions.assign(**{NAMES[2]: 0.5}), truth, resamples=5)
    assert f"{said}{NAMES[2]}" in one.text().splitlines()
    submission = predictions.assign(**dict.fromkeys(NAMES, 0))
    assert f"{said}all labels" in evaluate(submission, truth, resamples=5).text().splitlines()


def test_text_is_aligned(truth, predictions):
    lines = evaluate(predictions, truth, resamples=5).text().splitlines()
    table = lines[: len(NAMES) + 4]
    assert len({len(line) for line in table}) == 1
    assert [line.split("  ")[0] for line in table[2:-2]] == NAMES


def test_real_predictions_of_one_fold(ranzcr):
    evaluation = evaluate(
        read_predictions(ranzcr / "predictions_fold0.csv"), read_truth(ranzcr / "train.csv"), resamples=100
    )
    assert round(evaluation.macro_auc, 5) == 0.96221
    assert (evaluation.films, evaluation.not_predicted, evaluation.foreign) == (6017, 24066, 0)
    assert evaluation.labels["ETT - Abnormal"].positives == 17
    assert evaluation.ci95[0] < 0.96221 < evaluation.ci95[1]


def test_films_of_one_patient_give_figures_without_intervals_and_say_why(truth, predictions):
    evaluation = evaluate(predictions, truth.assign(patient="a"), resamples=20)
    assert evaluation.macro_auc is not None and evaluation.ci95 is None
    assert all(figures.ci95 is None for figures in evaluation.labels.values())
    assert any("one patient" in note for note in evaluation.notes) and "one patient" in evaluation.text()
    assert json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))["ci95"] is None
    assert compare(evaluation, evaluation) is None
    assert not any("one patient" in note for note in evaluate(predictions, truth, resamples=5).notes)

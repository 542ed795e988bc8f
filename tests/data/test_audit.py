"""The audit: plant problems, and all are found, none more; clean data give none."""

import json
import random

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrlines.data.audit import SHOWN, audit
from cxrlines.task import LABELS


def kinds(found) -> dict:
    return found.as_dict()["kinds"]


def only(found):
    assert len(found.problems) == 1, found.text()
    return found.problems[0]


def check(folder, with_folds: bool = False):
    root = folder.write()
    return audit(root, root / "folds.csv" if with_folds else None)


class TestClean:
    def test_clean_data_give_no_problem_and_all_counts(self, folder):
        found = check(folder, with_folds=True)
        assert found.problems == [] and found.text().endswith("no problems")
        assert found.counts == {
            "studies": 12,
            "patients": 6,
            "studies without any label": 0,
            "training films": 12,
            "films read": 12,
            "annotated studies": 4,
            "annotated lines": 4,
            "folds": 2,
        }

    def test_rows_without_a_label_and_films_without_a_row_are_counted(self, folder):
        folder.rows[0][1:12] = ["0"] * 11
        folder.annotations = []
        root = folder.write()
        cv2.imwrite(str(root / "train/extra.png"), folder.films["s000"][::-1])
        found = audit(root)
        assert not found.problems
        assert found.counts["studies without any label"] == found.counts["training films without a row"] == 1

    def test_several_states_of_another_device_are_fine(self, folder):
        for label in ("CVC - Normal", "CVC - Abnormal", "NGT - Normal", "NGT - Borderline"):
            folder.set_label(0, label, "1")
        assert not check(folder).problems

    def test_the_real_tables(self, shared):
        found = audit(shared / "ranzcr", shared / "ranzcr/train_folds_grouped.csv")
        assert kinds(found) == {"no films": 2}  # the images are not public
        assert found.counts["studies"] == 30_083 and found.counts["studies without any label"] == 24

    def test_a_plain_folder(self, folder):
        folder.write()
        assert audit(folder.root / "train").counts == {"films": 12, "films read": 12}


class TestOneProblem:
    """Each kind alone: its file, its line, its text."""

    @pytest.mark.parametrize(
        ("break_it", "kind", "where", "said"),
        [
            (lambda f: f.films.pop("s004"), "film missing", "train.csv:6", "train/ has no film of study 's004'"),
            (lambda f: f.rows[3].__setitem__(-1, " "), "row of no patient", "train.csv:5", "PatientID is empty"),
            (lambda f: f.rows[3].__setitem__(1, "2"), "label not 0 or 1", "train.csv:5", "ETT - Abnormal is '2'"),
            (lambda f: f.rows[3].__setitem__(2, ""), "label not 0 or 1", "train.csv:5", "ETT - Borderline is ''"),
            (lambda f: f.rows[4].append("x"), "row of another length", "train.csv:6", "has 14 cells, the header 13"),
            (lambda f: f.rows.append(list(f.rows[7])), "study in two rows", "train.csv:14", "already in line 9"),
            (
                lambda f: f.set_label(0, "ETT - Normal", "1"),
                "two ETT states at once",
                "train.csv:2",
                "ETT - Abnormal and ETT - Normal at once; keep the one that is true",
            ),
            (
                lambda f: f.annotations[1].__setitem__(1, "CVC - Normal"),
                "annotation against its label",
                "train_annotations.csv:3",
                "CVC - Normal is 0 in train.csv:5",
            ),
            (
                lambda f: f.annotations[1].__setitem__(1, "NGT - Abnormall"),
                "annotation of an unknown label",
                "train_annotations.csv:3",
                "(is 'NGT - Abnormal' meant?)",
            ),
            (
                lambda f: f.annotations[2].__setitem__(0, "s999"),
                "annotation of an unknown study",
                "train_annotations.csv:4",
                "study 's999' is not in train.csv",
            ),
            (
                lambda f: f.annotations[0].__setitem__(2, "[[5, 5], [124, 89]]"),
                "annotation off the film",
                "train_annotations.csv:2",
                "1 of 2 points, first [124, 89], lie off a film of 120 x 90 px",
            ),
            (
                lambda f: f.annotations[0].__setitem__(2, "[[5, 5], [124, "),
                "annotation not readable",
                "train_annotations.csv:2",
                "is not a list of points; write [[x, y]",
            ),
            (
                lambda f: f.films.__setitem__("s002", np.full((50, 50), 9, np.uint8)),
                "film without contrast",
                "train/s002.png",
                "is one gray all over",
            ),
            (
                lambda f: f.films.__setitem__("s002", f.films["s001"]),
                "same film twice",
                "train/s002.png",
                "is the same file as train/s001.png; remove one",
            ),
            (
                lambda f: f.films.__setitem__("s011", cv2.resize(f.films["s001"], None, fx=0.8, fy=0.8)),
                "same film re-encoded",
                "train/s011.png",
                "is the same film as train/s001.png, re-encoded or resized",
            ),
        ],
    )
    def test_is_found_where_it_is(self, folder, break_it, kind, where, said):
        break_it(folder)
        problem = only(check(folder))
        assert problem.kind == kind
        assert problem.text().startswith(f"{where}: ") and said in problem.text() and problem.way_out

    @pytest.mark.parametrize(
        ("break_it", "kind", "where", "said"),
        [
            (lambda f: f.folds.pop(4), "study without a fold", "train.csv:6", "study 's004' has no fold in folds.csv"),
            (lambda f: f.folds.append(["s99", "p99", "0"]), "foreign study in the folds", "folds.csv:14", "'s99'"),
            (lambda f: f.folds[5].__setitem__(2, "1"), "patient in two folds", "folds.csv:7", "'0' in line 6"),
            (lambda f: f.folds.append(list(f.folds[2])), "study in two rows of the folds", "folds.csv:14", "line 4"),
        ],
    )
    def test_of_the_folds_is_found(self, folder, break_it, kind, where, said):
        break_it(folder)
        problem = only(check(folder, with_folds=True))
        assert problem.kind == kind and problem.text().startswith(f"{where}: ") and said in problem.text()

    def test_the_patients_of_the_folds_are_those_of_the_labels(self, folder):
        folder.folds = [[study, f"own-{study}", str(index % 2)] for index, (study, *_) in enumerate(folder.folds)]
        assert kinds(check(folder, with_folds=True)) == {"patient in two folds": 6}

    def test_unknown_and_missing_columns_name_the_nearest(self, folder):
        folder.header[3] = "ETT Normal"
        said = [problem.text() for problem in check(folder).problems]
        assert said == [
            "train.csv:1: has no column 'ETT - Normal' (is 'ETT Normal' meant?); add or rename it",
            "train.csv:1: column 'ETT Normal' is not known (is 'ETT - Normal' meant?); rename or remove it",
        ]

    def test_unreadable_films(self, folder):
        root = folder.write()
        (root / "train/s001.png").write_bytes(b"")
        (root / "train/s002.png").write_bytes((root / "train/s002.png").read_bytes()[:500])
        found = audit(root)
        assert kinds(found) == {"film not readable": 2}
        assert found.problems[0].text() == "train/s001.png: is empty (0 bytes); copy or export it again"
        assert found.counts["films read"] == 10

    def test_a_test_film_that_is_a_training_film(self, folder):
        root = folder.write()
        (root / "test").mkdir()
        (root / "sample_submission.csv").write_text("StudyInstanceUID\nt1\n")
        cv2.imwrite(str(root / "test/t1.jpg"), folder.films["s005"], [cv2.IMWRITE_JPEG_QUALITY, 60])
        problem = only(audit(root))
        assert problem.kind == "same film re-encoded" and "both training and test" in problem.way_out

    def test_the_truth_of_test_films_is_looked_at_too(self, folder, tmp_path):
        root, header = folder.write(), folder.header
        test = type(folder).make(tmp_path / "other", 6)
        (root / "test").mkdir()
        for index, row in enumerate(test.rows):
            row[0], row[-1] = f"t{index}", f"q{index}"
            cv2.imwrite(str(root / f"test/t{index}.png"), 255 - folder.films[f"s{index:03}"])
        lines = [["t1", LABELS[1], "[[1, 1], [9, 9]]"], ["t2", LABELS[2], "[[10, 10], [400, 9]]"]]

        def said() -> list[str]:
            test.root = root
            test._table("sample_submission.csv", header[:1], [row[:1] for row in test.rows])
            test._table("test_truth.csv", header, test.rows)
            test._table("test_annotations.csv", [header[0], "label", "data"], lines)
            return [problem.text() for problem in audit(root).problems]

        assert [text.split(":")[:2] for text in said()] == [["test_annotations.csv", "3"]]  # off the film
        lines[1:] = [["t9", LABELS[2], "[[1, 1]]"], ["t3", LABELS[2], "[[1, 1]]"]]
        test.rows[4][-1] = folder.rows[5][-1]
        test.set_label(5, LABELS[0], "1")
        test.set_label(5, LABELS[1], "1")
        test.set_label(0, LABELS[9], "x")
        assert said() == [
            "test_annotations.csv:4: ETT - Normal is 0 in test_truth.csv:5; correct one of the two",
            "test_annotations.csv:3: study 't9' is not in test_truth.csv; add its row or remove this one",
            "test_truth.csv:2: CVC - Normal is 'x'; a label is 0 or 1",
            "test_truth.csv:6: the patient of this row is in train.csv:7 as well; keep it in one of the two: in "
            "both it falsifies every figure",
            "test_truth.csv:7: ETT - Abnormal and ETT - Borderline at once; keep the one that is true",
        ]

    def test_a_folder_without_data(self, tmp_path):
        assert only(audit(tmp_path)).kind == "no data"
        (tmp_path / "train.csv").write_text("")
        assert kinds(audit(tmp_path)) == {"table not usable": 1}


PLANTS = {
    "film missing": lambda f, i: f.films.pop(f"s{i:03}"),
    "row of no patient": lambda f, i: f.rows[i].__setitem__(-1, ""),
    "label not 0 or 1": lambda f, i: f.set_label(i, "CVC - Normal", "x"),
    "two ETT states at once": lambda f, i: [f.set_label(i, label, "1") for label in LABELS[:2]],
    "study without a fold": lambda f, i: f.folds.pop([row[0] for row in f.folds].index(f"s{i:03}")),
    "film without contrast": lambda f, i: f.films.__setitem__(f"s{i:03}", np.full((9 + i, 9), 3, np.uint8)),
    "annotation of an unknown study": lambda f, i: f.annotations.append([f"no{i}", "CVC - Normal", "[[1, 1]]"]),
}


class TestManyProblems:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.dictionaries(st.integers(0, 11), st.sampled_from(sorted(PLANTS)), max_size=12),
        st.randoms(use_true_random=False),
    )
    def test_all_that_is_planted_is_found_in_any_order_of_rows(self, tmp_path_factory, planted, rng):
        from_here = tmp_path_factory.mktemp("audit")
        folder = self.folder_type.make(from_here / "data", 12)
        folder.annotations = []
        for row, kind in planted.items():
            PLANTS[kind](folder, row)
        expected = {kind: list(planted.values()).count(kind) for kind in planted.values()}
        assert kinds(check(folder, with_folds=True)) == expected
        self.shuffle(folder, rng)
        assert kinds(check(folder, with_folds=True)) == expected

    @pytest.fixture(autouse=True)
    def _folder_type(self, folder):
        type(self).folder_type = type(folder)

    @staticmethod
    def shuffle(folder, rng: random.Random) -> None:
        for table in (folder.rows, folder.annotations, folder.folds):
            rng.shuffle(table)

    def test_workers_do_not_matter(self, folder):
        folder.films["s003"] = folder.films["s009"]
        del folder.films["s001"]
        root = folder.write()
        assert audit(root, workers=2) == audit(root, workers=1)

    def test_the_text_is_short_and_json_has_all(self, folder):
        folder = type(folder).make(folder.root, 2 * SHOWN)
        folder.films = {}
        folder.annotations = []
        found = check(folder)
        told = found.text()
        assert told.count("has no film of study") == SHOWN
        assert f"film missing ({2 * SHOWN})" in told and f"... and {SHOWN} more; --json lists all" in told
        everything = json.loads(json.dumps(found.as_dict()))
        assert len(everything["problems"]) == 2 * SHOWN and everything["clean"] is False
        assert everything["problems"][0] == {
            "kind": "film missing",
            "file": "train.csv",
            "row": 2,
            "message": "train/ has no film of study 's000'",
            "way_out": "add the film or remove the row",
        }

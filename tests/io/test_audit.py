"""The audit: plant problems, and all are found, none more; clean data give none."""

import gzip
import json
import random
from collections import Counter

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxrlines.core.film import FilmError
from cxrlines.core.notes import Code
from cxrlines.io.audit import SHOWN, audit
from cxrlines.io.film_audit import _look
from cxrlines.phantom.dataset import write_phantom
from cxrlines.reading.probe import embedded_probe
from cxrlines.task import LABELS


def kinds(found) -> dict:
    return found.as_dict()["kinds"]


def only(found):
    assert len(found.problems) == 1, found.text()
    return found.problems[0]


def check(folder, with_folds: bool = False):
    root = folder.write()
    return audit(root, root / "folds.csv" if with_folds else None)


def test_an_error_of_a_film_keeps_no_film(folder):
    """Through its traceback it would keep the file's bytes until the last film is checked."""
    path = folder.write() / "train/s001.png"
    path.write_bytes(path.read_bytes()[:200])
    error = _look(path, None)
    assert isinstance(error, FilmError) and error.__traceback__ is None and error.__context__ is None


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
            (lambda f: f.films.pop("s004"), "film missing", "train.csv:6", "train/ has no film of study 's004'; add"),
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
                "(did you mean 'NGT - Abnormal'?)",
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
                lambda f: f.annotations[0].__setitem__(2, "[[5, 5], [80, 119]]"),
                "annotation off the film",
                "train_annotations.csv:2",
                "with x and y swapped all would lie on it",
            ),
            (
                lambda f: f.annotations[0].__setitem__(2, "[[0.5, 0.05], [0.5, 0.31], [0.48, 0.4]]"),
                "annotation not in px",
                "train_annotations.csv:2",
                "multiply x by the film's width and y by its height",
            ),
            (
                lambda f: f.annotations[0].__setitem__(2, "[[5, 5], [124, "),
                "annotation not readable",
                "train_annotations.csv:2",
                "is not a list of points; write [[x, y]",
            ),
            (
                lambda f: f.annotations[0].__setitem__(2, "[[5, 5]]"),
                "annotation of a single point",
                "train_annotations.csv:2",
                "and a line has two or more",
            ),
            (
                lambda f: f.annotations.append(list(f.annotations[1])),
                "annotation in two rows",
                "train_annotations.csv:6",
                "the same line of study 's003' is already in line 3",
            ),
            (
                lambda f: f.films.__setitem__("s002", np.full((50, 50), 9, np.uint8)),
                "film without contrast",
                "train/s002.png",
                "almost all of one gray value",
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
                "is the same film as train/s001.png, re-encoded",
            ),
        ],
    )
    def test_is_found_where_it_is(self, folder, break_it, kind, where, said):
        break_it(folder)
        problem = only(check(folder))
        assert problem.kind == kind
        assert problem.text().startswith(f"{where}: ") and said in problem.text() and problem.way_out

    def test_landmarks_are_held_against_their_films(self, folder):
        root = folder.write()
        rows = ("s001,train,60,45", "s002,train,45,119", "s003,train,-1,90", "s001,train,1,2", "s9,test,1,2")
        (root / "landmarks.csv").write_text("\n".join(["StudyInstanceUID,split,carina_x,carina_y", *rows]))
        assert [problem.text() for problem in audit(root).problems] == [
            "landmarks.csv: carina of study 's002': [45, 119] lies off a film of 120 x 90 px; with x and y swapped all "
            "would lie on it; points are [x, y] in px of the original film; correct them",
            "landmarks.csv:5: study 's001' is already in line 2; keep one row a study",
            "landmarks.csv: study 's9' is in no table of studies; add its row or remove this one",
        ]

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

    def test_a_fold_written_in_two_ways_is_one(self, folder):
        for row, cell in zip(folder.folds, ["1", "1.0"] * 6, strict=True):
            row[2] = cell
        audited = check(folder, with_folds=True)
        assert audited.counts["folds"] == 1 and kinds(audited) == {"one fold alone": 1}

    def test_the_patients_of_the_folds_are_those_of_the_labels(self, folder):
        folder.folds = [[study, f"own-{study}", str(index % 2)] for index, (study, *_) in enumerate(folder.folds)]
        assert kinds(check(folder, with_folds=True)) == {"patient in two folds": 6}

    def test_of_one_fold_alone_nothing_can_be_held_out(self, folder):
        folder.folds = [[*row[:-1], "0"] for row in folder.folds]
        assert kinds(check(folder, with_folds=True)) == {"one fold alone": 1}

    def test_unknown_and_missing_columns_name_the_nearest(self, folder):
        folder.header[3] = "ETT Normal"
        said = [problem.text() for problem in check(folder).problems]
        assert said == [
            "train.csv:1: has no column 'ETT - Normal' (did you mean 'ETT Normal'?); add or rename it",
            "train.csv:1: column 'ETT Normal' is not known (did you mean 'ETT - Normal'?); rename or remove it",
        ]

    def test_a_column_that_resembles_no_missing_one_is_odd_and_no_problem(self, folder):
        folder.header.append("ETT Norm")
        for row in folder.rows:
            row.append("5")
        found = check(folder)
        assert not found.problems and [each.kind for each in found.odd] == ["unknown column"]
        assert "train.csv:1: column 'ETT Norm' is not known\n" in found.text()
        assert found.as_dict()["odd"][0]["file"] == "train.csv" and found.as_dict()["clean"]

    @pytest.mark.parametrize(
        ("first", "second"), [("12", "0012"), ("12.0", "012"), ("ab12", "AB12"), ("Zo\u00eb", "ZOE\u0308")]
    )
    def test_one_patient_under_two_spellings(self, folder, first, second):
        for at, patient in ((2, first), (3, first), (6, second), (7, second)):
            folder.rows[at][-1] = patient
        problem = only(check(folder))
        assert (problem.kind, problem.row) == ("patient perhaps under two ids", 8)
        assert "of line 4:" in problem.message and first not in problem.text()

    def test_an_id_that_may_be_a_placeholder_is_odd(self, folder):
        for row in folder.rows[:4]:
            row[-1] = "0"
        (odd,) = check(folder).odd
        assert (odd.row, odd.message) == (2, "one id, zeros alone, stands in 4 of 12 rows")

    def test_an_id_of_many_films_is_odd(self, folder, tmp_path):
        folder = type(folder).make(tmp_path / "more", 60)
        for row in folder.rows[10:30]:
            row[-1] = "ward 7"
        (odd,) = check(folder).odd
        assert (odd.row, odd.message) == (12, "one id stands in 20 of 60 rows") and "ward" not in odd.text()

    def test_of_one_patient_alone_nothing_can_be_held_out(self, folder):
        for row in folder.rows:
            row[-1] = "p0"
        assert only(check(folder)).kind == "one patient alone"

    def test_a_column_that_is_there_twice(self, folder):
        folder.header.append(LABELS[0])
        for row in folder.rows:
            row.append(row[1])
        (problem,) = check(folder).problems
        assert problem.text() == f"train.csv:1: has the column {LABELS[0]!r} 2 times; keep the one that is right"

    def test_unreadable_films(self, folder):
        root = folder.write()
        (root / "train/s001.png").write_bytes(b"")
        (root / "train/s002.png").write_bytes((root / "train/s002.png").read_bytes()[:500])
        found = audit(root)
        assert kinds(found) == {"film not readable": 2}
        assert found.problems[0].text() == "train/s001.png: is empty (0 bytes); copy or export it again"
        assert found.counts["films read"] == 10

    def test_of_many_copies_each_but_the_first_is_one_problem(self, noise_film, tmp_path):
        (tmp_path / "deep").mkdir()
        turned = [np.rot90(noise_film(0, 120, 120), turns) for turns in range(4)]
        for index, pixels in enumerate((*turned, turned[0][:, ::-1], noise_film(1))):
            cv2.imwrite(str(tmp_path / ("deep" if index == 2 else ".") / f"{index}.png"), pixels)
        found = audit(tmp_path)
        assert kinds(found) == {"same film re-encoded": 4}
        assert len({problem.file for problem in found.problems}) == 4
        assert not any("test" in problem.way_out for problem in found.problems)

    def test_a_test_film_that_is_a_training_film(self, folder):
        root = folder.write()
        (root / "test").mkdir()
        (root / "sample_submission.csv").write_text("StudyInstanceUID\nt1\n")
        for pixels in (folder.films["s005"], folder.films["s005"][:, ::-1], np.rot90(folder.films["s005"], 2)):
            cv2.imwrite(str(root / "test/t1.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 60])
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
        lines[1:] = [["t9", LABELS[2], "[[1, 1], [9, 9]]"], ["t3", LABELS[2], "[[1, 1], [9, 9]]"]]
        test.rows[4][-1] = folder.rows[5][-1]
        test.set_label(5, LABELS[0], "1")
        test.set_label(5, LABELS[1], "1")
        test.set_label(0, LABELS[9], "x")
        assert said() == [
            "test_annotations.csv:4: ETT - Normal is 0 in test_truth.csv:5; correct one of the two",
            "test_annotations.csv:3: study 't9' is not in test_truth.csv; add its row or remove this one",
            "test_truth.csv:2: CVC - Normal is 'x'; a label is 0 or 1, or -1 where unknown",
            "test_truth.csv:6: the patient of this row is in train.csv:7 as well; keep it in one of the two: in "
            "both it falsifies every figure",
            "test_truth.csv:7: ETT - Abnormal and ETT - Borderline at once; keep the one that is true",
        ]

    @pytest.mark.parametrize(
        ("trained", "tested", "kinds_found"),
        [
            ("0012", "12", {"patient perhaps in training and test": 1}),
            ("12", "0012.0", {"patient perhaps in training and test": 1}),
            ("Zo\u00eb", "Zoe\u0308", {"patient perhaps in training and test": 1}),
            ("12", "12.0", {"patient in training and test": 1}),
            ("12", "120", {}),
            ("0", "00", {"patient perhaps in training and test": 1}),
            ("Zoe", "Zo\u00eb", {}),
        ],
    )
    def test_a_patient_of_both_whose_id_is_written_in_two_ways(self, folder, tmp_path, trained, tested, kinds_found):
        folder.rows[5][-1] = trained
        root = folder.write()
        (root / "test").mkdir()
        cv2.imwrite(str(root / "test/t0.png"), 255 - folder.films["s000"])
        folder._table("sample_submission.csv", folder.header[:1], [["t0"]])
        folder._table("test_truth.csv", folder.header, [["t0", *folder.rows[0][1:-1], tested]])
        problems = audit(root).problems
        assert dict(Counter(problem.kind for problem in problems)) == kinds_found
        for problem in problems:
            assert "train.csv:7" in problem.message and (problem.file, problem.row) == ("test_truth.csv", 2)
            assert trained not in problem.text().replace("train.csv:7", "").replace("csv:2", "") or trained in "0 12"

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_folder_without_data(self, tmp_path, workers):
        assert only(audit(tmp_path, workers=workers)).kind == "no data"
        (tmp_path / "train.csv").write_text("")
        assert kinds(audit(tmp_path, workers=workers)) == {"table not usable": 1}


PLANTS = {
    "film missing": lambda f, i: f.films.pop(f"s{i:03}"),
    "row of no patient": lambda f, i: f.rows[i].__setitem__(-1, ""),
    "label not 0 or 1": lambda f, i: f.set_label(i, "CVC - Normal", "x"),
    "two ETT states at once": lambda f, i: [f.set_label(i, label, "1") for label in LABELS[:2]],
    "study without a fold": lambda f, i: f.folds.pop([row[0] for row in f.folds].index(f"s{i:03}")),
    "film without contrast": lambda f, i: f.films.__setitem__(f"s{i:03}", np.full((9 + i, 9), 3, np.uint8)),
    "annotation of an unknown study": lambda f, i: f.annotations.append([f"no{i}", "CVC - Normal", "[[1, 1], [9, 9]]"]),
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
        text = found.text()
        assert text.count("has no film of study") == SHOWN
        assert f"film missing ({2 * SHOWN})" in text and f"... and {SHOWN} more; --json lists all" in text
        everything = json.loads(json.dumps(found.as_dict()))
        assert len(everything["problems"]) == 2 * SHOWN and everything["clean"] is False
        assert everything["problems"][0] == {
            "kind": "film missing",
            "file": "train.csv",
            "row": 2,
            "message": "train/ has no film of study 's000'",
            "way_out": "add the film or remove the row",
        }


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> list[np.ndarray]:
    """Ten sound films, each (h, w) uint8, 512 px along its longer side."""
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom(root, studies=10, seed=5, size=512, test=0, workers=1)
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((root / "train").iterdir())]


def street() -> np.ndarray:
    """(512, 640) uint8: a house under the sun, as on a photo."""
    photo = np.empty((512, 640), np.uint8)
    photo[:] = np.linspace(230, 150, 512)[:, None]
    photo[300:] = np.linspace(90, 60, 212)[:, None]
    cv2.rectangle(photo, (100, 180), (300, 400), 60, -1)
    cv2.fillPoly(photo, [np.array([[80, 180], [200, 90], [320, 180]])], 40)
    cv2.circle(photo, (520, 90), 40, 255, -1)
    for x in (130, 220):
        cv2.rectangle(photo, (x, 220), (x + 50, 270), 210, -1)
    return photo


def write_dicom(path, pixels: np.ndarray | None, sop_class: str, **elements) -> None:
    """A DICOM file without anything about a patient; without pixels where `pixels` is None."""
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = sop_class
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.StudyInstanceUID = generate_uid()
    if pixels is not None:
        file.Rows, file.Columns = pixels.shape
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 8
        file.HighBit, file.PixelRepresentation = 7, 0
        file.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    for name, value in elements.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


CR, ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.88.22"


class TestWhatFilmsShow:
    def test_sound_films_are_clean(self, phantoms, tmp_path):
        for index, pixels in enumerate(phantoms):
            cv2.imwrite(str(tmp_path / f"{index}.png"), pixels)
        found = audit(tmp_path, probe=embedded_probe())
        assert found.problems == [] and found.counts == {"films": 10, "films read": 10}

    def test_ten_spoilt_films_are_ten_problems(self, phantoms, tmp_path):
        shape = phantoms[0].shape
        spoilt = {
            "black": np.zeros(shape, np.uint8),
            "white": np.full(shape, 255, np.uint8),
            "gray": np.random.default_rng(0).integers(127, 130, shape, dtype=np.uint8),
            "noise": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
            "photo": street(),
            "inverted": 255 - phantoms[1],
            "turned90": np.rot90(phantoms[2]),
            "turned180": np.rot90(phantoms[3], 2),
            "turned270": np.rot90(phantoms[4], 3),
        }
        for name, pixels in spoilt.items():
            cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
        write_dicom(tmp_path / "lateral.dcm", phantoms[5], CR, ViewPosition="LL")
        found = audit(tmp_path, probe=embedded_probe())
        assert {problem.file: problem.kind for problem in found.problems} == {
            "black.png": "film without contrast",
            "white.png": "film without contrast",
            "gray.png": "film without contrast",
            "noise.png": "no frontal chest film",
            "photo.png": "no frontal chest film",
            "lateral.dcm": "lateral film",
            "inverted.png": "film inverted",
            "turned90.png": "film turned",
            "turned180.png": "film turned",
            "turned270.png": "film turned",
        }
        assert len(found.problems) == 10 and all(problem.way_out for problem in found.problems)
        assert [p.message for p in found.problems if p.kind == "film turned"] == [
            "is turned by 180 degrees counter-clockwise",
            "is turned by 270 degrees counter-clockwise",
            "is turned by 90 degrees counter-clockwise",
        ]
        assert audit(tmp_path, probe=embedded_probe(), workers=2) == found

    def test_what_is_odd_but_read_is_a_note(self, phantoms, tmp_path):
        framed = np.full((700, 800), 37, np.uint8)
        height, width = phantoms[0].shape
        framed[60 : 60 + height, 90 : 90 + width] = phantoms[0]
        cv2.imwrite(str(tmp_path / "framed.png"), framed)
        cv2.imwrite(str(tmp_path / "small.png"), phantoms[1][200:280, 200:290])
        found = audit(tmp_path)
        assert found.problems == []
        assert [(noted.film, noted.note.code) for noted in found.notes] == [
            ("framed.png", Code.FRAME_CUT),
            ("small.png", Code.SMALL),
        ]
        as_dict = json.loads(json.dumps(found.as_dict()))
        assert as_dict["clean"] and as_dict["note_codes"] == {"frame-cut": 1, "small": 1}
        assert as_dict["notes"][1] == {"film": "small.png", "code": "small", "text": found.notes[1].note.text}
        assert "small (1), such as small.png: " in found.text() and found.text().endswith("no problems")

    def test_what_comes_along_with_films_is_counted(self, phantoms, tmp_path):
        cv2.imwrite(str(tmp_path / "film.png"), phantoms[0])
        write_dicom(tmp_path / "report", None, ENHANCED_SR, Modality="SR")
        (tmp_path / "letter.pdf").write_bytes(b"%PDF-1.4 ")
        (tmp_path / "linked").symlink_to(tmp_path)
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
        found = audit(tmp_path)
        assert found.problems == []
        assert found.counts["films read"] == 1
        assert found.counts["file that is no film"] == found.counts["link to nothing"] == 1
        assert found.counts["linked folder (not looked into)"] == 1
        (kind,) = (name for name in found.counts if name.endswith("(no film)"))
        assert found.counts[kind] == 1

    def test_of_a_study_in_a_table_a_report_is_no_film(self, folder):
        root = folder.write()
        (root / "train/s004.png").unlink()
        write_dicom(root / "train/s004.dcm", None, ENHANCED_SR, Modality="SR")
        problem = only(audit(root))
        assert (problem.kind, problem.file) == ("film not readable", "train/s004.dcm")


class TestRowsAndProblems:
    def test_problems_of_one_row_are_counted_beside_rows(self, folder):
        for label in LABELS:
            folder.set_label(3, label, "x")
        folder.set_label(4, LABELS[0], "x")
        found = check(folder)
        assert kinds(found) == {"label not 0 or 1": 12}
        assert "label not 0 or 1 (12 in 2 rows)" in found.text()

    def test_a_compressed_table_without_a_plain_one_is_named(self, folder):
        table = folder.write() / "train.csv"
        (folder.root / "train.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
        assert not audit(folder.root).problems
        table.unlink()
        problem = next(p for p in audit(folder.root).problems if p.kind == "table not usable")
        assert problem.file == "train.csv" and "train.csv.gz" in problem.message and problem.way_out

    @pytest.mark.parametrize(
        ("study", "film", "instead"),
        [
            ("1234.0", "1234.png", "1234.png"),
            ("1234", "0001234.png", "0001234.png"),
            ("a-1", "A-1.png", "A-1.png"),
            ("1.2.3", "1.2.3.dcm.gz", "1.2.3.dcm.gz"),
            ("1.2.3", "1.2.3/1.dcm", "1.2.3"),
            ("train/1.2.3.png", "1.2.3.png", "1.2.3.png"),
            (r"C:\films\1.2.3", "1.2.3.png", "1.2.3.png"),
            ("'1.2.3", "1.2.3.png", "1.2.3.png"),
            ('="1.2.3"', "1.2.3.png", "1.2.3.png"),
        ],
    )
    def test_a_missing_film_names_what_is_there_instead(self, folder, study, film, instead):
        folder.rows[5][0] = study
        root = folder.write()
        (root / "train" / film).parent.mkdir(exist_ok=True)
        (root / "train/s005.png").rename(root / "train" / film)
        problem = only(audit(root))
        assert problem.kind == "film missing" and problem.row == 7
        assert problem.message.endswith(f"but {instead!r}") and problem.way_out

    def test_landmarks_are_looked_at(self, folder):
        root = folder.write()
        (root / "landmarks.csv").write_text("StudyInstanceUID,carina_x,carina_y\ns001,0.5,0.42\ns002,60,40\n")
        problem = only(audit(root))
        assert (problem.kind, problem.row) == ("landmark not readable", 2)


def test_folders_that_cannot_be_listed_are_problems(folder, tmp_path, closed):
    root = folder.write()
    (tmp_path / "plain/shut").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "plain/a.png"), folder.films["s001"])
    for path in (root / "train", tmp_path / "plain/shut"):
        closed(path)
    said = "cannot be listed (Permission denied); make the folder readable"
    assert only(audit(tmp_path / "plain")).text() == f"shut/: {said}"
    assert [problem.text() for problem in audit(root).problems][:1] == [f"train/: {said}"]


def test_a_name_of_control_characters_is_shown_as_text(folder, tmp_path):
    name = "a\x1b[31m\n.png"
    (tmp_path / name).write_bytes(b"")
    text = audit(tmp_path).text()
    assert "a\\x1b[31m\\x0a.png: is empty" in text and "\x1b" not in text
    cv2.imwrite(str(tmp_path / name), np.dstack([folder.films["s001"]] * 3))
    found = audit(tmp_path)
    assert not found.problems and found.notes and "\x1b" not in found.text()


def test_a_phantom_json_that_every_reader_refuses_is_a_problem(folder):
    (folder.write() / "phantom.json").write_text("{")
    problem = only(audit(folder.root))
    assert (
        problem.text() == ("phantom.json: is not readable as JSON (JSONDecodeError); correct it or remove it")
        and problem.kind == "file not usable"
    )


def test_links_to_one_film_are_each_a_film(folder, tmp_path):
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "film.png"), folder.films["s001"])
    for name in ("a.png", "b.png"):
        (tmp_path / "plain" / name).symlink_to(tmp_path / "film.png")
    found = audit(tmp_path / "plain")
    assert found.counts["films"] == found.counts["films read"] == 2
    assert only(found).text().startswith("b.png: is the same file as a.png")

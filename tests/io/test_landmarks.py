"""Landmark tables: of which split, which points are left out, and what is said."""

import numpy as np
import pytest

from cxrlines.io.landmarks import read_landmarks
from cxrlines.io.rows import TableError
from cxrlines.io.tables import read_dataset
from cxrlines.task import STUDY_COLUMN


def test_landmarks_of_a_split(folder):
    root = folder.write()
    assert read_dataset(root).landmarks == {}
    rows = [
        f"other,{STUDY_COLUMN},split,carina_y,carina_x",
        "a,s001,train,20.25,10.5",
        "b,s002,train,,",
        "c,s003,test,1,2",
        "d,s004,train,left,2",
        "e,s001,train,9,9",
        "f,unknown,train,3,4",
        "g,s005,train,nan,2",
        "h,s006,train,,7",
        "i,s007,train,0,-0.5",
        "j,s008,Train,5,6",
        "k,s004,train,8,7",
        "l,s003,train,8,7",
    ]
    (root / "landmarks.csv").write_text("\n".join(rows))
    dataset = read_dataset(root)
    assert {study: {n: p.tolist() for n, p in spots.items()} for study, spots in dataset.landmarks.items()} == {
        "s001": {"carina": [10.5, 20.25]},
        "s007": {"carina": [-0.5, 0]},
        "s004": {"carina": [7, 8]},
        "s003": {"carina": [7, 8]},
    }
    assert dataset.landmarks["s001"]["carina"].dtype == np.float64
    assert dataset.left_out == {
        "landmark not readable": 3,
        "landmarks in two rows": 1,
        "landmarks of no split": 1,
        "landmarks of a study left out or unknown": 1,
    }
    _, problems = read_landmarks(root / "landmarks.csv", "train")
    assert [problem.text() for problem in problems][:2] == [
        "landmarks.csv:5: carina is at '2', 'left'; give two numbers in px, or leave both cells empty",
        "landmarks.csv:6: study 's001' is already in line 2; keep one row a study",
    ]
    assert problems[-1].text() == "landmarks.csv:11: split is 'Train'; write train or test"
    assert list(read_landmarks(root / "landmarks.csv", "test")[0]) == ["s003"]
    (root / "landmarks.csv").write_text(f"{STUDY_COLUMN},carina_x,carina_Y\ns001,1,2")
    with pytest.raises(TableError, match=r"'carina_y'.*'carina_Y'"):
        read_dataset(root)


def test_without_a_split_the_studies_of_the_other_split_are_known(folder):
    root = folder.write()
    (root / "test").mkdir()
    (root / "train/s000.png").rename(root / "test/own.png")
    (root / "landmarks.csv").write_text(f"{STUDY_COLUMN},carina_x,carina_y\ns001,1,2\nown,3,4\nnowhere,5,6\n")
    dataset = read_dataset(root)
    assert list(dataset.landmarks) == ["s001"]
    assert dataset.left_out["landmarks of a study left out or unknown"] == 1


def test_a_column_split_in_other_spelling_is_reported_and_one_twice_refused(tmp_path):
    csv = tmp_path / "l.csv"
    csv.write_text(f"{STUDY_COLUMN},Split,carina_x,carina_y,sternum_x\ns1,train,10,20,5\n")
    landmarks, problems = read_landmarks(csv, "test")
    assert list(landmarks) == ["s1"]
    assert [(problem.kind, problem.row) for problem in problems] == [("unknown column", 1)]
    assert "'Split' is not known (did you mean 'split'?)" in problems[0].message
    csv.write_text(f"{STUDY_COLUMN},split,carina_x,carina_y,split\n")
    with pytest.raises(TableError, match="'split' twice"):
        read_landmarks(csv, "test")

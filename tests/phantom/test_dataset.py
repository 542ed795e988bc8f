"""The data set on disk: its layout, its determinism, its truth, and what happens to interruptions and bad input."""

import ast
import json
import re
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from cxrlines.core.files import OutputError
from cxrlines.io.tables import read_dataset
from cxrlines.phantom import dataset as write
from cxrlines.phantom.dataset import write_phantom
from cxrlines.phantom.position import Landmarks
from cxrlines.task import DEVICE_OF, LABELS, Device

from .folders import files, table

SMALL = {"studies": 24, "seed": 5, "size": 96, "balance": "even"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "data"
    summary = write_phantom(out, **SMALL, annotated=0.5, workers=1)
    return out, summary


def test_the_layout_is_that_of_the_challenge(made):
    out, summary = made
    names = {p.name for p in out.iterdir()}
    assert names == {
        "train", "test", "train.csv", "train_annotations.csv", "sample_submission.csv",
        "landmarks.csv", "test_truth.csv", "test_annotations.csv", "phantom.json",
    }  # fmt: skip
    train, truth = table(out / "train.csv"), table(out / "test_truth.csv")
    assert list(train[0]) == ["StudyInstanceUID", *LABELS, "PatientID"] == list(truth[0])
    assert list(table(out / "sample_submission.csv")[0]) == ["StudyInstanceUID", *LABELS]
    assert {p.stem for p in (out / "train").iterdir()} == {row["StudyInstanceUID"] for row in train}
    assert {p.stem for p in (out / "test").iterdir()} == {row["StudyInstanceUID"] for row in truth}
    assert len(train) == 24 and len(truth) == 3
    assert json.loads((out / "phantom.json").read_text()) == summary
    for row in train:
        assert re.fullmatch(r"1\.2\.826\.0\.1\.3680043\.8\.498\.9999999999\d{28}", row["StudyInstanceUID"])
        assert re.fullmatch(r"ff[0-9a-f]{7}", row["PatientID"])


def test_test_patients_are_other_patients(made):
    out, _ = made
    train, truth = ({row["PatientID"] for row in table(out / name)} for name in ("train.csv", "test_truth.csv"))
    assert not train & truth
    assert 1 < len(train) < 24


def test_films_are_grey_jpegs_of_the_asked_size(made):
    out, _ = made
    for path in (out / "train").iterdir():
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture.ndim == 2 and picture.dtype == np.uint8
        assert max(picture.shape) == 96


def test_annotations_agree_with_the_labels_and_lie_on_the_films(made):
    out, summary = made
    labels = {row["StudyInstanceUID"]: row for row in table(out / "train.csv")}
    rows = table(out / "train_annotations.csv")
    for row in rows:
        assert labels[row["StudyInstanceUID"]][row["label"]] == "1"
        points = ast.literal_eval(row["data"])
        assert len(points) >= 2
        height, width = cv2.imread(str(out / "train" / f"{row['StudyInstanceUID']}.jpg"), 0).shape
        for x, y in points:
            assert isinstance(x, int) and 0 <= x < width and 0 <= y < height
    studies = {row["StudyInstanceUID"] for row in rows}
    for study in studies:  # every device of an annotated study is annotated
        assert {r["label"] for r in rows if r["StudyInstanceUID"] == study} == {
            label for label in LABELS if labels[study][label] == "1"
        }
    assert summary["counts"]["train"]["annotated"] == len(studies)
    assert summary["counts"]["train"]["lines"] == len(rows)
    assert 4 <= len(studies) <= 20


def test_the_tip_of_an_annotation_agrees_with_the_label_and_the_landmarks(made):
    out, _ = made
    marks = {row["StudyInstanceUID"]: row for row in table(out / "landmarks.csv")}
    checked = 0
    for row in table(out / "train_annotations.csv"):
        if DEVICE_OF[row["label"]] is Device.ETT:
            mark = marks[row["StudyInstanceUID"]]
            y = ast.literal_eval(row["data"])[-1][1]
            height = (float(mark["carina_y"]) - y) * float(mark["mm_per_px"]) / 10
            low, high = {"ETT - Normal": (2, 6), "ETT - Borderline": (0.5, 10), "ETT - Abnormal": (-4, 12)}[
                row["label"]
            ]
            slack = 0.1 * float(mark["mm_per_px"]) + 0.15  # whole px, and the film's tilt
            assert low - slack <= height <= high + slack
            checked += 1
    assert checked > 0


def test_landmarks_of_both_splits(made):
    out, _ = made
    rows = table(out / "landmarks.csv")
    spots = [f"{name}_{axis}" for name in Landmarks._fields for axis in "xy"]
    assert list(rows[0]) == ["StudyInstanceUID", "split", *spots, "mm_per_px"]
    assert [row["split"] for row in rows].count("test") == 3
    assert all(3 < float(row["mm_per_px"]) < 5 for row in rows)  # 34 to 42 cm on 96 px


def test_bytes_do_not_depend_on_the_workers(made, tmp_path):
    write_phantom(tmp_path / "two", **SMALL, annotated=0.5, workers=2)
    assert files(tmp_path / "two") == files(made[0])


def test_seeds_and_sites_give_other_films(tmp_path):
    for name, change in (("a", {}), ("b", {"site": "b"}), ("c", {"seed": 6})):
        write_phantom(tmp_path / name, **{**SMALL, "studies": 3} | change)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert not {n for n in a if n.endswith(".jpg")} & ({*b, *c})


def test_an_interrupted_call_goes_on_and_gives_the_same_bytes(made, tmp_path, monkeypatch):
    out = tmp_path / "data"
    whole, done = write.replacing, []

    def dies(path):
        if path.suffix == ".jpg":
            done.append(path.name)
            if len(done) == 9:
                path.with_name(f".{path.name}.1.abc.partial").write_bytes(b"half")
                raise KeyboardInterrupt
        return whole(path)

    monkeypatch.setattr(write, "replacing", dies)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(out, **SMALL, annotated=0.5, workers=1)
    assert not out.exists()
    rendered = []
    monkeypatch.setattr(write, "replacing", lambda p: (rendered.append(p.suffix), whole(p))[1])
    write_phantom(out, **SMALL, annotated=0.5, workers=1)
    assert rendered.count(".jpg") == 24 + 3 - 8  # what was there is not made again
    assert files(out) == files(made[0])
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_call_interrupted_while_its_summary_is_written_keeps_its_films(made, tmp_path, monkeypatch):
    out, whole = tmp_path / "data", write.write_text

    def dies(path, text):
        if path.name == "phantom.json":
            raise KeyboardInterrupt
        whole(path, text)

    monkeypatch.setattr(write, "write_text", dies)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(out, **SMALL, annotated=0.5, workers=1)
    monkeypatch.setattr(write, "write_text", whole)
    monkeypatch.setattr(write, "render", None)
    write_phantom(out, **SMALL, annotated=0.5, workers=1)
    assert files(out) == files(made[0])


def test_a_killed_call_leaves_no_process_behind_and_is_taken_up(tmp_path, wait_until):
    """kill -9 of the parent while two workers make films."""
    out, partial = tmp_path / "data", tmp_path / ".data.partial"
    wanted = SMALL | {"studies": 60, "size": 512, "test": 1}
    call = f"write_phantom(Path({str(out)!r}), **{wanted}, workers=2)"
    script = f"from pathlib import Path; from cxrlines.phantom.dataset import write_phantom; {call}"
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_until(lambda: process.poll() is not None or len(list(partial.glob("train/*.jpg"))) >= 3, seconds=120)
    process.kill()
    process.wait()
    assert not out.exists()
    films, deadline = -1, time.monotonic() + 120
    while (now := len(list(partial.glob("train/*.jpg")))) != films and time.monotonic() < deadline:
        films = now
        time.sleep(0.4)
    assert 3 <= films < 60  # and nobody goes on making films
    write_phantom(out, **wanted, workers=1)
    write_phantom(tmp_path / "whole", **wanted, workers=1)
    assert files(out) == files(tmp_path / "whole")


def test_the_same_call_again_does_nothing(made, monkeypatch):
    out, summary = made
    monkeypatch.setattr(write, "render", None)
    assert write_phantom(out, **SMALL, annotated=0.5) == summary


def test_other_data_in_the_way_is_an_error_that_says_the_way_out(made, tmp_path):
    with pytest.raises(OutputError, match=r"holds another phantom data set .*seed 5 not 6.*another folder, or remove"):
        write_phantom(made[0], **SMALL | {"seed": 6})
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is no phantom data set; name another folder, or remove"):
        write_phantom(tmp_path, **SMALL)
    assert (tmp_path / "note.txt").read_text() == "mine"
    for text in ("[]", "[" * 100_000):
        (tmp_path / "phantom.json").write_text(text)
        with pytest.raises(OutputError, match="exists and is no phantom data set"):
            write_phantom(tmp_path, **SMALL)


def test_numbers_of_numpy_are_numbers(tmp_path):
    numbers = {"studies": np.int64(1), "seed": np.int64(5), "size": np.int64(96)}
    summary = write_phantom(tmp_path / "data", **numbers, workers=1)
    assert json.loads((tmp_path / "data/phantom.json").read_text()) == summary and summary["test"] == 1
    assert write_phantom(tmp_path / "data", studies=1, seed=5, size=96) == summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studies": 0}, "studies: needs a whole number from 1 to 10000000, got 0"),
        ({"studies": 2.5}, "studies: needs a whole number .* got 2.5"),
        ({"size": 63}, "size: needs a whole number from 64 to 4096, got 63"),
        ({"size": 5000}, "size: .* got 5000"),
        ({"seed": -1}, "seed: .* got -1"),
        ({"test": -1}, "test: .* got -1"),
        ({"difficulty": 1.1}, "difficulty: needs a number from 0 to 1, got 1.1"),
        ({"difficulty": float("nan")}, "difficulty: needs a number from 0 to 1, got nan"),
        ({"annotated": -0.1}, "annotated: needs a number from 0 to 1, got -0.1"),
        ({"balance": "odd"}, "balance: needs one of natural, even, got 'odd'"),
        ({"site": "c"}, "site: needs one of a, b, got 'c'"),
        ({"workers": 0}, "workers: needs a whole number from 1 to 1024, got 0"),
    ],
)
def test_parameters_out_of_range_name_themselves(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_phantom(tmp_path / "x", **SMALL | change)
    assert not list(tmp_path.iterdir())


def test_the_first_films_of_a_patient_do_not_change_with_the_number_of_test_films(tmp_path):
    for test in (1, 4):
        write_phantom(tmp_path / str(test), **SMALL | {"studies": 4}, test=test)
    one, four = (files(tmp_path / name / "train") for name in "14")
    assert one == four


def test_patients_have_skewed_numbers_of_studies():
    plan = write.plan_studies(write.Parameters(studies=3000, seed=0))
    counts = np.bincount([study.patient for study in plan if study.split == 0])
    assert counts.sum() == 3000
    assert 4 <= np.median(counts) <= 6
    assert counts.max() > 5 * np.median(counts)


def test_every_line_of_every_test_film_is_written(made):
    out, _ = made
    lines = {(row["StudyInstanceUID"], row["label"]) for row in table(out / "test_annotations.csv")}
    truth = table(out / "test_truth.csv")
    assert lines == {(row["StudyInstanceUID"], label) for row in truth for label in LABELS if row[label] == "1"}
    data = read_dataset(out, "test")
    assert set(data.lines) == {study for study, _ in lines}


def test_of_a_path_that_leaves_the_film_and_comes_back_the_end_is_annotated():
    down, up = np.arange(0.0, 120.0, 4), np.arange(116.0, 60.0, -4)
    path = np.stack([np.r_[np.full(30, 20.0), np.full(14, 40.0)], np.r_[down, up]], 1)
    assert write.annotated_points(path, (100, 100))[-1] == [40, 64]
    assert {x for x, _ in write.annotated_points(path, (100, 100))} == {40}
    back = path[:-8]  # it comes back by a single annotated point
    assert back[-1].tolist() == [40, 96] and {x for x, _ in write.annotated_points(back, (100, 100))} == {20}
    assert write.annotated_points(path + 200, (100, 100)) == []

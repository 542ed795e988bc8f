"""A project: what is saved is read back, by itself and by all that trains; nothing is lost or overwritten."""

import json
import os
import re
import threading

import numpy as np
import pytest

from cxrlines.core.files import OutputError
from cxrlines.core.film import FilmError
from cxrlines.corrections.correction import CorrectionError, Mark
from cxrlines.corrections.correction_journal import JournalError
from cxrlines.corrections.project import Project, ProjectError
from cxrlines.io.audit import audit
from cxrlines.io.patients import key_name, tokens
from cxrlines.io.tables import read_dataset
from cxrlines.task import DEVICE_OF, LABELS, UNKNOWN, Device, Landmark, State

FINDINGS = {"lines": [{"device": "CVC"}, {"device": "NGT"}], "bundle": "abc"}


def test_its_folder_is_for_its_user_alone(tmp_path):
    Project(tmp_path / "of/p")
    assert (tmp_path / "of/p").stat().st_mode & 0o777 == 0o700


def test_what_is_saved_is_read_back(tmp_path, png, said, line):
    project = Project(tmp_path / "p")
    first = said(
        lines=[
            line(Device.CVC, State.NORMAL, (5, 5), (30.5, 40.25), mark=Mark.MOVED, of=0),
            line(Device.NGT, None, (8, 8), (9, 9), mark=Mark.REJECTED, of=1),
        ],
        labels={"ETT - Normal": 0},
        landmarks={Landmark.CARINA: (40, 20)},
    )
    film = png()
    id = project.save(film, "ward/chest.png", FINDINGS, first)
    for opened in (project, Project(tmp_path / "p")):
        saved = opened.load(id)
        assert id == saved.id == "chest" and saved.file.read_bytes() == film and saved.shape == (60, 80)
        assert saved.correction == first and saved.findings == FINDINGS
        assert [each.id for each in opened.films()] == [id] and opened.find(film) == saved
    data = read_dataset(tmp_path / "p")
    assert data.left_out == {} and data.studies["study"].tolist() == [id] and data.studies["patient"].tolist() == [id]
    row = data.studies.iloc[0]
    known = {"CVC - Normal": 1, "ETT - Normal": 0}
    assert {label: row[label] for label in LABELS} == dict.fromkeys(LABELS, UNKNOWN) | known
    (only,) = data.lines[id]
    assert only.label == "CVC - Normal" and only.points.tolist() == [[5, 5], [30.5, 40.25]]
    assert data.landmarks[id]["carina"].tolist() == [40, 20]


def test_a_tip_that_is_not_seen_is_none_in_the_tables(tmp_path, png, said, line):
    project = Project(tmp_path / "p")
    faded = line(Device.NGT, None, (5, 5), (30, 40), tip_seen=False)
    id = project.save(png(), "a.png", None, said(lines=[faded, line(Device.CVC, State.NORMAL, (6, 6), (9, 9))]))
    assert Project(tmp_path / "p").load(id).correction.lines[0] == faded
    data = read_dataset(tmp_path / "p")
    assert data.left_out == {}
    assert [(DEVICE_OF[each.label], each.tip_seen) for each in data.lines[id]] == [
        (Device.NGT, False),
        (Device.CVC, True),
    ]
    row = data.studies.iloc[0]
    assert {label for label in LABELS if row[label] != UNKNOWN} == {"CVC - Normal"}
    assert not [each for each in audit(tmp_path / "p").problems if "small" not in each.text()]


def test_a_new_correction_replaces_and_the_journal_keeps(tmp_path, png, said, line):
    project = Project(tmp_path / "p")
    first = said(lines=[line(Device.CVC, State.NORMAL, (5, 5), (30, 40))])
    second = said(labels={"CVC - Normal": 0}, author="Another")
    id = project.save(png(), "a.png", FINDINGS, first)
    assert project.save(png(), "renamed.png", FINDINGS | {"bundle": "def"}, second) == id
    saved = project.load(id)
    assert saved.history == (first, second) and saved.findings["bundle"] == "def"
    assert len(list((tmp_path / "p/findings").iterdir())) == 2  # what either model had found
    data = read_dataset(tmp_path / "p")
    assert data.lines == {} and data.studies["CVC - Normal"].tolist() == [0]
    project.correct(id, first)
    assert project.load(id).history == (first, second, first) and project.load(id).findings["bundle"] == "def"
    assert len(read_dataset(tmp_path / "p").lines[id]) == 1


def test_dicom_stays_dicom_and_its_patient_a_hash(tmp_path, dicom, png, said):
    project = Project(tmp_path / "p")
    ids = [
        project.save(dicom(0), "x", None, said()),
        project.save(dicom(1, sop="1.2.826.1.2"), "x", None, said()),  # the same study once more
        project.save(dicom(2, study="1.2.826.2", patient="P-2"), "x", None, said()),
        project.save(dicom(3, study="1.2.826.3", patient="ANONYMOUS"), "x", None, said()),
        project.save(png(), "x", None, said()),
        project.save(png(1), "X.png", None, said()),  # the same name, were case not to count
    ]
    assert ids[:5] == ["1.2.826.1", "1.2.826.1.2", "1.2.826.2", "1.2.826.3", "x"] and ids[5].startswith("X-")
    data = read_dataset(tmp_path / "p")
    name = key_name()
    own = tokens(["P-1", "P-2"], name)
    assert data.studies["patient"].tolist() == [own[0], own[0], own[1], "1.2.826.3", "x", ids[5]]
    assert tokens(data.studies["patient"][:1], name) == own[:1]  # a lineage knows the patient again
    assert data.left_out == {} and project.load(ids[0]).file.read_bytes() == dicom(0)
    for file in (tmp_path / "p").glob("*.*"):
        assert b"P-1" not in file.read_bytes(), file


def test_the_audit_finds_nothing(tmp_path, png, said, line):
    project = Project(tmp_path / "p")
    for seed in range(3):
        project.save(png(seed), f"{seed}.png", None, said(lines=[line(Device.CVC, State.NORMAL, (5, 5), (30, 40))]))
    found = audit(tmp_path / "p")
    assert [problem.text() for problem in found.problems if "small" not in problem.text()] == []


def test_two_at_once_lose_nothing(tmp_path, png, said):
    Project(tmp_path / "p")
    one, other = Project(tmp_path / "p"), Project(tmp_path / "p")

    def save(project: Project, seeds: range) -> None:
        for seed in seeds:
            project.save(png(seed), "film.png", None, said(comment=str(seed)))

    threads = [
        threading.Thread(target=save, args=given)
        for given in [(one, range(6)), (one, range(6, 12)), (other, range(12, 18)), (other, range(0, 18, 3))]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    films = Project(tmp_path / "p").films()
    assert len(films) == 18 and sum(len(film.history) for film in films) == 24
    assert sorted(film.correction.comment for film in films) == sorted(map(str, range(18)))
    assert read_dataset(tmp_path / "p").studies["study"].tolist() == [film.id for film in films]


def test_what_is_wrong_with_one_film_changes_nothing(tmp_path, png, said, line):
    project = Project(tmp_path / "p")
    project.save(png(), "a.png", FINDINGS, said())
    before = {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()}
    with pytest.raises(FilmError, match="is a PDF"):
        project.save(b"%PDF-1.7", "b.pdf", None, said())
    with pytest.raises(CorrectionError, match="off a film"):
        project.save(png(1), "b.png", None, said(landmarks={"carina": (500, 500)}))
    with pytest.raises(CorrectionError, match=r"line 7 of the model, which found 2"):
        wrong = line(Device.CVC, State.NORMAL, (5, 5), (9, 9), mark=Mark.ACCEPTED, of=7)
        project.save(png(), "a.png", FINDINGS, said(lines=[wrong]))
    found = FINDINGS | {
        "lines": [{"device": "CVC", "path": [[5, 5], [30, 40]]}, {"device": "NGT", "path": [[8, 8], [9, 9]]}]
    }
    accepted = line(Device.CVC, State.NORMAL, (5, 5), (30.04, 40), mark=Mark.ACCEPTED, of=0)
    elsewhere = line(Device.CVC, State.NORMAL, (5, 5), (35, 40), mark=Mark.ACCEPTED, of=0)
    another = line(Device.ETT, State.NORMAL, (5, 5), (30, 40), mark=Mark.ACCEPTED, of=0)
    for lines, what in (
        ([accepted, accepted], "lines.1 is of line 0 of the model, as lines.0 is"),
        ([elsewhere], "lines.0 is accepted, but its points are not those of line 0"),
        ([another], "lines.0 is accepted as ETT, but line 0 of the model is CVC"),
    ):
        with pytest.raises(CorrectionError, match=re.escape(what)):
            project.save(png(), "a.png", found, said(lines=lines))
    with pytest.raises(ProjectError, match="has no film 'b'"):
        project.correct("b", said())
    assert before == {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "", "a\\b\\..\\c.png", "/abs/ol/ute", "x\0y.png", "π.png"])
def test_no_name_leads_out_of_the_folder(tmp_path, png, said, name):
    project = Project(tmp_path / "p")
    saved = project.load(project.save(png(), name, None, said()))
    assert saved.file.parent == tmp_path / "p/train" and saved.name == name
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert read_dataset(tmp_path / "p").studies["study"].tolist() == [saved.id]


def test_a_folder_that_is_no_project(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ProjectError, match="is not a project"):
        Project(tmp_path)
    with pytest.raises(ProjectError, match="is a file"):
        Project(tmp_path / "notes.txt")
    (tmp_path / "corrections.jsonl").write_text('{"format":"something else"}\n')
    with pytest.raises(JournalError, match="is no journal of corrections"):
        Project(tmp_path)
    (tmp_path / "corrections.jsonl").write_text('{"format":"cxrlines corrections","version":1}\n{"film":"a"}\n')
    with pytest.raises(JournalError, match="line 2 is no correction"):
        Project(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("left", ["", '{"format":"cxrl', '{"format":"cxrlines corrections","version":1}'])
@pytest.mark.parametrize("opened", [Project, Project.existing])
def test_a_first_start_that_was_cut_off_ruins_no_project(tmp_path, png, said, left, opened):
    Project(tmp_path / "p")
    journal = tmp_path / "p/corrections.jsonl"
    whole = journal.read_bytes()
    journal.write_text(left)
    project = opened(tmp_path / "p")
    assert journal.read_bytes() == whole
    project.save(png(), "a.png", None, said(comment="kept"))
    assert Project(tmp_path / "p").load("a").correction.comment == "kept"
    assert journal.read_bytes().startswith(whole)


def test_a_first_start_on_a_full_disk_ruins_no_project(tmp_path, png, said, monkeypatch):
    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        Project(tmp_path / "p")
    monkeypatch.undo()
    Project(tmp_path / "p").save(png(), "a.png", None, said(comment="kept"))
    assert Project(tmp_path / "p").load("a").correction.comment == "kept"


@pytest.mark.parametrize("text", ['{"format":"something else"}', '{"film":"a"', "notes", "\0\0\0"])
def test_a_first_line_without_an_end_that_is_no_header_is_left_as_it_is(tmp_path, text):
    journal = tmp_path / "corrections.jsonl"
    journal.write_text(text)
    with pytest.raises(JournalError, match="is no journal of corrections"):
        Project(tmp_path)
    assert journal.read_text() == text


def test_a_journal_that_is_refused_is_refused_each_time(tmp_path, png, said):
    project = Project(tmp_path / "p")
    journal = tmp_path / "p/corrections.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"film":"a"}\n')
    before = journal.read_bytes()
    for _ in range(3):
        with pytest.raises(JournalError, match="line 2 is no correction"):
            project.save(png(), "a.png", None, said())
    assert journal.read_bytes() == before


def test_a_disk_that_can_only_be_read(tmp_path, png, said, monkeypatch):
    Project(tmp_path / "p").save(png(), "a.png", FINDINGS, said(comment="kept"))
    opening = os.open

    def read_only(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return opening(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    project = Project(tmp_path / "p")
    assert project.load("a").correction.comment == "kept" and project.load("a").findings == FINDINGS
    with pytest.raises(OutputError, match=r"cannot be written \(Read-only file system\)"):
        project.save(png(1), "b.png", None, said())
    monkeypatch.undo()
    assert [film.id for film in Project(tmp_path / "p").films()] == ["a"]


def test_tables_that_cannot_be_written_lose_no_correction(tmp_path, png, said):
    project = Project(tmp_path / "p")
    (tmp_path / "p/train.csv").mkdir()
    with pytest.raises(
        OutputError, match=r"what was corrected is kept in corrections\.jsonl, but .*train\.csv: is a folder"
    ):
        project.save(png(), "a.png", None, said(comment="kept"))
    (tmp_path / "p/train.csv").rmdir()
    assert Project(tmp_path / "p").load("a").correction.comment == "kept"
    project.save(png(1), "b.png", None, said())
    assert read_dataset(tmp_path / "p").studies["study"].tolist() == ["a", "b"]


def test_a_film_of_a_killed_save_does_not_stand_for_another(tmp_path, png, said):
    project = Project(tmp_path / "p")
    (tmp_path / "p/train/a.jpg").write_bytes(b"left over")
    project.save(png(), "a.png", None, said())
    assert [path.name for path in (tmp_path / "p/train").iterdir()] == ["a.png"]


@pytest.mark.parametrize("left", [None, b"", b"cut"], ids=["gone", "empty", "cut"])
def test_a_film_that_went_meanwhile_is_put_back_with_its_next_correction(tmp_path, png, said, left):
    project = Project(tmp_path / "p")
    project.save(png(), "a.png", None, said())
    file = project.load("a").file
    if left is None:
        file.unlink()
        file.parent.rmdir()
    else:
        file.write_bytes(left)
    project.save(png(), "a.png", None, said(comment="again"))
    assert file.read_bytes() == png() and [path.name for path in file.parent.iterdir()] == ["a.png"]


def test_the_same_saves_give_the_same_tables(tmp_path, png, said, line):
    for name in "pq":
        project = Project(tmp_path / name)
        for seed in range(3):
            project.save(
                png(seed),
                f"{seed}.png",
                FINDINGS,
                said(lines=[line(Device.CVC, State.NORMAL, (5, seed + 5), (30, 40))]),
            )
    for table in ("train.csv", "train_annotations.csv", "landmarks.csv", "corrections.jsonl"):
        assert (tmp_path / "p" / table).read_bytes() == (tmp_path / "q" / table).read_bytes()
    entry = json.loads((tmp_path / "p/corrections.jsonl").read_text().splitlines()[1])
    assert entry["correction"]["author"] == "R. Reader" and entry["correction"]["time"].startswith("2026-03-01T09:30")
    assert np.isclose(entry["shape"], (60, 80)).all()

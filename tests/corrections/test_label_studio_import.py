"""What Label Studio gives back: films that nobody touched, lines that were drawn on, annotations that it made."""

import itertools
import json
import os
from pathlib import Path

import pytest

from cxrlines.core.files import OutputError
from cxrlines.corrections import project as project_module
from cxrlines.corrections.correction import Mark
from cxrlines.corrections.label_studio import export_tasks
from cxrlines.corrections.label_studio_import import LabelStudioError, import_tasks
from cxrlines.corrections.project import JOURNAL, Project
from cxrlines.task import Device, Landmark, State

FINDINGS = {"lines": [{"device": "CVC", "path": [[5, 5], [20, 30], [30, 40]]}], "labels": {}, "bundle": "abc"}
EXPORT = Path(__file__).with_name("label_studio_1.23.2.json")
"""`project` as Label Studio 1.23.2 exported it: imported as tasks, then in the browser the tip of the ETT moved, the
incompletely imaged NGT deleted and a CVC drawn by three clicks; of the second film the label changed by the API."""
EXPORT_TIP = (55.489309210526315, 35.60855263157895)
"""%, where the tip was moved to, as the browser gave it."""
CLICKS = [(80 * x / 100 - 0.5, 60 * y / 100 - 0.5) for x, y in ((60, 10), (70, 30), (85, 60))]
OWN = "2026-11-29T09:00:00.123456Z"
BEFORE, AFTER = "2026-11-29T08:30:00Z", "2026-11-29T12:00:00Z"
"""Times of corrections on the page, before and after `OWN`."""
NONE = {"corrected": 0, "unchanged": 0, "older than the project's": 0, "no annotation": 0}


def through_label_studio(task):
    """As it stores and exports what it was given (`tasks/serializers.py`, `Result.js` of Label Studio 1.23): its own
    numbers, user and times, regions in any order, points by way of its pixels, and none but its fields of a vertex."""

    def vertex(given):
        by_pixels = {side: given[side] / 100 * 640 / 640 * 100 for side in ("x", "y")}
        return by_pixels | {name: given[name] for name in ("id", "isBezier", "prevPointId") if given[name] is not None}

    def region(given):
        value = given["value"]
        if "vertices" in value:
            value = value | {"vertices": [vertex(each) for each in value["vertices"]]}
        return given | {"value": value, "origin": "manual"}

    (annotation,) = task["annotations"]
    made = {"id": 31, "completed_by": 1, "was_cancelled": False, "ground_truth": True, "lead_time": None}
    made |= {"created_at": OWN, "updated_at": OWN, "result": [region(each) for each in reversed(annotation["result"])]}
    predictions = [{"id": 8, "created_ago": "2 minutes"} | each for each in task.get("predictions", ())]
    return {"id": 17, "data": task["data"], "annotations": [made], "predictions": predictions, "meta": {}, "drafts": []}


@pytest.fixture
def project(tmp_path, png, said, line):
    project = Project(tmp_path / "p")
    lines = [
        line(Device.CVC, None, (5, 5), (20, 30), (30, 40), mark=Mark.REJECTED, of=0),
        line(Device.ETT, State.NORMAL, (40, 1), (40.25, 12), (41, 17)),
        line(Device.NGT, None, (10, 8), (19, 29), tip_seen=False),
        line(Device.NGT, State.INCOMPLETE, (12.1234, 8), (12, 59)),
    ]
    landmarks = {Landmark.CARINA: (40.5, 20)}
    project.save(png(), "a.png", FINDINGS, said(lines=lines, landmarks=landmarks, comment="a", labels={}))
    project.save(png(1), "b.png", None, said(labels={"ETT - Normal": 1}))
    return project


@pytest.fixture
def tasks(project, tmp_path):
    """Tasks as Label Studio gives them back, and what imports them."""
    file, *_ = export_tasks(project, tmp_path / "t.json")

    def taken(tasks, author=None):
        file.write_text(json.dumps(tasks))
        return import_tasks(project, file, author)

    return [through_label_studio(task) for task in json.loads(file.read_text())], taken


def test_no_author_is_given_out_as_label_studio_refuses_those_it_does_not_know(project, tmp_path):
    file, *_ = export_tasks(project, tmp_path / "t.json")
    assert "R. Reader" not in file.read_text() and "completed_by" not in file.read_text()


def test_a_film_that_nobody_touched_is_left(project, tasks, said, tmp_path):
    tasks, taken = tasks
    assert taken(tasks) == NONE | {"unchanged": 2}
    assert [len(film.history) for film in project.films()] == [1, 1]
    # Another reader says the same.
    assert taken(tasks, "Second")["corrected"] == 2
    assert taken(tasks, "Second")["unchanged"] == 2
    assert [film.correction.author for film in project.films()] == ["Second", "Second"]
    # On the page it was corrected since it was exported.
    project.correct("b", said(labels={"ETT - Abnormal": 1}))
    assert taken(tasks)["unchanged"] == 2
    assert project.films()[1].correction.labels == {"ETT - Abnormal": 1}


@pytest.mark.parametrize("time", [BEFORE, AFTER])
def test_what_nobody_touched_replaces_no_correction_of_the_page(project, tasks, said, time):
    """With `--author` too, and whether the page came before Label Studio was given the film or after."""
    tasks, taken = tasks
    page = said(labels={"ETT - Abnormal": 1}, author="B", time=time)
    project.correct("b", page)
    assert taken(tasks, "Second") == NONE | {"corrected": 1, "unchanged": 1}  # the other film is signed
    first, second = project.films()
    assert first.correction.author == "Second" and second.correction == page


@pytest.mark.parametrize("author", [None, "Second"])
def test_the_newer_of_label_studio_and_the_page_counts(project, tasks, said, author):
    tasks, taken = tasks
    tasks = tasks[1:]
    tasks[0]["annotations"][0]["result"][0]["value"]["choices"] = ["ETT - Borderline"]
    page = said(labels={"ETT - Abnormal": 1}, author="B", time=AFTER)
    project.correct("b", page)
    assert taken(tasks, author) == NONE | {"older than the project's": 1}
    assert project.load("b").correction == page
    tasks[0]["annotations"][0]["updated_at"] = "2026-11-29T13:00:00Z"
    assert taken(tasks, author) == NONE | {"corrected": 1}
    found = project.load("b").correction
    assert (found.labels, found.author) == ({"ETT - Borderline": 1}, author or "1")


def commented(tasks):
    """The tasks, each with a comment more."""
    said = {"id": "c", "from_name": "comment", "to_name": "image", "type": "textarea", "value": {"text": ["new"]}}
    for task in tasks:
        task["annotations"][0]["result"].append(said)
    return tasks


def test_all_of_an_export_is_taken_over_or_none(project, tasks, monkeypatch):
    given, take = tasks
    before, write = (project.folder / JOURNAL).read_bytes(), os.write
    room = [len(before.splitlines()[1]) + 150]  # for the line of the first film, and some of the second

    def full(handle, data):
        if not (written := write(handle, data[: room[0]])):
            raise OSError(28, "No space left on device")
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError):
        take(commented(given))
    monkeypatch.undo()
    assert (project.folder / JOURNAL).read_bytes() == before
    tables = []
    monkeypatch.setattr(project_module, "write_tables", lambda folder, films: tables.append(films))
    assert take(given) == NONE | {"corrected": 2}
    assert [[film.correction.comment for film in films] for films in tables] == [["new", "new"]]


def test_of_two_tasks_of_a_film_the_newer_counts(project, tasks):
    tasks, taken = tasks
    newer, older = tasks[1], json.loads(json.dumps(tasks[1]))
    for task, label, time in ((newer, "ETT - Borderline", AFTER), (older, "ETT - Abnormal", BEFORE)):
        task["annotations"][0]["result"][0]["value"]["choices"] = [label]
        task["annotations"][0]["updated_at"] = time
    assert taken([newer, older]) == NONE | {"corrected": 1, "older than the project's": 1}
    assert project.load("b").correction.labels == {"ETT - Borderline": 1}


def test_what_a_later_reader_said_too_stays_theirs(project, tasks, said):
    tasks, taken = tasks
    again = said(labels={"ETT - Normal": 1}, author="B", time=AFTER)
    project.correct("b", again)
    assert taken(tasks[1:], "Second") == NONE | {"older than the project's": 1}
    assert project.load("b").correction == again


@pytest.mark.parametrize("what", ["comment", "landmark", "label", "line", "point", "end"])
def test_what_was_touched_is_taken_over(project, tasks, what):
    tasks, taken = tasks
    result = tasks[0]["annotations"][0]["result"]
    by = {region["from_name"]: region for region in result}
    match what:
        case "comment":
            by["comment"]["value"]["text"] = ["b"]
        case "landmark":
            by["landmarks"]["value"]["x"] += 1
        case "label":
            tasks[1]["annotations"][0]["result"][0]["value"]["choices"] = ["ETT - Borderline"]
        case "line":
            result.remove(by["lines"])
        case "point":
            by["lines"]["value"]["vertices"][-1]["x"] += 1
        case "end":
            by["end"]["value"]["choices"] = ["tip not seen", "state not known"][:1]
    assert taken(tasks)["corrected"] == 1
    assert {film.correction.author for film in project.films()} == {"R. Reader", "1"}


def vertex(id, x, y, before=None):
    return {"id": id, "x": x, "y": y} | ({"prevPointId": before} if before else {})


OUTWARD = [vertex("kd1", 50, 1, "line-1-0"), vertex("kd2", 50, 0.5, "kd1")]


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_drawn_on_from_where_it_enters_keeps_its_tip(project, tasks, turned):
    """Label Studio links the new vertices to the first, or, later, gives the whole line from its other end."""
    tasks, taken = tasks
    (tube,) = [r for r in tasks[0]["annotations"][0]["result"] if r["value"].get("vectorlabels") == ["ETT - Normal"]]
    old = tube["value"]["vertices"]
    if turned:
        made = [vertex(each["id"], each["x"], each["y"]) for each in [*reversed(old), *OUTWARD]]
        for before, each in itertools.pairwise(made):
            each["prevPointId"] = before["id"]
        tube["value"]["vertices"] = made
    else:
        tube["value"]["vertices"] = old + OUTWARD
    assert taken(tasks)["corrected"] == 1
    (found,) = [line for line in project.films()[0].correction.lines if line.device is Device.ETT]
    want = [(39.5, -0.2), (39.5, 0.1), (40, 1), (40.25, 12), (41, 17)]
    assert [point == pytest.approx(other, abs=1e-3) for point, other in zip(found.points, want, strict=True)] == [
        True
    ] * 5


@pytest.mark.parametrize(
    "vertices",
    [
        [vertex("a", 10, 10), vertex("b", 20, 20, "a"), vertex("c", 30, 30, "b"), vertex("d", 40, 40, "b")],
        [vertex("a", 10, 10), *(vertex(id, 20, 20, "a") for id in "bcd")],
        [vertex("a", 10, 10), vertex("b", 20, 20), vertex("c", 30, 30, "b")],
        [vertex("a", 10, 10, "c"), vertex("b", 20, 20, "a"), vertex("c", 30, 30, "b")],
        [vertex("a", 10, 10), vertex("b", 20, 20, "a"), vertex("b", 30, 30, "b")],
        [vertex("a", 10, 10), vertex("a", 20, 20, "a")],
    ],
)
def test_what_is_no_single_line_is_refused(project, tasks, vertices):
    tasks, taken = tasks
    region = next(r for r in tasks[0]["annotations"][0]["result"] if r["type"] == "vectorlabels")
    region["value"]["vertices"] = vertices
    with pytest.raises(LabelStudioError, match="1 x line with branches"):
        taken(tasks)


def test_an_annotation_of_label_studio_s_own_making(project, tasks):
    """In the format of its documentation (tags VectorLabels, KeyPointLabels, Choices, TextArea), drawn by a person."""
    tasks, taken = tasks
    size = {"original_width": 80, "original_height": 60, "image_rotation": 0, "to_name": "image", "origin": "manual"}
    path = [
        {"id": "p-1", "x": 25.0, "y": 30.0, "prevPointId": None, "isBezier": False},
        {"id": "p-3", "x": 50.0, "y": 40.0, "prevPointId": "p-1"},  # put between the others later
        {"id": "p-2", "x": 75.0, "y": 70.0, "prevPointId": "p-3", "isBezier": False},
    ]
    vector = {"vertices": path, "closed": False}
    point = {"x": 50.0, "y": 25.0, "width": 0.3, "keypointlabels": ["carina"]}
    tasks[1]["annotations"][0]["result"] = [
        size
        | {
            "id": "wZ",
            "from_name": "lines",
            "type": "vectorlabels",
            "value": vector | {"vectorlabels": ["CVC - Normal"]},
        },
        size | {"id": "wZ", "from_name": "end", "type": "choices", "value": vector | {"choices": ["tip not seen"]}},
        size | {"id": "kQ", "from_name": "landmarks", "type": "keypointlabels", "value": point},
        {
            "id": "c1",
            "from_name": "present",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": ["ETT - Normal"]},
        },
        {"id": "c2", "from_name": "comment", "to_name": "image", "type": "textarea", "value": {"text": ["one", "two"]}},
        {"from_id": "wZ", "to_id": "kQ", "type": "relation", "direction": "right"},
    ]
    assert taken(tasks)["corrected"] == 1
    found = project.films()[1].correction
    (line,) = found.lines
    assert (line.device, line.state, line.tip_seen, line.mark) == (Device.CVC, State.NORMAL, False, Mark.DRAWN)
    assert line.points == ((19.5, 17.5), (39.5, 23.5), (59.5, 41.5)) and found.landmarks == {
        Landmark.CARINA: (39.5, 14.5)
    }
    assert (found.labels, found.comment, found.author) == ({"ETT - Normal": 1}, "one\ntwo", "1")
    assert found.time.isoformat() == "2026-11-29T09:00:00.123456+00:00"


def test_an_export_of_label_studio_itself(project):
    assert import_tasks(project, EXPORT) == NONE | {"corrected": 2}
    first, second = (film.correction for film in project.films())
    lines = {(line.device, line.mark): line for line in first.lines}
    assert len(lines) == len(first.lines) == 4 and lines[Device.CVC, Mark.REJECTED].of == 0
    tube, tip = lines[Device.ETT, Mark.DRAWN], EXPORT_TIP
    assert tube.points[:2] == ((40, 1), (40.25, 12))
    assert tube.points[2] == pytest.approx((80 * tip[0] / 100 - 0.5, 60 * tip[1] / 100 - 0.5), abs=1e-3)
    feeding = lines[Device.NGT, Mark.DRAWN]
    assert (feeding.points, feeding.state, feeding.tip_seen) == (((10, 8), (19, 29)), None, False)
    # Its clicks were at 60 and 10, 70 and 30, 85 and 60 %; Label Studio gives the first of them twice.
    drawn = lines[Device.CVC, Mark.DRAWN].points
    assert [point == pytest.approx(at, abs=0.1) for point, at in zip(drawn, CLICKS, strict=True)] == [True] * 3
    assert (first.landmarks, first.comment) == ({Landmark.CARINA: (40.5, 20)}, "a")
    assert second.labels == {"ETT - Borderline": 1}


def test_a_byte_order_mark_and_a_number_too_long_to_be_one(project, tasks, tmp_path):
    given, taken = tasks
    assert taken(given) == NONE | {"unchanged": 2}
    (tmp_path / "bom.json").write_text(json.dumps(given), "utf-8-sig")
    assert import_tasks(project, tmp_path / "bom.json") == NONE | {"unchanged": 2}
    before = (project.folder / JOURNAL).read_bytes()
    region = next(each for each in given[0]["annotations"][0]["result"] if each["type"] == "keypointlabels")
    region["value"]["x"] = 10**400
    with pytest.raises(LabelStudioError, match="1 x annotation not readable"):
        taken(given)
    assert (project.folder / JOURNAL).read_bytes() == before


@pytest.mark.parametrize(("name", "why"), [("none.json", "No such file"), ("p", "Is a directory")])
def test_a_file_that_cannot_be_read_is_no_mistake_of_its_format(project, tmp_path, name, why):
    with pytest.raises(LabelStudioError, match=rf"{name}: cannot be read \({why}") as caught:
        import_tasks(project, tmp_path / name)
    assert "give the path" in caught.value.way_out

"""Label Studio: what is exported comes back as it was; what cannot be taken over is refused as a whole."""

import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cxrlines.cli import app
from cxrlines.corrections.correction import Mark
from cxrlines.corrections.label_studio import export_tasks, labeling_config
from cxrlines.corrections.label_studio_import import LabelStudioError, import_tasks
from cxrlines.corrections.project import Project
from cxrlines.io.films import read_film
from cxrlines.task import LABELS, Device, Landmark, State

FINDINGS = {
    "lines": [
        {"device": "CVC", "path": [[5.0, 5.0], [30.5, 40.2]]},
        {"device": "NGT", "path": [[8.0, 8.0], [9.0, 9.0]]},
        {"device": "CVC", "path": [[50.0, 5.0], [20.5, 30.2]]},
    ],
    "landmarks": {"carina": {"xy": [41.0, 20.0], "confidence": 0.9}},
    "labels": {"CVC - Normal": 0.8},
    "bundle": "abc",
}


@pytest.fixture
def project(tmp_path, png, dicom, said, line):
    project = Project(tmp_path / "p")
    lines = [
        line(Device.CVC, State.NORMAL, (5, 5), (30.5, 40.2), mark=Mark.ACCEPTED, of=0),
        line(Device.CVC, State.ABNORMAL, (50, 5), (21.123, 31.777), (22, 35), mark=Mark.MOVED, of=2),
        line(Device.ETT, State.BORDERLINE, (40, 1), (40.25, 12)),
        line(Device.NGT, None, (10, 8), (19, 29), tip_seen=False),
        line(Device.CVC, State.NORMAL, (60, 8), (39, 29), tip_seen=False),
        line(Device.NGT, State.INCOMPLETE, (12, 8), (12, 59)),
        line(Device.NGT, None, (8, 8), (9, 9), mark=Mark.REJECTED, of=1),
    ]
    whole = said(
        lines=lines, labels={"Swan Ganz Catheter Present": 0}, landmarks={Landmark.CARINA: (40.5, 20)}, comment="ü <&>"
    )
    project.save(png(0, 60, 80), "a.png", FINDINGS, whole)
    project.save(dicom(1), "b", None, said(labels={"ETT - Normal": 1, "ETT - Abnormal": 0}))
    return project


def test_a_round_trip(project, tmp_path):
    before = project.films()
    file, config, folder = export_tasks(project, tmp_path / "tasks.json")
    none = {"corrected": 0, "unchanged": 0, "older than the project's": 0, "no annotation": 0}
    assert import_tasks(project, file) == none | {"unchanged": 2}
    copy = tmp_path / "other.json"
    tasks = json.loads(file.read_text())
    tasks[0]["annotations"][0]["updated_at"] = "2026-04-01T00:00:00Z"
    copy.write_text(json.dumps(tasks[::-1]))
    assert import_tasks(project, copy, "Second") == none | {"corrected": 2}
    for old, new in zip(before, project.films(), strict=True):
        assert new.correction.author == "Second" and new.history[:-1] == old.history
        assert new.correction.table_labels() == old.correction.table_labels()
        for ours, theirs in zip(new.correction.lines, old.correction.lines, strict=True):
            for what in ("device", "state", "tip_seen", "mark", "of"):
                assert getattr(ours, what) == getattr(theirs, what), what
            np.testing.assert_allclose(ours.points, theirs.points, atol=0.1)
        assert new.correction.landmarks == old.correction.landmarks and new.correction.comment == old.correction.comment
    assert ET.parse(config).getroot().tag == "View"
    for film in before:
        shown = cv2.imread(str(folder / f"{film.id}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(shown, read_film(film.file).pixels)


def test_points_are_percent_of_the_sides(project, tmp_path):
    export_tasks(project, tmp_path / "t.json", "https://films/")
    task = json.loads((tmp_path / "t.json").read_text())[0]
    assert task["data"] == {"image": "https://films/a.png", "film": "a"}
    regions = {region["id"]: region for region in task["annotations"][0]["result"]}
    carina = regions["carina-0"]
    assert (carina["type"], carina["value"]["keypointlabels"]) == ("keypointlabels", ["carina"])
    assert carina["value"]["x"] == pytest.approx(100 * 41 / 80) and carina["value"]["y"] == pytest.approx(
        100 * 20.5 / 60
    )
    assert (carina["original_width"], carina["original_height"]) == (80, 60)
    tip = regions["line-2"]["value"]["vertices"][-1]
    assert tip["x"] == pytest.approx(100 * 40.75 / 80) and regions["line-2"]["value"]["closed"] is False
    (found,) = task["predictions"]
    assert found["model_version"] == "abc" and [r["id"] for r in found["result"]][:3] == [
        "model-0",
        "model-1",
        "model-2",
    ]
    assert found["result"][0]["value"]["vectorlabels"] == ["CVC - Normal"]


def test_what_is_said_of_the_end_of_a_line_is_a_choice_of_its_region(project, tmp_path):
    file, *_ = export_tasks(project, tmp_path / "t.json")
    tasks = json.loads(file.read_text())
    result = tasks[0]["annotations"][0]["result"]
    ends = {each["id"]: each["value"]["choices"] for each in result if each["from_name"] == "end"}
    assert list(ends.values()) == [["tip not seen", "state not known"], ["tip not seen"]]
    assert set(ends) <= {each["id"] for each in result if each["type"] == "vectorlabels"}
    incomplete = next(
        each for each in result if each.get("value", {}).get("vectorlabels") == ["NGT - Incompletely Imaged"]
    )
    result.append(incomplete | {"from_name": "end", "type": "choices", "value": {"choices": ["tip not seen"]}})
    file.write_text(json.dumps(tasks))  # as a person may say of a line that leaves the film: no more than its label
    assert import_tasks(project, file)["unchanged"] == 2
    result[-1]["value"]["choices"] = ["tip not seen", "state not known"]
    file.write_text(json.dumps(tasks))
    assert import_tasks(project, file)["corrected"] == 1
    said = project.films()[0].correction
    assert [line.state for line in said.lines if line.device is Device.NGT and line.kept] == [None, None]


def test_what_the_model_followed_is_given_as_such(tmp_path, png, said):
    project = Project(tmp_path / "p")
    followed = {"path": [[5, 5], [9, 30]], "tip": None, "followed_to": [9, 30]}
    found = FINDINGS | {"lines": [{"device": "NGT"} | followed, {"device": "SWAN"} | followed]}
    found["labels"] = {"NGT - Incompletely Imaged": 0.9, "NGT - Borderline": 0.5}
    project.save(png(), "a.png", found, said())
    file, *_ = export_tasks(project, tmp_path / "t.json")
    tasks = json.loads(file.read_text())
    tasks[0]["annotations"][0]["result"] = tasks[0]["predictions"][0]["result"]  # accepted as it is
    file.write_text(json.dumps(tasks))
    import_tasks(project, file)
    ngt, swan = project.films()[0].correction.lines
    assert (ngt.state, ngt.tip_seen, ngt.mark) == (None, False, Mark.ACCEPTED)
    assert (swan.state, swan.tip_seen, swan.mark) == (State.PRESENT, False, Mark.ACCEPTED)


def test_the_configuration_names_every_label_and_tag(project, tmp_path):
    root = ET.fromstring(labeling_config())
    assert [each.get("value") for each in root.find("VectorLabels")] == list(LABELS)
    assert [each.get("value") for each in root.find("KeyPointLabels")] == list(Landmark)
    assert root.find("Image").get("value") == "$image"
    (end,) = [each for each in root.iter("Choices") if each.get("perRegion") == "true"]
    assert end.get("whenTagName") == root.find("VectorLabels").get("name")
    export_tasks(project, tmp_path / "t.json")
    names = {each.get("name") for each in root.iter() if each.get("name")}
    for task in json.loads((tmp_path / "t.json").read_text()):
        for region in task["annotations"][0]["result"]:
            assert region["from_name"] in names and region["to_name"] == root.find("Image").get("name")


def line_of(task):
    return next(r for r in task["annotations"][0]["result"] if r["type"] == "vectorlabels")


def end_of(task):
    return next(r for r in task["annotations"][0]["result"] if r["from_name"] == "end")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["data"].update(film="zz"), "1 x film that is not in the project .*'zz'"),
        (lambda t: line_of(t)["value"].update(vectorlabels=["Drain"]), "1 x unknown label .*'Drain'"),
        (lambda t: line_of(t).update(original_width=640), "1 x image that is not the film .*640 x 60 px"),
        (lambda t: line_of(t)["value"].update(closed=True), "1 x closed or curved line"),
        (lambda t: line_of(t)["value"]["vertices"][1].update(prevPointId="x"), "1 x line with branches"),
        (lambda t: line_of(t).update(type="brushlabels"), "1 x region of another kind .*'brushlabels'"),
        (lambda t: line_of(t)["value"]["vertices"][1].update(x=900), "1 x contradiction .*off a film"),
        (lambda t: end_of(t)["value"].update(choices=["gone"]), "1 x unknown end of a line .*'gone'"),
        (lambda t: end_of(t)["value"].update(choices=["state not known"]), "1 x contradiction .*has no state"),
        (lambda t: t.pop("annotations"), "1 x no task"),
        (lambda t: line_of(t).pop("value"), "1 x annotation not readable"),
        (lambda t: t["annotations"][0].update(updated_at="soon"), "1 x contradiction .*time"),
    ],
)
def test_what_cannot_be_taken_over_changes_nothing(project, tmp_path, change, words):
    file, *_ = export_tasks(project, tmp_path / "t.json")
    tasks = json.loads(file.read_text())
    tasks[1]["annotations"][0]["completed_by"] = 7  # this one would do
    change(tasks[0])
    file.write_text(json.dumps(tasks))
    before = (tmp_path / "p/corrections.jsonl").read_bytes()
    with pytest.raises(LabelStudioError, match=words):
        import_tasks(project, file)
    assert (tmp_path / "p/corrections.jsonl").read_bytes() == before


@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', "\xff"])
def test_what_is_no_export(project, tmp_path, text):
    (tmp_path / "t.json").write_text(text, "latin-1")
    with pytest.raises(LabelStudioError, match=r"t\.json"):
        import_tasks(project, tmp_path / "t.json")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("p/corrections.jsonl", "whose name ends in .json"),
        ("p/train.csv", "whose name ends in .json"),
        ("tasks", "whose name ends in .json"),
        ("p/train/new.json", "is in train/ of the project"),
        ("link/new.json", "is in train/ of the project"),
        ("p/findings/new.json", "is in findings/ of the project"),
        ("p/old.json", "is in one of the inputs"),
    ],
)
def test_no_export_replaces_what_a_project_holds(project, tmp_path, place, says):
    (tmp_path / "p/old.json").write_text("[]")
    (tmp_path / "link").symlink_to(tmp_path / "p/train")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    words = ["corrections", "export", str(project.folder), "--label-studio", str(tmp_path / place)]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and says in refused.stderr and "--label-studio" in refused.stderr
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_by_commands(project, tmp_path):
    runner = CliRunner()
    file = str(tmp_path / "t.json")
    out = runner.invoke(app, ["corrections", "export", str(project.folder), "--label-studio", file])
    assert out.exit_code == 0 and out.stdout.splitlines()[0] == file
    back = runner.invoke(app, ["corrections", "import", str(project.folder), "--label-studio", file])
    assert back.exit_code == 0 and "2 films unchanged, 0 films older than the project's" in back.stderr
    wrong = runner.invoke(app, ["corrections", "import", str(tmp_path), "--label-studio", file])
    assert wrong.exit_code == 2 and "is not a project" in wrong.stderr
    missing = tmp_path / "none"
    for command in ("export", "import"):
        wrong = runner.invoke(app, ["corrections", command, str(missing), "--label-studio", file])
        assert wrong.exit_code == 2 and "is not a project" in wrong.stderr and not missing.exists()

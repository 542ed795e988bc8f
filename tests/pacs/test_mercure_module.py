"""A folder in, a folder out: mercure's variables and files, and no film that costs another its results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pydicom
import pytest

from cxrlines.core.errors import Error
from cxrlines.core.findings import json_schema
from cxrlines.pacs import mercure_module
from cxrlines.pacs.mercure_module import RESULT, TASK, ModuleSettings, module_folders, read_settings, run_module
from cxrlines.reading.results.dicom.objects import Kind, result_objects
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.task import STUDY_COLUMN

EXAMPLE = Path(__file__).parents[2] / "src/cxrlines/embedded/example.jpg"
STUDY = "1.2.826.0.1.3680043.10.7"
FILM, BROKEN = "1.2.3#1.2.3.4", "1.2.3#1.2.3.5"


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A film as mercure names it, one cut in the middle, its result, a PDF, and the task."""
    folder = tmp_path_factory.mktemp("in")
    film = wrapped(EXAMPLE.read_bytes(), "P-SECRET", STUDY)
    (folder / f"{FILM}.dcm").write_bytes(film)
    (folder / f"{BROKEN}.dcm").write_bytes(film[: len(film) // 3])
    (folder / "notes.pdf").write_bytes(b"%PDF-1.7")
    settings = {"dicom": ["sr", "sc"], "drawing": False}
    (folder / TASK).write_text(json.dumps({"id": "1", "process": {"module_name": "cxrlines", "settings": settings}}))
    return folder


@pytest.fixture(scope="module")
def done(films, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "results"
    return run_module(films, out), out


def test_a_film_that_fails_costs_the_others_nothing(done, films):
    run, out = done
    assert (run.read, run.refused, list(run.errors), run.faults) == (1, 0, [f"{BROKEN}.dcm"], 0)
    names = {path.name for path in out.iterdir()}
    assert names >= {f"{FILM}#sr.dcm", f"{FILM}#sc.dcm", f"{FILM}.json", RESULT}
    assert not any(name.startswith(FILM) and name.endswith((".png", "#pr.dcm")) for name in names)
    report = pydicom.dcmread(out / f"{FILM}#sr.dcm")
    assert report.Modality == "SR" and report.PatientID == "P-SECRET"
    found = json.loads((out / f"{FILM}.json").read_text())
    jsonschema.validate([found], json_schema())
    assert found["film"] == f"{FILM}.dcm" and found[STUDY_COLUMN] == STUDY and found["labels"]
    assert {path.name for path in films.iterdir()} == {f"{FILM}.dcm", f"{BROKEN}.dcm", "notes.pdf", TASK}


def test_result_json_says_what_became_of_all(done):
    run, out = done
    result = json.loads((out / RESULT).read_text())
    assert result["read"] == 1 and result["passed_over"] == {"file that is no film": 1}
    assert result["__mercure_notification"]["text"] == run.text and "1 film read" in run.text
    assert result["__mercure_notification"]["requested"] is bool(run.urgent)
    assert "P-SECRET" not in json.dumps(result)


def test_its_own_results_are_passed_over(done, tmp_path):
    _, out = done
    again = tmp_path / "again"
    again.mkdir()
    for path in out.glob(f"{FILM}#*.dcm"):
        (again / path.name).write_bytes(path.read_bytes())
    run = run_module(again, tmp_path / "out")
    assert run.read == 0 and not run.errors and run.passed_over == {"result of cxrlines": 2}


def test_a_film_whose_results_cannot_be_made_costs_the_others_nothing(tmp_path, monkeypatch):
    """pydicom raises OSError for a value that it cannot encode; a film without a study is for its sender to correct."""
    there, out = tmp_path / "in", tmp_path / "out"
    there.mkdir()
    film = wrapped(EXAMPLE.read_bytes(), "P-SECRET", STUDY)
    for name in ("a", "b", "c"):
        (there / f"{name}.dcm").write_bytes(film)
    without = pydicom.dcmread(there / "b.dcm")
    del without.StudyInstanceUID
    without.save_as(there / "b.dcm")
    made = []

    def odd(*given, **more):
        made.append(1)
        if len(made) == 1:
            raise OSError("cannot write P-SECRET")
        return result_objects(*given, **more)

    monkeypatch.setattr(mercure_module, "result_objects", odd)
    run = run_module(there, out)
    assert (run.read, sorted(run.errors), run.faults) == (3, ["a.dcm", "b.dcm"], 1)
    assert "OSError" in run.errors["a.dcm"] and "P-SECRET" not in (out / RESULT).read_text()
    assert (
        "StudyInstanceUID" in run.errors["b.dcm"]
        and "sender" in run.errors["b.dcm"]
        and "--" not in run.errors["b.dcm"]
    )
    assert {path.name for path in out.glob("*.dcm")} == {f"c#{kind}.dcm" for kind in ("sr", "sc")} | {"c#pr.dcm"}


def test_a_film_that_cannot_be_opened_is_no_file_of_another_kind(tmp_path, monkeypatch):
    there, open_file = tmp_path / "in", Path.open
    there.mkdir()
    for name in ("a.dcm", "b.dcm"):
        (there / name).write_bytes(wrapped(EXAMPLE.read_bytes(), "P-SECRET", STUDY))

    def denied(path, *given, **more):
        if path.name == "a.dcm":
            raise PermissionError(13, "Permission denied")
        return open_file(path, *given, **more)

    monkeypatch.setattr(Path, "open", denied)
    run = run_module(there, tmp_path / "out")
    assert (run.read, list(run.errors), run.faults, run.passed_over) == (1, ["a.dcm"], 0, {})
    assert "Permission denied" in run.errors["a.dcm"] and str(there) not in run.errors["a.dcm"]


@pytest.mark.parametrize("process", [{}, [], {"settings": {}}, {"settings": None}])
def test_a_task_without_settings_is_one_by_default(tmp_path, process):
    (tmp_path / TASK).write_text(json.dumps({"process": process}))
    assert read_settings(tmp_path) == ModuleSettings() and ModuleSettings().dicom == tuple(Kind)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"process": {"settings": {"color": 1}}}', "color.*there are dicom, json, drawing, bundle"),
        ('{"process": [{"settings": {"dicom": ["pdf"]}}]}', r"dicom\.0 must be 'sr', 'pr' or 'sc'"),
        ('{"dicom": ["sr"], "drawing": false}', "dicom, drawing is not read: settings are within process > settings"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, text, words):
    (tmp_path / TASK).write_text(text)
    with pytest.raises(Error, match=words):
        read_settings(tmp_path)


def test_folders_are_those_given_or_mercures(tmp_path):
    there, out = tmp_path / "in", tmp_path / "out"
    there.mkdir()
    mercure = {"MERCURE_IN_DIR": str(there), "MERCURE_OUT_DIR": str(out)}
    assert module_folders(None, None, mercure) == module_folders(there, out, {}) == (there, out)
    with pytest.raises(Error, match="MERCURE_OUT_DIR is not set"):
        module_folders(there, None, {})
    with pytest.raises(Error, match="is one of the inputs"):
        module_folders(there, there, {})
    with pytest.raises(Error, match="is no folder"):
        module_folders(tmp_path / "none", out, {})
    with pytest.raises(Error, match="has no files"):
        run_module(there, out)


@pytest.mark.doors
def test_by_the_command_as_mercure_calls_it(films, tmp_path):
    out = tmp_path / "out"
    environment = {**os.environ, "MERCURE_IN_DIR": str(films), "MERCURE_OUT_DIR": str(out)}
    command = [sys.executable, "-m", "cxrlines", "module"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 2, ran.stderr  # one film cannot be read
    assert "1 film read" in ran.stderr and BROKEN in ran.stderr and "P-SECRET" not in ran.stderr
    assert pydicom.dcmread(out / f"{FILM}#sr.dcm").Modality == "SR" and (out / RESULT).is_file()

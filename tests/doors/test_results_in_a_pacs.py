"""Results in Orthanc, sent by dcmtk and by HTTP: stored, found, and given back as they were; checked by dcmtk."""

import io
import subprocess
from pathlib import Path

import pydicom
import pytest

from cxrlines.reading.reader import load_reader
from cxrlines.reading.results.dicom.objects import Kind, ResultObject, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.dicom.wrapped_film import wrapped

pytestmark = pytest.mark.doors
EXAMPLE = Path(__file__).parents[2] / "src/cxrlines/embedded/example.jpg"
STUDY = "1.2.826.0.1.3680043.10.1.7"


@pytest.fixture(scope="module")
def film() -> bytes:
    return wrapped(EXAMPLE.read_bytes(), "P-7", STUDY)


@pytest.fixture(scope="module")
def objects(film) -> tuple[ResultObject, ...]:
    reader = load_reader()
    made = result_objects(film, reader.read(film), ReadBy.of(reader.bundle, "onnx", reader.tta))
    assert [each.kind for each in made] == list(Kind)
    return made


def dataset(content: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def test_results_that_are_sent_are_given_back(orthanc, film, objects, tmp_path):
    """By C-STORE, twice: an archive has each once, with the same elements."""
    sent = {dataset(film).SOPInstanceUID: film} | {each.sop_instance_uid: each.content for each in objects}
    folder = tmp_path / "sent"
    folder.mkdir()
    for number, content in enumerate(sent.values()):
        (folder / f"{number}.dcm").write_bytes(content)
    store = ["storescu", "-R", "-aec", orthanc.aet, "127.0.0.1", str(orthanc.port), "+sd", str(folder)]
    for _ in range(2):
        subprocess.run(store, check=True, capture_output=True, timeout=120)
    assert set(orthanc.instances()) == set(sent)
    for uid, content in sent.items():
        assert dataset(orthanc.file(uid)) == dataset(content)
    (study,) = orthanc.get("/studies?expand")
    assert study["MainDicomTags"]["StudyInstanceUID"] == STUDY
    assert len(study["Series"]) == len(sent)


def test_results_that_are_uploaded_keep_every_byte(orthanc, objects):
    for each in objects:
        orthanc.request("/instances", each.content)
        assert orthanc.file(each.sop_instance_uid) == each.content


def test_an_archive_shows_their_mark(orthanc, objects):
    for each in objects:
        orthanc.request("/instances", each.content)
    found = orthanc.get(f"/dicom-web/studies/{STUDY}/series?includefield=SeriesDescription")
    assert {series["00080060"]["Value"][0] for series in found} == {"SR", "PR", "OT"}
    assert all(series["0008103E"]["Value"][0].startswith("FOR RESEARCH USE ONLY") for series in found)


def test_a_captured_film_is_rendered(orthanc, objects):
    capture = objects[-1]
    orthanc.request("/instances", capture.content)
    identifier = orthanc.instances()[capture.sop_instance_uid]
    assert orthanc.request(f"/instances/{identifier}/preview").startswith(b"\x89PNG")


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": [100, 128], "WindowWidth": [200, 256]}], ids=["one", "several"])
def test_a_presentation_state_is_valid_by_dcmtk(film, tags, tmp_path):
    source, out = dataset(film), io.BytesIO()
    source.PatientName = "Doe^Jane"
    for name, value in tags.items():
        setattr(source, name, value)
    pydicom.dcmwrite(out, source)
    reader = load_reader()
    read_by = ReadBy.of(reader.bundle, "onnx", reader.tta)
    (state,) = result_objects(out.getvalue(), reader.read(film), read_by, kinds=[Kind.PRESENTATION])
    (tmp_path / "pr.dcm").write_bytes(state.content)
    said = subprocess.run(["dcmpschk", str(tmp_path / "pr.dcm")], capture_output=True, text=True, timeout=120)
    assert said.returncode == 0 and "Test passed" in said.stdout + said.stderr, said.stdout + said.stderr

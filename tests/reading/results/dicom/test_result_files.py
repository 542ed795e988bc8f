"""`predict --dicom`: a folder of results for each film, and an answer for each that has none."""

import io
import os
from pathlib import Path

import cv2
import pydicom
import pytest
from typer.testing import CliRunner

from cxrlines import cli
from cxrlines.reading.results.dicom.objects import result_objects
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.reading.results.prediction_files import write_each

EXAMPLE = Path(__file__).parents[4] / "src/cxrlines/embedded/example.jpg"
STUDY = "1.2.826.0.1.3680043.10.1.7"


def picture(ending: str) -> bytes:
    gray = cv2.resize(cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE), (400, 380), interpolation=cv2.INTER_AREA)
    return cv2.imencode(ending, gray)[1].tobytes()


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["predict", *map(str, words)])
    return result.exit_code, result.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reasons(content: bytes) -> str:
    texts: list[str] = []
    pydicom.dcmread(io.BytesIO(content)).walk(
        lambda _, element: texts.append(element.value) if element.keyword == "TextValue" else None
    )
    return "\n".join(texts)


def test_each_film_gets_a_folder_and_each_other_an_answer(results, tmp_path):
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    (films / "film.dcm").write_bytes(wrapped(picture(".png"), "P-7", STUDY))
    (films / "lateral.dcm").write_bytes(results.film_file(ViewPosition="LL"))
    (films / "frames.dcm").write_bytes(results.film_file(NumberOfFrames=2, SOPInstanceUID="1.2.3.4"))
    (films / "photo.png").write_bytes(picture(".png"))
    (films / "result.dcm").write_bytes(
        result_objects(results.film_file(), results.found(), results.read_by)[-1].content
    )
    code, said = run(films, "--dicom", out)
    assert "result of cxrlines (1)" in said
    assert code == 2 and "photo.png: not written as DICOM" in said and "--patient-id and --study-uid" in said
    made = files(out)
    assert sorted(path for path in made if path.startswith(STUDY)) == [
        f"{STUDY}/{kind}.dcm" for kind in ("pr", "sc", "sr")
    ]
    others = [path for path in made if not path.startswith(STUDY)]
    assert len(others) == 2 and all(path.endswith("/sr.dcm") for path in others)
    assert all("Not read: " in reasons(made[path]) for path in others)
    assert any("its view is LL" in reasons(made[path]) for path in others)
    assert any("NumberOfFrames is 2" in reasons(made[path]) for path in others)


def test_a_picture_becomes_a_film_of_the_patient_that_is_named(tmp_path):
    film, out = tmp_path / "photo.jpg", tmp_path / "out"
    film.write_bytes(picture(".jpg"))
    assert run(film, "--dicom", out, "--patient-id", "P-9", "--study-uid", STUDY)[0] == 0
    made = {Path(path).name: pydicom.dcmread(io.BytesIO(content)) for path, content in files(out).items()}
    assert sorted(made) == ["film.dcm", "pr.dcm", "sc.dcm", "sr.dcm"]
    assert {(each.PatientID, each.StudyInstanceUID) for each in made.values()} == {("P-9", STUDY)}
    reference = made["pr.dcm"].ReferencedSeriesSequence[0].ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == made["film.dcm"].SOPInstanceUID


def test_a_folder_in_which_nothing_was_written_is_not_named(tmp_path):
    film, out = tmp_path / "photo.jpg", tmp_path / "out"
    film.write_bytes(picture(".jpg"))
    code, said = run(film, "--dicom", out)
    assert code == 2 and not out.exists() and str(out) not in said.splitlines()
    code, said = run(film, "--dicom", out, "--patient-id", "P-9", "--study-uid", STUDY)
    assert code == 0 and str(out) in said.splitlines()


def test_no_second_picture_is_filed_under_the_patient_of_the_first(tmp_path):
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    (films / "film.dcm").write_bytes(wrapped(picture(".png"), "P-7", "1.2.840.1"))
    (films / "one.jpg").write_bytes(picture(".jpg"))
    identified = "--dicom", out, "--patient-id", "P-9", "--study-uid", STUDY
    (films / "two.jpg").write_bytes(picture(".jpg"))
    code, said = run(films, *identified)
    assert code == 2 and not out.exists()
    assert all(word in said for word in ("--patient-id", "one.jpg", "two.jpg", "one at a time"))
    (films / "two.jpg").unlink()
    assert run(films, *identified)[0] == 0 and (out / "one" / "film.dcm").is_file()


def test_a_film_that_names_its_patient_is_filed_under_no_other(results, tmp_path):
    film, out = tmp_path / "film.dcm", tmp_path / "out"
    film.write_bytes(results.film_file(SeriesInstanceUID=None, StudyInstanceUID=STUDY, PatientID="REAL-A"))
    code, said = run(film, "--dicom", out, "--patient-id", "OTHER-B", "--study-uid", STUDY)
    assert code == 2 and "film.dcm: not written as DICOM: PatientID" in said and "REAL-A" not in said
    assert not out.exists()


@pytest.mark.parametrize("name", ["film.dcm", "frames.dcm"])
def test_a_fault_at_one_film_costs_no_other_its_results(results, tmp_path, monkeypatch, name):
    """Such as pydicom raises for a value that it cannot encode; of films read, and of those that are not."""
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    (films / "film.dcm").write_bytes(wrapped(picture(".png"), "P-7", STUDY))
    (films / "other.dcm").write_bytes(wrapped(picture(".png"), "P-7", f"{STUDY}.2"))
    (films / "frames.dcm").write_bytes(results.film_file(NumberOfFrames=2, SOPInstanceUID="1.2.3.4"))

    def made(source, *args, **more):
        if source == (films / name).read_bytes():
            raise OSError("ushort format requires 0 <= number <= 65535\nfor data_element: P-7")
        return result_objects(source, *args, **more)

    monkeypatch.setattr("cxrlines.reading.results.dicom.result_files.result_objects", made)
    code, said = run(films, "--dicom", out)
    assert code == 2 and f"{name}: not written as DICOM: a fault of cxrlines (OSError" in said and "P-7" not in said
    assert {path.parent.name for path in out.rglob("sr.dcm")} >= {f"{STUDY}.2"}
    assert len(list(out.rglob("sr.dcm"))) == 2


def replacing_after_reading(monkeypatch, film: Path, content: bytes, *, stamp: bool = False) -> None:
    """Have a film replaced by another as soon as all are read; with its earlier time, if `stamp`."""
    time = film.stat().st_mtime_ns

    def replaced(*args):
        film.write_bytes(content)
        if stamp:
            os.utime(film, ns=(time, time))
        return write_each(*args)

    monkeypatch.setattr("cxrlines.reading.results.prediction_files.write_each", replaced)


@pytest.mark.parametrize("out", [True, False], ids=["journal", "temporary journal"])
@pytest.mark.parametrize("stamp", [True, False], ids=["same time", "later"])
def test_what_was_found_of_one_patient_is_filed_under_no_other(tmp_path, monkeypatch, stamp, out):
    """A film that is replaced, while others are read, by another patient's of the same size."""
    films, dicom, drawn = tmp_path / "films", tmp_path / "dicom", tmp_path / "drawn"
    films.mkdir()
    one, other, kept = (wrapped(picture(".png"), f"P-{k}", f"{STUDY}.{k}") for k in range(3))
    assert len(one) == len(other)
    (films / "a.dcm").write_bytes(one)
    (films / "b.dcm").write_bytes(kept)
    replacing_after_reading(monkeypatch, films / "a.dcm", other, stamp=stamp)
    table = ["--out", tmp_path / "r.csv"] if out else []
    code, said = run(films, "--dicom", dicom, "--draw", drawn, *table)
    assert code == 2 and "a.dcm: not written as DICOM: " in said and "give the command again" in said
    assert [path.name for path in dicom.iterdir()] == [f"{STUDY}.2"] and len(list(dicom.rglob("*.dcm"))) == 3
    assert "a.dcm: not drawn: " in said and [path.name for path in drawn.iterdir()] == [f"{STUDY}.2.png"]
    assert ("of another study than" if stamp else "changed since") in said


def test_a_film_of_another_size_than_was_read_has_no_results(results, tmp_path, monkeypatch):
    film, out = tmp_path / "film.dcm", tmp_path / "out"
    film.write_bytes(results.film_file((400, 380), ImagerPixelSpacing=["0.9", "0.9"]))
    other = results.film_file((380, 400), ImagerPixelSpacing=["0.9", "0.9"])
    assert len(other) == film.stat().st_size
    replacing_after_reading(monkeypatch, film, other, stamp=True)
    code, said = run(film, "--dicom", out)
    assert code == 2 and "of another size than the film that was read" in said and not out.exists()


def test_why_a_film_was_not_read_is_filed_under_no_other_patient(results, tmp_path, monkeypatch):
    film, out = tmp_path / "frames.dcm", tmp_path / "out"
    film.write_bytes(results.film_file(NumberOfFrames=2))
    replacing_after_reading(monkeypatch, film, results.film_file(NumberOfFrames=2, PatientID="P-2"))
    code, said = run(film, "--dicom", out)
    assert code == 2 and "frames.dcm: not written as DICOM: changed since" in said and not out.exists()


def test_films_of_a_folder_get_the_patients_of_a_table(tmp_path):
    films, out, table = tmp_path / "films", tmp_path / "out", tmp_path / "train.csv"
    films.mkdir()
    patients = {STUDY: "P-1", f"{STUDY}.2": "P-2"}
    for study in patients:
        (films / f"{study}.jpg").write_bytes(picture(".jpg"))
    (films / "own.dcm").write_bytes(wrapped(picture(".png"), "OWN", "1.2.840.1"))
    (films / "photo.png").write_bytes(picture(".png"))
    rows = [f"{study},{patient}" for study, patient in {**patients, "1.2.840.1": "ANOTHER"}.items()]
    table.write_text("\n".join(["StudyInstanceUID,PatientID", *rows]))
    code, said = run(films, "--dicom", out, "--studies", table)
    assert code == 2 and "photo.png: not written as DICOM" in said and "--studies" in said
    for study, patient in {**patients, "1.2.840.1": "OWN"}.items():
        report = pydicom.dcmread(out / study / "sr.dcm")
        assert (report.PatientID, report.StudyInstanceUID) == (patient, study)
    assert len(list(out.iterdir())) == 3


def test_results_that_are_no_longer_true_go(results, tmp_path):
    film, out = tmp_path / "film.dcm", tmp_path / "out"
    (out / STUDY).mkdir(parents=True)
    for each in result_objects(results.film_file(), results.found(), results.read_by):
        (out / STUDY / f"{each.kind}.dcm").write_bytes(each.content)
    (out / STUDY / "notes.txt").write_text("mine")
    film.write_bytes(results.film_file(ViewPosition="LL", StudyInstanceUID=STUDY))
    run(film, "--dicom", out)
    assert sorted(files(out)) == [f"{STUDY}/notes.txt", f"{STUDY}/sr.dcm"]


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--dicom", "out", "--patient-id", "P-7"], "--study-uid"),
        (["--dicom", "out", "--patient-id", "P-7", "--study-uid", "x"], "--study-uid"),
        (["--patient-id", "P-7"], "--dicom"),
        (["--studies", "train.csv"], "--dicom"),
        (["--dicom", "out", "--studies", "train.csv"], "train.csv"),
        (
            ["--dicom", "out", "--studies", "t.csv", "--patient-id", "P", "--study-uid", "1.2"],
            "--studies, --patient-id",
        ),
        (["--dicom", "out", "--on", "ray"], "--on"),
        (["--dicom", "."], "--dicom"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_work(tmp_path, monkeypatch, words, flag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.jpg").write_bytes(b"\xff\xd8\xff")
    code, said = run("film.jpg", *words)
    assert code == 2 and flag in said
    assert [path.name for path in tmp_path.iterdir()] == ["film.jpg"]

"""Files of each film: one that fails costs itself alone, and what was written under another name is written again."""

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrlines.core.files import OutputError
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings
from cxrlines.reading.batch import Predictions, collect
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.reading.results.drawing import draw_findings
from cxrlines.reading.results.operating_points import operating_points_of
from cxrlines.reading.results.prediction_files import FilmWriter, drawings, write_each
from cxrlines.reading.sources import find_films
from cxrlines.task import LABELS

SHAPE = (600, 600)
STUDIES = {"a": "1.2.3", "b": "1.2.3", "c": "1.2.9"}


def film_file(gray: int, study: str) -> bytes:
    """A DICOM film of one gray, of a study."""
    return wrapped(cv2.imencode(".png", np.full(SHAPE, gray, np.uint8))[1].tobytes(), "P-1", study)


@pytest.fixture
def predict(tmp_path):
    """Predictions of three films, two of them of one study; of `unread` ones nothing is found."""
    bundle = load_bundle(EMBEDDED)
    (tmp_path / "films").mkdir()
    for name in STUDIES:
        (tmp_path / f"films/{name}.dcm").write_bytes(film_file(90, STUDIES[name]))
    found = find_films([tmp_path / "films"])

    def of(unread: Collection[str] = (), resume: bool = False, journal: bool = True, replaced: str = "") -> Predictions:
        def read(places):
            for place in places:
                name = found.films[place][0].stem
                if name == replaced:
                    found.films[place][0].write_bytes(film_file(91, STUDIES[name]))
                findings = Findings(SHAPE, (), {}, (), dict.fromkeys(LABELS, 0.1), evidence={})
                one = replace(findings, study_uid=STUDIES[name])
                yield place, FilmError("its disk is away", "") if name in unread else one

        place = tmp_path / "journal" if journal else None
        return collect(found, read, bundle, tta=(), lines=True, journal=place, resume=resume, engine="none")

    return of


def writer(folder: Path, predictions: Predictions, raises: Exception | BaseException | None = None) -> FilmWriter:
    """Writes each film's file name into a file of its name; `raises` at film c."""

    def write(film: Path, data: bytes, name: str, findings: Findings) -> None:
        if film.stem == "c" and raises is not None:
            raise raises
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(film.stem)

    return FilmWriter("written", folder, write, {name: name for name in predictions.studies})


def test_a_film_that_is_called_otherwise_when_resumed_is_written_under_its_new_name(predict, tmp_path):
    first = predict(unread=["b"])
    with closing(first.journal), pytest.raises(KeyboardInterrupt):
        write_each(first, [writer(tmp_path / "out", first, KeyboardInterrupt())])
    resumed = predict(resume=True)
    with closing(resumed.journal):
        assert resumed.studies == ["a", "b", "1.2.9"]
        (tmp_path / "out/1.2.3").unlink()
        assert write_each(resumed, [writer(tmp_path / "out", resumed)]) == []
        assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
            "a": "a",
            "b": "b",
            "1.2.9": "c",
        }
        (tmp_path / "out/a").unlink()
        write_each(resumed, [writer(tmp_path / "out", resumed)])
        assert not (tmp_path / "out/a").exists(), "what was written under this name is not written again"


@pytest.mark.parametrize(
    "raised", [FilmError("it is torn", ""), OSError("H format requires 0 <= n"), ValueError("P-1")]
)
def test_a_film_that_cannot_be_written_costs_no_other(predict, tmp_path, raised):
    predictions = predict()
    with closing(predictions.journal):
        ((film, why),) = write_each(predictions, [writer(tmp_path / "out", predictions, raised)])
        assert Path(film).stem == "c" and why.startswith("not written: ")
        assert ("a fault of cxrlines" in why) == (not isinstance(raised, FilmError)) and "P-1" not in why
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]


def test_a_full_disk_is_no_fault_of_a_film(predict, tmp_path):
    predictions = predict()
    with closing(predictions.journal), pytest.raises(OutputError):
        write_each(predictions, [writer(tmp_path / "out", predictions, OutputError("full", "free space"))])


@pytest.mark.parametrize("journal", [True, False], ids=["journal", "temporary journal"])
def test_nothing_is_written_of_a_film_that_was_replaced_since(predict, tmp_path, journal):
    """By another one of the same size, even before it was decoded: what was found may be of either."""
    predictions = predict(journal=journal, replaced="b")
    with closing(predictions.journal):
        ((film, why),) = write_each(predictions, [drawings(predictions, tmp_path / "drawn")])
    assert Path(film).stem == "b" and "changed since" in why and "give the command again" in why
    assert "a fault of cxrlines" not in why and len(list((tmp_path / "drawn").iterdir())) == 2


def test_a_film_that_changes_as_it_is_opened_is_not_written(predict, tmp_path, monkeypatch):
    predictions = predict()

    def opened(film: Path) -> bytes:
        if film.stem == "c":
            film.write_bytes(film.read_bytes() + b"0")
        return film.read_bytes()

    monkeypatch.setattr("cxrlines.reading.results.prediction_files.read_bytes", opened)
    with closing(predictions.journal):
        ((film, why),) = write_each(predictions, [drawings(predictions, tmp_path / "drawn")])
    assert Path(film).stem == "c" and "changed since" in why


def test_drawings_have_the_operating_points_of_the_bundle(predict, tmp_path, monkeypatch):
    predictions, given = predict(), []

    def noted(film, findings, **more):
        given.append(more)
        return draw_findings(film, findings, **more)

    monkeypatch.setattr("cxrlines.reading.results.prediction_files.draw_findings", noted)
    points = operating_points_of(load_bundle(EMBEDDED))
    assert points
    with closing(predictions.journal):
        assert write_each(predictions, [drawings(predictions, tmp_path / "drawn", points)]) == []
    assert len(given) == 3
    for each in given:
        assert each["operating_points"] == points

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
from cxrlines.reading.results.drawing import draw_findings
from cxrlines.reading.results.operating_points import operating_points_of
from cxrlines.reading.results.prediction_files import FilmWriter, drawings, write_each
from cxrlines.reading.sources import find_films
from cxrlines.task import LABELS

SHAPE = (600, 600)
STUDIES = {"a": "1.2.3", "b": "1.2.3", "c": "1.2.9"}


@pytest.fixture
def predict(tmp_path):
    """Predictions of three films, two of them of one study; of `unread` ones nothing is found."""
    bundle = load_bundle(EMBEDDED)
    (tmp_path / "films").mkdir()
    for name in STUDIES:
        cv2.imwrite(str(tmp_path / f"films/{name}.png"), np.full(SHAPE, 90, np.uint8))
    found = find_films([tmp_path / "films"])

    def of(unread: Collection[str] = (), resume: bool = False) -> Predictions:
        def read(places):
            for place in places:
                name = found.films[place][0].stem
                findings = Findings(SHAPE, (), {}, (), dict.fromkeys(LABELS, 0.1), evidence={})
                one = replace(findings, study_uid=STUDIES[name])
                yield place, FilmError("its disk is away", "") if name in unread else one

        journal = tmp_path / "journal"
        return collect(found, read, bundle, tta=(), lines=True, journal=journal, resume=resume, engine="none")

    return of


def writer(folder: Path, predictions: Predictions, raises: Exception | BaseException | None = None) -> FilmWriter:
    """Writes each film's file name into a file of its name; `raises` at film c."""

    def write(film: Path, name: str, findings: Findings) -> None:
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

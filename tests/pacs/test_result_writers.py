"""Results written in processes of their own: the very bytes, problems as values, processes that die replaced."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.files import OutputError
from cxrlines.core.findings import Findings
from cxrlines.lab.intact_films import as_dicom
from cxrlines.pacs import result_writers
from cxrlines.pacs.result_writers import Order, ResultWriters, write_results
from cxrlines.reading.results.dicom.objects import Kind, Replaced, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy

READ_BY = ReadBy("0123456789ab", "none")
UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}


@pytest.fixture(scope="module")
def writers():
    made = ResultWriters(1, 60)
    yield made
    made.close()


@pytest.fixture
def order(tmp_path):
    """Makes an order of results."""

    def make(
        found: Findings | str, to: str = "results", kinds: tuple[Kind, ...] = tuple(Kind), **elements: object
    ) -> Order:
        film = tmp_path / "film.dcm"
        film.write_bytes(as_dicom(np.full((40, 30), 9, np.uint8), 8, **{**UIDS, **elements}))
        places = tuple(tmp_path / to / f"{k}.dcm" for k in range(len(Kind)))
        return Order(film, found, READ_BY, (Replaced(Kind.REPORT, "2.25.1"),), kinds, places)

    return make


FOUND = Findings((40, 30), (), {}, (), {"NGT - Abnormal": 0.1})


@pytest.mark.parametrize("found", [FOUND, "is cut off"])
def test_the_files_are_what_would_be_made_here(writers, order, found):
    wanted = order(found)
    made = writers.write(lambda: wanted).result(60)
    here = result_objects(wanted.film.read_bytes(), found, READ_BY, replaces=wanted.replaces)
    assert made == tuple((each.kind, each.sop_instance_uid) for each in here)
    assert [place.read_bytes() for place in wanted.places if place.exists()] == [each.content for each in here]


def test_what_is_wrong_is_a_value_of_its_kind(writers, order, tmp_path):
    (tmp_path / "taken").write_text("")
    assert isinstance(writers.write(lambda: order(FOUND, "taken")).result(60), (OutputError, OSError))
    without_study = writers.write(lambda: order(FOUND, StudyInstanceUID=None)).result(60)
    assert isinstance(without_study, Error) and "StudyInstanceUID" in str(without_study)
    assert "sender" in without_study.way_out and "--" not in str(without_study)
    gone = order(FOUND)._replace(film=Path("/nowhere/Planted^Name.dcm"))
    fault = writers.write(lambda: gone).result(60)
    assert isinstance(fault, ReadingFault) and "Planted" not in str(fault)
    assert isinstance(writers.write(lambda: 1 / 0).result(60), ReadingFault)


def test_only_the_kinds_that_are_wanted_are_made(writers, order):
    made = writers.write(lambda: order(FOUND, kinds=(Kind.PRESENTATION, Kind.CAPTURE))).result(60)
    assert [each.kind for each in made] == ["pr", "sc"]
    assert writers.write(lambda: order("is cut off", kinds=(Kind.CAPTURE,))).result(60) == ()


def test_an_error_of_pydicom_is_no_error_of_the_disk(order, monkeypatch):
    """It raises OSError for a value that it cannot encode."""
    monkeypatch.setattr(result_writers, "result_objects", lambda *_, **__: raises(OSError("Planted^Name in LUTData")))
    fault = write_results(order(FOUND))
    assert isinstance(fault, ReadingFault) and "OSError" in str(fault) and "Planted" not in str(fault)


def raises(error: Exception) -> None:
    raise error


def test_a_process_that_hangs_is_ended_and_replaced(writers, order, monkeypatch):
    assert isinstance(writers.write(lambda: order(FOUND)).result(60), tuple)
    (child,) = writers._team.children.values()
    os.kill(child.process.pid, signal.SIGSTOP)
    monkeypatch.setattr(writers._team, "seconds", 0.2)
    fault = writers.write(lambda: order(FOUND)).result(60)
    assert isinstance(fault, ReadingFault) and "longer than 0.2 s" in str(fault)
    assert child.process.returncode is not None
    monkeypatch.undo()
    assert isinstance(writers.write(lambda: order(FOUND)).result(60), tuple)


def test_a_process_that_is_killed_is_replaced(writers, order):
    assert isinstance(writers.write(lambda: order(FOUND)).result(60), tuple)
    (child,) = writers._team.children.values()
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()
    outcomes = [writers.write(lambda: order(FOUND)).result(60) for _ in range(2)]
    assert isinstance(outcomes[0], ReadingFault) and isinstance(outcomes[1], tuple)

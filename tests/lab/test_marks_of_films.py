"""The marks of real films that ship with the package."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import cxrlines.lab
from cxrlines.io.marks import read_marks
from cxrlines.task import Device

LAB = Path(cxrlines.lab.__file__).parent


@pytest.mark.parametrize("name, films, size", [("hannover", 243, (640, 1000)), ("nih-judging", 244, (768, 768))])
def test_every_point_lies_on_its_film(name, films, size):
    marks = read_marks(LAB / f"{name}.marks.json")
    assert len(marks) == films
    for film in marks.values():
        points = [line.path for line in film.lines] + ([film.carina[None]] if film.carina is not None else [])
        for path in points:
            assert (path >= -0.5).all() and (path <= np.array(size)).all()


def test_nih_films_for_judging_have_the_lines_that_the_log_counts():
    lines = [line for film in read_marks(LAB / "nih-judging.marks.json").values() for line in film.lines]
    counts = {device: sum(line.device is device for line in lines) for device in Device}
    assert counts == {Device.ETT: 14, Device.NGT: 27, Device.CVC: 130, Device.SWAN: 2}


def test_no_film_of_a_patient_for_judging_is_marked_for_training():
    """A patient is the first eight digits of a film's name in the NIH set; `NIH` before them is his name here."""

    def for_judging(film):
        return hashlib.sha256(f"NIH{film[:8]}".encode()).digest()[0] < 85

    assert all(map(for_judging, read_marks(LAB / "nih-judging.marks.json")))
    assert not any(map(for_judging, read_marks(LAB / "nih-training.marks.json")))

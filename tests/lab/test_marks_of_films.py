"""The marks of real films that ship with the package."""

from pathlib import Path

import numpy as np
import pytest

import cxrlines.lab
from cxrlines.io.marks import read_marks
from cxrlines.task import Device

LAB = Path(cxrlines.lab.__file__).parent


@pytest.mark.parametrize("name, films, size", [("hannover", 243, (640, 1000)), ("nih", 314, (768, 768))])
def test_every_point_lies_on_its_film(name, films, size):
    marks = read_marks(LAB / f"{name}.marks.json")
    assert len(marks) == films
    for film in marks.values():
        points = [line.path for line in film.lines] + ([film.carina[None]] if film.carina is not None else [])
        for path in points:
            assert (path >= -0.5).all() and (path <= np.array(size)).all()


def test_nih_films_have_the_lines_that_the_log_counts():
    lines = [line for film in read_marks(LAB / "nih.marks.json").values() for line in film.lines]
    counts = {device: sum(line.device is device for line in lines) for device in Device}
    assert counts == {Device.ETT: 40, Device.NGT: 53, Device.CVC: 193, Device.SWAN: 5}

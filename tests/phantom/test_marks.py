"""Hand labels of real films: what is read, and what is said of a wrong one."""

import json

import numpy as np
import pytest

from cxrlines.phantom.marks import MarksError, read_marks
from cxrlines.task import Device

GOOD = {
    "carina": [300, 210.5],
    "carina_sure": 2,
    "lines": [
        {"device": "ett", "path": [[310, 0], [305, 150]], "tip_on_film": True, "sure": 3},
        {"device": " Trach ", "path": [[310, 0], [305, 150], [304, 160]]},
    ],
}


def write(tmp_path, films):
    path = tmp_path / "marks.json"
    path.write_text(json.dumps({"films": films}))
    return path


def test_what_is_marked(tmp_path):
    films = read_marks(write(tmp_path, {"a": GOOD, "b": {"carina": None, "carina_sure": 0, "lines": []}, "c": {}}))
    a = films["a"]
    assert a.carina.tolist() == [300, 210.5] and a.carina_sure == 2
    tube, trach = a.lines
    assert tube.device is Device.ETT and tube.sure == 3 and tube.tip_on_film
    assert tube.path.dtype == np.float64 and tube.path[-1].tolist() == [305, 150]
    assert trach.device is None and trach.name == "trach"
    assert films["b"].carina is None and films["c"].carina is None and films["c"].lines == ()


@pytest.mark.parametrize("name, device", [("NGT", Device.NGT), ("swan", Device.SWAN), ("Cvc", Device.CVC)])
def test_names_of_devices_in_any_letters(tmp_path, name, device):
    line = {"device": name, "path": [[1, 2], [3, 4]]}
    assert read_marks(write(tmp_path, {"a": GOOD | {"lines": [line]}}))["a"].lines[0].device is device


def test_a_carina_that_cannot_be_told_is_not_known(tmp_path):
    assert read_marks(write(tmp_path, {"a": GOOD | {"carina_sure": 0}}))["a"].carina is None


@pytest.mark.parametrize(
    "change, said",
    [
        ({"carina": [1]}, r"films\.a\.carina: is '\[1\]'; needs a point \[x, y\], two numbers in px"),
        ({"carina": [1, True]}, r"films\.a\.carina: .* two numbers"),
        ({"carina": [1, float("nan")]}, r"films\.a\.carina: .*NaN.*; needs numbers in px"),
        ({"carina_sure": 4}, r"films\.a\.carina_sure: is '4'; needs a whole number from 0 to 3"),
        ({"carina_sure": 1.5}, r"carina_sure: is '1\.5'"),
        ({"lines": None}, r"films\.a\.lines: is missing; needs a list, \[\] where there are none"),
        ({"lines": [7]}, r"films\.a\.lines\[0\]: is '7'; needs an object with device and path"),
        ({"lines": [{"path": [[1, 2], [3, 4]]}]}, r"lines\[0\]\.device: is missing; needs a name such as ETT"),
        ({"lines": [{"device": "ETT", "path": [[1, 2]]}]}, r"lines\[0\]\.path: .* at least two points"),
        ({"lines": [{"device": "ETT", "path": [[1, 2], ["3", 4]]}]}, r"lines\[0\]\.path\[1\]: .* two numbers in px"),
        ({"lines": [{"device": "ETT", "path": [[1, 2], [3, 4]], "sure": 0}]}, r"\.sure: is '0'; .* from 1 to 3"),
        ({"lines": [{"device": "ETT", "path": [[1, 2], [3, 4]], "tip_on_film": 1}]}, r"tip_on_film: .* true or false"),
    ],
)
def test_errors_name_the_film_and_the_field(tmp_path, change, said):
    with pytest.raises(MarksError, match=said):
        read_marks(write(tmp_path, {"a": GOOD | change}))


def test_files_that_are_no_marks(tmp_path):
    with pytest.raises(MarksError, match=r"cannot be read .* give the path of a marks file"):
        read_marks(tmp_path / "none.json")
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(MarksError, match="is not readable as JSON"):
        read_marks(tmp_path / "m.json")
    for films in ([], {}, 3):
        with pytest.raises(MarksError, match=r"has no films; write \{\"films\""):
            read_marks(write(tmp_path, films))
    with pytest.raises(MarksError, match=r"films\.a: is '3'; needs an object"):
        read_marks(write(tmp_path, {"a": 3}))

"""Hand labels of real films: what is read, and what is said of a wrong one."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrlines.io.marks import MarkedLine, MarksError, film_place, patients_of, read_marks, views_of
from cxrlines.io.rows import TableError
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


def test_marks_may_begin_with_a_byte_order_mark(tmp_path):
    path = write(tmp_path, {"a": GOOD})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read_marks(path)) == ["a"]


@pytest.mark.parametrize("name, device", [("NGT", Device.NGT), ("swan", Device.SWAN), ("Cvc", Device.CVC)])
def test_names_of_devices_in_any_letters(tmp_path, name, device):
    line = {"device": name, "path": [[1, 2], [3, 4]]}
    assert read_marks(write(tmp_path, {"a": GOOD | {"lines": [line]}}))["a"].lines[0].device is device


def test_all_devices_were_looked_for_unless_the_film_says_which(tmp_path):
    assert read_marks(write(tmp_path, {"a": GOOD}))["a"].devices == frozenset(Device)
    some = read_marks(write(tmp_path, {"a": GOOD | {"devices": ["ett", "CVC"]}}))["a"]
    assert some.devices == {Device.ETT, Device.CVC}
    assert read_marks(write(tmp_path, {"a": GOOD | {"devices": []}}))["a"].devices == frozenset()


def test_several_files_are_read_as_one_in_any_order(tmp_path):
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, film in zip(paths, "ab", strict=True):
        write(tmp_path, {film: GOOD}).rename(path)
    assert set(read_marks(*paths)) == set(read_marks(*reversed(paths))) == {"a", "b"}
    with pytest.raises(
        MarksError, match=r"two\.json: film b is in another marks file as well; leave it in one of them"
    ):
        read_marks(*paths, paths[1])


def test_an_unsure_carina_is_not_known(tmp_path):
    assert read_marks(write(tmp_path, {"a": GOOD | {"carina_sure": 0}}))["a"].carina is None


@pytest.mark.parametrize("leaves, ends", [(True, [[6, 50], [93, 50], [50, 6], [50, 193], [50, 230], [-8, 50]]),
                                          (False, [[6.1, 50], [92.9, 50], [50, 6.1], [50, 192.9]])])  # fmt: skip
def test_a_line_without_a_tip_leaves_its_film_at_each_edge_or_beyond_and_else_fades(leaves, ends):
    for end in ends:
        path = np.array([[50, 90], end])
        assert MarkedLine("ngt", path, tip_on_film=False, sure=3).leaves_film((200, 100)) is leaves
        assert not MarkedLine("ngt", path, tip_on_film=True, sure=3).leaves_film((200, 100))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"carina": [1]}, r"films\.a\.carina: is '\[1\]'; needs a point \[x, y\], two numbers in px"),
        ({"carina": [1, True]}, r"films\.a\.carina: .* two numbers"),
        ({"carina": [1, float("nan")]}, r"films\.a\.carina: .*NaN.*; needs .* in px"),
        ({"carina_sure": 4}, r"films\.a\.carina_sure: is '4'; needs a whole number from 0 to 3"),
        ({"carina_sure": 1.5}, r"carina_sure: is '1\.5'"),
        ({"lines": None}, r"films\.a\.lines: is missing; needs a list, \[\] where there are none"),
        ({"lines": [7]}, r"films\.a\.lines\[0\]: is '7'; needs an object with device and path"),
        ({"lines": [{"path": [[1, 2], [3, 4]]}]}, r"lines\[0\]\.device: is missing; needs a name such as ETT"),
        ({"lines": [{"device": "ETT", "path": [[1, 2]]}]}, r"lines\[0\]\.path: .* at least two points"),
        ({"lines": [{"device": "ETT", "path": [[1, 2], [1, 2]]}]}, r"lines\[0\]\.path: .* not all one"),
        (
            {"lines": [{"device": name, "path": [[1, 2], [3, 4]]} for name in ("ETT", "CVC", "ett")]},
            r"films\.a\.lines\[2\]: .*; needs another path than lines\[0\]",
        ),
        ({"lines": [{"device": "ETT", "path": [[1, 2], ["3", 4]]}]}, r"lines\[0\]\.path\[1\]: .* two numbers in px"),
        ({"lines": [{"device": "ETT", "path": [[1, 2], [3, 4]], "sure": 0}]}, r"\.sure: is '0'; .* from 1 to 3"),
        ({"lines": [{"device": "ETT", "path": [[1, 2], [3, 4]], "tip_on_film": 1}]}, r"tip_on_film: .* true or false"),
        (
            {"devices": ["ETT", "drain"]},
            r"films\.a\.devices: .*drain.*; needs a list of devices that were looked for, of ETT",
        ),
        ({"devices": "ETT"}, r"films\.a\.devices: is '\"ETT\"'; needs a list"),
    ],
)
def test_errors_name_the_film_and_the_field(tmp_path, change, said):
    with pytest.raises(MarksError, match=said):
        read_marks(write(tmp_path, {"a": GOOD | change}))


def test_files_that_are_no_marks(tmp_path):
    with pytest.raises(MarksError, match="cannot be read"):
        read_marks(tmp_path / "none.json")
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(MarksError, match="JSON"):
        read_marks(tmp_path / "m.json")
    (tmp_path / "m.json").write_text('{"films": {"a": {}, "b": {}, "a": {"carina": [1, 2]}}}')
    with pytest.raises(MarksError, match=r"m\.json: has 'a' twice in one object"):
        read_marks(tmp_path / "m.json")
    for films in ([], {}, 3):
        with pytest.raises(MarksError, match="films"):
            read_marks(write(tmp_path, films))
    with pytest.raises(MarksError, match=r"films\.a.*'3'.*object"):
        read_marks(write(tmp_path, {"a": 3}))


# -- the index of a folder


def test_an_index_names_patients_and_views(tmp_path):
    (tmp_path / "films").mkdir()
    rows = "a.png,p1,ap\na.png,p1,\nb,,PA\n"
    (tmp_path / "index.csv").write_text(f"file,patient_id,view\n{rows}")
    assert patients_of(tmp_path / "films") == {"a": "p1"} and views_of(tmp_path / "films") == {"a": "AP", "b": "PA"}
    assert patients_of(tmp_path / "films/none") == {}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("b,p1,one, two", r"index\.csv: the row has 4 cells, the header 3 \(line 3\); correct the row"),
        ('b,p1,"open\nc,p2,x', r"index\.csv: lines 3 to 4 are read as one row.* \(line 3\); close or remove it"),
        ("a.png,p2,x", r"index\.csv: film 'a' is in two rows that differ in patient_id .*line 3"),
    ],
)
def test_an_index_that_leaves_a_films_patient_open_is_refused(tmp_path, row, said):
    (tmp_path / "index.csv").write_text(f"image_id,patient_id,note\na,p1,x\n{row}\n")
    with pytest.raises(TableError, match=said) as caught:
        patients_of(tmp_path)
    assert "p1" not in str(caught.value) and "p2" not in str(caught.value)


def index_of(folder: Path, text: str, *films: str) -> Path:
    for film in films:
        (folder / film).parent.mkdir(parents=True, exist_ok=True)
        (folder / film).touch()
    (folder / "index.csv").write_text(text)
    return folder


def test_films_of_one_name_in_two_folders_are_each_of_the_patient_of_their_own_row(tmp_path):
    rows = "p1/IM1.jpg,A\np2/IM1.jpg,B\nset/p3/IM2.jpg,C\nIM2.png,D\n"
    films = "set/p1/IM1.jpg", "set/p2/IM1.jpg", "set/p3/IM2.jpg", "set/p4/IM2.jpg"
    folder = index_of(tmp_path, f"file,patient_id\n{rows}", *films) / "set"
    (tmp_path / "link").symlink_to(folder)
    for way in (folder, tmp_path / "link", folder / "../set"):
        named = patients_of(way)
        assert [named.get(film_place(way / film[4:])) for film in films] == ["A", "B", "C", None]
        assert not named.keys() & {"IM1", "IM2"}


def test_a_film_of_one_name_alone_is_known_by_it_wherever_it_was_moved(tmp_path):
    rows = "p1/a.jpg,A\n/old/p1/b.jpg,B\nc.jpg,C\np1/d.jpg,D\n"
    films = "p1/a.jpg", "p2/b.jpg", "p/c.jpg", "p1/d.jpg", "p2/d.jpg"
    named = patients_of(index_of(tmp_path, f"file,patient_id\n{rows}", *films))
    assert {name: named.get(name) for name in "abcd"} == {"a": "A", "b": "B", "c": "C", "d": None}


def test_a_part_of_a_set_is_read_with_the_index_of_the_whole(tmp_path):
    rows = "train/a.jpg,A\ntest/a.jpg,B\ntest/b.jpg,C\n"
    folder = index_of(tmp_path, f"file,patient_id\n{rows}", "train/a.jpg", "test/a.jpg", "test/b.jpg", "train/b.jpg")
    named = patients_of(folder / "train")
    assert named["a"] == "A" and "b" not in named  # whose row is that of another film, which is there
    assert {patients_of(folder / "test")[name] for name in "ab"} == {"B", "C"}


def test_films_gathered_in_one_folder_are_known_by_name_whatever_folders_their_index_names(tmp_path):
    folder = index_of(tmp_path, "file,patient_id\n/old/p1/a.jpg,A\np2/b.jpg,B\n", "a.png", "b.jpg")
    assert patients_of(folder).items() >= {"a": "A", "b": "B"}.items()
    with pytest.raises(TableError, match=r"'p3/b' is in two rows that differ in patient_id .*line 4"):
        patients_of(index_of(tmp_path, "file,patient_id\na.jpg,A\np2/b.jpg,B\np3/b.jpg,C\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,patient_id\na,1.2E+10\n", r"patient_id is a number, as a spreadsheet .* \(line 2\); import"),
        ("file,patient_id\na,12\nb,12.0\n", r"digits are lost.* \(line 3\)"),
        ("file,patient_id\na,M\ufffdller\n", r"not UTF-8.* \(line 2\)"),
        ("file,file,patient_id\na,b,1\n", "has the column 'file' twice"),
        ("file,view,patient_id,view\na,AP,1,PA\n", "has the column 'view' twice"),
        ("File,patient_id\na,1\n", r"column 'File' is not known \(did you mean 'file'\?\)"),
        ("file,patient_id,Projection\na,1,AP\n", r"'Projection' is not known \(did you mean 'projection'\?\)"),
    ],
)
def test_an_index_whose_ids_or_columns_are_in_doubt_is_refused(tmp_path, text, said):
    (tmp_path / "index.csv").write_text(text, "utf-8")
    with pytest.raises(TableError, match=said) as caught:
        patients_of(tmp_path)
    assert "1.2E" not in str(caught.value)


def test_a_placeholder_and_further_columns_of_an_index_are_as_they_are(tmp_path):
    text = "file,image_id,reviewed,patient_id\na,x,1,unknown\nb,y,1,unknown\n"
    assert patients_of(index_of(tmp_path, text)) == {"x": "unknown", "y": "unknown"}


# -- anything at all

POINTS = st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=2), st.none()), max_size=3)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)
LINES = st.fixed_dictionaries(
    {},
    optional={
        "device": st.one_of(st.sampled_from(["ETT", " cvc", ""]), ANYTHING),
        "path": st.one_of(st.lists(POINTS, max_size=4), ANYTHING),
        "tip_on_film": st.one_of(st.booleans(), ANYTHING),
        "sure": st.one_of(st.integers(-1, 4), ANYTHING),
    },
)
MARKED = st.fixed_dictionaries(
    {},
    optional={
        "carina": st.one_of(POINTS, ANYTHING),
        "carina_sure": st.one_of(st.integers(-1, 4), ANYTHING),
        "lines": st.one_of(st.lists(LINES, max_size=2), ANYTHING),
        "devices": st.one_of(st.lists(st.sampled_from(["ETT", "cvc", "drain", 1])), ANYTHING),
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(MARKED, ANYTHING))
def test_any_json_is_marks_or_an_error_that_names_the_film(tmp_path, marks):
    try:
        film = read_marks(write(tmp_path, {"a": marks}))["a"]
    except MarksError as error:
        assert "marks.json: films.a" in str(error) and "; needs " in str(error) and len(str(error)) < 300
    else:
        places = [line.path for line in film.lines] + ([] if film.carina is None else [film.carina[None]])
        assert all(path.dtype == np.float64 and np.abs(path).max() <= 1e6 for path in places)
        assert all(path.ndim == 2 and path.shape[1] == 2 for path in places)
        assert 0 <= film.carina_sure <= 3 and all(1 <= line.sure <= 3 for line in film.lines)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_is_cut_or_changed_anywhere_is_marks_or_an_error(tmp_path, data):
    path = write(tmp_path, {"a": GOOD})
    text = bytearray(path.read_bytes())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(text[: data.draw(st.integers(0, len(text)))])
    with contextlib.suppress(MarksError):
        assert read_marks(path)

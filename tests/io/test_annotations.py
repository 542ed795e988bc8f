"""Line annotations: what is read, what is left out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrlines.io.annotations import MAX_POINTS, off_film, parse_points, read_annotations
from cxrlines.io.rows import TableError, rows_left_out

coordinates = st.integers(-5000, 5000) | st.floats(-5000, 5000)
points_lists = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=20)


class TestParse:
    @given(points_lists)
    def test_reads_back_what_is_written(self, points):
        array = np.array(points, np.float64)
        assert np.array_equal(parse_points(json.dumps(array.tolist())), array)

    def test_reads_ranzcr_and_python_tuples_alike(self):
        assert np.array_equal(parse_points("[[1487, 1279], [1477, 1168]]"), [[1487, 1279], [1477, 1168]])
        assert np.array_equal(parse_points("[(1, 2.5), (3, 4)]"), [[1, 2.5], [3, 4]])

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is not a list of points"),
            ("nan", "is not a list of points"),
            ("[]", "has no points"),
            ("[[1, 2], [3]]", "[3]' is not a point"),
            ("[[1, true]]", "is not a point"),
            ("[[1, NaN]]", "is not a point"),
            ("[[1, 1e999]]", "is not a point"),
            ("[[1, '2']]", "is not a list"),
            ("__import__('os').abort()", "is not a list"),
            ("[" * 100_000, "is not a list"),
            (json.dumps([[1, 2]] * (MAX_POINTS + 1)), f"at most {MAX_POINTS}"),
            ("[[" + "9" * 5000 + ", 1]]", "is not a"),
        ],
    )
    def test_says_what_is_wrong(self, text, said):
        with pytest.raises(ValueError) as caught:
            parse_points(text)
        assert said in str(caught.value)
        assert len(str(caught.value)) < 200

    @given(st.text(max_size=60))
    def test_any_text_is_points_or_a_value_error(self, text):
        try:
            points = parse_points(text)
        except ValueError:
            return
        assert points.ndim == 2 and points.shape[1] == 2 and np.isfinite(points).all()


class TestReadAnnotations:
    def test_bad_rows_never_stop_good_ones(self, tmp_path):
        csv = tmp_path / "train_annotations.csv"
        csv.write_text(
            "StudyInstanceUID,label,data\n"
            'a,CVC - Normal,"[[1, 2], [3, 4]]"\n'
            'a,CVC - Nrmal,"[[1, 2]]"\n'
            "\n"
            "b,ETT - Normal,nothing\n"
            'b,ETT - Normal,"[[5, 6], [7, 8]]"\n'
            "b,ETT - Normal\n"
        )
        annotated, problems = read_annotations(csv)
        assert [(row.study, row.row, row.line.label) for row in annotated] == [
            ("a", 2, "CVC - Normal"),
            ("b", 6, "ETT - Normal"),
        ]
        assert sorted(problem.row for problem in problems) == [3, 5, 7]
        said = next(problem for problem in problems if problem.row == 3)
        assert "did you mean 'CVC - Normal'" in said.text()

    def test_a_column_says_which_tips_are_seen(self, tmp_path):
        csv = tmp_path / "train_annotations.csv"
        cells = enumerate(("1", "0", "yes", "1.0", "0.0", "", "2"))
        rows = [f'a,CVC - Normal,"[[1, 2], [3, {row}]]",{cell}\n' for row, cell in cells]
        csv.write_text("StudyInstanceUID,label,data,tip_seen\n" + "".join(rows))
        annotated, problems = read_annotations(csv)
        assert [row.line.tip_seen for row in annotated] == [True, False, True, False, True]
        assert [problem.row for problem in problems] == [4, 8] and "tip_seen is 'yes'" in problems[0].text()

    def test_of_the_same_line_in_two_rows_the_first_stays(self, tmp_path):
        csv = tmp_path / "train_annotations.csv"
        rows = (
            ("a", "CVC - Normal", "[[1, 2], [3, 4]]"),
            ("a", "CVC - Normal", "[[3, 4], [1, 2]]"),
            ("a", "Swan Ganz Catheter Present", "[[1, 2], [3, 4]]"),  # its sheath is a central line
            ("b", "CVC - Normal", "[[1, 2], [3, 4]]"),
            ("a", "CVC - Normal", "[(1, 2.0), (3, 4)]"),
            ("a", "CVC - Abnormal", "[[1, 2], [3, 4]]"),
        )
        csv.write_text("StudyInstanceUID,label,data\n" + "".join(f'{a},{b},"{c}"\n' for a, b, c in rows))
        annotated, problems = read_annotations(csv)
        assert [row.row for row in annotated] == [2, 3, 4, 5]
        assert rows_left_out(problems) == {"annotation in two rows": 2}
        assert [problem.text() for problem in problems] == [
            "train_annotations.csv:6: the same line of study 'a' is already in line 2; keep the row that is right",
            "train_annotations.csv:7: the same line of study 'a' is already in line 2, as CVC - Normal; keep the row "
            "that is right",
        ]

    def test_a_cell_that_csv_does_not_read_is_named_with_the_way_out(self, tmp_path):
        csv = tmp_path / "train_annotations.csv"
        points = np.random.default_rng(0).uniform(100, 3000, (4000, 2))
        cells = [json.dumps(each.tolist()) for each in (points, np.rint(points).astype(int))]
        csv.write_text(
            "StudyInstanceUID,label,data\n" + "".join(f'{k},CVC - Normal,"{cell}"\n' for k, cell in enumerate(cells))
        )
        (row,), (problem,) = read_annotations(csv)
        assert np.array_equal(row.line.points, np.rint(points)) and problem.row == 2
        assert "column 'data' has more than 131,072 characters; round its numbers" in problem.text()

    @pytest.mark.parametrize("data", ["[[5, 6]]", "[[5, 6], [5, 6], [5, 6]]"])
    def test_a_single_point_is_no_line(self, tmp_path, data):
        csv = tmp_path / "train_annotations.csv"
        csv.write_text(f'StudyInstanceUID,label,data\na,CVC - Normal,"[[1, 2], [3, 4]]"\na,ETT - Normal,"{data}"\n')
        annotated, (problem,) = read_annotations(csv)
        assert [row.row for row in annotated] == [2]
        assert problem.kind == "annotation of a single point"
        assert problem.text() == (
            "train_annotations.csv:3: data is a single point, [5, 6], and a line has two or more; give the points from "
            "entry to tip, or remove the row"
        )

    def test_a_missing_column_names_the_nearest(self, tmp_path):
        csv = tmp_path / "a.csv"
        csv.write_text("StudyInstanceUID,Labels,data\n")
        with pytest.raises(TableError, match=r"'label'.*'Labels'"):
            read_annotations(csv)


def test_off_film_names_the_first_point_and_swapped_axes():
    shape = (100, 200)
    assert off_film(np.array([[0.0, 0.0], [201.0, 101.0]]), shape) == ""  # within the slack of a hand
    assert "1 of 2 points, first [250, 5], lie off a film of 200 x 100 px" in off_film(
        np.array([[5.0, 5], [250, 5]]), shape
    )
    assert "swapped" in off_film(np.array([[50.0, 150.0]]), shape)
    assert "swapped" not in off_film(np.array([[250.0, 150.0]]), shape)


@pytest.mark.parametrize("column", ["Tip_Seen", "tip seen", "tips_seen"])
def test_a_column_that_may_be_meant_by_tip_seen_is_reported(tmp_path, column):
    csv = tmp_path / "a.csv"
    csv.write_text(f'StudyInstanceUID,label,data,{column},note\ns1,CVC - Normal,"[[1, 2], [3, 4]]",0,x\n')
    rows, problems = read_annotations(csv)
    assert len(rows) == 1 and rows_left_out(problems) == {"unknown column": 1}
    assert problems[0].row == 1 and "did you mean 'tip_seen'" in problems[0].message
    other = csv.read_text().replace(column, "tip_side")
    csv.write_text(other)
    assert not read_annotations(csv)[1]  # a column of its own
    csv.write_text(csv.read_text().replace("note\n", "tip_seen\n").replace(",x\n", ",1\n"))
    assert not read_annotations(csv)[1]


def test_a_column_tip_seen_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("StudyInstanceUID,label,data,tip_seen,tip_seen\n")
    with pytest.raises(TableError, match="'tip_seen' twice"):
        read_annotations(tmp_path / "a.csv")

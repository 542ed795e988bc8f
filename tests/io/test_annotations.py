"""Lines: parsing annotations and drawing them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrlines.core.line_drawing import draw_lines, line_mask
from cxrlines.io.annotations import MAX_POINTS, parse_points, read_lines
from cxrlines.io.rows import TableError

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


class TestReadLines:
    def test_bad_rows_never_stop_good_ones(self, tmp_path):
        csv = tmp_path / "train_annotations.csv"
        csv.write_text(
            "StudyInstanceUID,label,data\n"
            'a,CVC - Normal,"[[1, 2], [3, 4]]"\n'
            'a,CVC - Nrmal,"[[1, 2]]"\n'
            "\n"
            "b,ETT - Normal,nothing\n"
            'b,ETT - Normal,"[[5, 6]]"\n'
            "b,ETT - Normal\n"
        )
        lines, problems = read_lines(csv)
        assert {study: [line.label for line in found] for study, found in lines.items()} == {
            "a": ["CVC - Normal"],
            "b": ["ETT - Normal"],
        }
        assert sorted(problem.row for problem in problems) == [3, 5, 7]
        said = next(problem for problem in problems if problem.row == 3)
        assert "'CVC - Normal' meant" in said.text()

    def test_a_missing_column_names_the_nearest(self, tmp_path):
        csv = tmp_path / "a.csv"
        csv.write_text("StudyInstanceUID,Labels,data\n")
        with pytest.raises(TableError, match=r"lacks the column 'label' \(is 'Labels' meant\?\)"):
            read_lines(csv)


class TestDraw:
    @pytest.mark.parametrize("thickness", [0.5, 1.0, 2.0, 3.3, 8.0])
    @pytest.mark.parametrize("y", [20.0, 20.25, 20.5])
    def test_is_as_wide_as_asked_and_where_asked(self, thickness, y):
        across = line_mask([np.array([[-30.0, y], [90.0, y]])], (41, 60), thickness)[:, 30] / 255
        assert across.sum() == pytest.approx(thickness, abs=0.02)
        assert (across * np.arange(41)).sum() / across.sum() == pytest.approx(y, abs=0.15)

    def test_a_disc_has_its_area(self):
        mask = line_mask([np.array([[20.3, 19.8]])], (41, 41), 12.0) / 255
        assert mask.sum() == pytest.approx(np.pi * 36, rel=0.02)

    def test_long_segments_are_drawn_as_short_ones(self):
        ends = np.array([[3.0, 5.0], [190.0, 140.0]])
        dense = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 57)[:, None]
        assert np.abs(line_mask([ends], (150, 200), 3).astype(int) - line_mask([dense], (150, 200), 3)).max() <= 1

    def test_leaves_its_input_alone_and_all_else_untouched(self):
        image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        before = image.copy()
        points = np.array([[10.0, 10.0], [40.0, 30.0]])
        drawn = draw_lines(image, [(points, (255, 0, 10))], 2.0)
        assert np.array_equal(image, before)
        assert tuple(drawn[20, 25]) == (255, 0, 10)
        mask = line_mask([points], (60, 80), 2.0)
        assert np.array_equal(drawn[mask == 0], before[mask == 0])

    def test_later_lines_lie_over_earlier_ones(self):
        cross = [(np.array([[0.0, 10.0], [20.0, 10.0]]), 100), (np.array([[10.0, 0.0], [10.0, 20.0]]), 200)]
        drawn = draw_lines(np.zeros((21, 21), np.uint8), cross, 3.0)
        assert drawn[10, 10] == 200 and drawn[10, 2] == 100

    def test_points_off_the_film_are_allowed(self):
        blank = np.zeros((20, 20), np.uint8)
        assert not draw_lines(blank, [(np.array([[-900.0, 5.0], [-50.0, 9e5]]), 255)], 2.0).any()
        through = draw_lines(blank, [(np.array([[-900.0, 10.0], [900.0, 10.0]]), 255)], 1.0)
        assert (through[10] == 255).all()

    @pytest.mark.parametrize("thickness", [0, -1.0, float("nan")])
    def test_a_line_has_a_width(self, thickness):
        with pytest.raises(ValueError, match="positive number of px"):
            line_mask([np.zeros((2, 2))], (5, 5), thickness)

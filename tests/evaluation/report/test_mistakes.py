import base64

import cv2
import numpy as np
import pytest

from cxrlines.evaluation.report.mistakes import picture, worst
from cxrlines.task import DEVICE_COLOURS, LABELS, Device


def test_worst_films_come_first_one_each_and_varied(report):
    truth, given = report.main.truth, report.main.by_name["baseline"]
    found = worst(truth, given, films=10, alike=2)
    assert len({m.study for m in found}) == len(found) == 10
    distances = [1 - m.probability if m.missed else m.probability for m in found]
    assert distances == sorted(distances, reverse=True) and distances[-1] >= 0.5
    kinds = [(m.label, m.missed) for m in found]
    assert max(map(kinds.count, kinds)) <= 2
    labels = list(LABELS)
    assert distances[0] == np.abs(truth[labels].to_numpy() - given[labels].to_numpy()).max()
    for mistake in found:
        row = truth.set_index("study").loc[mistake.study]
        assert bool(row[mistake.label]) is mistake.missed
        assert {label for label in labels if row[label]} <= {label for label, _, _ in mistake.labels}


def test_order_of_rows_does_not_matter(report):
    truth, given = report.main.truth, report.main.by_name["ensemble"]
    assert worst(truth.sample(frac=1, random_state=0), given.sample(frac=1, random_state=1)) == worst(truth, given)


def test_right_predictions_are_no_mistakes(report):
    truth = report.main.truth
    assert worst(truth, truth.drop(columns="patient").astype({label: float for label in LABELS})) == []


@pytest.mark.parametrize(("shape", "size"), [((600, 500), (300, 250)), ((40, 60), (40, 60)), ((3000, 20), (300, 2))])
def test_picture_keeps_the_film_and_its_lines_in_place(shape, size):
    height, width = shape
    film = np.zeros(shape, np.uint8)
    film[: height // 2] = 200
    line = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])  # from one corner of the film to the other
    shown = picture(film, [("ETT - Normal", line), ("CVC - Normal", np.empty((0, 2)))], side=300)
    assert (shown.height, shown.width) == size
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(shown.uri.split(",")[1]), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels.shape == size
    assert pixels[: size[0] // 3].mean() > 180 > 20 > pixels[-(size[0] // 3) :].mean()
    [(label, points, colour)] = shown.lines
    assert (label, colour) == ("ETT - Normal", "rgb({}, {}, {})".format(*DEVICE_COLOURS[Device.ETT]))
    start, end = ([float(v) for v in point.split(",")] for point in points.split())
    assert start == [0, 0] and end == pytest.approx([size[1], size[0]], abs=0.06)

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cxrlines.evaluation.report.figures import calibration_curves, forest, roc_curves, with_interval
from cxrlines.evaluation.scores import evaluate
from cxrlines.task import LABELS, LABELS_OF, Device

NAMES = list(LABELS)


@pytest.fixture
def arrays(report):
    return report.main.truth[NAMES].to_numpy(), report.main.by_name["ensemble"][NAMES].to_numpy()


def test_forest_draws_every_model_in_every_row_inside_the_picture(report):
    models = {name: evaluate(frame, report.main.truth, resamples=20) for name, frame in report.main.by_name.items()}
    svg = ElementTree.fromstring(forest(models))
    marks = [g for g in svg.iter("g") if g.get("class", "").startswith("mark")]
    assert len(marks) == (len(NAMES) + 1) * len(models)
    assert sum(g.get("class") == "mark ensemble" for g in marks) == len(NAMES) + 1
    _, _, width, height = map(float, svg.get("viewBox").split())
    for circle in svg.iter("circle"):
        assert 190 <= float(circle.get("cx")) <= 620 < width and 0 < float(circle.get("cy")) < height
    macro = models["ensemble"]
    assert any(text.text == with_interval(macro.macro_auc, macro.ci95) for text in svg.iter("text"))


def test_an_undefined_label_has_no_mark_but_a_word(report):
    truth = report.main.truth.assign(**{NAMES[0]: 0})
    svg = ElementTree.fromstring(forest({"ensemble": evaluate(report.main.by_name["ensemble"], truth, resamples=5)}))
    assert len([g for g in svg.iter("g")]) == len(NAMES)
    assert [text.text for text in svg.iter("text")].count("undefined") == 1


def test_roc_curves_hold_the_area_they_should(report, arrays):
    figures = roc_curves(*arrays)
    assert list(figures) == list(Device)
    evaluation = evaluate(report.main.by_name["ensemble"], report.main.truth, resamples=1)
    for device, figure in figures.items():
        curves = list(ElementTree.fromstring(figure).iter("g"))
        assert [curve.find("title").text for curve in curves] == list(LABELS_OF[device])
        for curve in curves:
            points = np.array(re.findall(r"[\d.]+", curve.find("polyline").get("points")), float).reshape(-1, 2)
            area = np.trapezoid((228 - points[:, 1]) / 220, (points[:, 0] - 40) / 220)
            assert area == pytest.approx(evaluation.labels[curve.find("title").text].auc, abs=0.003)


def test_long_curves_are_thinned_but_keep_their_ends_and_area():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (5000, len(NAMES)))
    scores = 0.4 * truth + rng.random(truth.shape)
    points = re.findall(r'polyline points="([^"]+)"', roc_curves(truth, scores)[Device.SWAN])[0].split()
    assert len(points) <= 300 and (points[0], points[-1]) == ("40.0,228.0", "260.0,8.0")


def test_calibration_leaves_out_bins_of_few_films(arrays):
    truth, scores = arrays
    dots = {
        d: len(list(ElementTree.fromstring(f).iter("circle"))) for d, f in calibration_curves(truth, scores).items()
    }
    assert all(dots.values())
    nearly_none = calibration_curves(truth[:4], scores[:4])
    assert all(not list(ElementTree.fromstring(figure).iter("circle")) for figure in nearly_none.values())


def test_with_interval():
    assert with_interval(0.9622, (0.957, 0.96649)) == "0.962 (0.957–0.966)"
    assert with_interval(None, None) == "undefined"
    assert with_interval(0.5, None) == "0.500"
